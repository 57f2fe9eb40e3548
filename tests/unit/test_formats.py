"""CSV, JSON and JSON Lines to blocks of text columns."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import IO, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raincast.observations import formats
from raincast.observations.errors import FormatError, ObservationError
from raincast.observations.formats import json_blocks
from raincast.observations.parsing import check_header, parse_blocks
from raincast.observations.table import Table
from tests.unit.bodies import Sent, assert_same, bodies

UNTIMED = settings(deadline=None, derandomize=True)


class Counted(io.BytesIO):
    """Bytes that count the lines read from them."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self.lines += 1
        return super().readline(size)

    def read(self, size: int | None = -1, /) -> bytes:
        raise AssertionError("more than a line was read at once")


def lines(*sent: Any) -> bytes:
    """Return values as JSON Lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in sent)


def table_of(content: bytes | IO[bytes]) -> Table:
    """Return the table of JSON content."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    header, blocks = json_blocks("a.json", file)
    check_header("a.json", header)
    return parse_blocks("a.json", blocks)


def refusal(content: bytes) -> ObservationError:
    """Return the error of reading JSON content."""
    with pytest.raises(ObservationError) as caught:
        table_of(content)
    return caught.value


def rain(*values: Any) -> Sequence[Sent]:
    """Return observations with nothing but rainfall."""
    return [{"Location": "Sydney", "Rainfall": value} for value in values]


@pytest.fixture(name="small_blocks")
def fixture_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read blocks of three rows."""
    monkeypatch.setattr(formats, "READ_BLOCK_ROWS", 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 20])
def test_lines_become_blocks_of_rows_in_their_order(rows: int) -> None:
    content = Counted(lines(*rain(*range(rows))))
    _, blocks = json_blocks("a.json", content)
    rainfall = [block["Rainfall"] for block, violations in blocks if not violations]
    assert [len(block) for block in rainfall] == [3] * (rows // 3) + [rows % 3] * (rows % 3 > 0)
    assert [text for block in rainfall for text in block] == [str(value) for value in range(rows)]


@pytest.mark.usefixtures("small_blocks")
def test_lines_are_read_one_block_at_a_time() -> None:
    content = Counted(lines(*rain(*range(100))))
    _, blocks = json_blocks("a.json", content)
    assert content.lines <= 4
    next(blocks)
    next(blocks)
    assert content.lines <= 7


@UNTIMED
@given(bodies(max_size=8), st.integers(1, 5), st.booleans())
def test_json_lines_equal_an_array_of_the_same_observations(sent: list[Sent], rows: int, ending: bool) -> None:
    content = lines(*sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "READ_BLOCK_ROWS", rows)
        table = table_of(content if ending else content.removesuffix(b"\n"))
    assert_same(table, table_of(json.dumps(sent).encode()))


@pytest.mark.usefixtures("small_blocks")
def test_an_invalid_value_is_named_with_its_row_across_blocks() -> None:
    error = refusal(lines(*rain(0, 1, 2, 3, -4, 5, 6, -7)))
    assert str(error).startswith(
        "a.json: 2 problems: row 5, Rainfall: '-4' is not a number, 0 to 500 mm; row 8, Rainfall"
    )
    assert [violation.row for violation in error.violations] == [5, 8]


@pytest.mark.usefixtures("small_blocks")
def test_a_station_day_in_two_blocks_is_refused() -> None:
    sent = [{"Location": "Sydney", "Date": f"2017-01-{day:02}", "Rainfall": 1} for day in (1, 2, 3, 4, 5, 1)]
    assert "row 6, Date: Sydney on 2017-01-01 duplicates row 1" in str(refusal(lines(*sent)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("number", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        (b'{"Location": "Sydney"', "is not valid JSON: ", FormatError),
        (b'{"Location": "Sydney"} {}', "is not valid JSON: ", FormatError),
        (b'{"Location": "\xff"}', "is not valid JSON: ", FormatError),
        (b"[" * 100_00, "is not valid JSON: ", FormatError),
        (b"[1]", "is not an observation, a JSON object", ObservationError),
        (b"null", "is not an observation, a JSON object", ObservationError),
        (b'"Sydney"', "is not an observation, a JSON object", ObservationError),
    ],
)
def test_a_bad_line_is_named(number: int, line: bytes, message: str, kind: type[ObservationError]) -> None:
    content = lines(*rain(*range(10))).splitlines()
    content[number - 1] = line
    error = refusal(b"\n".join(content) + b"\n")
    assert str(error).startswith(f"a.json: line {number} {message}")
    assert isinstance(error, FormatError) == (kind is FormatError)


def test_a_line_that_is_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LONGEST_LINE", 100)
    content = lines(*rain(1, 2), {"Location": "x" * 100, "Rainfall": 3}, *rain(4))
    assert str(refusal(content)) == "a.json: line 3 is longer than 100 bytes, the limit of a line"


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \t\n"])
def test_blank_lines_are_skipped_but_counted(blank: bytes) -> None:
    content = blank.join(lines(record) for record in rain(*range(8))) + blank
    assert table_of(content)["Rainfall"].tolist() == list(range(8))
    # Seven valid lines, each followed by a blank one, then the invalid one.
    bad = blank.join([*(lines(record) for record in rain(*range(7))), b"bad\n"])
    assert str(refusal(bad)).startswith("a.json: line 15 is not valid JSON")


def test_a_blank_first_line_changes_nothing() -> None:
    assert table_of(b"\n" + lines(*rain(1, 2)))["Rainfall"].tolist() == [1.0, 2.0]


def test_crlf_and_a_byte_order_mark_are_accepted() -> None:
    content = b"\xef\xbb\xbf" + lines(*rain(1, 2, 3)).replace(b"\n", b"\r\n")
    assert table_of(content)["Rainfall"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.usefixtures("small_blocks")
def test_a_column_that_appears_in_a_later_block_is_read() -> None:
    late = {"Location": "Perth", "Cloud9am": 7, "WindDir9am": "W"}
    table = table_of(lines(*rain(0, 1, 2, 3, 4), late, *rain(6)))
    assert table["Cloud9am"][5] == 7.0
    assert table["WindDir9am"].tolist() == ["", "", "", "", "", "W", ""]
    assert table["Location"].tolist() == ["Sydney"] * 5 + ["Perth", "Sydney"]


@pytest.mark.usefixtures("small_blocks")
def test_an_invalid_value_in_a_column_that_appears_later_is_refused() -> None:
    error = refusal(lines(*rain(0, 1, 2, 3), {"Location": "Perth", "Cloud9am": 70}))
    assert str(error) == "a.json: row 5, Cloud9am: '70' is not a number, 0 to 9 oktas"


@pytest.mark.usefixtures("small_blocks")
def test_unknown_columns_are_those_of_the_first_block() -> None:
    sent = [record | {"Mood": "good"} for record in rain(1, 2)] + [record | {"Later": 1} for record in rain(3, 4, 5)]
    header, blocks = json_blocks("a.json", io.BytesIO(lines(*sent)))
    assert header == ["Location", "Rainfall", "Mood", "Later"]
    header, blocks = json_blocks("a.json", io.BytesIO(lines(*rain(1, 2, 3), *sent)))
    assert header == ["Location", "Rainfall"]
    assert parse_blocks("a.json", blocks)["Rainfall"].tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_duplicate_name_in_a_line_is_refused(number: int) -> None:
    content = lines(*rain(*range(6))).splitlines()
    content[number - 1] = b'{"Location": "Sydney", "Rainfall": 1, "Rainfall": 2}'
    assert "duplicate column Rainfall" in str(refusal(b"\n".join(content) + b"\n"))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n"])
def test_a_single_line_is_one_observation(ending: bytes) -> None:
    content = json.dumps({"Location": "Perth", "Rainfall": 2.5}).encode() + ending
    table = table_of(content)
    assert table["Location"].tolist() == ["Perth"]
    assert table["Rainfall"].tolist() == [2.5]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_an_array_and_a_request_body_are_read_with_any_indent(indent: int | None, ending: str) -> None:
    sent = list(rain(1, 2, 3))
    for document in (sent, {"observations": sent}):
        text = json.dumps(document, indent=indent) + ending
        assert table_of(text.encode())["Rainfall"].tolist() == [1.0, 2.0, 3.0]


def test_observations_printed_over_several_lines_are_read() -> None:
    text = json.dumps(rain(1)[0], indent=2) + "\n" + json.dumps(rain(2)[0], indent=2) + "\n"
    assert table_of(text.encode())["Rainfall"].tolist() == [1.0, 2.0]


def test_an_array_followed_by_a_record_is_refused() -> None:
    content = json.dumps(rain(1)).encode() + b"\n" + lines(*rain(2))
    assert "not a list of observations, each an object" in str(refusal(content))


def test_an_array_in_one_long_line_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LONGEST_LINE", 50)
    assert table_of(json.dumps(rain(*range(9))).encode())["Rainfall"].tolist() == list(range(9))


@pytest.mark.parametrize("value", ["1.10", "1e1", "-0", "0.1000000000000000055511151231257827"])
def test_numbers_keep_their_text(value: str) -> None:
    for content in (
        f'{{"Location": "Sydney", "MinTemp": {value}}}\n',
        f'[{{"Location": "Sydney", "MinTemp": {value}}}]',
    ):
        ((block, violations),) = json_blocks("a.json", io.BytesIO(content.encode()))[1]
        assert block["MinTemp"] == [value]
        assert not violations


@pytest.mark.parametrize(
    ("value", "text"), [("null", ""), ("true", "true"), ("NaN", "NaN"), ("-Infinity", "-Infinity")]
)
def test_other_values_become_their_json_text(value: str, text: str) -> None:
    content = f'[{{"Location": "Sydney", "MinTemp": {value}}}]'
    ((block, _),) = json_blocks("a.json", io.BytesIO(content.encode()))[1]
    assert block["MinTemp"] == [text]


@pytest.mark.parametrize("name", ["csv", "json"])
def test_a_file_that_is_not_utf_8_is_a_format_error(name: str) -> None:
    read = {"csv": formats.csv_blocks, "json": json_blocks}[name]
    start = {"csv": b"Location,Rainfall\n", "json": b"["}[name]
    with pytest.raises(FormatError, match="UTF-8"):
        list(read("a", io.BytesIO(start + b'"\xe9"\n'))[1])


@pytest.mark.usefixtures("small_blocks")
def test_csv_lines_are_read_one_block_at_a_time() -> None:
    content = Counted(b"Location,Rainfall\n" + b"Sydney,1\n" * 100)
    header, blocks = formats.csv_blocks("a.csv", cast(IO[bytes], content))
    assert header == ["Location", "Rainfall"]
    assert content.lines == 1
    block, violations = next(blocks)
    assert (len(block["Rainfall"]), violations) == (3, [])
    assert content.lines == 4
