"""Reading: the same table from every format, and a helpful message for every kind of invalid file."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raincast.observations import formats, reading
from raincast.observations.columns import COLUMNS, DIRECTIONS, Column
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.parsing import MISSING
from raincast.observations.table import Table, rows_of

Records = list[dict[str, Any]]


def _values(column: Column) -> st.SearchStrategy[Any]:
    if column.kind == "number":
        value: st.SearchStrategy[Any] = st.floats(column.low, column.high, allow_nan=False)
    elif column.kind == "direction":
        value = st.sampled_from(DIRECTIONS)
    elif column.kind == "yes_no":
        value = st.sampled_from(["Yes", "No"])
    elif column.kind == "date":
        value = st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)).map(str)
    else:
        return st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=64).filter(
            lambda name: name.lower() not in MISSING
        )
    return st.none() | value


def _key(record: dict[str, Any]) -> object:
    return (record["Date"], record["Location"]) if record["Date"] else object()


RECORDS = st.lists(
    st.tuples(*map(_values, COLUMNS)).map(lambda values: {c.name: v for c, v in zip(COLUMNS, values, strict=True)}),
    min_size=1,
    max_size=6,
    unique_by=_key,
)


def _csv(records: Records) -> bytes:
    lines = [",".join(records[0])]
    lines += [",".join("" if value is None else str(value) for value in record.values()) for record in records]
    return ("\n".join(lines) + "\n").encode()


def _write_csv(path: Path, records: Records) -> None:
    path.write_bytes(_csv(records))


def _write_gzip(path: Path, records: Records) -> None:
    path.write_bytes(gzip.compress(_csv(records)))


def _write_zip(path: Path, records: Records) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", _csv(records))


def _write_json(path: Path, records: Records) -> None:
    path.write_text(json.dumps(records), encoding="utf-8")


def _write_json_body(path: Path, records: Records) -> None:
    path.write_text(json.dumps({"observations": records}), encoding="utf-8")


def _write_json_lines(path: Path, records: Records) -> None:
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")


def _write_parquet(path: Path, records: Records) -> None:
    types = {"number": "DOUBLE", "date": "DATE"}
    columns = ", ".join(f'"{column.name}" {types.get(column.kind, "VARCHAR")}' for column in COLUMNS)
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE t ({columns})")
        database.executemany(
            f"INSERT INTO t VALUES ({', '.join('?' * len(COLUMNS))})", [[*r.values()] for r in records]
        )
        database.execute(f"COPY t TO '{path}' (FORMAT parquet)")


def _write_gzipped_parquet(path: Path, records: Records) -> None:
    _write_parquet(path, records)
    path.write_bytes(gzip.compress(path.read_bytes()))


WRITERS = [
    _write_csv,
    _write_gzip,
    _write_zip,
    _write_json,
    _write_json_body,
    _write_json_lines,
    _write_parquet,
    _write_gzipped_parquet,
]


def _expected(records: Records) -> Table:
    table: Table = {}
    for column in COLUMNS:
        values = [record[column.name] for record in records]
        if column.kind == "number":
            table[column.name] = np.array([np.nan if value is None else value for value in values], float)
        elif column.kind == "yes_no":
            table[column.name] = np.array([{"Yes": 1.0, "No": 0.0, None: np.nan}[value] for value in values])
        elif column.kind == "date":
            table[column.name] = np.array([value or "NaT" for value in values], "datetime64[D]")
        else:
            table[column.name] = np.array([value or "" for value in values])
    return table


def _assert_same(one: Table, other: Table) -> None:
    """Assert equal columns and values; NaN and NaT equal themselves."""
    assert list(one) == list(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("write", WRITERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS)
def test_every_format_gives_the_same_table(
    write: Callable[[Path, Records], None], records: Records, tmp_path: Path
) -> None:
    path = tmp_path / "file.any"
    write(path, records)
    _assert_same(reading.read(path), _expected(records))


ROW = "Location,Date,Humidity3pm,WindDir3pm\nAlbury,2017-01-01,45,NW\n"


@pytest.mark.parametrize(
    "content",
    [
        ROW.encode(),
        b"\xef\xbb\xbf" + ROW.encode(),
        ROW.replace("\n", "\r\n").encode(),
        ROW.replace(",", " , ").encode(),
        ROW.replace("\n", "\n\n").encode(),
        ROW.replace(",45,", ',"45",').encode(),
        ROW.replace("NW", "nw").encode(),
        ROW.removesuffix("\n").encode(),
        ROW.replace("2017-01-01", "2017-01-01 00:00:00").encode(),
        ROW.replace("2017-01-01", "2017-01-01 00:00:00+00").encode(),
        ROW.replace("\n", "\n  \n").encode(),
        ROW.replace("Albury,", '"Albury" ,').encode(),
    ],
    ids=[
        "plain",
        "BOM",
        "CRLF",
        "spaces",
        "blank lines",
        "quotes",
        "small letters",
        "no last newline",
        "midnight",
        "UTC midnight",
        "lines of spaces",
        "a space after a quote",
    ],
)
def test_harmless_variants_give_the_same_table(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_bytes(content)
    table = reading.read(path)
    assert table["Location"].tolist() == ["Albury"]
    assert table["Humidity3pm"].tolist() == [45.0]
    assert table["WindDir3pm"].tolist() == ["NW"]
    assert table["Date"].tolist() == [np.datetime64("2017-01-01").item()]


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "nan", " NA ", "null", "None"])
def test_every_spelling_of_missing_is_missing(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    path.write_text(f"Location,Humidity3pm,WindDir3pm,RainToday,Date\nAlbury,{missing},{missing},{missing},{missing}\n")
    table = reading.read(path)
    assert np.isnan(table["Humidity3pm"][0])
    assert np.isnan(table["RainToday"][0])
    assert np.isnat(table["Date"][0])
    assert table["WindDir3pm"][0] == ""


def test_unknown_columns_are_ignored_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("Location,Humidity3pm,Mood,RISK_MM,Soil\nAlbury,45,good,9,wet\n")
    with pytest.warns(ObservationWarning, match=r"2 unknown column\(s\) ignored: Mood, Soil") as caught:
        table = reading.read(path)
    assert len(caught) == 1
    assert set(table) == {column.name for column in COLUMNS}


def test_outcome_columns_are_never_read_as_observations(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text("Location,Humidity3pm,RISK_MM,RainTomorrow\nAlbury,45,9,Yes\n")
    assert set(reading.read(path)) == {column.name for column in COLUMNS}
    assert reading.read(path, target=True)["RainTomorrow"].tolist() == [1.0]


def test_rows_beyond_one_block_keep_their_order_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "READ_BLOCK_ROWS", 3)
    path = tmp_path / "long.csv"
    path.write_text("Location,Humidity3pm\n" + "".join(f"Albury,{value}\n" for value in range(10)))
    assert reading.read(path)["Humidity3pm"].tolist() == list(range(10))
    path.write_text("Location,Humidity3pm\n" + "".join(f"Albury,{value}\n" for value in range(95, 105)))
    with pytest.raises(ObservationError, match="4 problems: row 7, Humidity3pm: '101' is not a number, 0 to 100 %"):
        reading.read(path)


def test_all_violations_are_counted_and_the_first_are_shown_by_row(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("Location,Humidity3pm,WindDir3pm\n" + "Albury,1e3,NWN\n" * 6 + "Albury,5\n,5,N\n")
    with pytest.raises(ObservationError) as caught:
        reading.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 14 problems: row 1, WindDir3pm: 'NWN' is not one of N NNE NE ")
    assert "; row 1, Humidity3pm: '1e3' is not a number, 0 to 100 %; row 2, WindDir3pm" in message
    assert message.endswith("(and 9 more)")


@pytest.mark.parametrize("value", ["inf", "-inf", "1_0", "0x10", "4 5", "abc", "1e400"])
def test_a_text_that_resembles_a_number_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "number.csv"
    path.write_text(f"Location,Humidity3pm\nAlbury,{value}\n")
    with pytest.raises(ObservationError, match="row 1, Humidity3pm"):
        reading.read(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: ("Location,Rainfall\n" + text).encode())
)
@pytest.mark.filterwarnings("ignore::raincast.observations.errors.ObservationWarning")
def test_any_bytes_are_read_or_refused_with_a_message(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(content)
    try:
        table = reading.read(path)
    except ObservationError as error:
        assert str(path) in str(error)
    else:
        assert rows_of(table) > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "not a list of observations, each an object"),
        ('{"observations": 3}', "not a list of observations"),
        ('[{"Location": "Albury"', "not valid JSON"),
        ('[{"Location": "Albury", "Rainfall": true}]', "row 1, Rainfall: 'true' is not a number, 0 to 500 mm"),
        ('[{"Location": "Albury", "Rainfall": [1]}]', "row 1, Rainfall: '"),
        ('[{"Location": "Albury", "Rainfall": 1, "Rainfall": 2}]', "duplicate column Rainfall"),
        ('[{"Rainfall": 1}]', "there is no column Location"),
        ('[{"Location": "Albury", "Rainfall": 1}, {"Rainfall": 1}]', "row 2, Location"),
        ("[]", "the list of observations is empty"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_json_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ObservationError, match=message.replace("[", r"\[").replace("(", r"\(")):
        reading.read(path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1" + b"\x01" * 100)
    with pytest.raises(ObservationError, match="not a readable Parquet file"):
        reading.read(path)


def _parquet(path: Path, select: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    duckdb.execute(f"COPY (SELECT {select}) TO '{path}' (FORMAT parquet)")
    return path


def test_the_name_of_a_parquet_file_is_not_a_pattern(tmp_path: Path) -> None:
    _parquet(tmp_path / "day1.parquet", "'Perth' AS Location, 99 AS Humidity3pm")
    written = _parquet(tmp_path / "plain.parquet", "'Sydney' AS Location, 50 AS Humidity3pm")
    named = written.rename(tmp_path / "day[12].parquet")
    assert reading.read(named)["Location"].tolist() == ["Sydney"]


def test_the_name_of_a_folder_is_not_a_column(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "Location=Perth" / "a.parquet", "'Sydney' AS Location, 50 AS Humidity3pm")
    assert reading.read(path)["Location"].tolist() == ["Sydney"]


def test_parquet_columns_of_other_types_are_read_by_their_text(tmp_path: Path) -> None:
    select = (
        "TIMESTAMP '2017-01-01' AS Date, 'Perth' AS Location, 7::TINYINT AS Cloud3pm, 1.5::DECIMAL(5, 2) AS Rainfall"
    )
    table = reading.read(_parquet(tmp_path / "a.parquet", f"{select}, true AS RainToday"))
    assert [str(table[name][0]) for name in ("Date", "Cloud3pm", "Rainfall", "RainToday")] == [
        "2017-01-01",
        "7.0",
        "1.5",
        "1.0",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Location", "Humidity3pm", "Humidity3pm"], "duplicate column Humidity3pm"),
        (["Location", "Humidity3pm", "humidity3pm"], "columns differ only in capital letters: humidity3pm"),
        (['Loc"ation', "Humidity3pm"], "there is no column Location"),
    ],
)
def test_duplicate_columns_in_parquet_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "twice.parquet"
    columns = [pyarrow.array(["Sydney"]), pyarrow.array([10.0]), pyarrow.array([90.0])]
    pyarrow.parquet.write_table(pyarrow.table(columns[: len(names)], names=names), path)
    with pytest.raises(ObservationError, match=message):
        reading.read(path)


def test_a_nested_parquet_column_is_ignored(tmp_path: Path) -> None:
    path = _parquet(
        tmp_path / "a.parquet", "'Sydney' AS Location, {'Humidity3pm': 1, 'b': [2]} AS parts, 5 AS Rainfall"
    )
    with pytest.warns(ObservationWarning, match=r"1 unknown column\(s\) ignored: parts"):
        table = reading.read(path)
    assert np.isnan(table["Humidity3pm"][0])
    assert table["Rainfall"].tolist() == [5.0]


def test_parquet_through_a_named_pipe_is_read(tmp_path: Path) -> None:
    content = _parquet(tmp_path / "a.parquet", "'Sydney' AS Location, 50 AS Humidity3pm").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert reading.read(pipe)["Location"].tolist() == ["Sydney"]
    writer.join()


def test_a_zip_with_an_unsupported_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.csv", ROW)
    with pytest.raises(ObservationError, match="encrypted or not compressed by deflate"):
        reading.read(path)


@pytest.mark.parametrize("end", ["]", "]\n\n", "]}", "] } "])
@pytest.mark.parametrize("between", [",", " ,\n  "])
def test_large_json_is_read_one_observation_at_a_time(
    between: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "WHOLE_JSON", 30)
    monkeypatch.setattr(formats, "LONGEST_LINE", 60)
    path = tmp_path / "large.json"
    records = between.join(f'{{"Location": "Albury", "Rainfall": {value}, "Mood": [{{}}]}}' for value in range(9))
    path.write_text(f'{{"observations" :\n[{records}{end}' if "}" in end else f"[{records}{end}")
    with pytest.warns(ObservationWarning, match="ignored: Mood"):
        assert reading.read(path)["Rainfall"].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"Location": "Albury"}, ', "no observation after the last comma"),
        ('[{"Location": "Albury"}', "no comma or bracket after observation 1"),
        ('[{"Location": "Albury"} {"Location": "Albury"}]', "no comma or bracket after observation 1"),
        ('[{"Location": "Albury"}] []', "there is more after the list"),
        ('{"observations": [{"Location": "Albury"}]', "no closing brace"),
        ('{"observations": [{"Location": "Albury"}], "more": 1}', "no closing brace"),
        ('[{"Location": "Albury"}, 1]', "not a list of observations, each an object"),
        ("[" * 100, "not a list of observations, each an object"),
        ('[{"Location": "' + "x" * 100 + '"}]', "observation 1 is not valid JSON, or longer than 60 characters"),
        ('[{"Location": Albury, "Rainfall": 1}]', "not valid JSON: observation 1: "),
        ("[]" + " " * 60, "the list of observations is empty"),
    ],
)
def test_large_json_is_refused(content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "WHOLE_JSON", 20)
    monkeypatch.setattr(formats, "LONGEST_LINE", 60)
    path = tmp_path / "large.json"
    path.write_text(content)
    with pytest.raises(ObservationError, match=message):
        reading.read(path)


def test_duplicate_names_inside_an_unknown_json_value_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "nested.json"
    path.write_text('[{"Location": "Albury", "Rainfall": 1, "extra": {"a": 1, "a": 2}}]')
    with pytest.warns(ObservationWarning, match="ignored: extra"):
        assert reading.read(path)["Rainfall"].tolist() == [1.0]


def test_a_zip_of_two_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", ROW)
        archive.writestr("b.csv", ROW)
    with pytest.raises(ObservationError, match="2 files in the zip archive, one is expected"):
        reading.read(path)


@pytest.mark.parametrize("content", [gzip.compress(ROW.encode()), ROW.encode()])
def test_a_pipe_whose_bytes_come_one_by_one_is_read_as_a_file(content: bytes, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write_slowly() -> None:
        with pipe.open("wb", buffering=0) as file:
            for position in range(5):
                file.write(content[position : position + 1])
                time.sleep(0.01)
            file.write(content[5:])

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert reading.read(pipe)["Location"].tolist() == ["Albury"]
    writer.join()
