"""`prediction.py` with large files: invalid files, full disks, signals, standard input and the progress bar."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import prediction
from raincast import cli
from raincast.observations import reading
from tests.conftest import ROOT, Command, small_disk
from tests.integration.test_bad_input import BAD, HEADER, assert_refused, with_rows

# More rows than are read into memory.
ROWS = 40_000
# Runs `prediction.py` after some preparation.
DRIVER = """
import os, signal, sys, tempfile, threading, time
sys.path.insert(0, {root!r})
import prediction
from raincast import cli
from raincast.batch import forecast_files, staging
from raincast.forecasting import writing
from raincast.observations import reading
{prepare}
sys.argv = ["prediction.py", *sys.argv[1:]]
cli.main(lambda: prediction.predict(prediction.arguments()))
"""
# Write the first block, report it, wait to be stopped.
STOP_WHILE_WRITING = """
reading.SMALL_BYTES, forecast_files.READ_BLOCK_ROWS = 0, 10
csv_lines, written = writing._csv_lines, []
def slowly(forecasts):
    if written:
        print("writing", flush=True)
        time.sleep(60)
    written.append(forecasts)
    return csv_lines(forecasts)
writing._csv_lines = slowly
"""
# Interrupt duckdb during a query.
STOP_WHILE_SORTING = """
reading.SMALL_BYTES = 0
def sort(staged):
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    for _ in range(1000):
        staged.database.execute("SELECT count(*) FROM range(30000000) WHERE hash(range) = 1").fetchall()
staging.Staged.sort = sort
"""
# A container whose folders are all read-only.
NOWHERE_TO_WRITE = 'tempfile.tempdir = "/nowhere/at/all"'


def days(rows: int) -> str:
    """Return this many valid rows for the header of the invalid files, of ten stations day by day."""
    names = ("Perth", "Sydney", "Darwin", "Hobart", "Cairns", "Cobar", "Moree", "Nuriootpa", "Sale", "Woomera")
    first = datetime.date(1950, 1, 1)
    return "".join(
        f"{first + datetime.timedelta(row // len(names))},{names[row % len(names)]},{row % 90 / 10},{row % 97},SSW\n"
        for row in range(rows)
    )


GOOD = days(ROWS)


@pytest.fixture(name="large", scope="module")
def fixture_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a valid CSV file that is too large to be read into memory."""
    path = tmp_path_factory.mktemp("large") / "large.csv"
    path.write_text(HEADER + GOOD)
    assert path.stat().st_size > reading.SMALL_BYTES
    return path


def driven(prepare: str, *arguments: Any, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process with `prediction.py` after some preparation."""
    call = [sys.executable, "-c", DRIVER.format(root=str(ROOT), prepare=prepare), *map(str, arguments)]
    return subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def _larger(case: str) -> tuple[bytes, str]:
    """Return an invalid file with many valid rows before the invalid part, and its message."""
    content, message = BAD[case]
    good = (HEADER + GOOD).encode()
    if content.startswith(HEADER.encode()):
        message = re.sub(r"\b(row|line) (\d+)", lambda match: f"{match[1]} {int(match[2]) + ROWS}", message)
        return (good if case != "only a header" else HEADER.encode() + b"\n" * 1_100_000) + content[
            len(HEADER) :
        ], message
    noise = np.random.default_rng(1).bytes(200_000)
    return {
        "binary": (content * 120, message),
        "truncated gzip": (gzip.compress(good)[:-20], message),
        "damaged gzip": (gzip.compress(good)[:10] + b"\xff" + noise, message),
        "wrong delimiter": (good.replace(b",", b";"), message),
        "tabs": (good.replace(b",", b"\t"), message),
        "no Location": (content + b"2017-01-01,3\n" * 100_000, message),
        "no measurement": (content + b"2017-01-01,Albury\n" * 60_000, message),
        "a column twice": (content + b"Albury,1,2\n" * 100_000, message),
        "Latin-1": (
            good + with_rows("2017-01-01,Orléans,0,45,N").decode().encode("latin-1")[len(HEADER) :],
            f"line {ROWS + 2} is not UTF-8: byte 0xe9",
        ),
        "UTF-16": (good.decode().encode("utf-16"), message),
        "broken JSON": (json.dumps([{"Location": "Albury", "Rainfall": 1}] * 30_000).encode()[:-1], message),
        "broken Parquet": (b"PAR1" + bytes(1_100_000) + b"PAR1", message),
    }[case]


@pytest.mark.parametrize("case", [case for case in BAD if case != "empty"])
def test_a_large_bad_file_is_refused_with_the_reason_and_row_of_a_small_one(
    case: str, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content, message = _larger(case)
    bad, out = tmp_path / "bad.csv", tmp_path / "out.csv"
    bad.write_bytes(content)
    # Reading ends at the damage, before the file proves to be large.
    assert not reading.is_small(bad) or case == "damaged gzip"
    monkeypatch.setattr(sys, "argv", ["prediction.py", str(bad), "-o", str(out), "--model", str(trained)])
    assert cli.run(lambda: prediction.predict(prediction.arguments())) == 2
    stdout, stderr = capfd.readouterr()
    assert re.fullmatch(f"prediction.py: {bad}: .*{message}.*\n", stderr), stderr
    assert (stdout, out.exists()) == ("", False)


def test_a_large_invalid_file_is_refused_by_the_command(command: Command, tmp_path: Path, trained: Path) -> None:
    content, message = _larger("150 % humidity")
    bad, out = tmp_path / "bad.csv", tmp_path / "out.csv"
    bad.write_bytes(content)
    out.write_text("old")
    assert_refused(command("prediction.py", bad, "-o", out, "--model", trained), f"^prediction.py: {bad}: {message}")
    assert out.read_text() == "old"


@pytest.mark.parametrize("end", [b"", b"\n", b"\n2017-01-01,Albury,0,45,N\n"])
def test_a_very_long_last_line_is_refused(
    end: bytes, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.csv"
    with bad.open("wb") as file:
        file.write((HEADER + days(10)).encode())
        file.writelines([b"1" * 1_000_000] * 50)
        file.write(end)
    monkeypatch.setattr(sys, "argv", ["prediction.py", str(bad), "--model", str(trained)])
    assert cli.run(lambda: prediction.predict(prediction.arguments())) == 2
    assert capfd.readouterr().err == (
        f"prediction.py: {bad}: line 12 is longer than 65536 bytes, the limit of a line\n"
    )


def test_a_path_that_is_not_a_file_is_refused(command: Command, tmp_path: Path, trained: Path, large: Path) -> None:
    inside = large / "x.csv"
    completed = command("prediction.py", inside, "--shard", "0/2", "--model", trained)
    assert_refused(completed, f"^prediction.py: {inside}: cannot be read: Not a directory")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    completed = command("prediction.py", tmp_path / "round", "--shard", "0/2", "--model", trained)
    assert_refused(completed, f"^prediction.py: {tmp_path}/round: cannot be read: Too many levels of symbolic links")


def test_an_impossible_output_is_refused(command: Command, tmp_path: Path, trained: Path, large: Path) -> None:
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    completed = command("prediction.py", large, "-o", folder, "--model", trained)
    assert_refused(completed, f"^prediction.py: {folder}: is a folder, not a file")
    completed = command("prediction.py", large, "-o", large / "out.csv", "--model", trained)
    assert_refused(completed, f"^prediction.py: {large}/out.csv: there is no such folder")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_full_disk_leaves_the_old_output(
    suffix: str, command: Command, tmp_path: Path, trained: Path, large: Path
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        out = disk / f"out.{suffix}"
        out.write_text("old")
        completed = command("prediction.py", large, "-o", out, "--model", trained)
        assert completed.stderr.decode() == f"prediction.py: {out}: No space left on device\n"
        assert completed.returncode == 1
        assert [(file.name, file.read_text()) for file in disk.iterdir()] == [(out.name, "old")]


@pytest.mark.parametrize(
    ("kind", "size"),
    [("csv", "64k"), ("csv", "1m"), ("parquet", "1m"), ("jsonl", "1m"), ("stdin", "64k"), ("stdin", "3m")],
)
def test_a_full_temporary_folder_is_reported(
    kind: str, size: str, command: Command, tmp_path: Path, trained: Path
) -> None:
    # Distinct numbers, which do not compress.
    pairs = np.random.default_rng(1).uniform(0, 50, (60_000, 2)).tolist()
    path, out = tmp_path / "in", tmp_path / "out.csv"
    path.write_text("Location,Rainfall,MaxTemp\n" + "".join(f"Perth,{a},{b}\n" for a, b in pairs))
    if kind == "parquet":
        numbers = "SELECT 'Perth' AS Location, 100 * random() AS Rainfall, 50 * random() AS MaxTemp FROM range(300000)"
        duckdb.sql(f"COPY ({numbers}) TO '{path}' (FORMAT parquet)")
    elif kind == "jsonl":
        path.write_text("".join(f'{{"Location":"Perth","Rainfall":{a},"MaxTemp":{b}}}\n' for a, b in pairs))
    out.write_text("old")
    arguments = ("-", "-o", out) if kind == "stdin" else (path, "-o", out)
    with small_disk(tmp_path / "disk", size) as disk:
        stdin = path.read_bytes() if kind == "stdin" else None
        completed = command("prediction.py", *arguments, "--model", trained, stdin=stdin, TMPDIR=str(disk))
        assert completed.returncode == 1, completed.stderr.decode()
        assert completed.stderr.count(b"\n") == 1, completed.stderr.decode()
        assert re.match(f"prediction.py: .*({disk}|TMPDIR)", completed.stderr.decode()), completed.stderr.decode()
        assert not list(disk.glob("raincast-*"))
    assert out.read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_writing_leaves_the_old_output(number: signal.Signals, tmp_path: Path, trained: Path) -> None:
    temporary, results = tmp_path / "tmp", tmp_path / "results"
    temporary.mkdir()
    results.mkdir()
    out, path = results / "out.csv", tmp_path / "in.csv"
    out.write_text("old")
    path.write_text(HEADER + days(100))
    environment = os.environ | {"TMPDIR": str(temporary)}
    with driven(STOP_WHILE_WRITING, path, "-o", out, "--model", trained, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"writing\n"
        assert len(list(results.iterdir())) == 2
        process.send_signal(number)
        stderr = process.stderr.read()
    assert out.read_text() == "old"
    others = [file for file in results.iterdir() if file != out]
    assert all(file.name.startswith(".out.csv.") for file in others)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        interrupted = 130, b"prediction.py: interrupted\n"
        assert (process.returncode, stderr) == (interrupted if number == signal.SIGINT else (143, b""))
        assert not others
        assert not list(temporary.glob("raincast-*"))


def test_ctrl_c_while_duckdb_works_is_an_interruption(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(HEADER + days(100))
    with driven(STOP_WHILE_SORTING, path, "--model", trained, env=os.environ | {"TMPDIR": str(tmp_path)}) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr.decode()) == (130, b"", "prediction.py: interrupted\n")
    assert not list(tmp_path.glob("raincast-*"))


@pytest.mark.parametrize("packed", [False, True])
def test_large_standard_input_is_forecast_like_the_file(
    packed: bool, command: Command, large: Path, trained: Path, tmp_path: Path
) -> None:
    content = large.read_bytes()
    sent = gzip.compress(content) if packed else content
    assert len(sent) > reading.SMALL_BYTES // (10 if packed else 1)
    completed = command("prediction.py", "-", "--model", trained, stdin=sent, TMPDIR=str(tmp_path))
    assert (completed.returncode, completed.stderr) == (0, b"")
    lines = completed.stdout.decode().splitlines()
    assert len(lines) == ROWS + 1
    assert [line.split(",")[:2] for line in lines[1:]] == [line.split(",")[:2] for line in GOOD.splitlines()]
    assert not list(tmp_path.glob("raincast-*"))
    if not packed:
        assert completed.stdout == command("prediction.py", large, "--format", "csv", "--model", trained).stdout


def test_an_invalid_row_of_large_standard_input_is_named(command: Command, trained: Path) -> None:
    content, message = _larger("150 % humidity")
    completed = command("prediction.py", "-", "--model", trained, stdin=content)
    assert_refused(completed, f"^prediction.py: standard input: {message}")


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_shard_of_small_standard_input_is_forecast(name: str, command: Command, trained: Path) -> None:
    call = ("prediction.py", name, "--format", "csv", "--shard")
    parts = [command(*call, f"{i}/2", "--model", trained, stdin=(HEADER + days(10)).encode()) for i in range(2)]
    assert [part.returncode for part in parts] == [0, 0], parts[0].stderr.decode()
    assert sum(len(part.stdout.splitlines()) - 1 for part in parts) == 10


def test_small_standard_input_needs_no_temporary_folder(trained: Path) -> None:
    with driven(NOWHERE_TO_WRITE, "-", "--model", trained) as process:
        stdout, stderr = process.communicate((HEADER + days(10)).encode(), timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.count(b"\n") == 11


def test_a_large_input_without_a_temporary_folder_is_reported(trained: Path, large: Path) -> None:
    with driven(NOWHERE_TO_WRITE, large, "--model", trained) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, b"")
    assert re.fullmatch("prediction.py: .*/nowhere/at/all.*: No such file or directory\n", stderr.decode())


def test_a_terminal_shows_a_progress_bar_with_rows_per_second(large: Path, trained: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 200))
    call = [sys.executable, ROOT / "prediction.py", large, "-o", tmp_path / "out.csv", "--model", trained]
    shown = io.BytesIO()
    with subprocess.Popen(list(map(str, call)), stderr=terminal, stdout=subprocess.PIPE) as process:
        os.close(terminal)
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while part := os.read(controller, 1000):
                shown.write(part)
        os.close(controller)
    assert process.returncode == 0
    text = shown.getvalue().decode()
    for stage in (f"reading {large}", "sorting", "forecasting", "writing"):
        assert stage in text
    assert re.search(r"forecasting: +\d+%.*\d[kM]? ?rows?/s", text), text
    assert text.split("\r")[-1].strip() == "", "the bar remains at the end"


def test_without_a_terminal_only_forecasts_are_written(command: Command, large: Path, trained: Path) -> None:
    completed = command("prediction.py", large, "--model", trained)
    assert (completed.returncode, completed.stderr) == (0, b"")
    assert completed.stdout.count(b"\n") == ROWS + 1


def test_a_closed_pipe_of_a_large_output_gives_no_error_message(large: Path, trained: Path) -> None:
    call = f"'{sys.executable}' '{ROOT / 'prediction.py'}' '{large}' --model '{trained}' | head -n 1"
    completed = subprocess.run(call, shell=True, capture_output=True, check=True)
    assert completed.stdout.startswith(b"Date")
    assert completed.stderr == b""
