"""The declaration of the observation and what follows from it."""

from __future__ import annotations

import csv
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from raincast import observations
from raincast.observations import COLUMNS, ObservationError, Problem

ROOT = Path(__file__).resolve().parents[2]


def _parse(**columns: list[str]) -> observations.Table:
    return observations.parse_blocks("test", [(dict(columns), [])])


@pytest.mark.parametrize("column", [column for column in COLUMNS if column.kind == "number"], ids=lambda c: c.name)
def test_limits_are_inclusive_and_named(column: observations.Column) -> None:
    inside = [str(column.low), str(column.high)]
    table = _parse(Location=["Albury", "Albury"], **{column.name: inside})
    assert table[column.name].tolist() == [column.low, column.high]
    for outside in (column.low - 0.1, column.high + 0.1):
        with pytest.raises(ObservationError) as caught:
            _parse(Location=["Albury"], **{column.name: [str(outside)]})
        limit = f"a number, {column.low:g} to {column.high:g} {column.unit}"
        assert str(caught.value) == f"test: row 1, {column.name}: {str(outside)!r} is not {limit}"


@pytest.mark.parametrize("day", ["2017-02-30", "2017-13-01", "17-01-01", "2017-1-1", "1899-12-31", "2017-01-01 09:00"])
def test_a_day_that_does_not_exist_is_refused(day: str) -> None:
    with pytest.raises(ObservationError, match=f"row 1, Date: '{day}' is not a date as YYYY-MM-DD"):
        _parse(Location=["Albury"], Date=[day])


def test_a_leap_day_is_a_day() -> None:
    assert str(_parse(Location=["Albury"], Date=["2016-02-29"])["Date"][0]) == "2016-02-29"


@pytest.mark.parametrize("direction", ["NWN", "X", "0", "North"])
def test_only_the_sixteen_points_are_directions(direction: str) -> None:
    with pytest.raises(ObservationError, match=f"row 1, WindDir9am: '{direction}' is not one of N NNE"):
        _parse(Location=["Albury"], WindDir9am=[direction])


def test_every_row_needs_its_station() -> None:
    with pytest.raises(ObservationError, match="row 2, Location: '' is not a station's name"):
        _parse(Location=["Albury", "", "Perth"], Rainfall=["1", "2", "3"])


@pytest.mark.parametrize("name", ["Syd\ud800ney", "Sydney\x1b[31m", "Syd\nney", "Sydney\0", "x" * 65])
def test_a_name_that_cannot_be_printed_is_no_station(name: str) -> None:
    with pytest.raises(ObservationError, match="row 1, Location: .* printable characters"):
        _parse(Location=[name], Rainfall=["1"])


def test_columns_without_a_name_are_unknown_not_twice() -> None:
    assert observations.check_header("test", ["", "Location", "Rainfall", ""]) == ["(no name)", "(no name)"]


def test_one_station_has_one_observation_a_day() -> None:
    days = ["2017-01-01", "2017-01-02", "2017-01-01", "2017-01-01"]
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 4, Date=days, Rainfall=["1"] * 4)
    assert str(caught.value).startswith("test: 2 problems: row 3, Date: Albury on 2017-01-01 stands already in row 1")


def test_rows_without_a_date_may_repeat() -> None:
    assert observations.rows_of(_parse(Location=["Albury", "Albury"], Date=["", "NA"], Rainfall=["1", "1"])) == 2


def test_absent_columns_are_missing_throughout() -> None:
    table = _parse(Location=["Albury"], Rainfall=["1"])
    assert list(table) == [column.name for column in COLUMNS]
    assert np.isnan(table["Temp3pm"]).all()
    assert np.isnat(table["Date"]).all()
    assert table["WindGustDir"].tolist() == [""]


def test_a_column_that_stands_twice_is_refused() -> None:
    with pytest.raises(ObservationError, match="test: the column Rainfall stands there more than once"):
        observations.check_header("test", ["Location", "Rainfall", "Rainfall"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["Rainfall"], "there is no column Location"),
        (["Location", "Date", "RISK_MM", "RainTomorrow"], "there is no measurement, such as MinTemp"),
        ([], r"there is no column Location \(found: nothing\)"),
    ],
)
def test_a_header_lacks_what_it_needs(header: list[str], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        observations.check_header("test", header)


def test_training_needs_the_answer() -> None:
    with pytest.raises(ObservationError, match="there is no column RainTomorrow to learn from"):
        observations.check_header("test", ["Location", "Rainfall"], target=True)
    columns = {"Location": ["Albury"] * 2, "Rainfall": ["1", "2"], "RainTomorrow": ["Yes", "NA"]}
    answers = observations.parse_blocks("test", [(columns, [])], target=True)["RainTomorrow"]
    assert answers[0] == 1.0
    assert np.isnan(answers[1])


def test_a_message_never_repeats_unbounded_input() -> None:
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 1000, Rainfall=["x" * 10_000] * 1000)
    assert len(str(caught.value)) < 1000
    assert "1000 problems" in str(caught.value)


def test_more_distinct_values_than_are_remembered_are_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raincast.observations._Parser.LARGEST", 3)
    values = [str(value / 10) for value in range(100)]
    assert _parse(Location=["Albury"] * 100, Rainfall=values)["Rainfall"].tolist() == [float(value) for value in values]
    with pytest.raises(ObservationError, match="3 problems: row 99"):
        _parse(Location=["Albury"] * 101, Rainfall=[*values[:98], "x", "x", "x"])


def test_a_problem_reads_as_a_sentence() -> None:
    assert str(Problem(3, "Cloud9am", "12", "a number")) == "row 3, Cloud9am: '12' is not a number"


def test_the_json_schema_accepts_the_sample_and_refuses_what_reading_refuses() -> None:
    schema = observations.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    numbers = set(observations.NUMBERS)
    with (ROOT / "data" / "sample.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            record = {
                name: None if text in ("", "NA") else float(text) if name in numbers else text
                for name, text in row.items()
            }
            validator.validate(record)
    good = {"Location": "Albury", "Humidity3pm": 45.0}
    assert validator.is_valid(good)
    for bad in ({"Humidity3pm": 150}, {"WindDir9am": "NWN"}, {"Location": None}, {"RainToday": 1}, {"Date": 3}):
        assert not validator.is_valid(good | bad)


def test_the_columns_of_the_afternoon_are_gone_at_3_pm() -> None:
    table = _parse(Location=["Albury"], MaxTemp=["30"], Sunshine=["9"], WindGustDir=["N"], WindGustSpeed=["40"])
    known = observations.as_known_at_3pm(table)
    assert list(known) == list(table)
    for name in ("MaxTemp", "Sunshine", "WindGustSpeed"):
        assert np.isnan(known[name]).all()
    assert known["WindGustDir"].tolist() == [""]
    assert table["MaxTemp"].tolist() == [30.0]
