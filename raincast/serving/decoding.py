"""Bodies of requests -> observations: regular JSON in microseconds, everything else like a file.

The types below are those of `COLUMNS`, with their limits. A body that does not fit them is invalid or only unusual
(numbers as text, unknown columns, lower-case directions). `observations.parsing` parses it again and accepts it or
names every violation, so that both decoders give the same response.
"""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np

from raincast.observations.columns import COLUMNS, DIRECTIONS, MEASUREMENTS, Column
from raincast.observations.errors import FormatError, TooMany
from raincast.observations.formats import Blocks, csv_blocks, json_blocks, record_blocks
from raincast.observations.parsing import MISSING, check_header, parse_blocks
from raincast.observations.table import Table, empty, is_missing, refuse_duplicates, rows_of

Row = dict[str, Any]
Decoded = tuple[Row | Table, list[str]]
MAX_ROWS = 10_000
# MAX_ROWS observations of 24 columns have 240,000 values. A third more leaves room for unknown columns; a value becomes
# up to 280 bytes in the text parser.
MAX_VALUES = 32 * MAX_ROWS
# An observation is an object or a list; an unknown column may hold some more.
MAX_CONTAINERS = 4 * MAX_ROWS
NAME = "the request"
_YES_NO = {"Yes": 1.0, "No": 0.0, "": np.nan}
_YEARS = range(1900, 2200)


def field_type(column: Column) -> Any:
    """Return the type of a column in regular JSON, with its limits."""
    if column.kind == "number":
        return Annotated[float, msgspec.Meta(ge=column.low, le=column.high)] | None
    if column.kind == "date":
        return datetime.date | None
    if column.kind == "direction":
        return Literal[DIRECTIONS] | None
    return Literal["Yes", "No"] | None if column.kind == "yes_no" else str


def _missing(column: Column) -> Any:
    return np.nan if column.kind == "number" else ""


_Observation = msgspec.defstruct(
    "_Observation",
    [
        (column.name, field_type(column))
        if column.kind == "station"
        else (column.name, field_type(column), _missing(column))
        for column in COLUMNS
    ]
    # Accepted and ignored.
    + [(name, msgspec.Raw, "") for name in ("RISK_MM", "RainTomorrow")],
    kw_only=True,
    forbid_unknown_fields=True,
    gc=False,
)
_Body = msgspec.defstruct("_Body", [("observations", list[_Observation])], forbid_unknown_fields=True)  # type: ignore[valid-type]
_DECODER = msgspec.json.Decoder(_Body)
_TYPES = {column.name: field_type(column) for column in COLUMNS}
_NAMES = tuple(_TYPES)
_NOTHING = {column.name: _missing(column) for column in COLUMNS}
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_NO_DAY = np.datetime64("NaT", "D").astype(np.int64).item()


def decode(body: bytes) -> Decoded:
    """Return the observations of a JSON body, and warnings.

    A single regular observation is a Row, as `row_features` takes it; others are a table. Raises ObservationError, in
    particular FormatError if the body is not JSON and TooMany above MAX_ROWS.
    """
    check_size(body)
    return decode_regular(body) or table_of(json_blocks(NAME, io.BytesIO(body)))


def decode_regular(body: bytes) -> Decoded | None:
    """Return what `decode` returns for a regular JSON body, None for others. Raises ObservationError."""
    try:
        check_utf_8(body)
        observations = cast(Any, _DECODER.decode(body)).observations
    except (ValueError, RecursionError):
        # Wrong types, not JSON, not UTF-8, or nested too deeply.
        return None
    rows = [*map(msgspec.structs.astuple, observations)]
    # msgspec keeps the last duplicate key; surplus colons reveal one.
    return _regular(_NAMES, rows) if _count(body, b":") == 1 + sum(map(_present, rows)) else None


def is_row(observed: Row | Table) -> bool:
    """Return True for a single observation, False for a table."""
    return isinstance(observed["Location"], str)


def decode_records(records: list[dict[str, Any]]) -> Decoded:
    """Return the observations of decoded JSON objects, and warnings. Raises ObservationError."""
    return decode_regular_records(records) or table_of(record_blocks(NAME, records))


def decode_regular_records(records: list[dict[str, Any]]) -> Decoded | None:
    """Return what `decode_records` returns for regular records, None for others. Raises ObservationError."""
    try:
        observations = msgspec.convert(records, list[_Observation])  # type: ignore[valid-type]
    except ValueError:
        return None
    return _regular(_NAMES, [*map(msgspec.structs.astuple, observations)])


def decode_rows(columns: Sequence[str], data: bytes) -> Decoded | None:
    """Return the observations of a JSON list of rows, each a list of values of these columns; None if not regular."""
    try:
        rows = _rows_decoder(tuple(columns)).decode(data)
    except (KeyError, ValueError, RecursionError):
        return None
    return _regular(columns, rows)


@lru_cache(maxsize=32)
def _rows_decoder(columns: tuple[str, ...]) -> msgspec.json.Decoder[list[tuple[Any, ...]]]:
    """Return a decoder of such rows. Raises KeyError for an unknown column, ValueError for a duplicate one."""
    if len(set(columns)) < len(columns):
        raise ValueError("a column is there more than once")
    return msgspec.json.Decoder(list[tuple[tuple(_TYPES[name] for name in columns)]])  # type: ignore[misc]


def decode_csv(body: bytes) -> Decoded:
    """Return the observations of a CSV body, and warnings. Raises ObservationError."""
    if body.count(b"\n") > MAX_ROWS + 1:
        raise TooMany(f"{NAME}: more than {MAX_ROWS} lines")
    check_size(body)
    if not body.strip():
        raise FormatError(f"{NAME}: the body is empty")
    return table_of(csv_blocks(NAME, io.BytesIO(body)))


def check_size(body: bytes) -> None:
    """Raise TooMany if a body has more parts than MAX_ROWS observations, before decoding multiplies its size.

    The parts are counted by the characters that separate them, also those inside of text.
    """
    if len(body) <= MAX_CONTAINERS:
        return
    for limit, characters in ((MAX_CONTAINERS, (b"{", b"[")), (MAX_VALUES, (b",", b"\\", b"\n"))):
        for character in characters:
            if (count := _count(body, character)) > limit:
                raise TooMany(
                    f"{NAME}: {count} times {character.decode()!r}, at most {limit}: more values than {MAX_ROWS}"
                    " observations have"
                )


def check_utf_8(body: bytes) -> None:
    """Raise UnicodeDecodeError if a body is not UTF-8; msgspec does not look into a value that it skips."""
    if not body.isascii():
        body.decode()


def _count(body: bytes, character: bytes) -> int:
    """Count a character. numpy takes 2 ms for 10 MB and releases the GIL, bytes.count up to 100 ms."""
    if len(body) < 4_096:
        return body.count(character)
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(character)))


def table_of(blocks: Blocks) -> Decoded:
    """Return the table of a request's blocks, and warnings. Raises ObservationError."""
    header, parts = blocks
    unknown = check_header(NAME, header)
    table = parse_blocks(NAME, parts)
    check_rows(rows_of(table))
    return table, [unknown] if unknown else []


def _regular(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Decoded | None:
    """Return decoded values of these columns as observations; None if a name is unusual or nothing was measured."""
    if len(rows) == 1:
        row = _row(names, rows[0])
        return (row, []) if row else None
    columns = dict(zip(names, zip(*rows, strict=True), strict=False))
    if not (all(map(_is_place, {*columns.get("Location", ("",))})) and all(map(_is_day, {*columns.get("Date", ())}))):
        return None
    check_rows(len(rows))
    table = _table(columns, len(rows))
    if all(is_missing(table[name]).all() for name in MEASUREMENTS):
        return None
    refuse_duplicates(NAME, table)
    return table, []


def check_rows(rows: int) -> None:
    """Raise TooMany above MAX_ROWS."""
    if rows > MAX_ROWS:
        raise TooMany(f"{NAME}: {rows} observations, at most {MAX_ROWS} are forecast in one request")


def _present(values: tuple[Any, ...]) -> int:
    """Count the names that an observation had in its JSON; no regular value is NaN or "" (the defaults)."""
    return len(values) - values.count(np.nan) - values.count("")


def _is_place(station: str) -> bool:
    return (
        0 < len(station) <= 64
        and station.isprintable()
        and station == station.strip()
        and station.lower() not in MISSING
    )


def _is_day(date: datetime.date | None) -> bool:
    return not date or date.year in _YEARS


def _row(names: Sequence[str], values: tuple[Any, ...]) -> Row | None:
    row = dict(zip(names, values, strict=False))
    if names is not _NAMES:
        row = _NOTHING | row
    if None in values:
        row |= {name: _NOTHING[name] for name in names if row[name] is None}
    if not (_is_place(row["Location"]) and _is_day(row["Date"])):
        return None
    row["Date"] = row["Date"] or None
    row["RainToday"] = _YES_NO[row["RainToday"]]
    # Absent values have the default, NaN or "".
    return row if any(row[name] == row[name] and row[name] != "" for name in MEASUREMENTS) else None


def _table(columns: dict[str, tuple[Any, ...]], rows: int) -> Table:
    return {
        column.name: _array(column, columns[column.name]) if column.name in columns else empty(column, rows)
        for column in COLUMNS
    }


def _array(column: Column, values: tuple[Any, ...]) -> Any:
    if column.kind == "number":
        return np.array(values, np.float64)
    if column.kind == "date":
        # numpy takes 1 us to parse a date, and a request has few different ones.
        days = {value: value.toordinal() - _EPOCH if value else _NO_DAY for value in set(values)}
        return np.array([days[value] for value in values], np.int64).view("datetime64[D]")
    if column.kind == "yes_no":
        return np.array([_YES_NO[value or ""] for value in values])
    return np.array([value or "" for value in values], np.str_)


def rows_of_table(table: Table) -> list[Row]:
    """Return the observations of a table as rows."""
    return [dict(zip(table, values, strict=True)) for values in zip(*(v.tolist() for v in table.values()), strict=True)]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def as_json(row: Row) -> dict[str, Any]:
    """Return an observation as a request would send it, without missing values."""
    words = {1.0: "Yes", 0.0: "No"}
    present = {name: value for name, value in row.items() if value not in (None, "") and not _is_nan(value)}
    return present | {
        column.name: words[present[column.name]]
        for column in COLUMNS
        if column.kind == "yes_no" and column.name in present
    }
