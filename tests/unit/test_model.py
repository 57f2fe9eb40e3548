"""The model directory: saved atomically, loaded only if unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raincast import __version__
from raincast.atomic import TargetError
from raincast.features.build import feature_names
from raincast.forecasting import model
from raincast.forecasting.model import ModelError
from raincast.observations import stations
from raincast.training import bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="copy")
def fixture_copy(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained model directory that tests may change."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def _no_report(_folder: Path, _description: dict[str, Any]) -> None:
    pass


def _change_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_loaded_model_forecasts_probabilities(trained: Path) -> None:
    loaded = model.load(trained)
    fcst = loaded.probability_of_rain(np.full((3, len(feature_names())), np.nan))
    assert fcst.shape == (3,)
    assert ((fcst > 0) & (fcst < 1)).all()
    assert 0 < loaded.threshold < 1
    assert loaded.version.startswith(f"{__version__}+")


@pytest.mark.parametrize("name", [model.GRAPH, model.SINGLE_ROW_GRAPH, model.DESCRIPTION])
def test_a_file_changed_by_one_byte_is_refused(name: str, copy: Path) -> None:
    _change_one_byte(copy / name)
    with pytest.raises(ModelError, match=rf"{name}: (SHA-256 differs|not a model description)"):
        model.load(copy)


@pytest.mark.parametrize("name", [model.GRAPH, model.SINGLE_ROW_GRAPH, model.DESCRIPTION])
def test_a_missing_file_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: there is no such file"):
        model.load(copy)


def test_the_files_of_the_serving_image_are_enough(copy: Path) -> None:
    (copy / model.PIPELINE).unlink()
    shutil.rmtree(copy / model.REPORT)
    assert model.load(copy).version == model.describe(copy)["version"]


def test_an_old_model_without_a_single_row_graph_is_refused(trained: Path, tmp_path: Path) -> None:
    files = {name: (trained / name).read_bytes() for name in (model.GRAPH, model.PIPELINE)}
    bundle.save(tmp_path / "model", {"threshold": 0.4}, files, _no_report)
    with pytest.raises(ModelError, match=model.SINGLE_ROW_GRAPH):
        model.load(tmp_path / "model")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1}', "not json"])
def test_an_invalid_description_is_refused(content: str, copy: Path) -> None:
    (copy / model.DESCRIPTION).write_text(content)
    with pytest.raises(
        ModelError, match=r"model\.json: (not a model description|SHA-256 differs from the one it records)"
    ):
        model.load(copy)


def test_a_changed_threshold_is_refused(copy: Path) -> None:
    path = copy / model.DESCRIPTION
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"threshold": 0.01}))
    with pytest.raises(ModelError, match="SHA-256 differs from the one it records"):
        model.load(copy)


def test_a_model_of_other_features_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "feature_names", lambda: ("something", "else"))
    with pytest.raises(ModelError, match="other features than this version"):
        model.load(trained)


def test_a_model_of_other_stations_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "stations.csv"
    other.write_text("Location,latitude,longitude,elevation_m\nAlbury,-36,147,163\n")
    monkeypatch.setattr(stations, "PATH", other)
    with pytest.raises(ModelError, match=r"stations\.csv has changed since the training"):
        model.load(trained)


def test_a_saved_directory_can_be_loaded_with_its_description(trained: Path, tmp_path: Path) -> None:
    files = {name: (trained / name).read_bytes() for name in (model.GRAPH, model.SINGLE_ROW_GRAPH, model.PIPELINE)}
    target = tmp_path / "deep" / "model"
    bundle.save(target, {"threshold": 0.4, "scores": {"skill": float("nan")}}, files, _no_report)
    loaded = model.load(target)
    assert loaded.threshold == 0.4
    assert loaded.description["scores"] == {"skill": None}
    names = sorted(path.name for path in target.iterdir())
    assert names == ["model-row.onnx", "model.joblib", "model.json", "model.onnx", "report"]


def test_the_time_of_the_training_is_in_the_description_or_an_error(trained: Path) -> None:
    loaded = model.load(trained)
    description = loaded.description | {"trained": "1970-01-02T00:00:01Z"}
    assert replace(loaded, description=description).trained == 86_401
    del description["trained"]
    with pytest.raises(model.ModelError, match="does not say when it was trained; train again"):
        _ = replace(loaded, description=description).trained


def test_saving_replaces_the_old_model_and_leaves_no_temporary_folder(copy: Path) -> None:
    before = model.load(copy)
    files = {name: (copy / name).read_bytes() for name in (model.GRAPH, model.SINGLE_ROW_GRAPH)}
    bundle.save(copy, {"threshold": 0.123}, files, _no_report)
    assert model.load(copy).threshold == 0.123 != before.threshold
    assert os.listdir(copy.parent) == ["model"]


def test_a_failure_while_saving_leaves_the_old_model_and_no_temporary_folder(copy: Path) -> None:
    before = model.describe(copy)

    def fails(_folder: Path, _description: dict[str, Any]) -> None:
        raise RuntimeError("no plots today")

    with pytest.raises(RuntimeError, match="no plots today"):
        bundle.save(copy, {"threshold": 0.1}, {model.GRAPH: b"new"}, fails)
    assert model.describe(copy) == before
    assert os.listdir(copy.parent) == ["model"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("precious")
    with pytest.raises(TargetError, match=f"{other}: holds other things than a model"):
        bundle.save(other, {}, {model.GRAPH: b""}, _no_report)
    assert (other / "chapter1.txt").read_text() == "precious"


def test_a_model_directory_with_other_files_is_not_replaced(copy: Path) -> None:
    (copy / "notes.txt").write_text("precious")
    with pytest.raises(TargetError, match="holds other things than a model"):
        bundle.check_target(copy)


def test_a_model_is_not_saved_in_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(TargetError, match=f"{path}: no model can be saved there: Not a directory"):
        bundle.check_target(path)
    with pytest.raises(TargetError, match="no model can be saved there"):
        bundle.check_target(Path("/proc/model"))


def test_a_model_may_be_saved_in_an_empty_or_new_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bundle.check_target(tmp_path / "empty")
    bundle.check_target(tmp_path / "new")
    assert os.listdir(tmp_path) == ["empty"]


def test_folders_of_killed_trainings_are_removed_but_not_those_of_running_ones(copy: Path) -> None:
    stale, young = copy.parent / ".model.stale_00.raincast", copy.parent / ".model.young_00.raincast"
    stale.mkdir()
    young.mkdir()
    os.utime(stale, (0, 0))
    bundle.save(copy, {"threshold": 0.5}, {model.GRAPH: (copy / model.GRAPH).read_bytes()}, _no_report)
    assert sorted(os.listdir(copy.parent)) == [".model.young_00.raincast", "model"]


SAVE_FOREVER = """
import sys
from pathlib import Path
from raincast.forecasting import model
from raincast.training import bundle
directory = Path(sys.argv[1])
files = {name: (directory / name).read_bytes() for name in (model.GRAPH, model.SINGLE_ROW_GRAPH, model.PIPELINE)}
print("saving", flush=True)
number = 0
while True:
    number += 1
    bundle.save(directory, {"threshold": number / 1e6}, files, lambda folder, description: None)
"""


def test_a_kill_at_any_moment_leaves_a_usable_model(copy: Path) -> None:
    call = [sys.executable, "-c", SAVE_FOREVER, str(copy)]
    for milliseconds in range(10, 130, 12):
        with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"saving\n"
            time.sleep(milliseconds / 1000)
            process.kill()
        assert model.load(copy).threshold > 0
