"""Positions and distances of the stations, compared with published distances and the file."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from raincast.observations import stations

ROWS = (
    {"Location": "North", "latitude": "-30", "longitude": "150", "elevation_m": "12.5"},
    {"Location": "East", "latitude": "-31", "longitude": "151", "elevation_m": "-3"},
)


def distance(one: str, other: str) -> float:
    """Return the distance of two known stations in km."""
    places = stations.known()
    return float(places.distance_km[places.names.index(one), places.names.index(other)])


def great_circle(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the haversine distance in km between each pair of places given in degrees."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    half = np.sin((phi[:, None] - phi) / 2) ** 2
    half += np.cos(phi[:, None]) * np.cos(phi) * np.sin((lam[:, None] - lam) / 2) ** 2
    return np.asarray(2 * 6371.0 * np.arcsin(np.sqrt(half)))


def test_there_are_49_different_stations_in_the_order_of_their_names() -> None:
    names = stations.known().names
    assert len(names) == len(set(names)) == 49
    assert list(names) == sorted(names)


def test_known_stations_are_those_of_the_file() -> None:
    with stations.PATH.open(encoding="utf-8", newline="") as file:
        rows = {row["Location"]: row for row in csv.DictReader(file)}
    places = stations.known()
    assert set(places.names) == set(rows)
    for i, name in enumerate(places.names):
        assert places.latitude[i] == float(rows[name]["latitude"])
        assert places.longitude[i] == float(rows[name]["longitude"])
        assert places.elevation[i] == float(rows[name]["elevation_m"])


def test_all_stations_lie_in_the_australian_region() -> None:
    places = stations.known()
    assert ((places.latitude > -44) & (places.latitude < -10)).all()
    # Norfolk Island lies furthest east.
    assert ((places.longitude > 113) & (places.longitude < 168)).all()
    # Mount Kosciuszko is 2228 m high.
    assert ((places.elevation >= 0) & (places.elevation < 2228)).all()


@pytest.mark.parametrize(
    ("start", "end", "km"),
    [
        # Published great-circle distance of the two cities.
        ("Sydney", "Melbourne", 713.0),
        # 0.11 deg of longitude at 31.925 S is 0.11 * 111.195 * 0.8487 = 10.38 km, 0.01 deg of latitude 1.11 km.
        ("Perth", "PerthAirport", float(np.hypot(10.38, 1.11))),
    ],
)
def test_distance_of_two_stations_is_the_known_one(start: str, end: str, km: float) -> None:
    assert distance(start, end) == pytest.approx(km, rel=0.02)
    assert distance(end, start) == pytest.approx(km, rel=0.02)


def test_all_distances_are_within_2_percent_of_the_great_circle() -> None:
    places = stations.known()
    expected = great_circle(places.latitude, places.longitude)
    np.testing.assert_allclose(places.distance_km, expected, rtol=0.02, atol=1e-9)


def test_only_the_distance_from_a_station_to_itself_is_zero() -> None:
    zero = stations.known().distance_km == 0
    np.testing.assert_array_equal(zero, np.eye(49, dtype=bool))


@pytest.mark.parametrize("axis", ["east_km", "north_km"])
def test_east_and_north_are_antisymmetric(axis: str) -> None:
    grid = getattr(stations.known(), axis)
    np.testing.assert_array_equal(grid, -grid.T)


def test_east_and_north_point_from_the_first_station_to_the_second() -> None:
    places = stations.known()
    sydney, brisbane, perth = (places.names.index(name) for name in ("Sydney", "Brisbane", "Perth"))
    # Brisbane lies 6.38 deg of latitude north of Sydney, a degree being pi * 6371 / 180 = 111.195 km.
    assert places.north_km[sydney, brisbane] == pytest.approx(6.38 * 111.195, rel=1e-4)
    assert places.east_km[sydney, brisbane] > 0
    assert places.east_km[sydney, perth] < -3000


def test_index_returns_the_position_of_each_known_station() -> None:
    places = stations.known()
    np.testing.assert_array_equal(places.index(np.array(places.names)), np.arange(49))
    np.testing.assert_array_equal(places.index(np.array(places.names[::-1])), np.arange(49)[::-1])


@pytest.mark.parametrize("name", ["", "AAA", "Atlantis", "Sydne", "Sydney ", "SydneyX", "sydney", "Zzz", "Wörgl"])
def test_index_of_an_unknown_station_is_minus_1_among_known_ones(name: str) -> None:
    places = stations.known()
    indices = places.index(np.array(["Sydney", name, "Woomera"]))
    np.testing.assert_array_equal(indices, [places.names.index("Sydney"), -1, places.names.index("Woomera")])


def test_index_of_no_location_is_empty() -> None:
    assert stations.known().index(np.zeros(0, np.str_)).shape == (0,)


def test_stations_from_rows_are_sorted_with_all_their_values() -> None:
    places = stations.from_rows(ROWS)
    assert places.names == ("East", "North")
    np.testing.assert_array_equal(places.latitude, [-31.0, -30.0])
    np.testing.assert_array_equal(places.longitude, [151.0, 150.0])
    np.testing.assert_array_equal(places.elevation, [-3.0, 12.5])
    # From North to East: 1 deg south, 1 deg east at 30.5 S, where cos is 0.86163.
    assert places.north_km[1, 0] == pytest.approx(-111.195, rel=1e-4)
    assert places.east_km[1, 0] == pytest.approx(111.195 * 0.86163, rel=1e-4)
