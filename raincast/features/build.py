"""Observations -> feature matrix, for training and serving, with numpy only.

The other rows of a table are the context: earlier days at the same station give history features, the same day at other
stations gives neighbour features. Features that the table does not determine are NaN. A row's own features never depend
on other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.features import own
from raincast.features.history import history
from raincast.features.neighbours import neighbours
from raincast.features.own import Array, Columns
from raincast.observations import stations
from raincast.observations.errors import ObservationWarning
from raincast.observations.table import Table, no_rows

# Matrix products add in an order that depends on the size of the table. Rounding to six decimals, far above that noise
# and far below the precision of any instrument, gives a row the same features, and so the same branches of the trees,
# in every table. An array: numpy needs longer to convert a float than to multiply a row.
FEATURE_SCALE = np.array(1e6)


def build_features(table: Table) -> Array:
    """Return the feature matrix of a table, shape (rows, len(feature_names())), float64.

    The order of the rows does not matter. Rows at unknown stations get NaN for place and neighbours, and one
    ObservationWarning names these stations.
    """
    unknown = unknown_stations(table["Location"])
    if unknown:
        warnings.warn(unknown, ObservationWarning, stacklevel=2)
    return feature_matrix(table)


def feature_matrix(table: Table, rows: slice = slice(None), days_at_once: int | None = None) -> Array:
    """Return the features of some rows of a table, without a warning: threads share Python's list of warnings.

    `days_at_once` limits the days whose neighbours are computed together, and with them the memory.
    """
    matrix = np.column_stack([values[rows] for values in _columns(table, days_at_once).values()])
    return _rounded(matrix, out=matrix)


def row_features(row: Mapping[str, Any]) -> Array:
    """Return the own features of a single row, shape (1, own_feature_count()), equal to those of `build_features`.

    `row` holds floats with NaN for missing, strings with "", and a datetime.date or None.
    """
    return single_row_matrix([own.packed_row(row)])


def single_row_matrix(packed_rows: Sequence[bytes]) -> Array:
    """Return the own features of rows from `own.packed_row`, shape (rows, own_feature_count())."""
    return _rounded(np.frombuffer(b"".join(packed_rows)).reshape(len(packed_rows), -1))


def unknown_stations(locations: NDArray[np.str_]) -> str | None:
    """Return a line that names the locations which are not in data/stations.csv, None if all are."""
    # Without return_* arguments np.unique imports numpy.ma, 3 % of the service's start-up time.
    unknown = sorted(set(locations[stations.known().index(locations) < 0].tolist()))
    if not unknown:
        return None
    more = ", ..." if len(unknown) > 5 else ""
    return f"{len(unknown)} unknown station(s), forecast without a place or neighbours: {', '.join(unknown[:5])}{more}"


@cache
def feature_names() -> tuple[str, ...]:
    """Return the names of the features, in the order of the matrix's columns."""
    return tuple(_columns(no_rows()))


def own_feature_count() -> int:
    """Return the number of features that come from the row itself; they are the first columns of the matrix."""
    return own.feature_count()


@cache
def context_mask() -> NDArray[np.bool_]:
    """Return True for each feature that comes from other rows of the table, shape (features,)."""
    return np.arange(len(feature_names())) >= own_feature_count()


def _rounded(values: Array, out: Array | None = None) -> Array:
    scaled: Array = np.multiply(values, FEATURE_SCALE, out=out)
    np.rint(scaled, out=scaled)
    np.divide(scaled, FEATURE_SCALE, out=scaled)
    return scaled


def _columns(table: Table, days_at_once: int | None = None) -> Columns:
    place = stations.known().index(table["Location"])
    columns = own.columns_of_table(table, place)
    columns |= history(table, columns, place)
    columns |= neighbours(table, columns, place, days_at_once)
    return columns
