"""Files of any size, in blocks, every format, folders and shards: forecasts equal those of the complete table."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import prediction
from raincast.batch import forecast_files
from raincast.forecasting import forecast, model, writing
from raincast.observations import reading
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.table import Table, take
from tests.conftest import Command

Records = list[dict[str, str]]
# Neighbours, stations far from all others, and an unknown one.
STATIONS = (
    "Sydney",
    "SydneyAirport",
    "Wollongong",
    "Penrith",
    "Richmond",
    "Newcastle",
    "Canberra",
    "Perth",
    "Atlantis",
)
UNKNOWN_STATION = pytest.mark.filterwarnings("ignore:.*unknown station")


def made_up(days: int, *, seed: int = 1, lost: float = 0.1, undated: float = 0.05) -> Records:
    """Return synthetic observations by station, in which the regional weather determines tomorrow's rain.

    Each station observes it with noise, so that neighbours and history are more informative than the station itself.
    `lost` is the share of missing station-days and of missing values, `undated` that of rows without a date.
    """
    random = np.random.default_rng(seed)
    weather = np.convolve(random.normal(size=days + 3), [0.6, 0.8, 0.5], "valid")[: days + 1]
    first = np.datetime64("2012-01-01")
    records = []
    for station in STATIONS:
        for day in np.flatnonzero(random.random(days) >= lost).tolist():
            wet, later = weather[day] + random.normal(size=2)
            humidity, pressure = 60 + 15 * wet, 1015 - 4 * weather[day] + 3 * random.normal()
            rain = max(0.0, 4 * (later - 1)) if day else 0.0
            record = {
                "Date": str(first + day),
                "Location": station,
                "MaxTemp": f"{25 - 3 * wet:.1f}",
                "Rainfall": f"{rain:.1f}",
                "WindDir9am": random.choice(["N", "NNE", "SW", ""]),
                "WindGustSpeed": f"{min(max(40 + 8 * later, 10), 120):.0f}",
                "Humidity3pm": f"{min(max(humidity, 5), 100):.0f}",
                "Pressure9am": f"{pressure + 1:.1f}",
                "Pressure3pm": f"{pressure:.1f}",
                "RainToday": "Yes" if round(rain, 1) > 1 else "No",
                "RainTomorrow": "Yes" if weather[day] + 0.5 * weather[day + 1] > 0.4 else "No",
            }
            for name in list(record)[2:-1]:
                if random.random() < lost:
                    record[name] = str(random.choice(["", "NA"]))
            if random.random() < undated:
                record["Date"] = ""
            records.append(record)
    return records


def as_csv(records: Records) -> bytes:
    """Return records as CSV with the columns of the first one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def shuffled(records: Records, seed: int = 2) -> Records:
    """Return the records in another order."""
    return [records[i] for i in np.random.default_rng(seed).permutation(len(records))]


RECORDS = shuffled(made_up(60))


@pytest.fixture(name="contextual", scope="session")
def fixture_contextual(command: Command, tmp_path_factory: pytest.TempPathFactory) -> model.Model:
    """Return a model whose trees use context; the data of the other test model have no dates, hence no context."""
    folder = tmp_path_factory.mktemp("contextual")
    records = [record for record in made_up(500, seed=3, undated=0) if record["Location"] != "Atlantis"]
    (folder / "dated.csv").write_bytes(as_csv(records))
    out = folder / "model"
    completed = command("train.py", "--data", folder / "dated.csv", "--iterations", 20, "--no-tracking", "--out", out)
    assert completed.returncode == 0, completed.stderr.decode()
    return model.load(out)


@pytest.fixture(name="streaming")
def fixture_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as large, and read, forecast and write it in many small blocks."""
    monkeypatch.setattr(reading, "SMALL_BYTES", 0)
    monkeypatch.setattr(forecast_files, "FORECAST_BLOCK_ROWS", 64)
    monkeypatch.setattr(forecast_files, "CONTEXT_MULTIPLE", 0)
    monkeypatch.setattr(forecast_files, "READ_BLOCK_ROWS", 100)


def forecast_file(loaded: model.Model, path: Path) -> Table:
    """Return the forecasts of `forecast_files` for a file, read back from its CSV."""
    out = io.BytesIO()

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        yield out

    forecast_files.forecast_files(loaded, [(path, path.name)], opened, "csv")
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode())))
    columns: Table = {name: np.array([row[name] for row in rows]) for name in forecast.FORECAST_COLUMNS}
    columns["Date"] = np.array([row["Date"] or "NaT" for row in rows], "datetime64[D]")
    columns["probability_of_rain"] = columns["probability_of_rain"].astype(np.float64)
    return columns


def assert_same(forecasts: Table, expected: Table) -> None:
    """Assert the same rows in the same order, probabilities to 1e-12."""
    assert list(forecasts) == list(expected)
    for name, values in expected.items():
        if name == "probability_of_rain":
            np.testing.assert_allclose(forecasts[name], values, rtol=0, atol=1e-12)
        else:
            np.testing.assert_array_equal(forecasts[name], values, err_msg=name)


def predict(*arguments: object) -> None:
    """Run `prediction.py` in this process."""
    prediction.predict(prediction.arguments([str(argument) for argument in arguments]))


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("kind", ["bundled", "contextual"])
def test_forecasts_in_blocks_equal_those_of_the_complete_table(
    kind: str, trained: Path, contextual: model.Model, tmp_path: Path
) -> None:
    loaded = model.load(trained) if kind == "bundled" else contextual
    path = tmp_path / "in.csv"
    records = shuffled(made_up(200))
    path.write_bytes(as_csv(records))
    forecasts = forecast_file(loaded, path)
    assert_same(forecasts, forecast.forecast(loaded, reading.read(path)))
    assert forecasts["Location"].tolist() == [record["Location"] for record in records]
    assert np.isnat(forecasts["Date"]).any()


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
def test_context_matters_in_these_tests_and_blocks_without_it_would_fail(
    contextual: model.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(as_csv(RECORDS))
    table = reading.read(path)
    with_context = forecast.forecast(contextual, table)["probability_of_rain"]
    single_rows = [
        forecast.forecast(contextual, take(table, np.array([i])))["probability_of_rain"][0] for i in range(50)
    ]
    assert np.abs(with_context[:50] - single_rows).mean() > 0.01
    blocks_of = forecast_files.blocks_of

    def without_context(*arguments: Any) -> Iterator[forecast_files.DayBlock]:
        for block in blocks_of(*arguments):
            yield forecast_files.DayBlock(block.start, block.start, block.end)

    monkeypatch.setattr(forecast_files, "blocks_of", without_context)
    assert np.abs(forecast_file(contextual, path)["probability_of_rain"] - with_context).max() > 0.01


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    "records",
    [RECORDS[:1], [row for row in RECORDS if row["Date"] == ""], [row | {"Date": "2017-01-01"} for row in RECORDS[:1]]],
    ids=["one row", "no dates", "one day"],
)
def test_the_smallest_tables_are_forecast(records: Records, contextual: model.Model, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(as_csv(records))
    assert_same(forecast_file(contextual, path), forecast.forecast(contextual, reading.read(path)))


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.csv", content)
    return file.getvalue()


def _parquet(records: Records, *, typed: bool) -> bytes:
    types = {"Date": pyarrow.date32(), "MaxTemp": pyarrow.float64(), "Humidity3pm": pyarrow.int8()} if typed else {}
    columns = {}
    for name in records[0]:
        values = pyarrow.array([None if row[name] in ("", "NA") else row[name] for row in records])
        columns[name] = values.cast(types.get(name, pyarrow.string()))
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[Records], bytes]] = {
    "csv": as_csv,
    "csv.gz": lambda records: gzip.compress(as_csv(records)),
    "zip": lambda records: _zipped(as_csv(records)),
    "jsonl": lambda records: "".join(json.dumps(record) + "\n" for record in records).encode(),
    "jsonl.gz": lambda records: gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()),
    "parquet of text": lambda records: _parquet(records, typed=False),
    "parquet of types": lambda records: _parquet(records, typed=True),
    "array": lambda records: json.dumps(records, indent=1).encode(),
    "observations": lambda records: json.dumps({"observations": records}).encode(),
}


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_a_large_input_gives_the_same_forecasts(kind: str, trained: Path, tmp_path: Path) -> None:
    loaded, path = model.load(trained), tmp_path / "in"
    path.write_bytes(FORMATS[kind](RECORDS))
    assert not reading.is_small(path)
    assert_same(forecast_file(loaded, path), forecast.forecast(loaded, reading.read(io.BytesIO(as_csv(RECORDS)))))


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(("suffix", "output_format"), prediction.FORMAT_OF_SUFFIX.items())
def test_the_output_of_a_large_file_equals_that_of_a_small_one(
    suffix: str, output_format: writing.OutputFormat, trained: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "in.csv", tmp_path / f"out{suffix}"
    path.write_bytes(as_csv(RECORDS))
    predict(path, "-o", out, "--model", trained)
    expected = writing.render(forecast.forecast(model.load(trained), reading.read(path)), output_format)
    if output_format != "parquet":
        assert out.read_bytes() == expected
        return
    small = tmp_path / "small.parquet"
    small.write_bytes(expected)
    query = "SELECT * FROM read_parquet(?)"
    with duckdb.connect() as database:
        written = database.execute(query, [str(out)])
        columns, rows = list(written.description), written.fetchall()
        assert rows == database.execute(query, [str(small)]).fetchall()
        assert columns == list(database.description)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    """Return a folder with a file per station in several formats and subfolders, and metadata of other tools."""
    folder = tmp_path / "observations"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "_delta_log").mkdir()
    places = ("a/deep/0", "a/1", "2", "3", "4.csv", "5.csv", "6.csv", "7.csv", "8.csv")
    kinds = ["jsonl", "parquet of types", "csv.gz", "zip", *["csv"] * 5]
    for place, kind, station in zip(places, kinds, STATIONS, strict=True):
        (folder / place).write_bytes(FORMATS[kind]([row for row in RECORDS if row["Location"] == station]))
    for note in (".hidden/x.csv", "_delta_log/0.json", "_SUCCESS", "a/.part.crc", "a/_metadata"):
        (folder / note).write_bytes(b"no observations")
    return folder


def _of_files(records: Records) -> bytes:
    """Return records as CSV in the order of the folder's files: by path."""
    order = [2, 3, 4, 5, 6, 7, 8, 1, 0]
    return as_csv([row for i in order for row in records if row["Location"] == STATIONS[i]])


@UNKNOWN_STATION
@pytest.mark.parametrize("end", ["", "/"])
def test_the_files_of_a_folder_are_one_table(
    end: str, folder: Path, contextual: model.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda _: contextual)
    out = tmp_path / "out.csv"
    predict(f"{folder}{end}", "-o", out)
    together = reading.read(io.BytesIO(_of_files(RECORDS)))
    assert out.read_bytes() == writing.render(forecast.forecast(contextual, together), "csv")
    station = take(together, (together["Location"] == STATIONS[2]) & ~np.isnat(together["Date"]))
    without_neighbours = writing.render(forecast.forecast(contextual, station), "csv").splitlines()[1:]
    assert len(set(without_neighbours) & set(out.read_bytes().splitlines())) < len(without_neighbours) / 4


@UNKNOWN_STATION
@pytest.mark.parametrize(
    ("pattern", "stations"),
    [
        ("*.csv", (4, 5, 6, 7, 8)),
        ("[45].csv", (4, 5)),
        ("?.csv", (4, 5, 6, 7, 8)),
        ("**/[0-1]", (1, 0)),
        ("a/*/0", (0,)),
    ],
)
def test_a_pattern_selects_the_files_that_match(
    pattern: str, stations: tuple[int, ...], folder: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    predict(folder / pattern, "-o", out, "--model", trained)
    forecasts = csv.DictReader(out.read_text().splitlines())
    expected = [row["Location"] for i in stations for row in RECORDS if row["Location"] == STATIONS[i]]
    assert [row["Location"] for row in forecasts] == expected


def test_a_file_named_like_a_pattern_is_a_file(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "[4].csv").write_bytes(as_csv(made_up(5)[:3]))
    (tmp_path / "4.csv").write_bytes(b"no observations")
    predict(tmp_path / "[4].csv", "-o", tmp_path / "out.csv", "--model", trained)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_files_may_have_different_columns_and_each_unknown_one_is_reported_once(
    tmp_path: Path, trained: Path, command: Command
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("Location,Rainfall,Mood\nPerth,5,good\nAtlantis,1,bad\n")
    (folder / "2.csv").write_text("Humidity3pm,Date,Location\n90,2017-01-01,Perth\n")
    (folder / "3.csv").write_text("Location,MaxTemp,RainTomorrow,Mood\nAtlantis,30,No,good\n")
    together = (
        "Location,Rainfall,Humidity3pm,Date,MaxTemp\nPerth,5,,,\nAtlantis,1,,,\nPerth,,90,2017-01-01,\nAtlantis,,,,30\n"
    )
    completed = command("prediction.py", folder, "--format", "csv", "--model", trained)
    assert completed.returncode == 0, completed.stderr.decode()
    assert completed.stdout == command("prediction.py", "-", "--model", trained, stdin=together.encode()).stdout
    warned = completed.stderr.decode().splitlines()
    assert [line.split(": ", 2)[2] for line in warned] == [
        f"{folder}/1.csv: 1 unknown column(s) ignored: Mood",
        f"{folder}/3.csv: 1 unknown column(s) ignored: Mood",
        "1 unknown station(s), forecast without a place or neighbours: Atlantis",
    ]


def test_unknown_stations_are_reported_once_for_all_blocks(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALL_BYTES", 0)
    monkeypatch.setattr(forecast_files, "FORECAST_BLOCK_ROWS", 1)
    path = tmp_path / "in.csv"
    rows = [f"2017-0{month}-01,{name},{month}" for month, name in enumerate(["Perth", "Mu", "Atlantis", "Mu"], 1)]
    path.write_text("\n".join(["Date,Location,Rainfall", *rows]))
    with pytest.warns(ObservationWarning) as warned:
        predict(path, "-o", tmp_path / "out.csv", "--model", trained)
    assert {str(warning.message) for warning in warned} == {
        "2 unknown station(s), forecast without a place or neighbours: Atlantis, Mu"
    }


@pytest.mark.parametrize("pattern", ["", "*.csv", "**/*.parquet", "[x]"])
def test_a_folder_or_pattern_without_files_is_refused(pattern: str, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ObservationError) as refused:
        predict(tmp_path / pattern, "--model", trained)
    assert str(refused.value) == f"{tmp_path / pattern}: there are no files"


HEADER = "Date,Location,Rainfall\n"
GOOD = HEADER + "2017-01-01,Perth,1\n2017-01-02,Perth,0\n2017-01-03,Perth,0\n"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            HEADER + "2017-01-02,Albury,1\n2017-01-01,Albury,wet\n",
            "row 2, Rainfall: 'wet' is not a number, 0 to 500 mm",
        ),
        (HEADER + "2017-01-02,Albury,1\n2017-01-01,,0\n", "row 2, Location: '' is not a station's name of at most"),
        (HEADER + "2017-01-02,Albury,1\n2017-01-01\n", "row 2, fields: '1' is not 3, as in the header"),
        (
            HEADER + "2017-01-01,Albury,1\n2017-01-01,Albury,1\n",
            "row 2, Date: Albury on 2017-01-01 duplicates row 1",
        ),
        (HEADER, "there is a header but no observation"),
        ("", "the file is empty"),
        ("Date,Station,Rainfall\n2017-01-01,Perth,1\n", "there is no column Location (found: Date, Station, Rainfall)"),
        (
            '{"Location": "Perth", "Rainfall": 1}\n{"Location": "Perth", "Rainfall": 900}\n',
            "row 2, Rainfall: '900' is not",
        ),
        ('{"Location": "Perth", "Rainfall": 1}\n{"Location": "Perth", \n', "line 2 is not valid JSON"),
        ("PAR1" + 50 * "x" + "PAR1", "not a readable Parquet file"),
    ],
)
def test_an_error_names_the_invalid_file_and_its_row(bad: str, message: str, tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text(GOOD)
    (folder / "2.csv").write_text(bad)
    (folder / "3.csv").write_text(GOOD.replace("Perth", "Cairns"))
    with pytest.raises(ObservationError) as refused:
        predict(folder, "-o", tmp_path / "out.csv", "--model", trained)
    assert re.match(re.escape(f"{folder}/2.csv: ") + r"(\d+ problems: )?" + re.escape(message), str(refused.value))
    assert not (tmp_path / "out.csv").exists()


def test_a_station_day_in_two_files_names_both(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text(GOOD)
    (folder / "2.csv").write_text(GOOD.replace("Perth", "Cairns") + "2017-01-02,Perth,0\n")
    with pytest.raises(ObservationError) as refused:
        predict(folder, "-o", tmp_path / "out.csv", "--model", trained)
    assert str(refused.value) == (
        f"{folder}/2.csv: row 4, Date: Perth on 2017-01-02 duplicates row 2 of {folder}/1.csv; "
        "a station has one observation per day"
    )


def test_many_duplicates_are_reported_as_in_a_small_file(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.csv"
    days = [f"{day},Perth,1\n" for day in np.arange("2017-01-01", "2017-07-01", dtype="datetime64[D]").astype(str)]
    path.write_text(HEADER + "".join([*days, days[150], days[3], days[4]]))
    with pytest.raises(ObservationError) as small:
        predict(path, "-o", tmp_path / "out.csv", "--model", trained)
    monkeypatch.setattr(reading, "SMALL_BYTES", 0)
    monkeypatch.setattr(forecast_files, "FORECAST_BLOCK_ROWS", 16)
    with pytest.raises(ObservationError) as large:
        predict(path, "-o", tmp_path / "out.csv", "--model", trained)
    assert str(large.value) == str(small.value)


@UNKNOWN_STATION
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_shards_together_are_the_complete_table(
    count: int, contextual: model.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda _: contextual)
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_bytes(as_csv(RECORDS))
    for index in range(count):
        predict(path, "-o", out, "--shard", f"{index}/{count}")
    width = len(str(count - 1))
    names = [f"out-{index:0{width}}-of-{count}.csv" for index in range(count)] if count > 1 else ["out.csv"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["in.csv", *names])
    header, *complete = writing.render(forecast.forecast(contextual, reading.read(path)), "csv").decode().splitlines()
    parts = [(tmp_path / name).read_text().splitlines() for name in names]
    assert {part[0] for part in parts} == {header}
    assert sorted(row for part in parts for row in part[1:]) == sorted(complete)
    for part in parts:
        # The rows are a subsequence of the complete table; two may be equal.
        rest = iter(complete)
        assert all(row in rest for row in part[1:])
        assert len(part) - 1 > len(complete) / count / 2
    days = [{row.split(",")[0] for row in part[1:]} - {""} for part in parts]
    assert sum(map(len, days)) == len(set().union(*days))


def test_shards_without_a_day_are_files_without_rows(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(GOOD)
    rows = []
    for index in range(5):
        predict(path, "-o", tmp_path / "out.csv", "--shard", f"{index}/5", "--model", trained)
        header, *part = (tmp_path / f"out-{index}-of-5.csv").read_text().splitlines()
        assert header == ",".join(forecast.FORECAST_COLUMNS)
        rows.append([row[:16] for row in part])
    assert sorted(map(len, rows)) == [0, 0, 1, 1, 1]
    assert [row for part in rows for row in part] == [f"2017-01-0{day},Perth" for day in (1, 2, 3)]


def test_an_empty_shard_is_valid_in_every_format(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(GOOD)
    parts = {}
    for suffix in (".json", ".txt", ".parquet"):
        predict(path, "-o", tmp_path / f"out{suffix}", "--shard", "0/5", "--model", trained)
        parts[suffix] = tmp_path / f"out-0-of-5{suffix}"
    assert json.loads(parts[".json"].read_bytes()) == []
    assert parts[".txt"].read_text().split() == ["Date", "Location", "rain", "tomorrow", "probability"]
    with duckdb.connect() as database:
        rows = database.execute("SELECT * FROM read_parquet(?)", [str(parts[".parquet"])])
        assert tuple(name for name, *_ in rows.description) == forecast.FORECAST_COLUMNS
        assert not rows.fetchall()


def test_the_shard_may_be_in_the_environment(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    path.write_text(GOOD)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    predict(path, "-o", tmp_path / "out.csv", "--shard", "3", "--model", trained)
    assert len((tmp_path / "out-2-of-3.csv").read_text().splitlines()) == 2
    monkeypatch.setenv("RAINCAST_SHARD", "12")
    predict(path, "-o", tmp_path / "out.csv", "--model", trained)
    assert (tmp_path / "out-02-of-12.csv").is_file()


@pytest.mark.parametrize(
    "text", ["", "3/3", "0/0", "1/", "/2", "-1/2", "1/2/3", "0.5/2", "a/b", "2", "1 / 2", "٠/2", "9" * 12]
)
@pytest.mark.parametrize("place", ["flag", "environment"])
def test_an_invalid_shard_is_refused(
    text: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if place == "environment":
        monkeypatch.setenv("RAINCAST_SHARD", text or "x")
    with pytest.raises(SystemExit) as stopped:
        prediction.arguments([f"--shard={text}"] if place == "flag" else [])
    assert stopped.value.code == 2
    assert "error: argument --shard: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("index", ["", "3", "-1", "two"])
def test_an_invalid_index_is_refused(
    index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    with pytest.raises(SystemExit):
        prediction.arguments(["--shard", "3"])
    assert "error: argument --shard: " in capsys.readouterr().err.splitlines()[-1]
