"""Observations -> feature matrix. One code for training and serving, on numpy alone.

The table is the context: earlier days at the same station become history, the same day at other stations becomes
neighbours. What the table does not hold is NaN, and a row's own features never depend on the rows around it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from raincast import stations
from raincast.observations import DIRECTIONS, NUMBERS, ObservationWarning, Table, no_rows, rows_of

Array = NDArray[np.float64]
Columns = dict[str, Array]

RADII_KM = (60.0, 250.0)
SECTOR_RADIUS_KM = 500.0
SECTORS = {"N": (0.0, 1.0), "E": (1.0, 0.0), "S": (0.0, -1.0), "W": (-1.0, 0.0)}
# A weighted mean needs other stations of at least the weight of one at three radii: else "nearby" would not be true.
LEAST_WEIGHT = float(np.exp(-3.0))
HISTORY_DAYS = 30
WET_DAYS = 7
WET_MM = 1.0
# Matrix products add in an order that depends on the size of the table. Rounding far above that noise and far
# below any instrument makes a row's features, and so the branches it takes, the same whatever the table's size.
DECIMALS = 6

NEIGHBOUR_FIELDS = (
    "wet", "Humidity3pm", "Pressure3pm", "Cloud3pm", "dew_point_3pm", "dew_point_depression_3pm", "Temp3pm", "Sunshine",
    "WindGustSpeed", "pressure_change", "humidity_change", "u_3pm", "v_3pm", "v_9am",
)  # fmt: skip
OWN_ABOVE_NEIGHBOURS = ("wet", "Humidity3pm", "Pressure3pm", "dew_point_3pm", "Sunshine")
SECTOR_FIELDS = (
    "Humidity3pm", "Pressure3pm", "Cloud3pm", "dew_point_3pm", "Sunshine", "WindGustSpeed", "pressure_change",
    "humidity_change", "u_3pm", "v_3pm", "v_9am",
)  # fmt: skip
ANOMALY_FIELDS = ("Humidity3pm", "Pressure3pm", "MaxTemp")


def build(table: Table) -> Array:
    """Feature matrix of shape (rows, len(names())), float64, NaN where the table does not tell.

    The order of the rows does not matter. Rows at unknown stations get NaN place and neighbour features, and one
    ObservationWarning names the stations.
    """
    matrix = np.column_stack(list(_columns(table).values()))
    return np.round(matrix, DECIMALS, out=matrix)


@cache
def names() -> tuple[str, ...]:
    """Names of the features, in the order of the matrix's columns."""
    return tuple(_columns(no_rows()))


@cache
def context() -> NDArray[np.bool_]:
    """Which features come from other rows of the table, shape (features,)."""
    own = _own(no_rows(), stations.known(), np.zeros(0, np.intp))
    return np.array([name not in own for name in names()])


def _columns(table: Table) -> Columns:
    places = stations.known()
    place = places.index(table["Location"])
    unknown = np.unique(table["Location"][place < 0])
    if len(unknown):
        warnings.warn(
            f"{len(unknown)} unknown station(s), forecast without a place or neighbours: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}",
            ObservationWarning,
            stacklevel=3,
        )
    columns = _own(table, places, place)
    columns |= _history(table, columns)
    columns |= _neighbours(table, columns, places, place)
    return columns


def _own(table: Table, places: stations.Stations, place: NDArray[np.intp]) -> Columns:
    """Features of the row itself."""
    raw: Columns = {name: table[name] for name in NUMBERS}
    columns = dict(raw)
    columns["wet"] = wet(table)
    degrees = {}
    for when, direction, speed in (
        ("gust", "WindGustDir", "WindGustSpeed"),
        ("9am", "WindDir9am", "WindSpeed9am"),
        ("3pm", "WindDir3pm", "WindSpeed3pm"),
    ):
        degrees[when] = direction_degrees(table[direction])
        columns[f"u_{when}"], columns[f"v_{when}"] = wind_components(degrees[when], raw[speed])
    columns["veer"] = (degrees["3pm"] - degrees["9am"] + 180) % 360 - 180
    for name, field in (
        ("pressure", "Pressure"),
        ("humidity", "Humidity"),
        ("temperature", "Temp"),
        ("cloud", "Cloud"),
    ):
        columns[f"{name}_change"] = raw[f"{field}3pm"] - raw[f"{field}9am"]
    columns["temperature_range"] = raw["MaxTemp"] - raw["MinTemp"]
    columns["MaxTemp_above_3pm"] = raw["MaxTemp"] - raw["Temp3pm"]
    columns["Temp9am_above_MinTemp"] = raw["Temp9am"] - raw["MinTemp"]
    for when in ("9am", "3pm"):
        columns[f"dew_point_{when}"] = dew_point(raw[f"Temp{when}"], raw[f"Humidity{when}"])
        columns[f"dew_point_depression_{when}"] = raw[f"Temp{when}"] - columns[f"dew_point_{when}"]
    columns["gust_ratio"] = raw["WindGustSpeed"] / np.maximum(raw["WindSpeed3pm"], 1.0)
    for name in ("latitude", "longitude", "elevation"):
        columns[name] = np.where(place >= 0, getattr(places, name)[place], np.nan)
    day = day_of_year(table["Date"])
    columns["season_sin"], columns["season_cos"] = np.sin(2 * np.pi * day / 365.25), np.cos(2 * np.pi * day / 365.25)
    columns["day_length"] = day_length(columns["latitude"], day)
    columns["sunshine_share"] = raw["Sunshine"] / columns["day_length"]
    return columns


def wet(table: Table) -> Array:
    """1.0 for a rain day (more than 1 mm), 0.0 for a dry one; RainToday speaks where Rainfall is missing."""
    return np.where(np.isnan(table["Rainfall"]), table["RainToday"], table["Rainfall"] > WET_MM)


def direction_degrees(directions: NDArray[np.str_]) -> Array:
    """Direction the wind comes from, in degrees clockwise from north; NaN where it is missing."""
    order = np.argsort(DIRECTIONS)
    points = np.array(DIRECTIONS)[order]
    position = np.minimum(np.searchsorted(points, directions), len(points) - 1)
    return np.where(points[position] == directions, order[position] * 22.5, np.nan)


def wind_components(degrees: Array, speed: Array) -> tuple[Array, Array]:
    """Eastward u and northward v of a wind from `degrees`, in the unit of speed; 0 when calm, from wherever."""
    angle = np.radians(degrees)
    calm = speed == 0
    return np.where(calm, 0.0, -speed * np.sin(angle)), np.where(calm, 0.0, -speed * np.cos(angle))


def dew_point(temperature: Array, humidity: Array) -> Array:
    """Dew point in degC by the Magnus formula, from degC and % (Alduchov and Eskridge 1996); humidity at least 1 %."""
    gamma = np.log(np.maximum(humidity, 1.0) / 100) + 17.625 * temperature / (243.04 + temperature)
    return 243.04 * gamma / (17.625 - gamma)


def day_of_year(dates: NDArray[np.datetime64]) -> Array:
    """Day of the year, 1.0 on 1 January; NaN for a missing date."""
    start = dates.astype("datetime64[Y]").astype("datetime64[D]")
    days: Array = (dates - start).astype(np.float64)
    return 1 + np.where(np.isnat(dates), np.nan, days)


def day_length(latitude: Array, day: Array) -> Array:
    """Hours from sunrise to sunset at a latitude in degrees (Forsythe et al. 1995, daylight coefficient 0.8333)."""
    theta = 0.2163108 + 2 * np.arctan(0.9671396 * np.tan(0.00860 * (day - 186)))
    declination = np.arcsin(0.39795 * np.cos(theta))
    angle = np.radians(latitude)
    cosine = (np.sin(np.radians(0.8333)) + np.sin(angle) * np.sin(declination)) / (np.cos(angle) * np.cos(declination))
    sunlit: Array = 24 - 24 / np.pi * np.arccos(np.clip(cosine, -1, 1))
    return sunlit


def _history(table: Table, columns: Columns) -> Columns:
    """Earlier days at the same station: change since yesterday, anomalies of 30 days, wet days of the last 7."""
    rows = rows_of(table)
    fields = (*ANOMALY_FIELDS, "wet")
    total = {name: np.zeros(rows) for name in fields}
    seen = {name: np.zeros(rows) for name in fields}
    yesterday = np.full(rows, np.nan)
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    order = dated[np.lexsort((table["Date"][dated], table["Location"][dated]))]
    day, location = table["Date"][order].astype(np.int64), table["Location"][order]
    # Sorted by station and day, the last 30 days stand within the 30 rows before.
    for back in range(1, min(HISTORY_DAYS, len(order) - 1) + 1):
        age = day[back:] - day[:-back]
        near = (location[back:] == location[:-back]) & (age <= HISTORY_DAYS)
        now, before, age = order[back:][near], order[:-back][near], age[near]
        for name in fields:
            value = columns[name][before]
            use = ~np.isnan(value) & ((name != "wet") | (age <= WET_DAYS))
            total[name][now[use]] += value[use]
            seen[name][now[use]] += 1
        yesterday[now[age == 1]] = columns["Pressure3pm"][before[age == 1]]
    with np.errstate(invalid="ignore"):
        mean = {name: total[name] / seen[name] for name in fields}
    return {
        "Pressure3pm_since_yesterday": columns["Pressure3pm"] - yesterday,
        **{f"{name}_anomaly": columns[name] - mean[name] for name in ANOMALY_FIELDS},
        "wet_share_7_days": mean["wet"],
    }


@dataclass(frozen=True)
class _Map:
    """Fields as grids of shape (days, known stations): values with 0.0 where there is none, and where there is one."""

    value: Columns
    there: Columns
    rows: NDArray[np.intp]
    cells: tuple[NDArray[np.intp], NDArray[np.intp]]
    table_rows: int

    @classmethod
    def of(cls, table: Table, columns: Columns, place: NDArray[np.intp], count: int) -> _Map:
        """The map of every day in the table; rows without a date or a known station are not on it."""
        rows = np.flatnonzero((place >= 0) & ~np.isnat(table["Date"]))
        days, day = np.unique(table["Date"][rows], return_inverse=True)
        cells = (day, place[rows])
        value, there = {}, {}
        for name in NEIGHBOUR_FIELDS:
            grid = np.full((len(days), count), np.nan)
            grid[cells] = columns[name][rows]
            there[name] = (~np.isnan(grid)).astype(np.float64)
            value[name] = np.nan_to_num(grid)
        return cls(value, there, rows, cells, rows_of(table))

    def at_rows(self, grid: Array) -> Array:
        """A grid's values at the rows of the table, NaN for those that are not on the map."""
        result = np.full(self.table_rows, np.nan)
        result[self.rows] = grid[self.cells]
        return result

    def mean(self, name: str, weight: Array) -> Array:
        """Mean of a field over the other stations at the rows of the table; `weight` as (station, other station)."""
        total = self.there[name] @ weight.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.at_rows(np.where(total >= LEAST_WEIGHT, self.value[name] @ weight.T / total, np.nan))


def _neighbours(table: Table, columns: Columns, places: stations.Stations, place: NDArray[np.intp]) -> Columns:
    """The same day at the other stations: weighted means by distance and sector, and a plane of pressure."""
    day_map = _Map.of(table, columns, place, len(places.names))
    distance = places.distance_km
    elsewhere = ~np.eye(len(places.names), dtype=bool)
    result: Columns = {}
    for radius in RADII_KM:
        weight = np.exp(-distance / radius) * elsewhere
        for name in NEIGHBOUR_FIELDS:
            result[f"{name}_within_{radius:.0f}km"] = day_map.mean(name, weight)
    for name in OWN_ABOVE_NEIGHBOURS:
        result[f"{name}_above_neighbours"] = columns[name] - result[f"{name}_within_{RADII_KM[-1]:.0f}km"]
    weight = np.exp(-distance / SECTOR_RADIUS_KM) * elsewhere
    for sector, (east, north) in SECTORS.items():
        inside = places.east_km * east + places.north_km * north > distance * np.cos(np.pi / 4)
        for name in SECTOR_FIELDS:
            result[f"{name}_{sector}"] = day_map.mean(name, weight * inside)
    plane = _pressure_plane(day_map.value["Pressure3pm"], day_map.there["Pressure3pm"], weight, places)
    result |= {name: day_map.at_rows(grid) for name, grid in plane.items()}
    result["pressure_above_plane"] = columns["Pressure3pm"] - result.pop("pressure_of_plane")
    return result


def _pressure_plane(value: Array, there: Array, weight: Array, places: stations.Stations) -> Columns:
    """Weighted least-squares plane through the neighbours' pressure, around each station and day.

    Returns grids of shape (days, stations): the plane at the station in hPa and its gradient eastward and northward
    in hPa per 100 km; NaN where fewer than three stations, or stations on one line, leave the plane open.
    """
    east, north = places.east_km / 100, places.north_km / 100
    basis = (np.ones_like(east), east, north)
    moments = np.empty((*value.shape, 3, 3))
    right = np.empty((*value.shape, 3))
    for i, first in enumerate(basis):
        # Relative to 1000 hPa, so that the products keep their digits.
        right[..., i] = (value - 1000 * there) @ (weight * first).T
        for j, second in enumerate(basis):
            moments[..., i, j] = there @ (weight * first * second).T
    size = np.trace(moments, axis1=-2, axis2=-1) / 3
    solvable = np.linalg.det(moments) > 1e-4 * size**3
    moments[~solvable] = np.eye(3)
    plane = np.linalg.solve(moments, right[..., None])[..., 0]
    plane[~solvable] = np.nan
    return {
        "pressure_of_plane": plane[..., 0] + 1000,
        "pressure_gradient_east": plane[..., 1],
        "pressure_gradient_north": plane[..., 2],
    }
