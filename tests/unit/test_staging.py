"""Staging: values and messages equal those of the reader of small files."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raincast.batch.staging import Staged
from raincast.observations import reading
from raincast.observations.columns import COLUMNS, DIRECTIONS
from raincast.observations.errors import VIOLATIONS_KEPT, Duplicate, ObservationError
from raincast.observations.table import Table

NAMES = [column.name for column in COLUMNS]
HEADER = "Date,Location,Rainfall,Humidity3pm,WindDir9am\n"
GOOD = "2017-01-01,Albury,0.2,45,N\n2017-01-02,Albury,3,61,\n2017-01-03,Albury,NA,7e1,nnw\n"
# Texts that duckdb and Python might parse differently.
ODD = (
    "", " ", "\t", "NA", "na", " NaN", "nan", "-nan", "null", "None", "N/A", "inf", "-inf", "Infinity", "1e999",
    "0", "-0", "0.1", "1", " 5 ", "\t5", "5\u00a0", "\u30005", "\x0b5", "5\x1c", "5\x85", "+5", "++5", "+-5",
    "- 5", "1e1", "1E+1", "1e", "1e1.5", ".5", "5.", ".", "-.5", "00012", "1_0", "1_000", "_1", "1,5", "1 000",
    "1'0", "0x10", "0b1", "5f", "5d", "5%", "$5", "true", "False", "TRUE ", "YES", " yes", "no", "y",
    "1.0000000000000001", "0.1000000000000000055511151231", "4.9406564584124654e-324",
    "2.2250738585072011e-308", "9007199254740993e-15", "10" + "0" * 300, "0." + "3" * 150, "٣", "１２", "५.५", "Ⅷ", "²",
    "½", "五", "n", "NNE", " ssw ", "N NW", "NWN", "Albury", " Albury", "Ålesund", "東京", "a\u2028b", "a\u200bb",
    "\ufeff5", "A" * 64, "A" * 65, "x" * 1000, "O'Hare", "''", '"', '""', 'a"b', '"5"', "a,b", "a\nb", "5\n", "\r5",
    "a\rb", "a\\", "\\N", "%", "2017-01-01", " 2017-01-02 ", "2017-02-29", "2016-02-29", "2017-1-1", "20170101",
    "2017-01-01T00:00:00Z", "2017-01-01 00:00:00.000", "2017-01-01 01:00", "1899-12-31", "2199-12-31",
    "2200-01-01", "01/02/2017", "２０１７-01-01", "-2017-01-01", "2017-01-01\n",
)  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(ODD),
    st.floats(-20, 1100).map(str),
    st.integers(-20, 1100).map(str),
    st.text("0123456789.eE+-_ ", max_size=6),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)
# Most values are valid: a table of invalid values would leave little to compare.
CELL = {
    column.name: st.one_of(
        *[
            {
                "number": st.floats(max(column.low, -1e6), min(column.high, 1e6)).map(repr),
                "date": st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)).map(str),
                "direction": st.sampled_from(DIRECTIONS),
                "yes_no": st.sampled_from(["Yes", "No"]),
                "station": st.sampled_from(["Albury", "Perth", "Atlantis"]),
            }[column.kind]
        ]
        * 5,
        TEXT,
    )
    for column in COLUMNS
}
ROWS = st.lists(st.tuples(*(CELL[name] for name in NAMES)), min_size=1, max_size=20)
Result = Table | ObservationError
# Each example makes a database: few examples of many rows, and no shrinking, which would take minutes.
SOME = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@contextmanager
def staged_file(content: bytes) -> Iterator[tuple[Staged, Path]]:
    """Yield an empty database for staging and the path of a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observations"
        path.write_bytes(content)
        staged = Staged(Path(folder))
        try:
            yield staged, path
        finally:
            staged.close()


def as_staged(content: bytes) -> Result:
    """Return the staged rows of a file as a table in input order, or the error."""
    with staged_file(content) as (staged, path):
        try:
            staged.add(path, "a file")
            staged.sort()
        except ObservationError as error:
            return error
        rows = staged.database.execute("SELECT * FROM ordered ORDER BY number").fetchnumpy()
        assert rows["number"].tolist() == list(range(staged.rows))
        table: Table = {}
        for column in COLUMNS:
            values = rows[column.name]
            if column.kind == "date":
                days = [None if day is np.ma.masked else int(day) for day in values]
                table[column.name] = np.array(days, "datetime64[D]")
            elif column.kind == "station":
                table[column.name] = np.array([staged.stations[code] for code in values])
            elif column.kind == "direction":
                table[column.name] = np.array([[*DIRECTIONS, ""][code] for code in np.ma.filled(values, -1)])
            else:
                table[column.name] = np.ma.filled(values, np.nan)
        return table


def as_small(content: bytes) -> Result:
    """Return the table that the reader of small files gives, or the error."""
    try:
        return reading.read(io.BytesIO(content), name="a file")
    except ObservationError as error:
        return error


def assert_alike(content: bytes) -> Result:
    """Assert that staging and the reader of small files give the same values or the same message; return them."""
    small, staged = as_small(content), as_staged(content)
    if isinstance(small, ObservationError) and isinstance(next(iter(small.violations), None), Duplicate):
        # Duplicates are refused when their day is forecast.
        assert not isinstance(staged, ObservationError)
        return staged
    if isinstance(small, ObservationError) or isinstance(staged, ObservationError):
        assert _message(staged) == _message(small)
        assert isinstance(small, ObservationError) and isinstance(staged, ObservationError)
        assert [(v.row, v.column) for v in staged.violations] == [(v.row, v.column) for v in small.violations]
        return small
    for column in COLUMNS:
        np.testing.assert_array_equal(staged[column.name], small[column.name], err_msg=column.name)
    return small


def _message(result: Result) -> str:
    if not isinstance(result, Exception):
        return "accepted"
    # duckdb keeps the spaces before a text, which Python's CSV reader drops, and cannot store lone surrogates.
    return re.sub(": ' +", ": '", re.sub(r"\\u\w{4}", "?", str(result)))


def as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    """Return rows as CSV with a header."""
    text = io.StringIO()
    csv.writer(text).writerows([NAMES, *rows])
    return text.getvalue().encode()


def as_json_lines(rows: Sequence[Sequence[str]]) -> bytes:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows).encode()


def repaired(rows: Sequence[Sequence[str]], error: ObservationError) -> list[list[str]]:
    """Return the rows with a valid value in place of each violation."""
    valid = {"Location": "Perth"}
    result = [list(row) for row in rows]
    for violation in error.violations:
        result[violation.row - 1][NAMES.index(violation.column)] = valid.get(violation.column, "")
    return result


@pytest.mark.parametrize("write", [as_csv, as_json_lines])
@given(rows=ROWS)
@settings(SOME, max_examples=12)
def test_any_text_is_parsed_as_in_a_small_file(write: Any, rows: list[tuple[str, ...]]) -> None:
    result = assert_alike(write(rows))
    if isinstance(result, ObservationError):
        assert not isinstance(assert_alike(write(repaired(rows, result))), ObservationError)


@pytest.mark.parametrize("name", ["Date", "Location", "Rainfall", "Temp9am", "Pressure9am", "WindDir9am", "RainToday"])
@pytest.mark.parametrize("write", [as_csv, as_json_lines])
def test_every_odd_spelling_is_parsed_as_in_a_small_file(write: Any, name: str) -> None:
    rows = []
    for i, text in enumerate(ODD):
        row = dict.fromkeys(NAMES, "") | {"Date": "", "Location": f"station {i}", name: text}
        rows.append(list(row.values()))
    refused = assert_alike(write(rows))
    assert isinstance(refused, ObservationError)
    assert len(refused.violations) == refused.count > 10
    assert not isinstance(assert_alike(write(repaired(rows, refused))), ObservationError)


PLAIN = st.sampled_from(["", "NA", "0.5", " 5 ", "+5", "1_0", "wet", "ESE", "12", "a b", "é"])


@st.composite
def _written(draw: st.DrawFn) -> str:
    text = draw(PLAIN | st.sampled_from(["a,b", 'a"b', "a\nb", "a\r\nb", '"']))
    quoted = '"' + text.replace('"', '""') + '"'
    plain = not set(text) & set('",\r\n')
    return (
        draw(st.sampled_from([text, f" {text}", f"{text} "] if plain else [quoted]))
        if draw(st.booleans())
        else draw(st.sampled_from([quoted, f" {quoted}", f"  {quoted}"]))
    )


@given(
    start=st.sampled_from(["", "\ufeff"]),
    end=st.sampled_from(["\n", "\r\n"]),
    header=st.sampled_from(
        [HEADER.strip(), HEADER.strip().replace(",", ", "), f'"{HEADER.strip()}"'.replace(",", '","')]
    ),
    rows=st.lists(st.lists(_written(), min_size=3, max_size=3) | st.sampled_from([None, "  "]), max_size=6),
    last=st.booleans(),
)
@settings(SOME, max_examples=20)
def test_odd_but_valid_csv_is_read_as_in_a_small_file(
    start: str, end: str, header: str, rows: list[list[str] | str | None], last: bool
) -> None:
    lines = [header]
    for i, row in enumerate(rows):
        lines.append(f",station {i},{','.join(row)}" if isinstance(row, list) else row or "")
    assert_alike((start + end.join(lines) + (end if last else "")).encode())


REGULAR = {
    "CRLF": (HEADER + GOOD).replace("\n", "\r\n"),
    "mixed ends of lines": HEADER + GOOD.replace("\n", "\r\n", 1),
    "CR CR LF": (HEADER + GOOD).replace("\n", "\r\r\n"),
    "a byte order mark": "\ufeff" + HEADER + GOOD,
    "a byte order mark and an empty line": "\ufeff\n" + HEADER + GOOD,
    "an empty line first": "\n" + HEADER + GOOD,
    "a blank line first": "  \n" + HEADER + GOOD,
    "empty lines": (HEADER + GOOD).replace("\n", "\n\n"),
    "empty CRLF lines": (HEADER + GOOD).replace("\n", "\r\n\r\n"),
    "blank lines": (HEADER + GOOD).replace("\n", "\n \t \n"),
    "spaces after commas": (HEADER + GOOD).replace(",", ", "),
    "quotes after spaces": HEADER + '2017-01-04, "Albury", "0.2", 45,"N"\n' + GOOD,
    "a quoted number after a space": HEADER + '2017-01-04,Albury, "0.2",45,N\n' + GOOD,
    "a quoted number after spaces": HEADER + '2017-01-04,Albury,  "0.2",45,N\n' + GOOD,
    "a quoted station after spaces": HEADER + '2017-01-04,   "Albury",0.2,45,N\n' + GOOD,
    "a quoted date after a space": HEADER + ' "2017-01-04",Albury,0.2,45,N\n' + GOOD,
    "a quote inside": HEADER + '2017-01-04,Alb"ury,0.2,45,N\n' + GOOD,
    "text after a quote": HEADER + '2017-01-04,"Alb"ury,0.2,45,N\n' + GOOD,
    "no end of the last line": (HEADER + GOOD).rstrip(),
    "nameless columns": HEADER.replace("\n", ",,\n") + GOOD.replace("\n", ",,\n"),
    "columns that differ in capitals": HEADER.replace("\n", ",a,A\n") + GOOD.replace("\n", ",1,2\n"),
    "a column named as duckdb's own": HEADER.replace("\n", ",rowid,c0\n") + GOOD.replace("\n", ",1,2\n"),
    "nothing but missing values": HEADER + ",Albury,,,\n" * 3,
}
IRREGULAR = {
    "a comma too many": GOOD.replace("\n", ",\n"),
    "an empty quoted field too many": GOOD + '2017-01-04,Albury,0.2,45,N,""\n',
    "a field too many": GOOD + "2017-01-04,Albury,0.2,45,N,7\n",
    "a field too few": GOOD + "2017-01-04,Albury,0.2\n",
    "a bad value, then a field too few": "2017-01-04,Albury,wet,45,N\n" + GOOD + "2017-01-05,Albury,0.2\n",
    "a field too few, then a bad value": "2017-01-04,Albury,0.2\n" + GOOD + "2017-01-05,Albury,wet,45,N\n",
    "a comment": GOOD + "# from here on in March\n",
    "the end of a DOS file": GOOD + "\x1a",
    "an open quote": GOOD + '2017-01-04,"Albury,0.2,45,N\n',
    "only commas": GOOD + ",,,,\n",
    "a zero byte": GOOD + "2017-01-04,Alb\0ury,0.2,45,N\n",
    "a return inside": GOOD + "2017-01-04,Alb\rury,0.2,45,N\n",
    "only returns": GOOD.replace("\n", "\r"),
    "no rows": "\n\n",
    "a long line": GOOD + "2017-01-04," + "A" * 70_000 + ",0.2,45,N\n",
    "a long line at the end": GOOD + "2017-01-04," + "A" * 70_000,
    "a long text": GOOD + "2017-01-04," + "A" * 60_000 + ",0.2,45,N\n",
    "a text of many lines": GOOD + '2017-01-04,"' + "A\n" * 70_000 + '",0.2,45,N\n',
}


@pytest.mark.parametrize("case", REGULAR)
def test_unusual_csv_is_read_as_in_a_small_file(case: str) -> None:
    content = REGULAR[case].encode()
    with pytest.warns(Warning, match="unknown") if "column" in case else _no_warning():
        assert not isinstance(assert_alike(content), ObservationError)


@contextmanager
def _no_warning() -> Iterator[None]:
    yield


@pytest.mark.parametrize("case", IRREGULAR)
def test_irregular_csv_is_refused_as_in_a_small_file(case: str) -> None:
    assert isinstance(assert_alike((HEADER + IRREGULAR[case]).encode()), ObservationError)


@pytest.mark.filterwarnings("ignore:.*unknown column")
@pytest.mark.parametrize("byte", [b"\0", b"\xe9"], ids=["a zero byte", "Latin-1"])
def test_an_invalid_byte_is_refused_in_an_unknown_column_too(byte: bytes) -> None:
    rows = GOOD.replace("\n", ",sunny\n").encode().replace(b"sunny", b"sun" + byte, 1)
    assert isinstance(assert_alike(HEADER.replace("\n", ",Remark\n").encode() + rows), ObservationError)


def test_a_gzip_file_with_a_wrong_checksum_is_refused() -> None:
    content = bytearray(gzip.compress((HEADER + GOOD).encode()))
    content[-8] ^= 1
    assert isinstance(assert_alike(bytes(content)), ObservationError)


@pytest.mark.parametrize("ends", [b"", b"\0" * 512, b"something else"])
def test_a_gzip_file_of_several_members_is_read_or_refused_as_a_small_one(ends: bytes) -> None:
    assert_alike(gzip.compress(HEADER.encode()) + gzip.compress(GOOD.encode()) + ends)


def test_a_parquet_file_with_damaged_data_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.parquet"
        duckdb.sql(
            f"COPY (SELECT 'Perth' AS Location, random() AS Rainfall FROM range(50000)) TO '{path}' (FORMAT parquet)"
        )
        content = bytearray(path.read_bytes())
    content[1000:100_000] = bytes(99_000)
    error = as_staged(bytes(content))
    assert isinstance(error, ObservationError)
    assert str(error).startswith("a file: not a readable Parquet file: ")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_is_read_as_a_small_one(method: int) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("a.csv", HEADER + GOOD)
    assert not isinstance(assert_alike(content.getvalue()), ObservationError)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("Location", "a\\u0000b"),
        ("Rainfall", "1\\u0000"),
        ("Location", "a\\ud800"),
        ("Rainfall", "\\ud800"),
        ("Rainfall", "0" * 300 + "5"),
        ("Rainfall", " " * 300 + "5"),
        ("Rainfall", "0." + "3" * 300),
        ("Location", "Perth" + " " * 300),
        ("Date", " " * 300 + "2017-01-01"),
    ],
)
def test_a_text_that_only_json_can_hold_is_read_or_refused_as_in_a_small_file(column: str, text: str) -> None:
    fields = {"Location": "Albury", "Rainfall": "1", "Humidity3pm": "5"} | {column: text}
    line = "{" + ", ".join(f'"{name}": "{value}"' for name, value in fields.items()) + "}\n"
    assert_alike(line.encode())


@pytest.mark.parametrize("line", ["2017-01-01,Albury,{},45,N\n", "2017-01-01,Albury,1,45,N,{}\n"])
def test_many_violations_are_counted_and_the_first_are_kept(line: str) -> None:
    content = HEADER + "".join(line.format(1000 + i) for i in range(3 * VIOLATIONS_KEPT))
    error = assert_alike(content.encode())
    assert isinstance(error, ObservationError)
    assert error.count == 3 * VIOLATIONS_KEPT


def test_rows_are_sorted_by_day_undated_rows_last_in_input_order() -> None:
    days = ["2017-01-03", "", "2017-01-01", "NA", "2017-01-03", "2017-01-02"]
    content = HEADER + "".join(f"{day},s{i},1,,\n" for i, day in enumerate(days))
    with staged_file(content.encode()) as (staged, path):
        staged.add(path, "a file")
        staged.sort()
        numbers = staged.database.execute("SELECT number FROM ordered ORDER BY rowid").fetchall()
    assert [number for (number,) in numbers] == [2, 5, 0, 4, 1, 3]


def test_the_place_of_a_row_is_its_file_and_its_row_number(tmp_path: Path) -> None:
    staged = Staged(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).write_text(HEADER + GOOD)
        staged.add(tmp_path / name, name)
    staged.close()
    assert [staged.place(number) for number in (0, 2, 3, 5)] == [("one", 1), ("one", 3), ("two", 1), ("two", 3)]
