"""`train.py` from a file to a model directory, as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from raincast import model, reading, report
from tests.conftest import ROOT, Command

QUICK = ("--iterations", "12")


@pytest.fixture(name="run", scope="module")
def fixture_run(
    command: Command, slice_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[bytes], Path, str]:
    """A tracked training on the slice: the finished process, the model directory, the tracking store."""
    folder = tmp_path_factory.mktemp("tracked")
    store = f"sqlite:///{folder}/runs.db"
    answer = command("train.py", "--data", slice_csv, "--out", folder / "model", *QUICK, MLFLOW_TRACKING_URI=store)
    assert answer.returncode == 0, answer.stderr.decode()
    return answer, folder / "model", store


def test_training_shows_its_progress_and_the_verification(run: tuple[Any, Path, str]) -> None:
    answer, directory, _ = run
    for stage in ("reading", "making features", "fitting 12 trees", "exporting", "verifying", "saving", "logging"):
        assert f"\n{stage}" in "\n" + answer.stderr.decode()
    table = answer.stdout.decode()
    assert table == (directory / "report" / "scores.txt").read_text()
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "forecast",
        "one row",
        "one row, as known at 3 pm",
        "climatology",
        "persistence",
    ]


def test_the_directory_describes_where_the_model_comes_from(run: tuple[Any, Path, str], slice_csv: Path) -> None:
    description = model.describe(run[1])
    assert description["data"] == slice_csv.name
    assert description["data_sha256"] == hashlib.sha256(slice_csv.read_bytes()).hexdigest()
    assert description["rows"] == 4800
    assert description["verification"]["rows"] == 1200
    assert description["config"]["iterations"] == 12
    assert description["versions"]["scikit-learn"]
    content = (run[1] / "model.json").read_text()
    assert str(slice_csv.parent) not in content
    assert str(ROOT) not in content


def test_the_report_is_complete_and_stands_alone(run: tuple[Any, Path, str]) -> None:
    folder = run[1] / "report"
    assert {path.name for path in folder.iterdir()} == {
        "importance.svg",
        "model-card.html",
        "model-card.md",
        "reliability.svg",
        "roc.svg",
        "scores.txt",
        "stations.svg",
    }
    html, card = (folder / "model-card.html").read_text(), (folder / "model-card.md").read_text()
    assert html.count('src="data:image/svg+xml;base64,') == 4
    assert 'src="http' not in html
    description = model.describe(run[1])
    for cell in report.score_table(description["verification"])[1]:
        assert cell in card
        assert cell in html
    assert len(description["importance"]) == 20
    assert max(description["importance"].values()) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # MLflow's own
def test_the_run_is_in_mlflow_with_both_models(run: tuple[Any, Path, str], slice_csv: Path) -> None:
    _, directory, store = run
    mlflow.set_tracking_uri(store)
    (logged,) = mlflow.search_runs(experiment_names=["raincast"], output_format="list")
    description = model.describe(directory)
    assert logged.data.params["iterations"] == "12"
    assert logged.data.params["data_sha256"] == description["data_sha256"]
    auc = description["verification"]["forms"]["one row"]["roc_auc"]
    assert logged.data.metrics["one_row.roc_auc"] == auc
    assert logged.data.metrics["climatology.brier_skill_score"] == 0
    artifacts = {item.path for item in mlflow.artifacts.list_artifacts(run_id=logged.info.run_id)}
    assert {"report", "model.json"} <= artifacts
    models = {m.name: m for m in mlflow.search_logged_models([logged.info.experiment_id], output_format="list")}
    assert set(models) == {"pipeline", "graph"}

    frame = pd.read_csv(slice_csv, nrows=50).drop(columns="RainTomorrow")
    table = reading.read(slice_csv)
    matrix = model.features.build({name: values[:50] for name, values in table.items()})
    expected = model.load(directory).probability_of_rain(matrix)
    pipeline = mlflow.pyfunc.load_model(models["pipeline"].model_uri)
    assert not pipeline.metadata.signature.inputs.input_dict()["Humidity3pm"].required
    assert pipeline.metadata.saved_input_example_info is not None
    np.testing.assert_allclose(pipeline.predict(frame)[:, 1], expected, atol=1e-9)
    graph = mlflow.pyfunc.load_model(models["graph"].model_uri)
    np.testing.assert_allclose(graph.predict({"features": matrix})["probability_of_rain"], expected, atol=1e-12)


def test_the_same_training_gives_the_same_graph_byte_for_byte(
    run: tuple[Any, Path, str], command: Command, slice_csv: Path, tmp_path: Path
) -> None:
    for number, env in enumerate(({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "4"})):
        out = tmp_path / str(number)
        answer = command("train.py", "--data", slice_csv, "--out", out, *QUICK, "--no-tracking", **env)
        assert answer.returncode == 0, answer.stderr.decode()
        assert (out / "model.onnx").read_bytes() == (run[1] / "model.onnx").read_bytes()


def test_settings_come_from_the_environment(command: Command, slice_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    env = {"RAINCAST_DATA": str(slice_csv), "RAINCAST_OUT": str(out), "RAINCAST_DATA_SHA256": "0" * 64}
    answer = command("train.py", "--no-tracking", **env)
    assert answer.returncode == 2
    assert f"{slice_csv}: its SHA-256 is " in answer.stderr.decode()
    assert not out.exists()


def test_a_tracking_server_that_is_away_costs_the_log_not_the_model(
    command: Command, slice_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    answer = command("train.py", "--data", slice_csv, "--out", out, *QUICK, **env)
    assert answer.returncode == 1
    assert f"the model is saved in {out}, but not logged to http://127.0.0.1:9" in answer.stderr.decode()
    assert "Traceback" not in answer.stderr.decode()
    assert model.load(out).threshold > 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_stopped_in_the_middle_leaves_the_old_model(
    stop: signal.Signals, slice_csv: Path, trained: Path, tmp_path: Path
) -> None:
    old = tmp_path / "model"
    old.symlink_to(trained, target_is_directory=True)
    before = json.loads((old / "model.json").read_text())
    call = [sys.executable, ROOT / "train.py", "--data", slice_csv, "--out", old, "--no-tracking"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"fitting"):
            assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(stop)
        rest = process.stderr.read()
    assert process.returncode != 0
    assert b"Traceback" not in rest
    assert json.loads((old / "model.json").read_text()) == before
    assert sorted(os.listdir(tmp_path)) == ["model"]
