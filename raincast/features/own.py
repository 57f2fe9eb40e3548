"""Features of an observation itself. Each formula is written once and runs on arrays over rows or on floats.

A single row is computed on floats, since a numpy call takes as long for one value as for hundreds. Floats and arrays
give the same bits; tests compare them.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.observations import stations
from raincast.observations.columns import DIRECTIONS, NUMBERS
from raincast.observations.table import Table, no_rows

Array = NDArray[np.float64]
Columns = dict[str, Array]

WET_MM = 1.0
# Days of a year, and 0 for a missing date.
DAYS = 367
WINDS = ("gust", "9am", "3pm")
DIRECTION_COLUMNS = ("WindGustDir", "WindDir9am", "WindDir3pm")
WIND_SPEEDS = ("WindGustSpeed", "WindSpeed9am", "WindSpeed3pm")
_DIRECTION_CODES = {name: code for code, name in enumerate(DIRECTIONS)}


@dataclass(frozen=True)
class Arithmetic:
    """Functions and lookup tables that the formulas need besides operators.

    `degrees`, `sine` and `cosine` are indexed by the code of a direction, `latitude`, `longitude` and `elevation` by
    the position of a station, `season_sin` and `season_cos` by the day of the year, `day_length` by
    place * DAYS + day. Missing or unknown codes are -1 (a day: 0) and look up NaN.
    """

    # pylint: disable=too-many-instance-attributes  # one for each function and table

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
def array_arithmetic() -> Arithmetic:
    """Return the arithmetic on arrays."""
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
def float_arithmetic() -> Arithmetic:
    """Return the arithmetic on floats. The logarithm is numpy's, since the last digit of Python's may differ."""
    tables = {field.name: getattr(array_arithmetic(), field.name).tolist() for field in fields(Arithmetic)[3:]}
    return Arithmetic(
        lambda condition, yes, no: yes if condition else no,
        lambda value, least: least if value < least else value,
        lambda value: float(np.log(value)),
        **tables,
    )


def columns_of_table(table: Table, place: NDArray[np.intp]) -> Columns:
    """Return the features of each row by name; `place` are the positions of the rows' stations, -1 for unknown ones."""
    directions = [direction_codes(table[name]) for name in DIRECTION_COLUMNS]
    return _formulas(table, directions, place, day_of_year(table["Date"]), array_arithmetic())


def packed_row(row: Mapping[str, Any]) -> bytes:
    """Return the features of one observation as bytes of float64, in the order of `columns_of_table`.

    `row` holds floats with NaN for missing, strings with "", and a datetime.date or None.
    """
    date: datetime.date | None = row["Date"]
    day = date.toordinal() - datetime.date(date.year, 1, 1).toordinal() + 1 if date else 0
    directions = [_DIRECTION_CODES.get(row[name], -1) for name in DIRECTION_COLUMNS]
    place = stations.known().position.get(row["Location"], -1)
    # numpy reads packed bytes in half the time it needs to inspect each float of a list.
    return _pack()(*_formulas(row, directions, place, day, float_arithmetic()).values())


@cache
def _pack() -> Callable[..., bytes]:
    return struct.Struct(f"{feature_count()}d").pack


@cache
def feature_count() -> int:
    """Return the number of features that come from the row itself."""
    return len(columns_of_table(no_rows(), np.zeros(0, np.intp)))


def _formulas(
    row: Mapping[str, Any], directions: Sequence[Any], place: Any, day: Any, on: Arithmetic
) -> dict[str, Any]:
    """Compute the features of arrays over rows or of the floats of one row.

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
    """Return 1.0 for a rain day (more than 1 mm), 0.0 for a dry one; RainToday decides if Rainfall is missing."""
    return np.where(np.isnan(table["Rainfall"]), table["RainToday"], table["Rainfall"] > WET_MM)


def direction_codes(directions: NDArray[np.str_]) -> NDArray[np.intp]:
    """Return the position of each direction in DIRECTIONS, -1 for a missing one."""
    order = np.argsort(DIRECTIONS)
    points = np.array(DIRECTIONS)[order]
    position = np.minimum(np.searchsorted(points, directions), len(points) - 1)
    return np.where(points[position] == directions, order[position], -1)


def wind_components(direction: Any, speed: Any, on: Arithmetic) -> tuple[Any, Any]:
    """Return eastward u and northward v of a wind from a direction's code, in the unit of speed; 0 if calm."""
    calm = speed == 0
    return on.where(calm, 0.0, -speed * on.sine[direction]), on.where(calm, 0.0, -speed * on.cosine[direction])


def dew_point(temperature: Any, humidity: Any, on: Arithmetic) -> Any:
    """Return the dew point in degC by the Magnus formula, from degC and % (Alduchov and Eskridge 1996).

    Humidity below 1 % counts as 1 %.
    """
    gamma = on.log(on.maximum(humidity, 1.0) / 100) + 17.625 * temperature / (243.04 + temperature)
    return 243.04 * gamma / (17.625 - gamma)


def day_of_year(dates: NDArray[np.datetime64]) -> NDArray[np.intp]:
    """Return the day of the year, 1 on 1 January; 0 for a missing date."""
    start = dates.astype("datetime64[Y]").astype("datetime64[D]")
    return np.where(np.isnat(dates), 0, (dates - start).astype(np.intp) + 1)


def day_length(latitude: Array, day: Array) -> Array:
    """Return hours from sunrise to sunset at a latitude in degrees (Forsythe et al. 1995, coefficient 0.8333)."""
    theta = 0.2163108 + 2 * np.arctan(0.9671396 * np.tan(0.00860 * (day - 186)))
    declination = np.arcsin(0.39795 * np.cos(theta))
    angle = np.radians(latitude)
    cosine = (np.sin(np.radians(0.8333)) + np.sin(angle) * np.sin(declination)) / (np.cos(angle) * np.cos(declination))
    sunlit: Array = 24 - 24 / np.pi * np.arccos(np.clip(cosine, -1, 1))
    return sunlit
