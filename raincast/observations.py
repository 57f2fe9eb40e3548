"""The daily observation: its columns, units and limits, and how text becomes a table.

`COLUMNS` is the one declaration. Reading, the checks before a training, the JSON Schema and the documentation follow
from it. A table is a dict of equal-length numpy arrays: floats with NaN for missing (1.0 and 0.0 for Yes and No),
strings for Location and wind directions ("" for missing), datetime64[D] for Date (NaT for missing).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Table = dict[str, NDArray[Any]]
Kind = Literal["station", "date", "number", "direction", "yes_no"]

DIRECTIONS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")
MISSING = frozenset({"", "na", "nan", "null", "none"})
# How many problems a message shows, and how many an error holds.
PROBLEMS_SHOWN, PROBLEMS_KEPT = 5, 1_000


@dataclass(frozen=True)
class Column:
    """A column of the observation: its kind, unit, inclusive limits and meaning."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf

    @property
    def limit(self) -> str:
        """What a value has to be, in words."""
        return {
            "station": "a station's name of at most 64 printable characters",
            "date": "a date as YYYY-MM-DD, 1900-01-01 to 2199-12-31",
            "direction": "one of " + " ".join(DIRECTIONS),
            "yes_no": "Yes or No",
            "number": f"a number, {self.low:g} to {self.high:g} {self.unit}",
        }[self.kind]


COLUMNS = (
    Column("Date", "date", "the day of the observation"),
    Column("Location", "station", "the station"),
    Column("MinTemp", "number", "lowest temperature in the 24 h to 9 am", "degC", -20, 40),
    Column("MaxTemp", "number", "highest temperature in the 24 h from 9 am", "degC", -15, 55),
    Column("Rainfall", "number", "rain in the 24 h to 9 am", "mm", 0, 500),
    Column("Evaporation", "number", "class A pan evaporation in the 24 h to 9 am", "mm", 0, 150),
    Column("Sunshine", "number", "bright sunshine in the 24 h to midnight", "h", 0, 14.5),
    Column("WindGustDir", "direction", "direction of the strongest gust in the 24 h to midnight"),
    Column("WindGustSpeed", "number", "speed of the strongest gust in the 24 h to midnight", "km/h", 0, 200),
    Column("WindDir9am", "direction", "wind direction at 9 am"),
    Column("WindDir3pm", "direction", "wind direction at 3 pm"),
    Column("WindSpeed9am", "number", "wind speed, mean of the 10 min before 9 am", "km/h", 0, 150),
    Column("WindSpeed3pm", "number", "wind speed, mean of the 10 min before 3 pm", "km/h", 0, 150),
    Column("Humidity9am", "number", "relative humidity at 9 am", "%", 0, 100),
    Column("Humidity3pm", "number", "relative humidity at 3 pm", "%", 0, 100),
    Column("Pressure9am", "number", "pressure at mean sea level at 9 am", "hPa", 950, 1050),
    Column("Pressure3pm", "number", "pressure at mean sea level at 3 pm", "hPa", 950, 1050),
    Column("Cloud9am", "number", "cloud amount at 9 am (9: sky obscured)", "oktas", 0, 9),
    Column("Cloud3pm", "number", "cloud amount at 3 pm (9: sky obscured)", "oktas", 0, 9),
    Column("Temp9am", "number", "temperature at 9 am", "degC", -15, 50),
    Column("Temp3pm", "number", "temperature at 3 pm", "degC", -15, 55),
    Column("RainToday", "yes_no", "more than 1 mm of rain in the 24 h to 9 am"),
)
TARGET = Column("RainTomorrow", "yes_no", "more than 1 mm of rain in the 24 h from 9 am: what is forecast")
# A day at two stations, made up, as a request would send it: for documents, and to try a model that was loaded.
EXAMPLE: tuple[dict[str, Any], ...] = (
    {
        "Date": "2017-06-01", "Location": "Sydney", "MinTemp": 9.4, "MaxTemp": 17.2, "Rainfall": 2.6,
        "Evaporation": 2.2, "Sunshine": 3.1, "WindGustDir": "SSE", "WindGustSpeed": 46, "WindDir9am": "W",
        "WindDir3pm": "SE", "WindSpeed9am": 13, "WindSpeed3pm": 24, "Humidity9am": 82, "Humidity3pm": 71,
        "Pressure9am": 1016.4, "Pressure3pm": 1013.8, "Cloud9am": 6, "Cloud3pm": 7, "Temp9am": 11.3, "Temp3pm": 15.8,
        "RainToday": "Yes",
    },
    {
        "Date": "2017-06-01", "Location": "Wollongong", "MinTemp": 10.1, "MaxTemp": 16.3, "Rainfall": 5.8,
        "WindGustDir": "S", "WindGustSpeed": 61, "WindDir9am": "WSW", "WindDir3pm": "SSE", "WindSpeed9am": 20,
        "WindSpeed3pm": 31, "Humidity9am": 74, "Humidity3pm": 78, "Pressure9am": 1015.9, "Pressure3pm": 1014.2,
        "Temp9am": 12.2, "Temp3pm": 14.5, "RainToday": "Yes",
    },
)  # fmt: skip
# RISK_MM is tomorrow's rain itself. Both answers may stand in a file and are never read as a measurement.
ANSWERS = frozenset({"RISK_MM", TARGET.name})
NUMBERS = tuple(column.name for column in COLUMNS if column.kind == "number")
MEASUREMENTS = tuple(column.name for column in COLUMNS if column.kind not in ("date", "station"))
# Sunshine and the gust run to midnight, MaxTemp to 9 am the next day: at 3 pm nobody knows them.
UNKNOWN_AT_3PM = ("MaxTemp", "Sunshine", "WindGustDir", "WindGustSpeed")


@dataclass(frozen=True)
class Problem:
    """One value that breaks its limit. Rows count from 1, the header not counted."""

    row: int
    column: str
    value: str
    limit: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {_cut(self.value)!r} is not {self.limit}"


@dataclass(frozen=True)
class Repeat(Problem):
    """A station-day that stands in the table already, in the row that is given as the limit."""

    def __str__(self) -> str:
        already = f"stands already in row {self.limit}, a station has one observation a day"
        return f"row {self.row}, {self.column}: {self.value} {already}"


class ObservationError(ValueError):
    """The observations cannot be used; the message names source, row, column, value and limit.

    `problems` are the values that break their limits, the first PROBLEMS_KEPT of `count`.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = (), count: int = 0) -> None:
        super().__init__(message)
        self.problems, self.count = problems, count


class FormatError(ObservationError):
    """What was read is not the format it should be: no JSON, no CSV, no text."""


class ObservationWarning(UserWarning):
    """The observations can be used, but something in them deserves a look."""


def shorten(text: str, length: int = 40) -> str:
    """Text cut to a length that a message can hold, and without what a terminal or JSON cannot."""
    text = _cut(text, length)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def refuse(source: str, problems: Sequence[Problem], count: int) -> ObservationError:
    """One error for all problems of a source: all counted, the first few shown."""
    shown = "; ".join(str(problem) for problem in problems[:PROBLEMS_SHOWN])
    more = f" (and {count - PROBLEMS_SHOWN} more)" if count > PROBLEMS_SHOWN else ""
    text = f"{source}: {shown}{more}" if count == 1 else f"{source}: {count} problems: {shown}{more}"
    return ObservationError(text, problems, count)


def rows_of(table: Table) -> int:
    """Number of rows of a table."""
    return len(table["Location"])


def empty(column: Column, rows: int) -> NDArray[Any]:
    """A column with nothing but missing values."""
    if column.kind == "date":
        return np.full(rows, np.datetime64("NaT", "D"))
    return np.full(rows, "") if column.kind in ("station", "direction") else np.full(rows, np.nan)


def no_rows() -> Table:
    """A table without observations."""
    return {column.name: empty(column, 0) for column in COLUMNS}


def as_known_at_3pm(table: Table) -> Table:
    """The same observations without what cannot be known at 3 pm, at any station."""
    rows = rows_of(table)
    return table | {column.name: empty(column, rows) for column in COLUMNS if column.name in UNKNOWN_AT_3PM}


def take(table: Table, rows: NDArray[Any] | slice) -> Table:
    """The chosen rows of a table, by index, mask or slice."""
    return {name: values[rows] for name, values in table.items()}


def concatenate(tables: Sequence[Table]) -> Table:
    """Tables of the same columns, one after the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


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


def parser_of(column: Column) -> Parser:
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
    known = {column.name for column in COLUMNS} | ANSWERS
    unknown = [shorten(name or "(no name)") for name in header if name not in known]
    if not unknown:
        return None
    more = ", ..." if len(unknown) > 5 else ""
    return f"{source}: {len(unknown)} unknown column(s) ignored: {', '.join(unknown[:5])}{more}"


def parse_blocks(
    source: str, blocks: Iterable[tuple[dict[str, Sequence[str]], list[Problem]]], *, target: bool = False
) -> Table:
    """Blocks of text columns -> one table of observations.

    Each block is a dict of equal-length sequences of text, with the problems its reader saw. Columns that no block has
    are missing throughout; only Location must be there in every row. Raises ObservationError with all problems
    counted and the first few named.
    """
    columns = COLUMNS + ((TARGET,) if target else ())
    parsers = {column.name: parser_of(column) for column in columns}
    tables: list[Table] = []
    problems: list[Problem] = []
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
                    Problem(start + row + 1, column.name, text, column.limit)
                    for row, text in enumerate(texts)
                    if text in parser.wrong or (required and absent[row])
                ]
        found.sort(key=lambda problem: problem.row)
        count += len(found)
        problems += found[: PROBLEMS_KEPT - len(problems)]
        tables.append(table)
        start += rows
    if count:
        raise refuse(source, problems, count)
    if not start:
        raise ObservationError(f"{source}: there is a header but no observation")
    table = concatenate(tables)
    refuse_repeats(source, table)
    return table


def _column_array(column: Column, values: list[Any]) -> NDArray[Any]:
    if column.kind == "date":
        return np.array(values, "datetime64[D]")
    return np.array(values, np.str_ if column.kind in ("station", "direction") else np.float64)


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column of numbers or of text has no value."""
    return np.asarray(values == "" if values.dtype.kind == "U" else np.isnan(values))


def refuse_repeats(source: str, table: Table) -> None:
    """ObservationError where a station has two observations a day. Rows without a date may repeat."""
    found = repeats(table, np.arange(1, rows_of(table) + 1))
    if found:
        raise refuse(source, [Repeat(later, "Date", what, str(earlier)) for later, earlier, what in found], len(found))


def repeats(table: Table, number: NDArray[np.int64]) -> list[tuple[int, int, str]]:
    """Each row whose station-day stands in an earlier row: the numbers of both, and the station-day; by `number`."""
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    order = dated[np.lexsort((number[dated], table["Date"][dated], table["Location"][dated]))]
    dates, locations = table["Date"][order], table["Location"][order]
    again = np.flatnonzero((dates[1:] == dates[:-1]) & (locations[1:] == locations[:-1]))
    return sorted((int(number[order[i + 1]]), int(number[order[i]]), f"{locations[i]} on {dates[i]}") for i in again)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one observation, with units and limits."""

    def schema(column: Column) -> dict[str, Any]:
        text = {"description": f"{column.meaning}{f' ({column.unit})' if column.unit else ''}"}
        if column.kind == "number":
            return text | {"type": ["number", "null"], "minimum": column.low, "maximum": column.high}
        if column.kind == "direction":
            return text | {"enum": [*DIRECTIONS, None]}
        if column.kind == "yes_no":
            return text | {"enum": ["Yes", "No", None]}
        if column.kind == "date":
            return text | {"type": ["string", "null"], "format": "date"}
        return text | {"type": "string", "minLength": 1, "maxLength": 64}

    return {
        "type": "object",
        "properties": {column.name: schema(column) for column in COLUMNS},
        "required": ["Location"],
    }
