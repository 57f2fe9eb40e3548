"""Text columns to table: parses and checks the values of every format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.observations.columns import COLUMNS, DIRECTIONS, MEASUREMENTS, OUTCOME_COLUMNS, TARGET, Column
from raincast.observations.errors import (
    VIOLATIONS_KEPT,
    ObservationError,
    TooMany,
    Violation,
    shorten,
    violation_error,
)
from raincast.observations.table import Table, concatenate, empty, is_missing, refuse_duplicates, rows_of

MISSING = frozenset({"", "na", "nan", "null", "none"})
# weatherAUS has 24 columns. This leaves room for wide tables, and bounds what one row becomes.
MAX_COLUMNS = 1_000
# Longer values are invalid. Station names have at most 64 characters, and no number needs so many.
LONGEST_VALUE = 200


class Parser(dict[str, Any]):
    """Cache of the values of one column by their text, since texts recur.

    Texts outside the column's limit get the value for missing and are collected in `invalid`.
    """

    CACHE_SIZE = 100_000

    def __init__(self, parse: Callable[[str], Any], missing: Any) -> None:
        super().__init__()
        self.parse, self.missing = parse, missing
        self.invalid: set[str] = set()

    def __missing__(self, text: str) -> Any:
        if len(text) > LONGEST_VALUE:
            self.invalid.add(text)
            return self.missing
        stripped = text.strip()
        try:
            value = self.missing if stripped.lower() in MISSING else self.parse(stripped)
        except ValueError:
            self.invalid.add(text)
            value = self.missing
        if len(self) < self.CACHE_SIZE:
            self[text] = value
        return value


def _number(column: Column) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if "_" in text or not column.low <= value <= column.high:
            raise ValueError(text)
        return value

    return parse


def _date(text: str) -> np.datetime64:
    # Parquet and JSON writers append midnight to a date.
    match = re.fullmatch(
        r"((?:19|20|21)\d\d-\d\d-\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?(?:Z|\+00(?::?00)?)?)?", text, re.ASCII
    )
    if not match:
        raise ValueError(text)
    return np.datetime64(match[1], "D")


def _one_of(values: dict[str, Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return values[text.upper()]
        except KeyError:
            raise ValueError(text) from None

    return parse


def _station(text: str) -> str:
    if len(text) > 64 or not text.isprintable():
        raise ValueError(text)
    return text


def parser_for(column: Column) -> Parser:
    """Return the column's parser, which records invalid texts."""
    if column.kind == "number":
        return Parser(_number(column), np.nan)
    if column.kind == "date":
        return Parser(_date, np.datetime64("NaT", "D"))
    if column.kind == "direction":
        return Parser(_one_of({name: name for name in DIRECTIONS}), "")
    if column.kind == "yes_no":
        # Some writers of Parquet and JSON turn Yes and No into booleans.
        return Parser(_one_of({"YES": 1.0, "NO": 0.0, "TRUE": 1.0, "FALSE": 0.0}), np.nan)
    return Parser(_station, "")


def check_header(name: str, header: Sequence[str], *, target: bool = False) -> str | None:
    """Check the column names of an input; return a warning that lists the unknown ones, which are ignored, if any.

    Raises TooMany above MAX_COLUMNS, ObservationError if a column occurs twice, or if Location, all measurements or
    (with `target`) RainTomorrow are absent.
    """
    check_columns(name, len(header))
    duplicated = sorted(column for column, count in Counter(header).items() if column and count > 1)
    present = "found: " + (shorten(", ".join(header), 200) or "nothing")
    if duplicated:
        raise ObservationError(f"{name}: duplicate column {', '.join(map(shorten, duplicated))}")
    if "Location" not in header:
        raise ObservationError(f"{name}: there is no column Location ({present})")
    if not set(header) & set(MEASUREMENTS):
        raise ObservationError(f"{name}: there is no measurement, such as {MEASUREMENTS[0]} ({present})")
    if target and TARGET.name not in header:
        raise ObservationError(f"{name}: there is no column {TARGET.name} to learn from ({present})")
    known = {column.name for column in COLUMNS} | OUTCOME_COLUMNS
    unknown = [shorten(column or "(no name)") for column in header if column not in known]
    if not unknown:
        return None
    more = ", ..." if len(unknown) > 5 else ""
    return f"{name}: {len(unknown)} unknown column(s) ignored: {', '.join(unknown[:5])}{more}"


def check_columns(name: str, columns: int) -> None:
    """Raise TooMany above MAX_COLUMNS."""
    if columns > MAX_COLUMNS:
        raise TooMany(f"{name}: {columns} columns, at most {MAX_COLUMNS} are read")


def parse_blocks(
    name: str, blocks: Iterable[tuple[Mapping[str, Sequence[str]], list[Violation]]], *, target: bool = False
) -> Table:
    """Return blocks of text columns as one table of observations.

    Each block is a dict of equal-length sequences of text, with the violations that its reader saw. Columns that no
    block has are missing in all rows; only Location is required. Raises ObservationError with all violations.
    """
    columns = COLUMNS + ((TARGET,) if target else ())
    parsers = {column.name: parser_for(column) for column in columns}
    tables: list[Table] = []
    violations: list[Violation] = []
    count = start = 0
    for texts, of_reader in blocks:
        table, of_values, invalid = _parse_block(columns, parsers, texts, start)
        of_block = sorted(of_reader + of_values, key=lambda violation: violation.row)
        count += len(of_reader) + invalid
        violations += of_block[: VIOLATIONS_KEPT - len(violations)]
        tables.append(table)
        start += rows_of(table)
    if count:
        raise violation_error(name, violations, count)
    if not start:
        raise ObservationError(f"{name}: there is a header but no observation")
    table = concatenate(tables)
    refuse_duplicates(name, table)
    return table


def _parse_block(
    columns: Sequence[Column], parsers: dict[str, Parser], block: Mapping[str, Sequence[str]], start: int
) -> tuple[Table, list[Violation], int]:
    """Return the table of one block, whose first row is number `start` + 1, and its violations, with their number.

    The violations are the first VIOLATIONS_KEPT of each column.
    """
    table: Table = {}
    violations: list[Violation] = []
    count = 0
    rows = len(block["Location"])
    for column in columns:
        if column.name not in block:
            table[column.name] = empty(column, rows)
            continue
        parser, texts = parsers[column.name], block[column.name]
        table[column.name] = _column_array(column, [parser[text] for text in texts])
        required = column.kind == "station"
        if parser.invalid or (required and is_missing(table[column.name]).any()):
            absent = is_missing(table[column.name])
            invalid = [row for row, text in enumerate(texts) if text in parser.invalid or (required and absent[row])]
            violations += [
                Violation(start + row + 1, column.name, texts[row], column.limit) for row in invalid[:VIOLATIONS_KEPT]
            ]
            count += len(invalid)
    return table, violations, count


def _column_array(column: Column, values: list[Any]) -> NDArray[Any]:
    if column.kind == "date":
        return np.array(values, "datetime64[D]")
    return np.array(values, np.str_ if column.kind in ("station", "direction") else np.float64)
