"""Features against hand-computed and published values, and properties that hold for every table."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raincast.features.build import (
    build_features,
    context_mask,
    feature_matrix,
    feature_names,
    own_feature_count,
    row_features,
    unknown_stations,
)
from raincast.features.history import HISTORY_DAYS
from raincast.features.own import (
    WIND_SPEEDS,
    array_arithmetic,
    day_length,
    day_of_year,
    dew_point,
    direction_codes,
    wet,
    wind_components,
)
from raincast.observations import stations
from raincast.observations.columns import COLUMNS, DIRECTIONS, MEASUREMENTS, NUMBERS, OUTCOME_COLUMNS, UNKNOWN_AT_3PM
from raincast.observations.errors import ObservationWarning
from raincast.observations.table import Table, as_known_at_3pm, empty, no_rows, rows_of, take

# The time of an example depends on the machine. The examples are the same each time: random ones would now and then
# have a feature within 1e-12 of the middle between two roundings and fail without an error in the code.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

# Near to and far from each other.
PLACES = ("Sydney", "SydneyAirport", "Newcastle", "Wollongong", "Canberra", "Albury", "AliceSprings", "Perth")
# Yesterday, a week, the ends of 7 and 30 days, and many rows on one day.
DAYS = (0, 1, 2, 7, 8, 9, 30, 31, 32)
START = np.datetime64("2016-02-20")
TODAY = "2017-03-01"


def table_of(locations: list[str], dates: list[str] | None = None, **values: Any) -> Table:
    """Return a table with the given columns, all others missing."""
    table = {column.name: empty(column, len(locations)) for column in COLUMNS}
    table["Location"] = np.array(locations)
    if dates is not None:
        table["Date"] = np.array(dates, "datetime64[D]")
    return table | {name: np.array(column) for name, column in values.items()}


def feature(table: Table, name: str) -> np.ndarray:
    """Return one column of the feature matrix, shape (rows,)."""
    return build_features(table)[:, feature_names().index(name)]


def degrees_of(directions: np.ndarray) -> np.ndarray:
    """Return the degrees of each direction, by the codes and the lookup table of the formulas."""
    return np.asarray(array_arithmetic().degrees[direction_codes(directions)])


def near(expected: Any) -> Any:
    """Return an approximation of the expected value within the rounding of features."""
    return pytest.approx(expected, abs=1e-6, nan_ok=True)


def random_table(places: list[tuple[str, int | None]], seed: int, missing: float, absent: set[str]) -> Table:
    """Return values within the limits, some of them at the limits, with one decimal like those of instruments."""
    generator = np.random.default_rng(seed)
    rows = len(places)
    table: Table = {}
    for column in COLUMNS:
        nothing = empty(column, rows)
        if column.kind == "station":
            table[column.name] = np.array([name for name, _ in places])
            continue
        if column.kind == "date":
            days = [np.datetime64("NaT", "D") if day is None else START + day for _, day in places]
            table[column.name] = np.array(days, "datetime64[D]")
            continue
        if column.kind == "direction":
            values = generator.choice(DIRECTIONS, rows)
        elif column.kind == "yes_no":
            values = generator.integers(2, size=rows).astype(np.float64)
        else:
            margin = 0.1 * (column.high - column.low)
            values = generator.uniform(column.low - margin, column.high + margin, rows)
            values = np.clip(values, column.low, column.high).round(1)
        gone = (generator.random(rows) < missing) | (column.name in absent)
        table[column.name] = np.where(gone, nothing, values)
    return table


def tables(max_size: int = 25) -> st.SearchStrategy[Table]:
    """Generate tables of known stations, one row per station and day, some rows without a date."""
    day = st.none() | st.sampled_from(DAYS)
    return st.builds(
        random_table,
        st.lists(st.tuples(st.sampled_from(PLACES), day), min_size=1, max_size=max_size, unique=True),
        st.integers(0, 2**32),
        st.sampled_from([0.0, 0.1, 0.5]),
        st.sets(st.sampled_from(MEASUREMENTS), max_size=4),
    )


def test_direction_degrees_go_clockwise_from_north_in_16_steps() -> None:
    expected = {"N": 0, "NNE": 22.5, "NE": 45, "ENE": 67.5, "E": 90, "ESE": 112.5, "SE": 135, "SSE": 157.5}
    expected |= {"S": 180, "SSW": 202.5, "SW": 225, "WSW": 247.5, "W": 270, "WNW": 292.5, "NW": 315, "NNW": 337.5}
    np.testing.assert_array_equal(degrees_of(np.array(list(expected))), list(expected.values()))


def test_direction_degrees_of_a_missing_direction_are_nan() -> None:
    np.testing.assert_array_equal(degrees_of(np.array(["W", "", "N"])), [270, np.nan, 0])
    np.testing.assert_array_equal(degrees_of(np.full(2, "")), [np.nan, np.nan])


@pytest.mark.parametrize(
    ("direction", "u", "v"),
    [
        # A wind from the north blows southward.
        ("N", 0.0, -10.0),
        ("E", -10.0, 0.0),
        ("S", 0.0, 10.0),
        ("W", 10.0, 0.0),
        # From the south-west, towards the north-east: 10 / sqrt(2) each.
        ("SW", 7.0710678, 7.0710678),
        # 22.5 degrees: sqrt(2 - sqrt(2)) / 2 and sqrt(2 + sqrt(2)) / 2
        ("NNE", -3.8268343, -9.2387953),
    ],
)
def test_wind_components_point_where_the_wind_blows(direction: str, u: float, v: float) -> None:
    codes = direction_codes(np.array([direction]))
    eastward, northward = wind_components(codes, np.array([10.0]), array_arithmetic())
    assert eastward == pytest.approx(u, abs=1e-7)
    assert northward == pytest.approx(v, abs=1e-7)


def test_wind_components_have_the_length_of_the_speed() -> None:
    codes, speed = np.meshgrid(np.arange(16), np.array([0.0, 1.0, 57.0]))
    np.testing.assert_allclose(np.hypot(*wind_components(codes, speed, array_arithmetic())), speed)


def test_wind_components_are_0_if_calm_and_nan_if_direction_or_speed_is_missing() -> None:
    codes = direction_codes(np.array(["", "E", "", "E"]))
    speed = np.array([0.0, 0.0, 5.0, np.nan])
    for component in wind_components(codes, speed, array_arithmetic()):
        np.testing.assert_array_equal(component, [0.0, 0.0, np.nan, np.nan])


@pytest.mark.parametrize(("temperature", "humidity", "expected"), [(25, 50, 13.9), (20, 60, 12.0), (30, 80, 26.2)])
def test_dew_point_is_that_of_published_tables(temperature: float, humidity: float, expected: float) -> None:
    dew_points = dew_point(np.array([float(temperature)]), np.array([float(humidity)]), array_arithmetic())
    assert dew_points == pytest.approx(expected, abs=0.1)


def test_dew_point_of_saturated_air_is_its_temperature() -> None:
    temperature = np.linspace(-15, 55, 15)
    dew_points = dew_point(temperature, np.full(15, 100.0), array_arithmetic())
    np.testing.assert_allclose(dew_points, temperature, atol=1e-9)


def test_dew_point_rises_with_humidity_and_takes_0_percent_for_1() -> None:
    dew_points = dew_point(np.full(101, 20.0), np.arange(101.0), array_arithmetic())
    assert dew_points[0] == dew_points[1]
    assert (np.diff(dew_points[1:]) > 0).all()
    missing = dew_point(np.array([np.nan, 20.0]), np.array([50.0, np.nan]), array_arithmetic())
    assert np.isnan(missing).all()


def test_day_of_year_counts_from_1_knows_leap_years_and_is_0_for_a_missing_date() -> None:
    dates = ["2017-01-01", "2017-03-01", "2017-12-31", "2016-03-01", "2016-12-31", "1900-12-31", "NaT"]
    days = day_of_year(np.array(dates, "datetime64[D]"))
    np.testing.assert_array_equal(days, [1, 60, 365, 61, 366, 365, 0])
    assert days.dtype.kind == "i"


@pytest.mark.parametrize(
    ("latitude", "day", "hours"),
    [(0.0, 80.0, 12.1), (0.0, 172.0, 12.1), (-33.87, 172.0, 9.9), (-33.87, 355.0, 14.4), (-33.87, 80.0, 12.1)],
)
def test_day_length_is_the_published_one(latitude: float, day: float, hours: float) -> None:
    # Equator and Sydney, at the solstices (days 172 and 355) and the equinox (day 80).
    assert day_length(np.array([latitude]), np.array([day])) == pytest.approx(hours, abs=0.1)


def test_day_length_has_no_jump_in_the_year_and_polar_day_and_night() -> None:
    days = np.arange(1.0, 367.0)
    assert np.abs(np.diff(day_length(np.full(366, -42.9), days))).max() < 0.06
    np.testing.assert_array_equal(day_length(np.array([-80.0, -80.0]), np.array([355.0, 172.0])), [24, 0])
    assert np.isnan(day_length(np.array([np.nan, -33.0]), np.array([1.0, np.nan]))).all()


def test_wet_is_more_than_1_mm_and_rain_today_decides_if_rainfall_is_missing() -> None:
    table = table_of(
        ["Sydney"] * 8,
        Rainfall=[0.0, 1.0, 1.1, 1.2, 0.0, np.nan, np.nan, np.nan],
        RainToday=[np.nan, np.nan, np.nan, 0.0, 1.0, 1.0, 0.0, np.nan],
    )
    np.testing.assert_array_equal(wet(table), [0, 0, 1, 1, 0, 1, 0, np.nan])


@pytest.mark.parametrize(
    ("nine", "three", "expected"),
    [("N", "E", 90), ("E", "N", -90), ("NNW", "NNE", 45), ("NNE", "NNW", -45), ("S", "S", 0), ("N", "", np.nan)],
)
def test_veer_is_the_shorter_turn_from_9am_to_3pm_clockwise(nine: str, three: str, expected: float) -> None:
    assert feature(table_of(["Sydney"], WindDir9am=[nine], WindDir3pm=[three]), "veer") == near([expected])


def test_own_features_of_one_observation_by_hand() -> None:
    table = table_of(
        ["Sydney"],
        [TODAY],
        MinTemp=[14.0],
        Temp9am=[17.5],
        Temp3pm=[25.0],
        MaxTemp=[26.5],
        Sunshine=[6.0],
        Pressure9am=[1015.0],
        Pressure3pm=[1011.5],
        Humidity9am=[80.0],
        Humidity3pm=[50.0],
        Cloud9am=[7.0],
        Cloud3pm=[2.0],
        WindGustSpeed=[44.0],
        WindSpeed3pm=[20.0],
        WindGustDir=["W"],
        WindDir3pm=["S"],
        WindDir9am=["N"],
        WindSpeed9am=[0.0],
    )
    row = dict(zip(feature_names(), build_features(table)[0], strict=True))
    # 1 March 2017 is day 60; 59.1 deg on the circle of 365.25 days.
    expected = {
        "pressure_change": -3.5,
        "humidity_change": -30.0,
        "temperature_change": 7.5,
        "cloud_change": -5.0,
        "temperature_range": 12.5,
        "MaxTemp_above_3pm": 1.5,
        "Temp9am_above_MinTemp": 3.5,
        "gust_ratio": 44 / 20,
        "u_gust": 44.0,
        "v_gust": 0.0,
        "u_9am": 0.0,
        "v_9am": 0.0,
        "u_3pm": 0.0,
        "v_3pm": 20.0,
        "latitude": -33.86,
        "longitude": 151.21,
        "elevation": 39.0,
        "season_sin": np.sin(np.radians(360 * 60 / 365.25)),
        "season_cos": np.cos(np.radians(360 * 60 / 365.25)),
        "sunshine_share": 6 / day_length(np.array([-33.86]), np.array([60.0]))[0],
    }
    assert {name: row[name] for name in expected} == near(expected)
    assert {name: row[name] for name in NUMBERS} == near({name: table[name][0] for name in NUMBERS})
    assert row["dew_point_3pm"] == pytest.approx(13.9, abs=0.1)
    assert row["dew_point_depression_3pm"] == near(25.0 - row["dew_point_3pm"])
    assert row["dew_point_depression_9am"] == near(17.5 - row["dew_point_9am"])


def test_gust_ratio_takes_a_calm_for_1_kmh() -> None:
    assert feature(table_of(["Sydney"], WindGustSpeed=[30.0], WindSpeed3pm=[0.0]), "gust_ratio") == near([30.0])


def weight_of(one: str, other: str, radius: float) -> float:
    """Return exp(-d / radius) for the distance d of two known stations."""
    places = stations.known()
    i, j = places.names.index(one), places.names.index(other)
    return float(np.exp(-np.hypot(places.east_km[i, j], places.north_km[i, j]) / radius))


@pytest.mark.parametrize("radius", [60, 250])
def test_neighbour_mean_is_weighted_by_exp_of_distance_and_leaves_out_the_station_itself(radius: int) -> None:
    table = table_of(["Sydney", "Newcastle", "Wollongong"], [TODAY] * 3, Humidity3pm=[50.0, 60.0, 90.0])
    sydney_newcastle, sydney_wollongong, newcastle_wollongong = (
        weight_of(*pair, radius)
        for pair in (("Sydney", "Newcastle"), ("Sydney", "Wollongong"), ("Newcastle", "Wollongong"))
    )
    expected = [
        (60 * sydney_newcastle + 90 * sydney_wollongong) / (sydney_newcastle + sydney_wollongong),
        (50 * sydney_newcastle + 90 * newcastle_wollongong) / (sydney_newcastle + newcastle_wollongong),
        (50 * sydney_wollongong + 60 * newcastle_wollongong) / (sydney_wollongong + newcastle_wollongong),
    ]
    assert feature(table, f"Humidity3pm_within_{radius}km") == near(expected)
    if radius == 250:
        above = np.array([50.0, 60.0, 90.0]) - expected
        assert feature(table, "Humidity3pm_above_neighbours") == near(above)


def test_neighbour_means_hold_derived_fields() -> None:
    # One neighbour only: its own value. It had 2 mm, a south wind of 20 km/h and a pressure falling by 3 hPa.
    table = table_of(
        ["Sydney", "Newcastle"],
        [TODAY] * 2,
        Rainfall=[0.0, 2.0],
        WindDir3pm=["", "S"],
        WindSpeed3pm=[np.nan, 20.0],
        Pressure9am=[np.nan, 1013.0],
        Pressure3pm=[1000.0, 1010.0],
    )
    assert feature(table, "wet_within_250km")[0] == near(1.0)
    assert feature(table, "wet_above_neighbours") == near([-1.0, 1.0])
    assert feature(table, "v_3pm_within_60km")[0] == near(20.0)
    assert feature(table, "pressure_change_within_60km") == near([-3.0, np.nan])
    assert feature(table, "Pressure3pm_above_neighbours") == near([-10.0, 10.0])


def test_neighbour_mean_leaves_out_what_is_missing() -> None:
    table = table_of(["Sydney", "Newcastle", "Wollongong"], [TODAY] * 3, Cloud3pm=[1.0, np.nan, 5.0])
    assert feature(table, "Cloud3pm_within_250km")[[0, 2]] == near([5.0, 1.0])
    assert feature(table, "Cloud3pm_within_60km")[[0, 2]] == near([5.0, 1.0])


@pytest.mark.parametrize(
    ("other", "within_60", "within_250"),
    [
        # Three radii are 180 and 750 km: Williamtown lies 133 km from Sydney, Canberra 245, Brisbane 731, Ballarat 783.
        ("Williamtown", True, True),
        ("Canberra", False, True),
        ("Brisbane", False, True),
        ("Ballarat", False, False),
    ],
)
def test_a_station_further_than_three_radii_is_no_neighbour(other: str, within_60: bool, within_250: bool) -> None:
    table = table_of(["Sydney", other], [TODAY] * 2, Temp3pm=[20.0, 30.0])
    assert feature(table, "Temp3pm_within_60km") == near([30.0, 20.0] if within_60 else [np.nan] * 2)
    assert feature(table, "Temp3pm_within_250km") == near([30.0, 20.0] if within_250 else [np.nan] * 2)


def test_other_days_and_rows_without_a_date_are_no_neighbours() -> None:
    table = table_of(
        ["Sydney", "Newcastle", "Wollongong", "SydneyAirport", "Penrith"],
        [TODAY, "2017-03-02", "2017-02-28", "NaT", "NaT"],
        Humidity3pm=[50.0, 60.0, 70.0, 80.0, 90.0],
    )
    assert feature(table, "Humidity3pm_within_250km") == near([np.nan] * 5)


def test_sectors_hold_the_stations_of_their_quarter() -> None:
    # Seen from Canberra: Moree (29.5 S) north, Wollongong (150.9 E) east, Sale (38.1 S) south, Mildura (142.1 E) west.
    names = ["Canberra", "Moree", "Wollongong", "Sale", "Mildura"]
    table = table_of(names, [TODAY] * 5, Humidity3pm=[50.0, 10.0, 20.0, 30.0, 40.0])
    means = [feature(table, f"Humidity3pm_{sector}")[0] for sector in "NESW"]
    assert means == near([10.0, 20.0, 30.0, 40.0])


def test_sector_mean_is_weighted_over_500_km() -> None:
    # Newcastle and Brisbane both lie north of Sydney.
    table = table_of(["Sydney", "Newcastle", "Brisbane"], [TODAY] * 3, Sunshine=[5.0, 8.0, 2.0])
    near_one, far_one = weight_of("Sydney", "Newcastle", 500), weight_of("Sydney", "Brisbane", 500)
    assert feature(table, "Sunshine_N")[0] == near((8 * near_one + 2 * far_one) / (near_one + far_one))
    assert feature(table, "Sunshine_S")[:2] == near([np.nan, 5.0])


def test_pressure_plane_recovers_an_exact_plane() -> None:
    # 1008 hPa at Sydney, rising by 0.8 hPa per 100 km eastward and falling by 0.5 northward; Sydney itself 2 hPa above.
    places = stations.known()
    sydney = places.names.index("Sydney")
    pressure = 1008 + (0.8 * places.east_km[sydney] - 0.5 * places.north_km[sydney]) / 100
    pressure[sydney] += 2
    near_sydney = np.flatnonzero(places.distance_km[sydney] < 800)
    table = table_of([places.names[i] for i in near_sydney], [TODAY] * len(near_sydney))
    table["Pressure3pm"] = pressure[near_sydney]
    at = table["Location"] == "Sydney"
    assert feature(table, "pressure_gradient_east")[at] == near([0.8])
    assert feature(table, "pressure_gradient_north")[at] == near([-0.5])
    assert feature(table, "pressure_above_plane")[at] == near([2.0])


def test_pressure_plane_is_nearly_the_same_seen_from_a_neighbour() -> None:
    # Between stations a few hundred km apart the projection turns with the latitude by a few percent.
    places = stations.known()
    sydney, canberra = places.names.index("Sydney"), places.names.index("Canberra")
    near_sydney = np.flatnonzero(places.distance_km[sydney] < 800)
    table = table_of([places.names[i] for i in near_sydney], [TODAY] * len(near_sydney))
    slope = (0.8 * places.east_km[sydney] - 0.5 * places.north_km[sydney]) / 100
    table["Pressure3pm"] = 1008 + slope[near_sydney]
    at = table["Location"] == places.names[canberra]
    assert feature(table, "pressure_gradient_east")[at] == pytest.approx(0.8, rel=0.1)
    assert feature(table, "pressure_gradient_north")[at] == pytest.approx(-0.5, rel=0.1)
    assert feature(table, "pressure_above_plane")[at] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    "others", [["Newcastle"], ["Newcastle", "Wollongong"], ["Perth", "PerthAirport", "PearceRAAF"]]
)
def test_pressure_plane_is_nan_with_too_few_stations_or_none_around(others: list[str]) -> None:
    rows = 1 + len(others)
    table = table_of(["Sydney", *others], [TODAY] * rows, Pressure3pm=[1010.0, 1011.0, 1012.5, 1009.0][:rows])
    for name in ("pressure_gradient_east", "pressure_gradient_north", "pressure_above_plane"):
        assert np.isnan(feature(table, name)[0])


def test_pressure_since_yesterday_is_the_change_to_the_day_before() -> None:
    # The 4th has no day before; on the 6th yesterday's pressure is missing, on the 7th today's.
    dates = ["2017-02-28", "2017-03-01", "2017-03-02", "2017-03-04", "2017-03-05", "2017-03-06", "2017-03-07"]
    pressure = [1010.0, 1006.5, 1008.0, 1012.0, np.nan, 1001.0, np.nan]
    change = feature(table_of(["Sydney"] * 7, dates, Pressure3pm=pressure), "Pressure3pm_since_yesterday")
    assert change == near([np.nan, -3.5, 1.5, np.nan, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("field", ["MaxTemp", "Humidity3pm", "Pressure3pm"])
def test_anomaly_is_the_distance_from_the_mean_of_30_days_across_gaps(field: str) -> None:
    # Seen from 1 February: 1 January is day 31 and too old, 2 January day 30, 11 and 21 January within.
    values = {
        "MaxTemp": [50.0, 20.0, 26.0, np.nan, 30.0],
        "Humidity3pm": [99.0, 20.0, 26.0, np.nan, 30.0],
        "Pressure3pm": [1045.0, 1010.0, 1016.0, np.nan, 1020.0],
    }[field]
    dates = ["2017-01-01", "2017-01-02", "2017-01-11", "2017-01-21", "2017-02-01"]
    anomaly = feature(table_of(["Sydney"] * 5, dates, **{field: values}), f"{field}_anomaly")
    # On 11 January the mean is that of the 1st and the 2nd; on 1 February that of the 2nd and the 11th.
    expected = [
        np.nan,
        values[1] - values[0],
        values[2] - (values[0] + values[1]) / 2,
        np.nan,
        values[4] - (values[1] + values[2]) / 2,
    ]
    assert anomaly == near(expected)


def test_anomaly_of_an_unbroken_series_counts_30_days_and_not_the_31st() -> None:
    dates = [str(np.datetime64("2017-01-01") + day) for day in range(33)]
    squares = np.arange(33.0) ** 2 / 32
    anomaly = feature(table_of(["Sydney"] * 33, dates, MaxTemp=squares), "MaxTemp_anomaly")
    # Day 32 looks back to day 2, day 30 to day 0, day 3 to days 0, 1 and 2.
    assert anomaly[32] == near(squares[32] - squares[2:32].mean())
    assert anomaly[30] == near(squares[30] - squares[0:30].mean())
    assert anomaly[3] == near(squares[3] - (0 + 1 + 4) / 32 / 3)


def test_history_covers_30_days_for_any_number_of_stations() -> None:
    # Three stations day by day: the last 30 days of one are 90 rows away.
    dates = [str(np.datetime64("2017-01-01") + day) for day in range(31) for _ in range(3)]
    table = table_of(["Sydney", "Perth", "Cobar"] * 31, dates, MaxTemp=np.arange(93.0) / 3)
    # Each station's temperature rises by 1 degC a day: the mean of days 0 to 29 is 15.5 degC below that of day 30.
    assert feature(table, "MaxTemp_anomaly")[-3:] == near([15.5] * 3)


def test_wet_share_is_that_of_the_known_days_of_the_last_seven() -> None:
    # Wet on the 1st and 3rd, unknown on the 5th, no row on the 7th.
    dates = [f"2017-03-{day:02}" for day in (1, 2, 3, 4, 5, 6, 8, 9, 20)]
    rain = [5.0, 0.0, 5.0, 0.0, np.nan, 0.0, 5.0, 5.0, 5.0]
    share = feature(table_of(["Sydney"] * 9, dates, Rainfall=rain), "wet_share_7_days")
    # The 8th sees the 1st to the 6th, two of five wet; the 9th the 2nd to the 8th, again two of five; the 20th nothing.
    assert share == near([np.nan, 1.0, 1 / 2, 2 / 3, 2 / 4, 2 / 4, 2 / 5, 2 / 5, np.nan])


def test_history_is_that_of_the_same_station_known_or_not() -> None:
    table = table_of(
        ["Sydney", "Atlantis", "Sydney", "Atlantis"],
        ["2017-02-28", "2017-02-28", TODAY, TODAY],
        Pressure3pm=[1010.0, 1000.0, 1012.0, 999.0],
        RainToday=[0.0, 1.0, 1.0, 0.0],
    )
    with pytest.warns(ObservationWarning, match="Atlantis"):
        matrix = build_features(table)
    names = feature_names()
    assert matrix[:, names.index("Pressure3pm_since_yesterday")] == near([np.nan, np.nan, 2.0, -1.0])
    assert matrix[:, names.index("Pressure3pm_anomaly")] == near([np.nan, np.nan, 2.0, -1.0])
    assert matrix[:, names.index("wet_share_7_days")] == near([np.nan, np.nan, 0.0, 1.0])


def test_rows_without_a_date_have_no_history_and_are_no_history() -> None:
    table = table_of(["Sydney"] * 4, ["NaT", TODAY, "NaT", "2017-03-02"], Pressure3pm=[990.0, 1010.0, 1000.0, 1011.0])
    assert feature(table, "Pressure3pm_anomaly") == near([np.nan, np.nan, np.nan, 1.0])


@UNTIMED
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(table: Table, random: Any) -> None:
    order = np.array(random.sample(range(rows_of(table)), rows_of(table)))
    np.testing.assert_array_equal(build_features(take(table, order)), build_features(table)[order])


@UNTIMED
@given(tables(), st.integers(1, 5))
def test_days_whose_neighbours_are_computed_apart_have_the_same_features(table: Table, days: int) -> None:
    np.testing.assert_array_equal(feature_matrix(table, days_at_once=days), feature_matrix(table))


@UNTIMED
@given(tables(max_size=12))
def test_a_single_row_has_the_same_own_features_and_no_context(table: Table) -> None:
    matrix, context = build_features(table), context_mask()
    for row in range(len(matrix)):
        single = build_features(take(table, np.array([row])))
        np.testing.assert_array_equal(single[0, ~context], matrix[row, ~context])
        assert np.isnan(single[0, context]).all()


@UNTIMED
@given(tables(), st.sampled_from(DAYS))
def test_a_later_day_never_changes_the_features_of_an_earlier_one(table: Table, day: int) -> None:
    past = ~(table["Date"] > START + day)
    np.testing.assert_array_equal(build_features(take(table, past)), build_features(table)[past])


@UNTIMED
@given(tables(), st.sampled_from(DAYS))
def test_the_features_of_a_day_do_not_depend_on_days_more_than_30_days_before(table: Table, day: int) -> None:
    now = table["Date"] == START + day
    recent = ~(table["Date"] < START + day - HISTORY_DAYS)
    np.testing.assert_array_equal(build_features(take(table, recent))[now[recent]], build_features(table)[now])


@UNTIMED
@given(tables(), st.floats(0, 100))
def test_outcomes_in_a_table_never_change_the_features(table: Table, rain: float) -> None:
    rows = rows_of(table)
    outcomes = {"RISK_MM": np.full(rows, rain), "RainTomorrow": np.full(rows, float(rain > 1))}
    np.testing.assert_array_equal(build_features(table | outcomes), build_features(table))


@UNTIMED
@given(tables())
def test_build_features_does_not_change_the_table(table: Table) -> None:
    before = {name: values.copy() for name, values in table.items()}
    build_features(table)
    assert list(table) == list(before)
    for name, values in table.items():
        np.testing.assert_array_equal(values, before[name])


@UNTIMED
@given(tables())
def test_features_are_never_infinite_and_rounded_to_six_decimals(table: Table) -> None:
    matrix = build_features(table)
    assert not np.isinf(matrix).any()
    np.testing.assert_array_equal(matrix, np.round(matrix, 6))


@UNTIMED
@given(tables())
def test_neighbour_means_lie_between_the_values_of_that_day(table: Table) -> None:
    matrix, names = build_features(table), feature_names()
    for field in ("Humidity3pm", "Cloud3pm"):
        for suffix in ("within_60km", "within_250km", "N", "E", "S", "W"):
            mean = matrix[:, names.index(f"{field}_{suffix}")]
            for row in np.flatnonzero(~np.isnan(mean)):
                others = (table["Date"] == table["Date"][row]) & (table["Location"] != table["Location"][row])
                assert np.nanmin(table[field][others]) - 1e-6 <= mean[row] <= np.nanmax(table[field][others]) + 1e-6


@UNTIMED
@given(tables())
def test_as_known_at_3_pm_equals_a_table_without_the_four_later_columns(table: Table) -> None:
    rows = rows_of(table)
    without = table | {column.name: empty(column, rows) for column in COLUMNS if column.name in UNKNOWN_AT_3PM}
    np.testing.assert_array_equal(build_features(as_known_at_3pm(without)), build_features(without))

    np.testing.assert_array_equal(build_features(as_known_at_3pm(table)), build_features(without))


def one_row(place: str, day: str | None, seed: int, missing: float, calm: set[str]) -> Table:
    """Return one observation at a known or unknown station, some winds calm, some values at their limits or missing."""
    table = random_table([(place, None)], seed, missing, set())
    if day is not None:
        table["Date"] = np.array([day], "datetime64[D]")
    return table | {name: np.zeros(1) for name in calm}


ONE_ROWS = st.builds(
    one_row,
    st.sampled_from(stations.known().names) | st.sampled_from(["Atlantis", "sydney", "Zz", "A", "Sydney "]),
    st.none() | st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)).map(str) | st.just("2016-12-31"),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.sets(st.sampled_from(WIND_SPEEDS)),
)


def as_row(table: Table) -> dict[str, Any]:
    """Return the only row of a table as plain Python values."""
    return {name: values.item() for name, values in table.items()}


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    """Assert equal shapes and equal floats, 0.0 different from -0.0, NaN equal to NaN."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
    one_bits, other_bits = (np.where(np.isnan(matrix), 0.0, matrix).view(np.int64) for matrix in (one, other))
    np.testing.assert_array_equal(one_bits, other_bits)


@UNTIMED
@given(ONE_ROWS)
@pytest.mark.filterwarnings("ignore::raincast.observations.errors.ObservationWarning")
def test_a_single_row_has_exactly_the_features_of_a_table_of_one_row(table: Table) -> None:
    built = build_features(table)
    assert_same_bits(row_features(as_row(table)), built[:, : own_feature_count()])
    assert np.isnan(built[:, own_feature_count() :]).all()


@settings(UNTIMED, max_examples=10)
@given(st.integers(0, 2**32))
def test_single_rows_have_exactly_the_own_features_of_a_batch(seed: int) -> None:
    table = random_table([(name, day) for name in stations.known().names for day in DAYS], seed, 0.2, set())
    built = build_features(table)
    for row in range(0, len(built), 7):
        single = row_features(as_row(take(table, slice(row, row + 1))))
        assert_same_bits(single[0], built[row, : own_feature_count()])


def test_all_features_of_a_row_with_only_an_unknown_station_are_nan() -> None:
    row = row_features(as_row(table_of(["Atlantis"])))
    assert row.shape == (1, own_feature_count())
    assert np.isnan(row).all()


def test_row_features_does_not_change_the_row_and_ignores_other_columns() -> None:
    row = as_row(random_table([("Sydney", 0)], 1, 0.0, set()))
    before = dict(row)
    expected = row_features(row)
    assert row == before
    assert_same_bits(row_features(row | {"RainTomorrow": 1.0, "RISK_MM": 5.0}), expected)


def test_a_row_at_an_unknown_station_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        row_features(as_row(table_of(["Atlantis"], [TODAY], Humidity3pm=[50.0])))
    assert not caught


def test_own_features_are_the_first_and_context_the_rest() -> None:
    assert 0 < own_feature_count() < len(feature_names())
    np.testing.assert_array_equal(context_mask(), np.arange(len(feature_names())) >= own_feature_count())
    assert feature_names()[own_feature_count() - 1] == "sunshine_share"
    assert feature_names()[own_feature_count()] == "Pressure3pm_since_yesterday"


def test_unknown_stations_are_named_once_in_order_five_at_most() -> None:
    assert unknown_stations(np.array(["Sydney", "Perth"])) is None
    assert unknown_stations(np.array(stations.known().names)) is None
    line = unknown_stations(np.array(["Zion", "Sydney", "Atlantis", "Zion"]))
    assert line == "2 unknown station(s), forecast without a place or neighbours: Atlantis, Zion"
    line = unknown_stations(np.array(["A5", "A4", "A3", "A2", "A1"]))
    assert line == "5 unknown station(s), forecast without a place or neighbours: A1, A2, A3, A4, A5"
    line = unknown_stations(np.array(["A6", "A5", "A4", "A3", "A2", "A1"]))
    assert line == "6 unknown station(s), forecast without a place or neighbours: A1, A2, A3, A4, A5, ..."


def test_unknown_stations_get_no_place_nor_neighbours_and_one_warning_that_names_them() -> None:
    table = table_of(
        ["Atlantis", "Sydney", "Zion", "Newcastle", "Atlantis"],
        [TODAY, TODAY, TODAY, TODAY, "2017-03-02"],
        Humidity3pm=[10.0, 20.0, 30.0, 40.0, 50.0],
        Sunshine=[5.0] * 5,
        Pressure3pm=[1000.0, 1010.0, 1011.0, 1012.0, 1013.0],
    )
    with pytest.warns(ObservationWarning, match=r"2 unknown station\(s\).*: Atlantis, Zion$") as caught:
        matrix = build_features(table)
    assert len(caught) == 1
    unknown = np.array([True, False, True, False, True])
    history = {"Pressure3pm_since_yesterday", "Humidity3pm_anomaly", "Pressure3pm_anomaly", "MaxTemp_anomaly"}
    for i, name in enumerate(feature_names()):
        of_place = name in {"latitude", "longitude", "elevation", "day_length", "sunshine_share"}
        if of_place or (context_mask()[i] and name not in history | {"wet_share_7_days"}):
            assert np.isnan(matrix[unknown, i]).all(), name
    # The others have their place, and neighbours among the known only.
    assert matrix[:, feature_names().index("latitude")] == near([np.nan, -33.86, np.nan, -32.92, np.nan])
    neighbours = matrix[:, feature_names().index("Humidity3pm_within_250km")]
    assert neighbours == near([np.nan, 40.0, np.nan, 20.0, np.nan])
    # Their own measurements and their season stay.
    assert matrix[:, feature_names().index("Humidity3pm")] == near([10.0, 20.0, 30.0, 40.0, 50.0])
    assert not np.isnan(matrix[:, feature_names().index("season_sin")]).any()


def test_the_warning_names_at_most_five_unknown_stations() -> None:
    with pytest.warns(ObservationWarning, match=r"^6 unknown .*: A1, A2, A3, A4, A5, \.\.\.$"):
        build_features(table_of(["A6", "A5", "A4", "A3", "A2", "A1"]))


def test_known_stations_give_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_features(table_of(list(stations.known().names), [TODAY] * 49))
    assert not caught


@pytest.mark.parametrize("make", [no_rows, lambda: table_of(["Sydney", "Perth"])])
def test_names_are_unique_and_as_many_as_the_matrix_has_columns(make: Callable[[], Table]) -> None:
    table = make()
    names = feature_names()
    assert len(set(names)) == len(names) == len(context_mask())
    assert build_features(table).shape == (rows_of(table), len(names))


def test_context_features_are_those_of_history_and_neighbours() -> None:
    named = dict(zip(feature_names(), context_mask().tolist(), strict=True))
    own_names = {name for name, from_others in named.items() if not from_others}
    assert own_names >= {*NUMBERS, "wet", "veer", "u_gust", "dew_point_3pm", "latitude", "day_length", "sunshine_share"}
    assert not any("_within_" in name or name.endswith(("_N", "_E", "_S", "_W", "_anomaly")) for name in own_names)
    assert not own_names & {"wet_share_7_days", "Pressure3pm_since_yesterday", "pressure_gradient_east"}


def test_rain_tomorrow_is_no_feature() -> None:
    assert not OUTCOME_COLUMNS & set(feature_names())
