"""`prediction.py` on the sample: every input and output format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.conftest import ROOT, Command

SAMPLE = ROOT / "data" / "sample.csv"
TO_PARQUET = "COPY (SELECT * FROM read_csv('{csv}', nullstr=['', 'NA'])) TO '{target}' (FORMAT parquet)"


@pytest.fixture(name="expected", scope="module")
def fixture_expected(command: Command, trained: Path) -> dict[str, float]:
    """Return the probability by station of the sample, read from the CSV output."""
    completed = command("prediction.py", SAMPLE, "--format", "csv", "--model", trained)
    assert completed.returncode == 0, completed.stderr.decode()
    return probabilities(completed.stdout)


def probabilities(content: bytes) -> dict[str, float]:
    """Return the probability by station from CSV."""
    rows = csv.DictReader(io.StringIO(content.decode()))
    return {row["Location"]: float(row["probability_of_rain"]) for row in rows}


def test_without_arguments_the_sample_is_forecast_as_a_table(command: Command, trained: Path) -> None:
    completed = command("prediction.py", "--model", trained)
    assert completed.returncode == 0
    assert completed.stderr == b""
    lines = completed.stdout.decode().splitlines()
    assert len(lines) == 50
    assert lines[0].split() == ["Date", "Location", "rain", "tomorrow", "probability"]
    assert {line.split()[2] for line in lines[1:]} == {"Yes", "No"}


@pytest.mark.parametrize("kind", ["csv", "gz", "json", "jsonl", "parquet"])
def test_every_input_format_gives_the_same_forecast(
    kind: str, command: Command, trained: Path, expected: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / f"in.{kind}"
    records = list(csv.DictReader(io.StringIO(SAMPLE.read_text(encoding="utf-8"))))
    if kind == "parquet":
        duckdb.sql(TO_PARQUET.format(csv=SAMPLE, target=path))
    elif kind == "gz":
        path.write_bytes(gzip.compress(SAMPLE.read_bytes()))
    elif kind == "json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("\n".join(map(json.dumps, records)) if kind == "jsonl" else SAMPLE.read_text())
    from_file = command("prediction.py", path, "--format", "csv", "--model", trained)
    assert from_file.returncode == 0, from_file.stderr.decode()
    assert probabilities(from_file.stdout) == expected
    from_stdin = command("prediction.py", "-", "--model", trained, stdin=path.read_bytes())
    assert from_stdin.stdout == from_file.stdout


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "txt"])
def test_the_suffix_of_the_output_decides_its_format(
    suffix: str, command: Command, trained: Path, expected: dict[str, float], tmp_path: Path
) -> None:
    out = tmp_path / f"out.{suffix}"
    completed = command("prediction.py", SAMPLE, "-o", out, "--model", trained)
    assert (completed.returncode, completed.stdout) == (0, b""), completed.stderr.decode()
    if suffix == "txt":
        assert len(out.read_text().splitlines()) == 50
        return
    forecasts = {
        "csv": lambda: probabilities(out.read_bytes()),
        "json": lambda: {r["Location"]: r["probability_of_rain"] for r in json.loads(out.read_bytes())},
        "parquet": lambda: dict(duckdb.execute(f"SELECT Location, probability_of_rain FROM '{out}'").fetchall()),
    }[suffix]()
    assert forecasts == expected


def test_a_single_row_is_forecast_as_in_the_batch(command: Command, trained: Path, expected: dict[str, float]) -> None:
    header, first, *_ = SAMPLE.read_text().splitlines()
    completed = command("prediction.py", "-", "--model", trained, stdin=f"{header}\n{first}\n".encode())
    ((name, value),) = probabilities(completed.stdout).items()
    assert value == expected[name]


def test_an_unknown_station_is_forecast_with_one_warning(command: Command, trained: Path) -> None:
    rows = b"Location,Humidity3pm,Rainfall\nAtlantis,90,12\nAtlantis,10,0\n"
    completed = command("prediction.py", "-", "--model", trained, stdin=rows)
    assert completed.returncode == 0
    assert completed.stderr.decode().splitlines() == [
        "prediction.py: warning: 1 unknown station(s), forecast without a place or neighbours: Atlantis"
    ]
    wet, dry = (float(line.split(b",")[2]) for line in completed.stdout.splitlines()[1:])
    assert wet > dry


def test_a_closed_pipe_gives_no_error_message(trained: Path) -> None:
    call = f"'{sys.executable}' '{ROOT / 'prediction.py'}' --model '{trained}' | head -n 1"
    completed = subprocess.run(call, shell=True, capture_output=True, check=True)
    assert completed.stdout.startswith(b"Date")
    assert completed.stderr == b""


def test_a_full_disk_gives_one_message(command: Command, trained: Path) -> None:
    completed = command("prediction.py", "-o", "/dev/full", "--format", "csv", "--model", trained)
    assert completed.returncode == 1
    assert completed.stderr.decode().splitlines() == ["prediction.py: /dev/full: No space left on device"]


def test_forecasts_of_dated_rows_have_their_dates(command: Command, trained: Path) -> None:
    header, *rows = SAMPLE.read_text().splitlines()
    dated = "\n".join([f"Date,{header}", *(f"2017-06-01,{row}" for row in rows)])
    completed = command("prediction.py", "-", "--model", trained, stdin=dated.encode())
    assert completed.returncode == 0
    assert {line.split(b",")[0] for line in completed.stdout.splitlines()[1:]} == {b"2017-06-01"}
    assert len(probabilities(completed.stdout)) == 49
