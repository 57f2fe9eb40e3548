"""Observations -> feature matrix. One code for training and serving, on numpy alone.

The table is the context: earlier days at the same station become history, the same day at other stations becomes
neighbours. What the table does not hold is NaN, and a row's own features never depend on the rows around it.
"""

from __future__ import annotations

import datetime
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast import stations
from raincast.observations import DIRECTIONS, NUMBERS, ObservationWarning, Table, no_rows, rows_of
from raincast.straight import Lookup, Program, Term

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
# More days than from 1900 to 2199, and a window.
STATION_STEP = 200_000
# Matrix products add in an order that depends on the size of the table. Rounding to six decimals, far above that noise
# and far below any instrument, makes a row's features, and so the branches it takes, the same in every table.
SCALE = 1e6
# numpy takes longer to make an array of it than to multiply a row.
_SCALE = np.array(SCALE)
DAYS = 367

WINDS = ("gust", "9am", "3pm")
DIRECTION_COLUMNS = ("WindGustDir", "WindDir9am", "WindDir3pm")
WIND_SPEEDS = ("WindGustSpeed", "WindSpeed9am", "WindSpeed3pm")
_CODES = {name: code for code, name in enumerate(DIRECTIONS)}

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
    unknown = unknown_stations(table["Location"])
    if unknown:
        warnings.warn(unknown, ObservationWarning, stacklevel=2)
    return matrix(table)


def matrix(table: Table, rows: slice = slice(None)) -> Array:
    """What `build` returns, for some of the rows, and without the warning: threads share Python's list of those."""
    found = np.column_stack([values[rows] for values in _columns(table).values()])
    return _rounded(found, out=found)


def build_row(row: Mapping[str, Any]) -> Array:
    """What `build` makes of one observation alone, without its NaN context: shape (1, own features), `own()` of them.

    `row` holds plain Python values: floats with NaN for missing, strings with "" and a datetime.date or None. It is the
    same formulas, on floats instead of arrays: a numpy call takes as long for one value as for hundreds.
    """
    date: datetime.date | None = row["Date"]
    day = date.toordinal() - datetime.date(date.year, 1, 1).toordinal() + 1 if date else 0
    compute, pack = _row_function()
    # Packed as bytes they are an array in half the time that numpy takes to look at each of them.
    return _rounded(np.frombuffer(pack(*compute(row, day)))[None])


def unknown_stations(locations: NDArray[np.str_]) -> str | None:
    """A line that names the locations which are not in data/stations.csv, None where all are."""
    # np.unique of values alone imports numpy.ma, which is 3 % of a service's start.
    unknown = sorted(set(locations[stations.known().index(locations) < 0].tolist()))
    if not unknown:
        return None
    more = ", ..." if len(unknown) > 5 else ""
    return f"{len(unknown)} unknown station(s), forecast without a place or neighbours: {', '.join(unknown[:5])}{more}"


@cache
def names() -> tuple[str, ...]:
    """Names of the features, in the order of the matrix's columns."""
    return tuple(_columns(no_rows()))


@cache
def own() -> int:
    """How many features come from the row itself: they are the first ones."""
    return len(_own_of(no_rows(), np.zeros(0, np.intp)))


@cache
def context() -> NDArray[np.bool_]:
    """Which features come from other rows of the table, shape (features,)."""
    return np.arange(len(names())) >= own()


def _rounded(values: Array, out: Array | None = None) -> Array:
    scaled: Array = np.multiply(values, _SCALE, out=out)
    np.rint(scaled, out=scaled)
    np.divide(scaled, _SCALE, out=scaled)
    return scaled


def _columns(table: Table) -> Columns:
    place = stations.known().index(table["Location"])
    columns = _own_of(table, place)
    columns |= _history(table, columns, place)
    columns |= _neighbours(table, columns, place)
    return columns


@dataclass(frozen=True)
class Arithmetic:
    """What the formulas need besides operators: a few functions, and what is looked up rather than computed each time.

    `degrees`, `sine` and `cosine` are by the code of a direction, `latitude`, `longitude` and `elevation` by the place
    of a station, `season_sin` and `season_cos` by the day of the year, `day_length` by place * DAYS + day. What is
    missing or unknown has the code -1 (a day: 0) and finds NaN.
    """

    # pylint: disable=too-many-instance-attributes  # one for each thing that is looked up

    where: Callable[[Any, Any, Any], Any]
    maximum: Callable[[Any, float], Any]
    log: Callable[[Any], Any]
    degrees: Any
    sine: Any
    cosine: Any
    latitude: Any
    longitude: Any
    elevation: Any
    season_sin: Any
    season_cos: Any
    day_length: Any


@cache
def arrays() -> Arithmetic:
    """The formulas' arithmetic on arrays."""
    places = stations.known()
    degrees = np.append(np.arange(16) * 22.5, np.nan)
    day = np.append(np.nan, np.arange(1.0, DAYS))
    latitude, longitude, elevation = (
        np.append(values, np.nan) for values in (places.latitude, places.longitude, places.elevation)
    )
    season = 2 * np.pi * day / 365.25
    return Arithmetic(
        np.where, np.maximum, np.log,
        degrees, np.sin(np.radians(degrees)), np.cos(np.radians(degrees)),
        latitude, longitude, elevation,
        np.sin(season), np.cos(season), day_length(latitude[:, None], day).ravel(),
    )  # fmt: skip


@cache
def _row_function() -> tuple[Callable[..., tuple[float, ...]], Callable[..., bytes]]:
    """The formulas on the floats of one row, and what makes bytes of them.

    The logarithm is still numpy's, whose last digit may differ from Python's.
    """
    program = Program()
    tables = {name: values.tolist() for name, values in list(vars(arrays()).items())[3:]}
    on = Arithmetic(
        lambda condition, yes, no: program.term(f"{yes} if {condition} else {no}"),
        lambda value, least: program.term(f"{least} if {value} < {least} else {value}"),
        lambda value: program.term(f"float(log({value}))"),
        **{name: Lookup(name) for name in tables},
    )
    row = {name: program.term(f"row[{name!r}]") for name in (*NUMBERS, "RainToday")}
    codes = [program.term(f"codes.get(row[{name!r}], -1)") for name in DIRECTION_COLUMNS]
    place = program.term("places.get(row['Location'], -1)")
    columns = _own(row, codes, place, Term(program, "day"), on)
    known = tables | {"log": np.log, "codes": _CODES, "places": stations.known().position}
    compute = program.function("row, day", columns.values(), known)
    return compute, struct.Struct(f"{len(columns)}d").pack


def _own_of(table: Table, place: NDArray[np.intp]) -> Columns:
    codes = [direction_codes(table[name]) for name in DIRECTION_COLUMNS]
    return _own(table, codes, place, day_of_year(table["Date"]), arrays())


def _own(row: Mapping[str, Any], directions: Sequence[Any], place: Any, day: Any, on: Arithmetic) -> dict[str, Any]:
    """Features of the row itself, in arrays over rows or in the floats of one row.

    `directions` are the codes of DIRECTION_COLUMNS, `place` is the position of the station, `day` that of the year.
    """
    columns = {name: row[name] for name in NUMBERS}
    columns["wet"] = on.where(row["Rainfall"] == row["Rainfall"], (row["Rainfall"] > WET_MM) * 1.0, row["RainToday"])
    for when, direction, speed in zip(WINDS, directions, WIND_SPEEDS, strict=True):
        columns[f"u_{when}"], columns[f"v_{when}"] = wind_components(direction, row[speed], on)
    columns["veer"] = (on.degrees[directions[2]] - on.degrees[directions[1]] + 180) % 360 - 180
    columns["pressure_change"] = row["Pressure3pm"] - row["Pressure9am"]
    columns["humidity_change"] = row["Humidity3pm"] - row["Humidity9am"]
    columns["temperature_change"] = row["Temp3pm"] - row["Temp9am"]
    columns["cloud_change"] = row["Cloud3pm"] - row["Cloud9am"]
    columns["temperature_range"] = row["MaxTemp"] - row["MinTemp"]
    columns["MaxTemp_above_3pm"] = row["MaxTemp"] - row["Temp3pm"]
    columns["Temp9am_above_MinTemp"] = row["Temp9am"] - row["MinTemp"]
    columns["dew_point_9am"] = dew_point(row["Temp9am"], row["Humidity9am"], on)
    columns["dew_point_depression_9am"] = row["Temp9am"] - columns["dew_point_9am"]
    columns["dew_point_3pm"] = dew_point(row["Temp3pm"], row["Humidity3pm"], on)
    columns["dew_point_depression_3pm"] = row["Temp3pm"] - columns["dew_point_3pm"]
    columns["gust_ratio"] = row["WindGustSpeed"] / on.maximum(row["WindSpeed3pm"], 1.0)
    columns["latitude"] = on.latitude[place]
    columns["longitude"] = on.longitude[place]
    columns["elevation"] = on.elevation[place]
    columns["season_sin"] = on.season_sin[day]
    columns["season_cos"] = on.season_cos[day]
    columns["day_length"] = on.day_length[place * DAYS + day]
    columns["sunshine_share"] = row["Sunshine"] / columns["day_length"]
    return columns


def wet(table: Table) -> Array:
    """1.0 for a rain day (more than 1 mm), 0.0 for a dry one; RainToday speaks where Rainfall is missing."""
    return np.where(np.isnan(table["Rainfall"]), table["RainToday"], table["Rainfall"] > WET_MM)


def direction_codes(directions: NDArray[np.str_]) -> NDArray[np.intp]:
    """The place of each direction in DIRECTIONS, -1 where it is missing."""
    order = np.argsort(DIRECTIONS)
    points = np.array(DIRECTIONS)[order]
    position = np.minimum(np.searchsorted(points, directions), len(points) - 1)
    return np.where(points[position] == directions, order[position], -1)


def wind_components(direction: Any, speed: Any, on: Arithmetic) -> tuple[Any, Any]:
    """Eastward u and northward v of a wind from a direction's code, in the unit of speed; 0 when calm."""
    calm = speed == 0
    return on.where(calm, 0.0, -speed * on.sine[direction]), on.where(calm, 0.0, -speed * on.cosine[direction])


def dew_point(temperature: Any, humidity: Any, on: Arithmetic) -> Any:
    """Dew point in degC by the Magnus formula, from degC and % (Alduchov and Eskridge 1996); humidity at least 1 %."""
    gamma = on.log(on.maximum(humidity, 1.0) / 100) + 17.625 * temperature / (243.04 + temperature)
    return 243.04 * gamma / (17.625 - gamma)


def day_of_year(dates: NDArray[np.datetime64]) -> NDArray[np.intp]:
    """Day of the year, 1 on 1 January; 0 for a missing date."""
    start = dates.astype("datetime64[Y]").astype("datetime64[D]")
    return np.where(np.isnat(dates), 0, (dates - start).astype(np.intp) + 1)


def day_length(latitude: Array, day: Array) -> Array:
    """Hours from sunrise to sunset at a latitude in degrees (Forsythe et al. 1995, daylight coefficient 0.8333)."""
    theta = 0.2163108 + 2 * np.arctan(0.9671396 * np.tan(0.00860 * (day - 186)))
    declination = np.arcsin(0.39795 * np.cos(theta))
    angle = np.radians(latitude)
    cosine = (np.sin(np.radians(0.8333)) + np.sin(angle) * np.sin(declination)) / (np.cos(angle) * np.cos(declination))
    sunlit: Array = 24 - 24 / np.pi * np.arccos(np.clip(cosine, -1, 1))
    return sunlit


def _history(table: Table, columns: Columns, place: NDArray[np.intp]) -> Columns:
    """Earlier days at the same station: change since yesterday, anomalies of 30 days, wet days of the last 7."""
    code = _station_codes(table, place)
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    # One number that grows with the station, then with the day; stations lie further apart than any window reaches.
    moment = code[dated] * STATION_STEP + table["Date"][dated].astype(np.int64)
    order = np.argsort(moment)
    rows, moment = dated[order], moment[order]
    begin = {days: np.searchsorted(moment, moment - days) for days in (HISTORY_DAYS, WET_DAYS)}
    mean = {name: _mean_before(columns[name], rows, begin[HISTORY_DAYS]) for name in ANOMALY_FIELDS}
    before = np.maximum(np.arange(len(rows)) - 1, 0)
    yesterday = np.full(rows_of(table), np.nan)
    yesterday[rows] = np.where(moment[before] == moment - 1, columns["Pressure3pm"][rows[before]], np.nan)
    return {
        "Pressure3pm_since_yesterday": columns["Pressure3pm"] - yesterday,
        **{f"{name}_anomaly": columns[name] - mean[name] for name in ANOMALY_FIELDS},
        "wet_share_7_days": _mean_before(columns["wet"], rows, begin[WET_DAYS]),
    }


def _station_codes(table: Table, place: NDArray[np.intp]) -> NDArray[np.intp]:
    """A number for each station, known or not."""
    unknown = place < 0
    code = place.copy()
    if unknown.any():
        code[unknown] = len(stations.known().names) + np.unique(table["Location"][unknown], return_inverse=True)[1]
    return code


def _mean_before(values: Array, rows: NDArray[np.intp], begin: NDArray[np.intp]) -> Array:
    """For the i-th of `rows`: mean of the values there are in rows[begin[i]:i], NaN where there are none.

    The sums are of whole millionths, so that they are exact and hold nothing of what lies before the window.
    """
    ordered = values[rows]
    there = ~np.isnan(ordered)
    count = np.concatenate([[0], np.cumsum(there)])
    total = np.concatenate([[0], np.cumsum(np.rint(np.where(there, ordered, 0.0) * SCALE).astype(np.int64))])
    seen = count[:-1] - count[begin]
    result = np.full(len(values), np.nan)
    with np.errstate(invalid="ignore"):
        result[rows] = (total[:-1] - total[begin]) / SCALE / seen
    return result


def _neighbours(table: Table, columns: Columns, place: NDArray[np.intp]) -> Columns:
    """The same day at the other stations: weighted means by distance and sector, and a plane of pressure."""
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
    plane = _pressure_plane(day_map.value[pressure], day_map.there[pressure], weights)
    result |= {name: day_map.at_rows(grid) for name, grid in plane.items()}
    result["pressure_above_plane"] = columns["Pressure3pm"] - result.pop("pressure_of_plane")
    return result


@dataclass(frozen=True)
class _Weights:
    """What each other station counts: matrices of shape (other station, station), 0.0 for the station itself.

    `within` is by radius, `sector` by its letter; `moments` and `right` are what _pressure_plane multiplies with, of
    shape (other station, 9 or 3 * stations).
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
    """NEIGHBOUR_FIELDS as grids of shape (fields, days, known stations): values, 0.0 where there is none, and where."""

    value: Array
    there: Array
    rows: NDArray[np.intp]
    cells: NDArray[np.intp]
    table_rows: int

    @classmethod
    def of(cls, table: Table, columns: Columns, place: NDArray[np.intp]) -> _Map:
        """The map of every day in the table; rows without a date or a known station are not on it."""
        rows = np.flatnonzero((place >= 0) & ~np.isnat(table["Date"]))
        days, day = np.unique(table["Date"][rows], return_inverse=True)
        count = len(stations.known().names)
        cells = day * count + place[rows]
        value = np.zeros((len(NEIGHBOUR_FIELDS), len(days) * count))
        there = np.zeros_like(value)
        for i, name in enumerate(NEIGHBOUR_FIELDS):
            known = columns[name][rows]
            there[i, cells] = ~np.isnan(known)
            value[i, cells] = np.nan_to_num(known)
        shape = (len(NEIGHBOUR_FIELDS), len(days), count)
        return cls(value.reshape(shape), there.reshape(shape), rows, cells, rows_of(table))

    def at_rows(self, grid: Array) -> Array:
        """A grid's values at the rows of the table, NaN for those that are not on the map; shape (..., rows)."""
        result = np.full((*grid.shape[:-2], self.table_rows), np.nan)
        result[..., self.rows] = grid.reshape(*grid.shape[:-2], -1)[..., self.cells]
        return result

    def means(self, fields: Sequence[str], weight: Array) -> Array:
        """Means of fields over the other stations at the rows of the table, shape (fields, rows)."""
        chosen = [NEIGHBOUR_FIELDS.index(name) for name in fields]
        total = self.there[chosen] @ weight
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.at_rows(np.where(total >= LEAST_WEIGHT, self.value[chosen] @ weight / total, np.nan))


def _pressure_plane(value: Array, there: Array, weights: _Weights) -> Columns:
    """Weighted least-squares plane through the neighbours' pressure, around each station and day.

    Returns grids of shape (days, stations): the plane at the station in hPa and its gradient eastward and northward
    in hPa per 100 km; NaN where fewer than three stations, or stations on one line, leave the plane open.
    """
    days, count = value.shape
    moments = np.moveaxis((there @ weights.moments).reshape(days, 3, 3, count), -1, 1)
    # Relative to 1000 hPa, so that the products keep their digits.
    right = np.moveaxis(((value - 1000 * there) @ weights.right).reshape(days, 3, count), -1, 1)
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
