"""The MLflow scoring protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from raincast.observations.errors import FormatError, ObservationError
from raincast.observations.parsing import check_header
from raincast.serving.decoding import NAME, Decoded, check_size, of_records, of_rows

INPUT_KEYS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_Split = msgspec.defstruct("_Split", [("columns", list[str]), ("data", msgspec.Raw)])
_Body = msgspec.defstruct(
    "_Body", [("dataframe_split", _Split), *((name, msgspec.Raw, b"") for name in INPUT_KEYS[1:])]
)
_DECODER = msgspec.json.Decoder(_Body)


def decode(body: bytes) -> Decoded:
    """The observations of a JSON body in one of INPUT_KEYS, as `decoding.decode`. Raises ObservationError."""
    check_size(body)
    found = _of_regular_split(body)
    if found:
        return found
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        # Python's decoder takes NaN as well, which some clients send for a missing value.
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{NAME}: not valid JSON: {error}") from error
    given = [name for name in INPUT_KEYS if name in document] if isinstance(document, dict) else []
    if len(given) != 1:
        raise ObservationError(f"{NAME}: a JSON object with one of {', '.join(INPUT_KEYS)} is expected")
    data = document[given[0]]
    if given[0] == "dataframe_split":
        return of_records(_of_split(data))
    return of_records(
        _of_columns(data) if given[0] == "inputs" and isinstance(data, dict) else _checked(given[0], data)
    )


def _of_regular_split(body: bytes) -> Decoded | None:
    """The observations of a dataframe_split whose every value has its column's type; None where it is another body."""
    try:
        document: Any = _DECODER.decode(body)
    except (ValueError, RecursionError):
        return None
    if any(getattr(document, name) for name in INPUT_KEYS[1:]):
        return None
    return of_rows(document.dataframe_split.columns, document.dataframe_split.data)


def _of_split(data: Any) -> list[dict[str, Any]]:
    columns: Any = data.get("columns") if isinstance(data, dict) else None
    rows: Any = data.get("data") if isinstance(data, dict) else None
    if not _is_list_of(columns, str) or not _is_list_of(rows, list):
        raise ObservationError(f"{NAME}: dataframe_split needs columns, a list of names, and data, a list of rows")
    check_header(NAME, columns)
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ObservationError(f"{NAME}: row {number} has {len(row)} values, {len(columns)} are expected")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _of_columns(data: dict[str, Any]) -> list[dict[str, Any]]:
    lengths = {len(values) for values in data.values() if isinstance(values, list)}
    if len(lengths) != 1 or not _is_list_of([*data.values()], list):
        raise ObservationError(f"{NAME}: inputs needs lists of the same length, one for each column")
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def _checked(name: str, data: Any) -> list[dict[str, Any]]:
    if not _is_list_of(data, dict):
        raise ObservationError(f"{NAME}: {name} needs a list of observations, each an object")
    return list(data)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(part, kind) for part in value)
