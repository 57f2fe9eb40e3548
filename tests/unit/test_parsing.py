"""Parsing and checking of text columns."""

from __future__ import annotations

import numpy as np
import pytest

from raincast.observations import parsing
from raincast.observations.columns import COLUMNS, Column
from raincast.observations.errors import ObservationError, Violation
from raincast.observations.parsing import check_header, parse_blocks, parser_for
from raincast.observations.table import Table


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
def test_an_invalid_date_is_refused(day: str) -> None:
    with pytest.raises(ObservationError, match=f"row 1, Date: '{day}' is not a date as YYYY-MM-DD"):
        _parse(Location=["Albury"], Date=[day])


def test_a_leap_day_is_valid() -> None:
    assert str(_parse(Location=["Albury"], Date=["2016-02-29"])["Date"][0]) == "2016-02-29"


@pytest.mark.parametrize("direction", ["NWN", "X", "0", "North"])
def test_only_the_sixteen_compass_points_are_directions(direction: str) -> None:
    with pytest.raises(ObservationError, match=f"row 1, WindDir9am: '{direction}' is not one of N NNE"):
        _parse(Location=["Albury"], WindDir9am=[direction])


def test_every_row_needs_a_station() -> None:
    with pytest.raises(ObservationError, match="row 2, Location: '' is not a station's name"):
        _parse(Location=["Albury", "", "Perth"], Rainfall=["1", "2", "3"])


@pytest.mark.parametrize("name", ["Syd\ud800ney", "Sydney\x1b[31m", "Syd\nney", "Sydney\0", "x" * 65])
def test_an_unprintable_or_long_station_name_is_refused(name: str) -> None:
    with pytest.raises(ObservationError, match="row 1, Location: .* printable characters"):
        _parse(Location=[name], Rainfall=["1"])


def test_an_error_keeps_violations_up_to_a_limit_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "VIOLATIONS_KEPT", 7)
    blocks: list[tuple[dict[str, list[str]], list[Violation]]] = [
        ({"Location": ["Albury"] * 5, "Rainfall": ["x"] * 5}, []) for _ in range(4)
    ]
    with pytest.raises(ObservationError) as caught:
        parse_blocks("test", blocks)
    assert [violation.row for violation in caught.value.violations] == [1, 2, 3, 4, 5, 6, 7]
    assert caught.value.count == 20


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_a_parser_records_invalid_texts_and_only_those(column: Column) -> None:
    parser = parser_for(column)
    valid = {"number": "1e0" if column.low < 900 else "1e3", "date": "2017-01-01", "direction": "sse", "yes_no": "Yes"}
    invalid = "two\nlines"
    assert parser[valid.get(column.kind, " Albury ")] == {
        "number": 1.0 if column.low < 900 else 1000.0,
        "date": np.datetime64("2017-01-01"),
        "direction": "SSE",
        "yes_no": 1.0,
    }.get(column.kind, "Albury")
    np.testing.assert_array_equal(parser["NA"], parser.missing)
    assert not parser.invalid
    np.testing.assert_array_equal(parser[invalid], parser.missing)
    np.testing.assert_array_equal(parser[invalid], parser.missing)
    assert parser.invalid == {invalid}


def test_columns_without_a_name_are_unknown_not_duplicates() -> None:
    warning = check_header("test", ["", "Location", "Rainfall", ""])
    assert warning == "test: 2 unknown column(s) ignored: (no name), (no name)"
    assert check_header("test", ["Date", "Location", "Rainfall", "RISK_MM", "RainTomorrow"]) is None


def test_absent_columns_are_missing_in_all_rows() -> None:
    table = _parse(Location=["Albury"], Rainfall=["1"])
    assert list(table) == [column.name for column in COLUMNS]
    assert np.isnan(table["Temp3pm"]).all()
    assert np.isnat(table["Date"]).all()
    assert table["WindGustDir"].tolist() == [""]


def test_a_duplicate_column_is_refused() -> None:
    with pytest.raises(ObservationError, match="test: duplicate column Rainfall"):
        check_header("test", ["Location", "Rainfall", "Rainfall"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["Rainfall"], "there is no column Location"),
        (["Location", "Date", "RISK_MM", "RainTomorrow"], "there is no measurement, such as MinTemp"),
        ([], r"there is no column Location \(found: nothing\)"),
    ],
)
def test_a_header_without_a_required_column_is_refused(header: list[str], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        check_header("test", header)


def test_training_needs_the_target() -> None:
    with pytest.raises(ObservationError, match="there is no column RainTomorrow to learn from"):
        check_header("test", ["Location", "Rainfall"], target=True)
    columns = {"Location": ["Albury"] * 2, "Rainfall": ["1", "2"], "RainTomorrow": ["Yes", "NA"]}
    target = parse_blocks("test", [(columns, [])], target=True)["RainTomorrow"]
    assert target[0] == 1.0
    assert np.isnan(target[1])


def test_the_length_of_a_message_is_bounded() -> None:
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 1000, Rainfall=["x" * 10_000] * 1000)
    assert len(str(caught.value)) < 1000
    assert "1000 problems" in str(caught.value)


def test_more_distinct_values_than_the_cache_holds_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raincast.observations.parsing.Parser.CACHE_SIZE", 3)
    values = [str(value / 10) for value in range(100)]
    assert _parse(Location=["Albury"] * 100, Rainfall=values)["Rainfall"].tolist() == [float(value) for value in values]
    with pytest.raises(ObservationError, match="3 problems: row 99"):
        _parse(Location=["Albury"] * 101, Rainfall=[*values[:98], "x", "x", "x"])
