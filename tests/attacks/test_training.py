"""Training on full disks, with little memory and onto impossible paths: one line, and the old model stays."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raincast import cli
from raincast.forecasting import model
from tests.conftest import ROOT, Command

# A limited process: `train.py` with the resource limit given by its first two arguments.
LIMITED = """
import resource, runpy, sys
sys.path.insert(0, {root!r})
_, name, limit, *arguments = sys.argv
import numpy, onnx, onnxruntime, pandas, sklearn.ensemble
resource.setrlimit(getattr(resource, name), (int(limit), resource.RLIM_INFINITY))
sys.argv = ["train.py", *arguments]
runpy.run_path({script!r}, run_name="__main__")
"""


def limited(name: str, limit: int, *arguments: Any, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Train with a resource limit."""
    script = LIMITED.format(root=str(ROOT), script=str(ROOT / "train.py"))
    call = [sys.executable, "-c", script, name, limit, *arguments, "--iterations", 2, "--no-tracking"]
    return subprocess.run(list(map(str, call)), cwd=folder, capture_output=True, check=False)


def test_a_full_disk_while_a_model_is_saved_leaves_the_old_one(slice_csv: Path, trained: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "model"))
    before = model.describe(out)
    process = limited("RLIMIT_FSIZE", 4_096, "--data", slice_csv, "--out", out, folder=tmp_path)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 1, lines
    assert lines[-1] == f"train.py: {out}: File too large"
    assert not any("Traceback" in line for line in lines)
    assert model.describe(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_loop_of_links_is_one_line(command: Command, slice_csv: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for data, out in ((slice_csv, loop), (loop, tmp_path / "model")):
        process = command("train.py", "--data", data, "--out", out, "--no-tracking")
        stderr = process.stderr.decode()
        assert process.returncode == 2, stderr
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1].startswith(f"train.py: {loop}: ")
        assert stderr.endswith("Too many levels of symbolic links\n")


def test_an_output_that_is_a_loop_of_links_is_one_line(command: Command, trained: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    process = command("prediction.py", "-o", loop, "--model", trained)
    assert process.returncode == 2
    assert process.stderr.decode() == f"prediction.py: {loop}: cannot be written: a loop of links\n"
    assert loop.is_symlink()


@pytest.mark.parametrize("script", ["prediction.py", "train.py"])
def test_a_full_standard_output_is_one_line(script: str, slice_csv: Path, trained: Path, tmp_path: Path) -> None:
    arguments = {
        "prediction.py": ("--model", trained),
        "train.py": ("--data", slice_csv, "--out", tmp_path / "model", "--iterations", 2, "--no-tracking"),
    }[script]
    with open("/dev/full", "wb") as full:
        call = [sys.executable, ROOT / script, *arguments]
        process = subprocess.run(list(map(str, call)), stdout=full, stderr=subprocess.PIPE, check=False)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 1, lines
    assert lines[-1] == f"{script}: No space left on device"
    assert not any("Traceback" in line or "Exception" in line for line in lines)


def _nest(depth: int) -> int:
    return _nest(depth + 1)


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (lambda: bytearray(1 << 60), "out of memory"),
        (lambda: _nest(0), "the input is nested too deeply"),
    ],
)
def test_an_exhausted_process_says_so_in_one_line(
    action: Any, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert cli.run(action) == 1
    assert capsys.readouterr().err == f"train.py: {line}\n"


def test_a_training_with_little_memory_is_one_line(slice_csv: Path, tmp_path: Path) -> None:
    # Between what the imports take and what the training does.
    large = tmp_path / "large.csv"
    header, *rows = slice_csv.read_text().splitlines()
    large.write_text("\n".join([header, *rows * 30]) + "\n")
    process = limited("RLIMIT_DATA", 400_000_000, "--data", large, "--out", tmp_path / "model", folder=tmp_path)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 1, lines
    assert lines[-1] == "train.py: out of memory"
    assert not any("Traceback" in line for line in lines)
