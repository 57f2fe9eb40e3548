"""The declaration of the observation and what follows from it."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincast.observations import parsing
from raincast.observations.columns import COLUMNS, NUMBERS, Column
from raincast.observations.errors import FormatError, ObservationError, Violation, violation_error
from raincast.observations.parsing import check_header, parse_blocks, parser_for
from raincast.observations.table import Table, as_known_at_3pm, duplicates, rows_of
from raincast.serving import openapi

ROOT = Path(__file__).resolve().parents[2]


def _parse(**columns: list[str]) -> Table:
    return parse_blocks("test", [(dict(columns), [])])


@pytest.mark.parametrize("column", [column for column in COLUMNS if column.kind == "number"], ids=lambda c: c.name)
def test_limits_are_inclusive_and_named(column: Column) -> None:
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


def test_an_error_holds_its_problems_counts_all_and_shows_the_first() -> None:
    found = [Violation(row, "Cloud9am", "12", "a number") for row in range(1, 8)]
    one = violation_error("test", found[:1], 1)
    assert str(one) == "test: row 1, Cloud9am: '12' is not a number"
    assert (one.violations, one.count) == (found[:1], 1)
    many = violation_error("test", found, 1_234)
    assert str(many).startswith("test: 1234 problems: row 1, Cloud9am: '12' is not a number; row 2")
    assert str(many).endswith("row 5, Cloud9am: '12' is not a number (and 1229 more)")
    assert (many.violations, many.count) == (found, 1_234)
    plain = ObservationError("nothing there")
    assert (list(plain.violations), plain.count) == ([], 0)
    assert issubclass(FormatError, ObservationError)


def test_an_error_holds_no_more_problems_than_the_limit_but_counts_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "VIOLATIONS_KEPT", 7)
    blocks = [({"Location": ["Albury"] * 5, "Rainfall": ["x"] * 5}, []) for _ in range(4)]
    with pytest.raises(ObservationError) as caught:
        parse_blocks("test", blocks)
    assert [problem.row for problem in caught.value.violations] == [1, 2, 3, 4, 5, 6, 7]
    assert caught.value.count == 20


@given(st.lists(st.tuples(st.sampled_from(["A", "AB", "B"]), st.none() | st.integers(0, 3)), max_size=20), st.randoms())
def test_repeats_are_each_later_row_of_a_station_day_beside_the_one_before(
    places: list[tuple[str, int | None]], random: Random
) -> None:
    number = list(range(100, 100 + len(places)))
    random.shuffle(number)
    days = [np.datetime64("NaT") if day is None else np.datetime64("2017-01-01") + day for _, day in places]
    table = {"Location": np.array([name for name, _ in places], str), "Date": np.array(days, "datetime64[D]")}
    last: dict[tuple[str, int], int] = {}
    expected = []
    for row, place in sorted(zip(number, places, strict=True)):
        if place[1] is not None:
            if place in last:
                expected.append((row, last[place], f"{place[0]} on 2017-01-{place[1] + 1:02}"))
            last[place] = row
    assert duplicates(table, np.array(number, np.int64)) == expected


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_a_parser_remembers_wrong_texts_and_only_those(column: Column) -> None:
    parser = parser_for(column)
    right = {"number": "1e0" if column.low < 900 else "1e3", "date": "2017-01-01", "direction": "sse", "yes_no": "Yes"}
    wrong = "two\nlines"
    assert parser[right.get(column.kind, " Albury ")] == {
        "number": 1.0 if column.low < 900 else 1000.0,
        "date": np.datetime64("2017-01-01"),
        "direction": "SSE",
        "yes_no": 1.0,
    }.get(column.kind, "Albury")
    np.testing.assert_array_equal(parser["NA"], parser.missing)
    assert not parser.wrong
    np.testing.assert_array_equal(parser[wrong], parser.missing)
    np.testing.assert_array_equal(parser[wrong], parser.missing)
    assert parser.wrong == {wrong}


def test_columns_without_a_name_are_unknown_not_twice() -> None:
    line = check_header("test", ["", "Location", "Rainfall", ""])
    assert line == "test: 2 unknown column(s) ignored: (no name), (no name)"
    assert check_header("test", ["Date", "Location", "Rainfall", "RISK_MM", "RainTomorrow"]) is None


def test_one_station_has_one_observation_a_day() -> None:
    days = ["2017-01-01", "2017-01-02", "2017-01-01", "2017-01-01"]
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 4, Date=days, Rainfall=["1"] * 4)
    assert str(caught.value).startswith("test: 2 problems: row 3, Date: Albury on 2017-01-01 duplicates row 1")


def test_rows_without_a_date_may_repeat() -> None:
    assert rows_of(_parse(Location=["Albury", "Albury"], Date=["", "NA"], Rainfall=["1", "1"])) == 2


def test_absent_columns_are_missing_throughout() -> None:
    table = _parse(Location=["Albury"], Rainfall=["1"])
    assert list(table) == [column.name for column in COLUMNS]
    assert np.isnan(table["Temp3pm"]).all()
    assert np.isnat(table["Date"]).all()
    assert table["WindGustDir"].tolist() == [""]


def test_a_column_that_stands_twice_is_refused() -> None:
    with pytest.raises(ObservationError, match="test: the column Rainfall stands there more than once"):
        check_header("test", ["Location", "Rainfall", "Rainfall"])


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
        check_header("test", header)


def test_training_needs_the_answer() -> None:
    with pytest.raises(ObservationError, match="there is no column RainTomorrow to learn from"):
        check_header("test", ["Location", "Rainfall"], target=True)
    columns = {"Location": ["Albury"] * 2, "Rainfall": ["1", "2"], "RainTomorrow": ["Yes", "NA"]}
    answers = parse_blocks("test", [(columns, [])], target=True)["RainTomorrow"]
    assert answers[0] == 1.0
    assert np.isnan(answers[1])


def test_a_message_never_repeats_unbounded_input() -> None:
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 1000, Rainfall=["x" * 10_000] * 1000)
    assert len(str(caught.value)) < 1000
    assert "1000 problems" in str(caught.value)


def test_more_distinct_values_than_are_remembered_are_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raincast.observations.parsing.Parser.LARGEST", 3)
    values = [str(value / 10) for value in range(100)]
    assert _parse(Location=["Albury"] * 100, Rainfall=values)["Rainfall"].tolist() == [float(value) for value in values]
    with pytest.raises(ObservationError, match="3 problems: row 99"):
        _parse(Location=["Albury"] * 101, Rainfall=[*values[:98], "x", "x", "x"])


def test_a_problem_reads_as_a_sentence() -> None:
    assert str(Violation(3, "Cloud9am", "12", "a number")) == "row 3, Cloud9am: '12' is not a number"


def test_the_json_schema_accepts_the_sample_and_refuses_what_reading_refuses() -> None:
    schema = openapi.document("")["components"]["schemas"]["Observation"]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    numbers = set(NUMBERS)
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
    known = as_known_at_3pm(table)
    assert list(known) == list(table)
    for name in ("MaxTemp", "Sunshine", "WindGustSpeed"):
        assert np.isnan(known[name]).all()
    assert known["WindGustDir"].tolist() == [""]
    assert table["MaxTemp"].tolist() == [30.0]
