"""The MLflow protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from raincast.observations.errors import FormatError, ObservationError
from raincast.observations.parsing import check_header
from raincast.serving.decoding import (
    NAME,
    Decoded,
    check_rows,
    check_size,
    check_utf_8,
    decode_records,
    decode_regular_records,
    decode_rows,
)

INPUT_KEYS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_Split = msgspec.defstruct("_Split", [("columns", list[str]), ("data", msgspec.Raw)])
_Body = msgspec.defstruct(
    "_Body", [("dataframe_split", _Split), *((name, msgspec.Raw, b"") for name in INPUT_KEYS[1:])]
)
_DECODER = msgspec.json.Decoder(_Body)


def decode(body: bytes) -> Decoded:
    """Return the observations of a JSON body in one of INPUT_KEYS, like `decoding.decode`. Raises ObservationError."""
    check_size(body)
    if decoded := _decode_regular_split(body):
        return decoded
    return decode_records(_records(_document(body)))


def decode_regular(body: bytes) -> Decoded | None:
    """Return what `decode` returns for a regular JSON body, None for others. Raises ObservationError."""
    if decoded := _decode_regular_split(body):
        return decoded
    try:
        records = _records(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        return None
    return decode_regular_records(records)


def _document(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        # Python's decoder accepts NaN, which some clients send for a missing value. Numbers stay text: Python's
        # integers take time that grows with the square of their length.
        return json.loads(body.decode("utf-8-sig"), parse_int=str, parse_float=str)
    except UnicodeDecodeError as error:
        raise FormatError(f"{NAME}: the JSON is not UTF-8 at byte {error.start + 1}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{NAME}: not valid JSON: {error}") from error


def _records(document: Any) -> list[dict[str, Any]]:
    keys = [name for name in INPUT_KEYS if name in document] if isinstance(document, dict) else []
    if len(keys) != 1:
        raise ObservationError(f"{NAME}: a JSON object with one of {', '.join(INPUT_KEYS)} is expected")
    (key,) = keys
    data = document[key]
    if key == "dataframe_split":
        return _split_records(data)
    if key == "inputs" and isinstance(data, dict):
        return _column_records(data)
    return _checked_records(key, data)


def _decode_regular_split(body: bytes) -> Decoded | None:
    """Return the observations of a dataframe_split if each value has its column's type; None for other bodies."""
    try:
        check_utf_8(body)
        document: Any = _DECODER.decode(body)
    except (ValueError, RecursionError):
        return None
    if any(getattr(document, name) for name in INPUT_KEYS[1:]):
        return None
    return decode_rows(document.dataframe_split.columns, document.dataframe_split.data)


def _split_records(data: Any) -> list[dict[str, Any]]:
    columns: Any = data.get("columns") if isinstance(data, dict) else None
    rows: Any = data.get("data") if isinstance(data, dict) else None
    if not _is_list_of(columns, str) or not _is_list_of(rows, list):
        raise ObservationError(f"{NAME}: dataframe_split needs columns, a list of names, and data, a list of rows")
    check_header(NAME, columns)
    check_rows(len(rows))
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ObservationError(f"{NAME}: row {number} has {len(row)} values, {len(columns)} are expected")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _column_records(data: dict[str, Any]) -> list[dict[str, Any]]:
    lengths = {len(values) for values in data.values() if isinstance(values, list)}
    if len(lengths) != 1 or not _is_list_of([*data.values()], list):
        raise ObservationError(f"{NAME}: inputs needs lists of the same length, one for each column")
    check_rows(*lengths)
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def _checked_records(name: str, data: Any) -> list[dict[str, Any]]:
    if not _is_list_of(data, dict):
        raise ObservationError(f"{NAME}: {name} needs a list of observations, each an object")
    return list(data)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(part, kind) for part in value)
