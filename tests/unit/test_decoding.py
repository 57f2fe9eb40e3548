"""Decoding of requests: fast for regular bodies, always with the result of the text parser."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raincast.observations.columns import COLUMNS, Column
from raincast.observations.errors import FormatError, ObservationError, TooMany
from raincast.observations.table import Table, rows_of
from raincast.serving import decoding
from raincast.serving.openapi import EXAMPLE
from tests.unit.bodies import Sent, as_table, assert_same, bodies, by_text, is_measured, is_regular, too_deep, value_of

# The same examples each time, so that an unrelated pipeline does not fail by chance.
UNTIMED = settings(deadline=None, derandomize=True)
SYDNEY, WOLLONGONG = EXAMPLE


def body_of(sent: Any, **options: Any) -> bytes:
    """Return the body of a request with these observations."""
    return json.dumps({"observations": sent}, **options).encode()


def decoded(body: bytes) -> Table:
    """Return the table of a body that is decoded without a warning."""
    observed, warned = decoding.decode(body)
    assert not warned
    return as_table(observed)


def only_fast() -> Any:
    """Return a context in which the text parser fails."""
    return mock.patch.object(decoding, "table_of", side_effect=AssertionError("the text parser was used"))


def refusal(call: Callable[[], Any]) -> ObservationError:
    """Return the error that a call raises."""
    with pytest.raises(ObservationError) as caught:
        call()
    return caught.value


@UNTIMED
@given(bodies(), st.booleans())
def test_a_valid_body_is_decoded_like_text(sent: list[Sent], ascii_only: bool) -> None:
    body = body_of(sent, ensure_ascii=ascii_only)
    assert_same(decoded(body), by_text(body))


@UNTIMED
@given(bodies().filter(lambda sent: all(map(is_regular, sent))))
def test_a_regular_body_does_not_need_the_text_parser(sent: list[Sent]) -> None:
    with only_fast():
        observed, _ = decoding.decode(body_of(sent, ensure_ascii=False))
    assert decoding.is_row(observed) == (len(sent) == 1)


def test_the_example_does_not_need_the_text_parser() -> None:
    with only_fast():
        row, warned = decoding.decode(body_of([SYDNEY]))
        table = decoded(body_of(EXAMPLE))
    assert not warned
    assert decoding.is_row(row)
    assert row["MinTemp"] == 9.4
    assert row["WindGustSpeed"] == 46.0
    assert str(row["Date"]) == "2017-06-01"
    assert row["RainToday"] == 1.0
    assert table["Location"].tolist() == ["Sydney", "Wollongong"]
    assert np.isnan(table["Evaporation"]).tolist() == [False, True]


WRONG: dict[str, list[Any]] = {
    "number": [True, [1], {"a": 1}, "abc", "1_0", 1e308, -1e308, [[[]]]],
    "direction": ["X", "NWN", 5, True, []],
    "yes_no": ["Maybe", 1, "Yes!", []],
    "date": ["2017-02-30", "1899-12-31", "2200-01-01", "2017-1-1", "2017-06-01T09:00", 20170601, True],
    "station": [None, "", " ", "NA", "nan", "x" * 65, "Syd\nney", "\u202eyendyS", "a\u0000b", "\ud800"],
}


@pytest.mark.parametrize("kind", WRONG)
@UNTIMED
@given(sent=bodies(), data=st.data())
def test_an_invalid_value_is_refused_with_the_message_of_the_text_parser(
    kind: str, sent: list[Sent], data: st.DataObject
) -> None:
    column = data.draw(st.sampled_from([column for column in COLUMNS if column.kind == kind]))
    wrong = st.sampled_from(WRONG[kind])
    if column.kind == "number":
        wrong |= st.sampled_from([math.nextafter(column.low, -math.inf), math.nextafter(column.high, math.inf)])
    number = data.draw(st.integers(0, len(sent) - 1))
    sent[number][column.name] = data.draw(wrong)
    body = body_of(sent)
    error, expected = refusal(lambda: decoding.decode(body)), refusal(lambda: by_text(body))
    assert str(error) == str(expected)
    assert [(violation.row, violation.column) for violation in error.violations] == [(number + 1, column.name)]
    assert error.violations == expected.violations
    assert error.count == 1


@UNTIMED
@given(bodies(), st.data())
def test_a_truncated_body_is_not_json(sent: list[Sent], data: st.DataObject) -> None:
    body = body_of(sent)
    cut = body[: data.draw(st.integers(1, len(body) - 1))]
    assert str(refusal(lambda: decoding.decode(cut))).startswith("the request: not valid JSON: ")
    assert isinstance(refusal(lambda: decoding.decode(cut)), FormatError)


@UNTIMED
@given(bodies(max_size=2), st.data())
def test_a_body_with_a_changed_delimiter_is_decoded_like_text(sent: list[Sent], data: st.DataObject) -> None:
    body = bytearray(body_of(sent))
    start = data.draw(st.integers(0, len(body) - 1))
    body[start : start + data.draw(st.integers(0, 1))] = data.draw(
        st.sampled_from([b'"', b",", b"{", b"}", b"]", b":"])
    )
    _assert_decoded_like_text(bytes(body))


@UNTIMED
@given(bodies(max_size=2), st.data())
def test_a_body_with_a_changed_character_is_decoded_like_text(sent: list[Sent], data: st.DataObject) -> None:
    body = bytearray(body_of(sent))
    start = data.draw(st.integers(0, len(body) - 1))
    body[start] = data.draw(st.integers(0, 127))
    _assert_decoded_like_text(bytes(body))


def _assert_decoded_like_text(body: bytes) -> None:
    try:
        expected = by_text(body)
    except ObservationError as expected_error:
        error = refusal(lambda: decoding.decode(body))
        assert isinstance(error, FormatError) == isinstance(expected_error, FormatError)
    else:
        assert_same(as_table(decoding.decode(body)[0]), expected)


@pytest.mark.parametrize(
    "text",
    [
        '{"Location": "Sydney", "Rainfall": 1, "Rainfall": 2}',
        '{"Location": "Sydney", "Rainfall": 1, "Location": "Perth"}',
        '{"Location": "Sydney", "Rainfall": 1, "Rainfall": 1}, {"Location": "Perth", "Rainfall": 1}',
    ],
)
def test_a_duplicate_name_is_refused(text: str) -> None:
    error = refusal(lambda: decoding.decode(b'{"observations": [' + text.encode() + b"]}"))
    assert "duplicate column" in str(error)


@pytest.mark.parametrize("sent", [{}, {"Date": "2017-06-01"}, {"RainTomorrow": "Yes", "RISK_MM": 3}])
@pytest.mark.parametrize("rows", [1, 2])
def test_observations_without_a_measurement_are_refused(sent: Sent, rows: int) -> None:
    stations = [{"Location": name} | sent for name in ("Sydney", "Perth")][:rows]
    for call in (lambda: decoding.decode(body_of(stations)), lambda: decoding.decode_records(stations)):
        assert str(refusal(call)).startswith("the request: there is no measurement, such as MinTemp")


@pytest.mark.parametrize(
    "body",
    [
        b'{"observations": [{"Location": "\xff", "Rainfall": 1}]}',
        b'{"observations": [{"Location": "Sydney", "Rainf\xff": 1}]}',
        b'{"observations": [{"Location": "Sydney", "Rainfall": 1, "WindDir9am": "\xc3"}]}',
        b'{"\xff": []}',
    ],
)
def test_a_body_that_is_not_utf_8_is_refused(body: bytes) -> None:
    error = refusal(lambda: decoding.decode(body))
    assert isinstance(error, FormatError)
    assert "not UTF-8" in str(error)


@pytest.mark.parametrize("name", ["Rainfall", "RISK_MM", "Unknown"])
def test_a_value_of_any_depth_is_refused_or_ignored(name: str) -> None:
    before = f'{{"observations": [{{"Location": "Sydney", "MinTemp": 1, "{name}": '
    assert not too_deep(decoding.decode, before, "}]}")


@pytest.mark.parametrize(
    "changed",
    [
        {"MinTemp": "9.4", "Humidity9am": " 82 "},
        {"Evaporation": "NA", "Sunshine": ""},
        {"WindGustDir": "sse", "WindDir9am": "w"},
        {"Date": "2017-06-01T00:00:00"},
        {"Date": "2017-06-01 00:00:00+00:00"},
        {"Date": "2017-06-01T00:00:00.000Z"},
        {"RainToday": True},
        {"RainToday": "yes"},
        {"Location": " Sydney "},
        {"WindGustSpeed": 46.0, "Humidity3pm": 7.1e1},
    ],
    ids=str,
)
def test_an_unusual_value_is_accepted(changed: Sent) -> None:
    same = SYDNEY | {name: None for name in changed if changed[name] in ("NA", "")}
    for others in ([], [WOLLONGONG]):
        assert_same(decoded(body_of([SYDNEY | changed, *others])), decoded(body_of([same, *others])))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(EXAMPLE),
        "\n".join(map(json.dumps, EXAMPLE)),
        json.dumps({"observations": EXAMPLE}, indent=2),
        "\ufeff" + json.dumps({"observations": EXAMPLE}),
        "  " + json.dumps({"observations": EXAMPLE}) + "\r\n",
        json.dumps({"source": "a diary", "observations": EXAMPLE}),
    ],
    ids=["list", "JSON Lines", "pretty", "BOM", "blanks around", "another member"],
)
def test_an_unusual_body_is_accepted(body: str) -> None:
    assert_same(decoded(body.encode()), decoded(body_of(EXAMPLE)))


def test_an_unknown_column_is_ignored_with_a_warning_that_names_it() -> None:
    for sent in ([SYDNEY | {"Mood": "good"}], [SYDNEY, WOLLONGONG | {"Mood": {"a": [1]}}]):
        observed, warned = decoding.decode(body_of(sent))
        assert warned == ["the request: 1 unknown column(s) ignored: Mood"]
        without = [{name: value for name, value in one.items() if name != "Mood"} for one in sent]
        assert_same(as_table(observed), decoded(body_of(without)))


def test_a_warning_can_be_sent_for_any_column_name() -> None:
    for name in ("\ud800", "new\nline", "é🌧", "", "x" * 1_000):
        _, warned = decoding.decode(body_of([SYDNEY | {name: 1}]))
        (line,) = json.loads(msgspec.json.encode(warned))
        assert line.startswith("the request: 1 unknown column(s) ignored: ")
        assert len(line) < 100


@pytest.mark.parametrize("outcome", [0, "Yes", None, "nonsense", {"a": [1]}, [[]], 1e300, True])
@pytest.mark.parametrize("name", ["RainTomorrow", "RISK_MM"])
def test_outcomes_of_any_type_are_ignored(name: str, outcome: Any) -> None:
    for sent in ([SYDNEY], list(EXAMPLE)):
        assert_same(decoded(body_of([{name: outcome} | one for one in sent])), decoded(body_of(sent)))


def test_observations_with_outcomes_do_not_need_the_text_parser() -> None:
    with only_fast():
        decoded(body_of([one | {"RISK_MM": 3.4, "RainTomorrow": "Yes"} for one in EXAMPLE]))
        decoded(body_of([SYDNEY | {"RISK_MM": None, "RainTomorrow": None}]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "the list of observations is empty"),
        (b'{"observations": []}', "the list of observations is empty"),
        (b'{"observations": null}', "the JSON is not a list of observations, each an object"),
        (b'{"observations": {"Location": "Sydney"}}', "the JSON is not a list of observations, each an object"),
        (b'{"observations": [[1]]}', "the JSON is not a list of observations, each an object"),
        (b"null", "the JSON is not a list of observations, each an object"),
        (b"17", "the JSON is not a list of observations, each an object"),
        (b'[{"Rainfall": 1}]', "there is no column Location"),
    ],
)
def test_json_without_a_list_of_observations_is_refused(body: bytes, message: str) -> None:
    error = refusal(lambda: decoding.decode(body))
    assert str(error).startswith(f"the request: {message}")
    assert not isinstance(error, FormatError)


@pytest.mark.parametrize("body", [b"", b" \r\n", b"not json", b"{", b'{"observations": [{"Location": "Sydney",}]}'])
def test_invalid_json_is_a_format_error(body: bytes) -> None:
    assert isinstance(refusal(lambda: decoding.decode(body)), FormatError)


@pytest.mark.parametrize("second", [SYDNEY, {"Location": "Sydney", "Date": "2017-06-01", "Cloud3pm": "4"}])
def test_duplicate_observations_are_refused_by_both_decoders(second: Sent) -> None:
    error = refusal(lambda: decoding.decode(body_of([SYDNEY, WOLLONGONG, second])))
    violation = "row 3, Date: Sydney on 2017-06-01 duplicates row 1; a station has one observation per day"
    assert str(error) == f"the request: {violation}"
    assert [(each.row, each.column) for each in error.violations] == [(3, "Date")]


def test_observations_without_a_date_may_repeat() -> None:
    sent = [{"Location": "Sydney", "Rainfall": 1}] * 3
    assert decoded(body_of(sent))["Rainfall"].tolist() == [1.0] * 3


def _many(rows: int, rainfall: Any) -> list[Sent]:
    return [{"Location": "Sydney", "Rainfall": rainfall}] * rows


@pytest.mark.parametrize("rainfall", [1, "1"], ids=["regular", "as text"])
def test_observations_up_to_the_limit_are_accepted_and_one_more_is_refused(rainfall: Any) -> None:
    assert rows_of(decoded(body_of(_many(decoding.MAX_ROWS, rainfall)))) == 10_000
    for call in (
        lambda: decoding.decode(body_of(_many(10_001, rainfall))),
        lambda: decoding.decode_records(_many(10_001, rainfall)),
    ):
        with pytest.raises(TooMany, match="10001 observations, at most 10000 are forecast in one request"):
            call()


def test_csv_lines_up_to_the_limit_are_accepted_and_one_more_is_refused() -> None:
    lines = ["Location,Rainfall"] + ["Sydney,1"] * 10_000
    assert rows_of(as_table(decoding.decode_csv("\n".join(lines).encode() + b"\n")[0])) == 10_000
    assert rows_of(as_table(decoding.decode_csv("\n".join(lines).encode())[0])) == 10_000
    with pytest.raises(TooMany, match="more than 10000"):
        decoding.decode_csv("\n".join([*lines, "Sydney,1"]).encode() + b"\n")


@pytest.mark.parametrize("part", [b"{}", b"1"])
def test_a_body_of_far_too_many_values_is_refused_before_it_is_decoded(part: bytes) -> None:
    body = b"[" + b",".join([part] * (100 * decoding.MAX_ROWS + 2)) + b"]"
    not_decoded = mock.patch.object(decoding, "json_blocks", side_effect=AssertionError("the body was decoded"))
    with not_decoded, pytest.raises(TooMany, match="more values than 10000 observations have"):
        decoding.decode(body)


@UNTIMED
@given(bodies())
def test_csv_is_decoded_like_json(sent: list[Sent]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sent)
    observed, warned = decoding.decode_csv(text.getvalue().encode())
    assert not warned
    assert not decoding.is_row(observed)
    assert_same(as_table(observed), decoded(body_of(sent)))


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        (b"", "the body is empty", FormatError),
        (b"\r\n \n", "the body is empty", FormatError),
        (b"Location,Rainfall\n\xe9,1\n", "line 2 is not UTF-8", FormatError),
        (b"Location,Rainfall\n\x00,1\n", "line 2 has a zero byte", FormatError),
        (b"Location,Rainfall\n", "there is a header but no observation", ObservationError),
        (b"Location;Rainfall\nSydney;1\n", "the columns are separated by semicolons", ObservationError),
        (b"Location,Rainfall\nSydney,-1\n", "row 1, Rainfall: '-1' is not a number, 0 to 500 mm", ObservationError),
        (b"Location,Rainfall\nSydney,1,2\n", "row 1, fields: '3' is not 2, as in the header", ObservationError),
    ],
)
def test_bad_csv_is_refused(body: bytes, message: str, kind: type[ObservationError]) -> None:
    error = refusal(lambda: decoding.decode_csv(body))
    assert str(error).startswith(f"the request: {message}")
    assert isinstance(error, FormatError) == (kind is FormatError)


def test_an_unknown_column_of_csv_is_ignored_with_a_warning() -> None:
    _, warned = decoding.decode_csv(b"Location,Rainfall,Mood\nSydney,1,good\n")
    assert warned == ["the request: 1 unknown column(s) ignored: Mood"]


@UNTIMED
@given(bodies(), st.booleans())
def test_records_are_decoded_like_their_json(sent: list[Sent], nan: bool) -> None:
    expected = decoded(body_of(sent))
    if nan:
        sent = [{name: math.nan if value is None else value for name, value in one.items()} for one in sent]
    observed, warned = decoding.decode_records(sent)
    assert not warned
    assert_same(as_table(observed), expected)


def test_invalid_records_are_refused_like_their_json() -> None:
    sent = [SYDNEY | {"Humidity3pm": 101}, WOLLONGONG | {"WindDir3pm": "X"}]
    assert str(refusal(lambda: decoding.decode_records(sent))) == str(refusal(lambda: decoding.decode(body_of(sent))))
    assert str(refusal(lambda: decoding.decode_records([]))) == "the request: the list of observations is empty"


@UNTIMED
@given(bodies().filter(lambda sent: all(map(is_measured, sent))))
def test_an_observation_as_json_is_decoded_to_itself(sent: list[Sent]) -> None:
    table = decoded(body_of(sent))
    written = [decoding.as_json(row) for row in decoding.rows_of_table(table)]
    assert_same(decoded(msgspec.json.encode({"observations": written})), table)
    for one, original in zip(written, sent, strict=True):
        assert one == {
            name: value if name != "Date" else one["Date"] for name, value in original.items() if value is not None
        }
        assert str(one.get("Date")) == str(original.get("Date"))


@UNTIMED
@given(bodies(max_size=1).filter(lambda sent: is_regular(sent[0])))
def test_a_row_as_json_equals_the_row_of_its_table(sent: list[Sent]) -> None:
    row, _ = decoding.decode(body_of(sent, ensure_ascii=False))
    assert decoding.is_row(row)
    (same,) = decoding.rows_of_table(as_table(row))
    assert list(same) == list(row)
    assert decoding.as_json(same) == decoding.as_json(row)


def test_rows_of_a_table_are_rows() -> None:
    table = decoded(body_of(EXAMPLE))
    assert not decoding.is_row(table)
    rows = decoding.rows_of_table(table)
    assert len(rows) == 2
    assert all(map(decoding.is_row, rows))
    assert [row["Location"] for row in rows] == ["Sydney", "Wollongong"]
    assert rows[1]["WindGustDir"] == "S"
    assert math.isnan(rows[1]["Sunshine"])


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_each_column_is_decoded_like_text(column: Column) -> None:
    @UNTIMED
    @given(value_of(column))
    def check(value: Any) -> None:
        body = body_of([{"Location": "Sydney", "Rainfall": 0.2, column.name: value}])
        assert_same(decoded(body), by_text(body))

    check()  # pylint: disable=no-value-for-parameter
