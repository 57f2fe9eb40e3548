"""Tables of observations, the data structure of the whole package.

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
    """Return the number of rows."""
    return len(table["Location"])


def empty(column: Column, rows: int) -> NDArray[Any]:
    """Return a column of missing values."""
    if column.kind == "date":
        return np.full(rows, np.datetime64("NaT", "D"))
    return np.full(rows, "") if column.kind in ("station", "direction") else np.full(rows, np.nan)


def no_rows() -> Table:
    """Return a table without observations."""
    return {column.name: empty(column, 0) for column in COLUMNS}


def as_known_at_3pm(table: Table) -> Table:
    """Return the observations with the columns that are unknown at 3 pm missing in all rows."""
    rows = rows_of(table)
    return table | {column.name: empty(column, rows) for column in COLUMNS if column.name in UNKNOWN_AT_3PM}


def take(table: Table, rows: NDArray[Any] | slice) -> Table:
    """Return the rows of a table that an index, mask or slice selects."""
    return {name: values[rows] for name, values in table.items()}


def concatenate(tables: Sequence[Table]) -> Table:
    """Return tables with the same columns as one."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of missing values of a column of numbers or text."""
    return np.asarray(values == "" if values.dtype.kind == "U" else np.isnan(values))


def refuse_duplicates(name: str, table: Table) -> None:
    """Raise ObservationError if a station has two observations on a day. Rows without a date are never duplicates."""
    violations = [
        Duplicate(later, "Date", station_day, str(earlier))
        for later, earlier, station_day in duplicates(table, np.arange(1, rows_of(table) + 1))
    ]
    if violations:
        raise violation_error(name, violations, len(violations))


def duplicates(table: Table, number: NDArray[np.int64]) -> list[tuple[int, int, str]]:
    """Return each duplicate of a station-day as (its number, number of the row before, station-day), in order.

    `number` holds the number of each row; of duplicates, the row with the lower number is the earlier one.
    """
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    order = dated[np.lexsort((number[dated], table["Date"][dated], table["Location"][dated]))]
    dates, locations = table["Date"][order], table["Location"][order]
    again = np.flatnonzero((dates[1:] == dates[:-1]) & (locations[1:] == locations[:-1]))
    return sorted((int(number[order[i + 1]]), int(number[order[i]]), f"{locations[i]} on {dates[i]}") for i in again)
