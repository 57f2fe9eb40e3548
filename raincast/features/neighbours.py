"""Features from the same day at other stations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from raincast.features.own import Array, Columns
from raincast.observations import stations
from raincast.observations.table import Table, rows_of, take

RADII_KM = (60.0, 250.0)
SECTOR_RADIUS_KM = 500.0
SECTORS = {"N": (0.0, 1.0), "E": (1.0, 0.0), "S": (0.0, -1.0), "W": (-1.0, 0.0)}
# A weighted mean needs at least the weight of one station at three radii; with less, the stations are not near.
LEAST_WEIGHT = float(np.exp(-3.0))
NEIGHBOUR_FIELDS = (
    "wet", "Humidity3pm", "Pressure3pm", "Cloud3pm", "dew_point_3pm", "dew_point_depression_3pm", "Temp3pm", "Sunshine",
    "WindGustSpeed", "pressure_change", "humidity_change", "u_3pm", "v_3pm", "v_9am",
)  # fmt: skip
OWN_ABOVE_NEIGHBOURS = ("wet", "Humidity3pm", "Pressure3pm", "dew_point_3pm", "Sunshine")
SECTOR_FIELDS = (
    "Humidity3pm", "Pressure3pm", "Cloud3pm", "dew_point_3pm", "Sunshine", "WindGustSpeed", "pressure_change",
    "humidity_change", "u_3pm", "v_3pm", "v_9am",
)  # fmt: skip


def neighbours(table: Table, columns: Columns, place: NDArray[np.intp], days_at_once: int | None = None) -> Columns:
    """Return weighted means of the other stations' day by distance and sector, and the plane of pressure.

    The grids of many days take much memory, 20 kB for each, unless `days_at_once` limits them.
    """
    if days_at_once is None or rows_of(table) <= days_at_once:
        return _neighbours(table, columns, place)
    days, day = np.unique(table["Date"], return_inverse=True)
    result: Columns = {}
    for first in range(0, len(days), days_at_once):
        rows = np.flatnonzero((day >= first) & (day < first + days_at_once))
        part = _neighbours(take(table, rows), {name: values[rows] for name, values in columns.items()}, place[rows])
        for name, values in part.items():
            result.setdefault(name, np.empty(rows_of(table)))[rows] = values
    return result


def _neighbours(table: Table, columns: Columns, place: NDArray[np.intp]) -> Columns:
    day_map = _Map.of(table, columns, place)
    weights = _weights()
    result: Columns = {}
    for radius in RADII_KM:
        means = day_map.means(NEIGHBOUR_FIELDS, weights.within[radius])
        result |= {f"{name}_within_{radius:.0f}km": mean for name, mean in zip(NEIGHBOUR_FIELDS, means, strict=True)}
    for name in OWN_ABOVE_NEIGHBOURS:
        result[f"{name}_above_neighbours"] = columns[name] - result[f"{name}_within_{RADII_KM[-1]:.0f}km"]
    for sector, weight in weights.sector.items():
        means = day_map.means(SECTOR_FIELDS, weight)
        result |= {f"{name}_{sector}": mean for name, mean in zip(SECTOR_FIELDS, means, strict=True)}
    pressure = NEIGHBOUR_FIELDS.index("Pressure3pm")
    plane = _pressure_plane(day_map.value[pressure], day_map.present[pressure], weights)
    result |= {name: day_map.at_rows(grid) for name, grid in plane.items()}
    result["pressure_above_plane"] = columns["Pressure3pm"] - result.pop("pressure_of_plane")
    return result


@dataclass(frozen=True)
class _Weights:
    """Weights of the other stations: matrices of shape (other station, station), 0.0 for the station itself.

    `within` is by radius in km, `sector` by its letter. `moments` and `right` are the factors of _pressure_plane, of
    shape (other station, 9 * stations) and (other station, 3 * stations).
    """

    within: dict[float, Array]
    sector: dict[str, Array]
    moments: Array
    right: Array


@cache
def _weights() -> _Weights:
    places = stations.known()
    distance, east, north = places.distance_km, places.east_km, places.north_km
    elsewhere = ~np.eye(len(places.names), dtype=bool)
    near = np.exp(-distance / SECTOR_RADIUS_KM) * elsewhere
    sectors = {}
    for letter, (to_east, to_north) in SECTORS.items():
        inside = east * to_east + north * to_north > distance * np.cos(np.pi / 4)
        sectors[letter] = np.ascontiguousarray((near * inside).T)
    basis = [np.ones_like(east), east / 100, north / 100]
    return _Weights(
        {radius: np.ascontiguousarray((np.exp(-distance / radius) * elsewhere).T) for radius in RADII_KM},
        sectors,
        np.hstack([(near * first * second).T for first in basis for second in basis]),
        np.hstack([(near * first).T for first in basis]),
    )


@dataclass(frozen=True)
class _Map:
    """NEIGHBOUR_FIELDS as grids of shape (fields, days, known stations).

    `value` is 0.0 for a missing value; `present` is 1.0 for a value and 0.0 for none. `rows` are the table's rows on
    the map and `cells` their positions in a grid of days and stations.
    """

    value: Array
    present: Array
    rows: NDArray[np.intp]
    cells: NDArray[np.intp]
    table_rows: int

    @classmethod
    def of(cls, table: Table, columns: Columns, place: NDArray[np.intp]) -> _Map:
        """Map every day in the table; rows without a date or a known station are left out."""
        rows = np.flatnonzero((place >= 0) & ~np.isnat(table["Date"]))
        days, day = np.unique(table["Date"][rows], return_inverse=True)
        count = len(stations.known().names)
        cells = day * count + place[rows]
        value = np.zeros((len(NEIGHBOUR_FIELDS), len(days) * count))
        present = np.zeros_like(value)
        for i, name in enumerate(NEIGHBOUR_FIELDS):
            observed = columns[name][rows]
            present[i, cells] = ~np.isnan(observed)
            value[i, cells] = np.nan_to_num(observed)
        shape = (len(NEIGHBOUR_FIELDS), len(days), count)
        return cls(value.reshape(shape), present.reshape(shape), rows, cells, rows_of(table))

    def at_rows(self, grid: Array) -> Array:
        """Return a grid's values at the rows of the table, shape (..., rows); NaN for rows that are not on the map."""
        result = np.full((*grid.shape[:-2], self.table_rows), np.nan)
        result[..., self.rows] = grid.reshape(*grid.shape[:-2], -1)[..., self.cells]
        return result

    def means(self, fields: Sequence[str], weight: Array) -> Array:
        """Return the means of fields over the other stations at the rows of the table, shape (fields, rows)."""
        chosen = [NEIGHBOUR_FIELDS.index(name) for name in fields]
        total = self.present[chosen] @ weight
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.at_rows(np.where(total >= LEAST_WEIGHT, self.value[chosen] @ weight / total, np.nan))


def _pressure_plane(value: Array, present: Array, weights: _Weights) -> Columns:
    """Fit a weighted least-squares plane through the neighbours' pressure, around each station and day.

    Returns grids of shape (days, stations): the plane at the station in hPa and its gradient eastward and northward
    in hPa per 100 km; NaN if fewer than three stations, or stations on one line, do not determine the plane.
    """
    days, count = value.shape
    moments = np.moveaxis((present @ weights.moments).reshape(days, 3, 3, count), -1, 1)
    # Relative to 1000 hPa, so that the products keep their digits.
    right = np.moveaxis(((value - 1000 * present) @ weights.right).reshape(days, 3, count), -1, 1)
    size = np.trace(moments, axis1=-2, axis2=-1) / 3
    solvable = np.linalg.det(moments) > 1e-4 * size**3
    moments = np.where(solvable[..., None, None], moments, np.eye(3))
    plane = np.linalg.solve(moments, right[..., None])[..., 0]
    plane[~solvable] = np.nan
    at_station, to_east, to_north = (np.asarray(plane[..., i], np.float64) for i in range(3))
    return {
        "pressure_of_plane": at_station + 1000,
        "pressure_gradient_east": to_east,
        "pressure_gradient_north": to_north,
    }
