"""Signals at any moment of a command: exit codes by contract, no traceback, no temporary file, old or new output."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raincast.forecasting import model
from tests.conftest import ROOT
from tests.integration.serving import environment, eventually, spawned, started
from tests.integration.test_bad_input import HEADER
from tests.integration.test_forecast_files_commands import days

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Before our first line runs, the kernel ends the process, or Python's own handler of SIGINT.
START = 0.06


def started_command(folder: Path, call: list[object]) -> subprocess.Popen[bytes]:
    """Start a command in a folder, whose `tmp` is its TMPDIR."""
    (folder / "tmp").mkdir(exist_ok=True)
    env = environment(TMPDIR=str(folder / "tmp"), MPLCONFIGDIR=str(folder / "matplotlib"))
    command = [sys.executable, *map(str, call)]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stopped(folder: Path, call: list[object], number: signal.Signals, delay: float, again: float = 0.0) -> int:
    """Send a signal after a delay, and perhaps again; return the exit code. Assert what holds after every signal."""
    with started_command(folder, call) as process:
        time.sleep(delay)
        process.send_signal(number)
        if again:
            time.sleep(again)
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    early = delay <= START
    allowed = {0, 128 + number} | ({-number, 1} if early else set())
    assert process.returncode in allowed, (number, delay, stderr.decode())
    if not early:
        assert b"Traceback" not in stderr and b"Exception ignored" not in stderr, (number, delay, stderr.decode())
        assert not os.listdir(folder / "tmp"), (number, delay)
        assert not list(folder.rglob("*.raincast")), (number, delay)
    return process.returncode


def duration(folder: Path, call: list[object]) -> float:
    """Return the time that a command takes."""
    start = time.monotonic()
    with started_command(folder, call) as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr.decode()
    return time.monotonic() - start


@pytest.mark.parametrize(("rows", "suffix", "tries"), [(50, "csv", 20), (60_000, "parquet", 12)])
def test_a_forecast_ends_by_contract_after_a_signal_at_any_moment(
    rows: int, suffix: str, tries: int, tmp_path: Path, trained: Path
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    source.write_text(HEADER + days(rows) + "2030-01-01,Perth,1.23456789,50,N\n" * (rows < 100))
    call = [ROOT / "prediction.py", source, "-o", out, "--model", trained]
    whole = duration(tmp_path, call)
    new = out.read_bytes()
    codes = set()
    for attempt in range(tries):
        out.write_bytes(b"old")
        number = STOPS[attempt % len(STOPS)]
        code = stopped(tmp_path, call, number, whole * attempt / tries, again=0.005 * (attempt % 2))
        assert out.read_bytes() == (new if code == 0 else b"old") or (code == 128 + number and out.read_bytes() == new)
        codes.add(code)
    assert codes & {129, 130, 143}


def test_a_training_ends_by_contract_after_a_signal_at_any_moment(tmp_path: Path, slice_csv: Path) -> None:
    call = [ROOT / "train.py", "--data", slice_csv, "--out", tmp_path / "model", "--iterations", "2"]
    whole = duration(tmp_path, call)
    for attempt in range(5):
        number = STOPS[attempt % len(STOPS)]
        stopped(tmp_path, call, number, whole * (attempt + 0.5) / 5, again=0.01 * (attempt % 2))
        assert model.load(tmp_path / "model").threshold > 0


def test_a_service_drains_or_ends_by_contract_at_any_moment(tmp_path: Path, trained: Path) -> None:
    for attempt in range(9):
        number = STOPS[attempt % len(STOPS)]
        with spawned(tmp_path, "--port", 0, "--drain-seconds", 0, "--model", trained) as process:
            time.sleep(START + 0.04 * attempt)
            process.send_signal(number)
            code = process.wait(60)
        stderr = (tmp_path / "stderr").read_text()
        assert code in (0, 128 + number), (attempt, stderr)
        assert "Traceback" not in stderr


def test_a_service_drains_on_sighup_unless_nohup_ignores_it(tmp_path: Path, trained: Path) -> None:
    with started(tmp_path / "drained", "--model", trained) as server:
        assert server.stop(signal.SIGHUP) == 0
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with started(tmp_path / "nohup", "--model", trained) as server:
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            assert server.ask("GET", "/readyz").status == 200
            assert server.stop(signal.SIGTERM) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_under_nohup_goes_on_after_sighup(tmp_path: Path, trained: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(HEADER + days(60_000))
    call = [ROOT / "prediction.py", source, "-o", tmp_path / "out.csv", "--model", trained]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with started_command(tmp_path, call) as process:
            eventually(lambda: os.listdir(tmp_path / "tmp") or process.poll() is not None)
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 0


def test_a_later_run_removes_what_a_kill_has_left_beside_the_output(tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "out.csv"
    left, other = tmp_path / ".out.csv.abcdefgh.raincast", tmp_path / ".out.csv.backup"
    for path in (left, other):
        path.write_text("half")
        os.utime(path, (0, 0))
    assert duration(tmp_path, [ROOT / "prediction.py", "-o", out, "--model", trained]) > 0
    assert sorted(path.name for path in tmp_path.glob(".out*")) == [other.name]


@pytest.mark.parametrize(("limit", "code"), [(163, 1), (164, 0)])
def test_a_service_with_too_few_files_does_not_start(limit: int, code: int, tmp_path: Path, trained: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = f"""ulimit -n {limit} && exec "$0" "$@" """
    call = ["bash", "-c", script, sys.executable, ROOT / "prediction.py", "serve", "--port", 0, "--model", trained]
    assert hard >= limit
    with subprocess.Popen(list(map(str, call)), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        if code == 0:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == code, line
    if code:
        assert "the limit of open files is 163, at least 164 are needed" in line
