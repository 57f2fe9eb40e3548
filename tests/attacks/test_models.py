"""Model directories that change while they are read, and paths that are no model directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincast.forecasting import model
from raincast.forecasting.model import ModelError
from raincast.training import bundle
from tests.conftest import ROOT, Command

# Replace a model by one with another threshold, over and over, as a training does.
REPLACE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from raincast.forecasting import model
from raincast.training import bundle
directory = Path(sys.argv[1])
single_row, graph = ((directory / name).read_bytes() for name in (model.SINGLE_ROW_GRAPH, model.GRAPH))
number = 0
while True:
    number += 1
    # The two models also differ in a graph.
    files = {{model.GRAPH: single_row if number % 2 else graph, model.SINGLE_ROW_GRAPH: single_row}}
    bundle.save(directory, {{"threshold": number % 2 / 2}}, files, lambda folder, description: None)
    print(number, flush=True)
"""


@pytest.fixture(name="replaced")
def fixture_replaced(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a model directory that another process replaces over and over."""
    directory = Path(shutil.copytree(trained, tmp_path / "model"))
    call = [sys.executable, "-c", REPLACE.format(root=str(ROOT)), str(directory)]
    with subprocess.Popen(call, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        yield directory
        assert process.poll() is None
        process.kill()


def test_a_model_loaded_while_it_is_replaced_is_wholly_one_or_the_other(
    replaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[bytes] = []
    # onnxruntime is not under test, and takes most of the time.
    monkeypatch.setattr(model, "session", graphs.append)
    seen = set()
    for _ in range(400):
        graphs.clear()
        loaded = model.load(replaced)
        assert model.sha256(graphs[0]) == loaded.description["files"][model.GRAPH]
        seen.add((loaded.threshold, len(graphs[0])))
    assert len(seen) == 2
    assert len({threshold for threshold, _ in seen}) == 2


def test_a_changed_file_is_refused_though_it_is_at_its_place(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "model"))
    (copy / model.GRAPH).write_bytes(b"changed")
    with pytest.raises(ModelError, match="the file was changed"):
        model.load(copy)
    (copy / model.GRAPH).unlink()
    with pytest.raises(ModelError, match=f"{copy}/model.onnx: there is no such file"):
        model.load(copy)


def test_no_descriptor_stays_open(trained: Path, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    model.load(trained)
    with pytest.raises(ModelError):
        model.load(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("kind", ["loop", "file", "missing", "nested"])
def test_a_path_without_a_model_is_one_line(kind: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "file":
        path.write_text("a file")
    elif kind == "nested":
        path.mkdir()
        (path / model.DESCRIPTION).write_text("[" * 100_000)
    for arguments in ((), ("serve", "--port", 0)):
        process = command("prediction.py", *arguments, "--model", path)
        stderr = process.stderr.decode()
        assert (process.returncode, process.stdout) == (1, b""), stderr
        assert stderr.startswith(f"prediction.py: {path}"), stderr
        assert stderr.count("\n") == 1


def test_a_model_saved_beside_a_backup_leaves_it(trained: Path, tmp_path: Path) -> None:
    directory, backup = tmp_path / "model", tmp_path / ".model.backup"
    other = tmp_path / ".ma.12345678.raincast"
    for path in (backup, other):
        shutil.copytree(trained, path)
        os.utime(path, (0, 0))
    content = {name: (trained / name).read_bytes() for name in (model.GRAPH, model.SINGLE_ROW_GRAPH)}
    for target in (directory, tmp_path / "m[ab]"):
        bundle.save(target, {"threshold": 0.5}, content, lambda folder, description: None)
        assert json.loads((target / model.DESCRIPTION).read_text())["threshold"] == 0.5
    assert model.describe(backup) == model.describe(other)
