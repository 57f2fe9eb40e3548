"""`train.py` from a file to a model directory, as a user runs it."""

from __future__ import annotations

import hashlib
import io
import shutil
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

from raincast.features.build import build_features
from raincast.forecasting import model
from raincast.observations import reading
from raincast.training import model_card
from tests.conftest import ROOT, Command

FEW_TREES = ("--iterations", "12")


@pytest.fixture(name="run", scope="module")
def fixture_run(
    command: Command, slice_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[bytes], Path, str]:
    """Train on the slice with tracking. Return the finished process, the model directory and the tracking store."""
    folder = tmp_path_factory.mktemp("tracked")
    store = f"sqlite:///{folder}/runs.db"
    process = command("train.py", "--data", slice_csv, "--out", folder / "model", *FEW_TREES, MLFLOW_TRACKING_URI=store)
    assert process.returncode == 0, process.stderr.decode()
    return process, folder / "model", store


def test_training_prints_its_stages_and_the_scores(run: tuple[Any, Path, str]) -> None:
    process, directory, _ = run
    for stage in ("reading", "computing features", "fitting 12 trees", "exporting", "verifying", "saving", "logging"):
        assert f"\n{stage}" in "\n" + process.stderr.decode()
    table = process.stdout.decode()
    assert table == (directory / "report" / "scores.txt").read_text()
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "forecast",
        "single row",
        "single row, as known at 3 pm",
        "climatology",
        "persistence",
    ]


def test_the_description_records_the_origin_of_the_model(run: tuple[Any, Path, str], slice_csv: Path) -> None:
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


def test_the_report_is_complete_and_self_contained(run: tuple[Any, Path, str]) -> None:
    folder = run[1] / "report"
    assert {path.name for path in folder.iterdir()} == {
        "importance.svg",
        "metrics.txt",
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
    for cell in model_card.score_table(description["verification"])[1]:
        assert cell in card
        assert cell in html
    assert len(description["importance"]) == 20
    assert max(description["importance"].values()) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # from MLflow
def test_the_run_is_logged_to_mlflow_with_both_models(run: tuple[Any, Path, str], slice_csv: Path) -> None:
    _, directory, store = run
    mlflow.set_tracking_uri(store)
    (logged,) = mlflow.search_runs(experiment_names=["raincast"], output_format="list")
    description = model.describe(directory)
    assert logged.data.params["iterations"] == "12"
    assert logged.data.params["data_sha256"] == description["data_sha256"]
    auc = description["verification"]["forms"]["single row"]["roc_auc"]
    assert logged.data.metrics["single_row.roc_auc"] == auc
    assert logged.data.metrics["climatology.brier_skill_score"] == 0
    artifacts = {item.path for item in mlflow.artifacts.list_artifacts(run_id=logged.info.run_id)}
    assert {"report", "model.json"} <= artifacts
    models = {m.name: m for m in mlflow.search_logged_models([logged.info.experiment_id], output_format="list")}
    assert set(models) == {"pipeline", "graph"}

    frame = pd.read_csv(slice_csv, nrows=50).drop(columns="RainTomorrow")
    table = reading.read(slice_csv)
    matrix = build_features({name: values[:50] for name, values in table.items()})
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
        process = command("train.py", "--data", slice_csv, "--out", out, *FEW_TREES, "--no-tracking", **env)
        assert process.returncode == 0, process.stderr.decode()
        assert (out / "model.onnx").read_bytes() == (run[1] / "model.onnx").read_bytes()


def test_settings_come_from_the_environment(command: Command, slice_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    env = {"RAINCAST_DATA": str(slice_csv), "RAINCAST_OUT": str(out), "RAINCAST_DATA_SHA256": "0" * 64}
    process = command("train.py", "--no-tracking", **env)
    assert process.returncode == 2
    assert f"{slice_csv}: its SHA-256 is " in process.stderr.decode()
    assert not out.exists()


def test_an_unreachable_tracking_server_loses_the_run_but_not_the_model(
    command: Command, slice_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    process = command("train.py", "--data", slice_csv, "--out", out, *FEW_TREES, **env)
    assert process.returncode == 1
    assert f"the model is saved in {out}, but not logged to http://127.0.0.1:9" in process.stderr.decode()
    assert "Traceback" not in process.stderr.decode()
    assert model.load(out).threshold > 0


@pytest.mark.parametrize(
    ("stage", "stop"),
    [
        (b"fitting", signal.SIGINT),
        (b"fitting", signal.SIGTERM),
        (b"fitting", signal.SIGKILL),
        (b"saving", signal.SIGKILL),
    ],
)
def test_an_interrupted_training_leaves_a_usable_model(
    stage: bytes, stop: signal.Signals, slice_csv: Path, trained: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(trained, tmp_path / "model"))
    before = model.describe(old)
    trees = "600" if stage == b"fitting" else "5"
    call = [
        sys.executable,
        ROOT / "train.py",
        "--data",
        slice_csv,
        "--out",
        old,
        "--no-tracking",
        "--iterations",
        trees,
    ]
    with subprocess.Popen(
        list(map(str, call)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(stage):
            assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(stop)
        remaining_output = process.stderr.read()
    assert process.returncode != 0
    assert b"Traceback" not in remaining_output
    assert model.load(old).threshold > 0
    if stage == b"fitting":
        assert model.describe(old) == before


def test_context_changes_the_forecast(command: Command, slice_csv: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(slice_csv, keep_default_na=False, dtype=str)
    rows.insert(0, "Date", np.tile(pd.date_range("2010-01-01", periods=600).astype(str), 10))
    rows.to_csv(tmp_path / "dated.csv", index=False)
    rows[rows["Date"] >= "2011-07-01"].to_csv(tmp_path / "days.csv", index=False)
    rows[(rows["Date"] >= "2011-07-01") & (rows["Location"] == "Albury")].tail(1).to_csv(
        tmp_path / "row.csv", index=False
    )
    out = tmp_path / "model"
    call = ("--data", tmp_path / "dated.csv", "--out", out, "--no-tracking", "--iterations", "40")
    process = command("train.py", *call, "--verify-from", "2011-06-01")
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout.decode().count("with context") == 2
    verification = model.describe(out)["verification"]
    assert verification["period"] == ["2011-06-01", "2011-08-23"]
    assert set(verification["seasons"]) == {"JJA"}
    for scores in verification["forms"].values():
        for name, (low, high) in scores["intervals"].items():
            assert low <= scores[name] <= high

    days, row = (
        pd.read_csv(io.BytesIO(command("prediction.py", tmp_path / name, "--format", "csv", "--model", out).stdout))
        for name in ("days.csv", "row.csv")
    )
    same = days[(days["Date"] == row["Date"][0]) & (days["Location"] == "Albury")]
    assert same["probability_of_rain"].item() != row["probability_of_rain"].item()
