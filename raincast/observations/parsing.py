"""Text columns -> table: the one parser for every format, which checks each value against its limit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.observations.columns import COLUMNS, DIRECTIONS, MEASUREMENTS, OUTCOME_COLUMNS, TARGET, Column
from raincast.observations.errors import VIOLATIONS_KEPT, ObservationError, Violation, shorten, violation_error
from raincast.observations.table import Table, concatenate, empty, is_missing, refuse_duplicates

MISSING = frozenset({"", "na", "nan", "null", "none"})


class Parser(dict[str, Any]):
    """Text -> value for one column, each distinct text parsed once: columns repeat themselves.

    Texts that break the column's limit have the value for missing, and are collected in `wrong`.
    """

    LARGEST = 100_000

    def __init__(self, parse: Callable[[str], Any], missing: Any) -> None:
        super().__init__()
        self.parse, self.missing = parse, missing
        self.wrong: set[str] = set()

    def __missing__(self, text: str) -> Any:
        stripped = text.strip()
        try:
            value = self.missing if stripped.lower() in MISSING else self.parse(stripped)
        except ValueError:
            self.wrong.add(text)
            value = self.missing
        if len(self) < self.LARGEST:
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
    # Parquet and JSON writers put midnight behind a date.
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
    # What a terminal or a page would not print as it is stands in no station's name.
    if len(text) > 64 or not text.isprintable():
        raise ValueError(text)
    return text


def parser_for(column: Column) -> Parser:
    """What turns the texts of a column into values and remembers the wrong ones."""
    if column.kind == "number":
        return Parser(_number(column), np.nan)
    if column.kind == "date":
        return Parser(_date, np.datetime64("NaT", "D"))
    if column.kind == "direction":
        return Parser(_one_of({name: name for name in DIRECTIONS}), "")
    if column.kind == "yes_no":
        # Some writers of Parquet and JSON make booleans of Yes and No.
        return Parser(_one_of({"YES": 1.0, "NO": 0.0, "TRUE": 1.0, "FALSE": 0.0}), np.nan)
    return Parser(_station, "")


def check_header(source: str, header: Sequence[str], *, target: bool = False) -> str | None:
    """Column names of a source, checked; returns a line that names the unknown ones, which are ignored, if any.

    Raises ObservationError where a column stands twice, where Location, every measurement or (with `target`)
    RainTomorrow is absent.
    """
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    found = "found: " + (shorten(", ".join(header), 200) or "nothing")
    if twice:
        raise ObservationError(f"{source}: the column {', '.join(map(shorten, twice))} stands there more than once")
    if "Location" not in header:
        raise ObservationError(f"{source}: there is no column Location ({found})")
    if not set(header) & set(MEASUREMENTS):
        raise ObservationError(f"{source}: there is no measurement, such as {MEASUREMENTS[0]} ({found})")
    if target and TARGET.name not in header:
        raise ObservationError(f"{source}: there is no column {TARGET.name} to learn from ({found})")
    known = {column.name for column in COLUMNS} | OUTCOME_COLUMNS
    unknown = [shorten(name or "(no name)") for name in header if name not in known]
    if not unknown:
        return None
    more = ", ..." if len(unknown) > 5 else ""
    return f"{source}: {len(unknown)} unknown column(s) ignored: {', '.join(unknown[:5])}{more}"


def parse_blocks(
    source: str, blocks: Iterable[tuple[dict[str, Sequence[str]], list[Violation]]], *, target: bool = False
) -> Table:
    """Blocks of text columns -> one table of observations.

    Each block is a dict of equal-length sequences of text, with the violations its reader saw. Columns that no block has
    are missing throughout; only Location must be there in every row. Raises ObservationError with all violations
    counted and the first few named.
    """
    columns = COLUMNS + ((TARGET,) if target else ())
    parsers = {column.name: parser_for(column) for column in columns}
    tables: list[Table] = []
    violations: list[Violation] = []
    count = start = 0
    for block, found in blocks:
        rows = len(block["Location"])
        table = {}
        for column in columns:
            if column.name not in block:
                table[column.name] = empty(column, rows)
                continue
            parser, texts = parsers[column.name], block[column.name]
            table[column.name] = _column_array(column, [parser[text] for text in texts])
            required = column.kind == "station"
            if parser.wrong or (required and is_missing(table[column.name]).any()):
                absent = is_missing(table[column.name])
                found += [
                    Violation(start + row + 1, column.name, text, column.limit)
                    for row, text in enumerate(texts)
                    if text in parser.wrong or (required and absent[row])
                ]
        found.sort(key=lambda violation: violation.row)
        count += len(found)
        violations += found[: VIOLATIONS_KEPT - len(violations)]
        tables.append(table)
        start += rows
    if count:
        raise violation_error(source, violations, count)
    if not start:
        raise ObservationError(f"{source}: there is a header but no observation")
    table = concatenate(tables)
    refuse_duplicates(source, table)
    return table


def _column_array(column: Column, values: list[Any]) -> NDArray[Any]:
    if column.kind == "date":
        return np.array(values, "datetime64[D]")
    return np.array(values, np.str_ if column.kind in ("station", "direction") else np.float64)
