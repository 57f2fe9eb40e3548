"""Positions of the stations and the distances between them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).resolve().parents[2] / "data" / "stations.csv"
EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True)
class Stations:
    """Known stations, sorted by name.

    `latitude` and `longitude` are in degrees (south and west negative), `elevation` in metres. `east_km` and `north_km`
    have the shape (stations, stations): the distance of station j east and north of station i.
    """

    names: tuple[str, ...]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    elevation: NDArray[np.float64]
    east_km: NDArray[np.float64]
    north_km: NDArray[np.float64]

    @cached_property
    def position(self) -> dict[str, int]:
        """Index of each known station by its name."""
        return {name: position for position, name in enumerate(self.names)}

    @property
    def distance_km(self) -> NDArray[np.float64]:
        """Distance between each pair of stations in km, shape (stations, stations)."""
        return np.hypot(self.east_km, self.north_km)

    def index(self, locations: NDArray[np.str_]) -> NDArray[np.intp]:
        """Return the index of each location among the known stations, -1 for an unknown one."""
        names = np.array(self.names)
        position = np.searchsorted(names, locations)
        position[position == len(names)] = 0
        return np.where(names[position] == locations, position, -1)


def from_rows(rows: Iterable[dict[str, str]]) -> Stations:
    """Return stations from rows with Location, latitude, longitude and elevation_m."""
    ordered = sorted(rows, key=lambda row: row["Location"])
    latitude, longitude, elevation = (
        np.array([float(row[name]) for row in ordered]) for name in ("latitude", "longitude", "elevation_m")
    )
    # Equirectangular projection at the mean latitude of each pair: within 1.2 % of the great circle for these stations.
    middle = np.radians((latitude[:, None] + latitude[None, :]) / 2)
    east = np.radians(longitude[None, :] - longitude[:, None]) * np.cos(middle) * EARTH_RADIUS_KM
    north = np.radians(latitude[None, :] - latitude[:, None]) * EARTH_RADIUS_KM
    return Stations(tuple(row["Location"] for row in ordered), latitude, longitude, elevation, east, north)


@cache
def known() -> Stations:
    """Return the stations of data/stations.csv, which is read on the first call."""
    with PATH.open(encoding="utf-8", newline="") as file:
        return from_rows(csv.DictReader(file))
