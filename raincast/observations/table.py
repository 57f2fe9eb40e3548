"""The table of observations, the one shape that flows through the package.

A table is a dict of equal-length numpy arrays: floats with NaN for missing (1.0 and 0.0 for Yes and No), strings for
Location and wind directions ("" for missing), datetime64[D] for Date (NaT for missing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.observations.columns import COLUMNS, UNKNOWN_AT_3PM, Column
from raincast.observations.errors import Duplicate, violation_error

Table = dict[str, NDArray[Any]]


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


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column of numbers or of text has no value."""
    return np.asarray(values == "" if values.dtype.kind == "U" else np.isnan(values))


def refuse_duplicates(source: str, table: Table) -> None:
    """ObservationError where a station has two observations a day. Rows without a date may repeat."""
    found = duplicates(table, np.arange(1, rows_of(table) + 1))
    if found:
        raise violation_error(
            source, [Duplicate(later, "Date", what, str(earlier)) for later, earlier, what in found], len(found)
        )


def duplicates(table: Table, number: NDArray[np.int64]) -> list[tuple[int, int, str]]:
    """Each row whose station-day stands in an earlier row: the numbers of both, and the station-day; by `number`."""
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    order = dated[np.lexsort((number[dated], table["Date"][dated], table["Location"][dated]))]
    dates, locations = table["Date"][order], table["Location"][order]
    again = np.flatnonzero((dates[1:] == dates[:-1]) & (locations[1:] == locations[:-1]))
    return sorted((int(number[order[i + 1]]), int(number[order[i]]), f"{locations[i]} on {dates[i]}") for i in again)
