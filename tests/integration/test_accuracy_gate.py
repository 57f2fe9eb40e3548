"""`python -m ci.accuracy` as the pipeline calls it: the champion is in another folder and runs with its own code."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ci import accuracy, confined
from raincast import cli
from raincast.forecasting import model
from raincast.observations import reading
from raincast.observations.columns import TARGET
from raincast.training import forms
from tests.conftest import ROOT

GOOD, POOR = 40, 4
UNUSED = ("model.joblib", "report")
SECRETS = {
    "CI_JOB_TOKEN": "s3cret-job",
    "CI_REGISTRY_PASSWORD": "s3cret-registry",
    "KUBECONFIG": "/nowhere/s3cret-cluster",
    "MLFLOW_TRACKING_TOKEN": "s3cret-tracking",
}
# Code of a champion: says on standard error what it can reach outside its folder, and fails.
SPY = """
import glob, json, os, pathlib, socket, sys
found = {"variables": sorted(os.environ), "writes": []}
readable = ["/proc/self/environ"]
for path in [*glob.glob("/proc/[0-9]*/environ"), *TARGETS["read"]]:
    try:
        if "s3cret" in pathlib.Path(path).read_bytes().decode(errors="replace"):
            readable.append(path)
    except OSError:
        pass
found["secrets"] = [path for path in readable if "s3cret" in pathlib.Path(path).read_text(errors="replace")]
for path in [*TARGETS["write"], pathlib.Path.home() / "mine", "also-mine"]:
    try:
        pathlib.Path(path).write_text("written by the champion")
        found["writes"].append(str(path))
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", TARGETS["port"]), timeout=5).close()
    found["connected"] = True
except OSError:
    found["connected"] = False
try:
    os.kill(os.getppid(), 0)
    found["signals"] = True
except OSError:
    found["signals"] = False
sys.exit(json.dumps(found))
"""


@dataclass(frozen=True)
class Tree:
    """A checkout with a model in it."""

    folder: Path

    @property
    def model(self) -> Path:
        """Return the path of its model directory."""
        return self.folder / "model"

    def train(self, data: Path, iterations: int) -> Tree:
        """Train with its own code."""
        call = [sys.executable, self.folder / "train.py", "--no-tracking", "--data", data, "--iterations", iterations]
        subprocess.run([*map(str, call), "--out", str(self.model)], check=True, capture_output=True, env=clean())
        return self

    def as_image(self, folder: Path) -> Path:
        """Copy the files that an image holds to another folder."""
        for name in ("raincast", "model"):
            shutil.copytree(self.folder / name, folder / name, ignore=shutil.ignore_patterns(*UNUSED, "__pycache__"))
        (folder / "data").mkdir()
        shutil.copy(self.folder / "data" / "stations.csv", folder / "data")
        shutil.copy(self.folder / "prediction.py", folder)
        return folder


def clean() -> dict[str, str]:
    """Return the environment without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "MLFLOW_"))}


def checkout(folder: Path) -> Tree:
    """Copy the code to a folder."""
    shutil.copytree(ROOT / "raincast", folder / "raincast", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for name in ("data/stations.csv", "train.py", "prediction.py"):
        shutil.copy(ROOT / name, folder / name)
    return Tree(folder)


@pytest.fixture(name="poor", scope="module")
def fixture_poor(slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return a checkout of this code with a model of few trees."""
    return checkout(tmp_path_factory.mktemp("poor")).train(slice_csv, POOR)


@pytest.fixture(name="good", scope="module")
def fixture_good(slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return a checkout with a model of more trees, whose code computes other features."""
    tree = checkout(tmp_path_factory.mktemp("good"))
    path = tree.folder / "raincast" / "features" / "own.py"
    code = path.read_text(encoding="utf-8")
    assert code.count('columns["gust_ratio"]') == 1
    path.write_text(code.replace('columns["gust_ratio"]', 'columns["ratio_of_gust"]'), encoding="utf-8")
    return tree.train(slice_csv, GOOD)


def gate(champion: Path, challenger: Path, data: Path, *arguments: object, **env: str) -> tuple[int, str, str]:
    """Run the comparison. Return exit code, standard output and standard error."""
    call = [sys.executable, "-m", "ci.accuracy", "--champion", champion, "--model", challenger, "--data", data]
    process = subprocess.run(
        [*map(str, [*call, *arguments])], capture_output=True, text=True, check=False, env=clean() | env, cwd=ROOT
    )
    return process.returncode, process.stdout, process.stderr


def test_a_model_is_not_worse_than_itself(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    code, out, err = gate(poor.as_image(tmp_path / "champion"), poor.model, slice_csv)
    assert (code, err) == (cli.DONE, "")
    assert out.count("+0.00000 to +0.00000  not worse") == 2
    assert out.endswith("\npassed: not worse than the champion\n")


def test_a_poorer_challenger_fails_against_a_champion_that_runs_with_its_own_code(
    good: Tree, poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    with pytest.raises(model.ModelError, match="trained on other features"):
        model.load(good.model)
    code, out, err = gate(good.as_image(tmp_path / "champion"), poor.model, slice_csv)
    assert (code, err) == (cli.FAILED, "")
    failed = "FAILED: worse than the champion, beyond chance and a tolerance of 0.0005: complete, as known at 3 pm"
    assert out.splitlines()[-1] == failed
    # The scores are those of each training.
    for form, line in ((forms.SINGLE_ROW, "complete"), (forms.SINGLE_ROW_3PM, "as known at 3 pm")):
        scores = [float(number) for number in out.split(f"\n{line}")[1].split()[:2]]
        verified = [model.describe(tree.model)["verification"]["forms"][form]["brier_score"] for tree in (good, poor)]
        assert scores == pytest.approx(verified, abs=1e-5)


def test_the_gate_fails_if_the_champion_cannot_forecast_the_record(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    champion = poor.as_image(tmp_path / "champion")
    (champion / "model" / "model.onnx").write_bytes(b"")
    code, _, err = gate(champion, poor.model, slice_csv)
    assert code == cli.FAILED
    assert err.startswith("accuracy.py: the champion cannot forecast this record, exit code 1: prediction.py: ")
    assert "SHA-256 differs" in err
    assert err.endswith("; if it never will again, set RAINCAST_CHAMPION_UNRUNNABLE to the reason\n")


def test_a_reason_lets_a_champion_that_cannot_run_pass_and_is_reported(
    poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    champion, report, reason = poor.as_image(tmp_path / "champion"), tmp_path / "new" / "report.json", "numpy 3"
    image = f"registry.example.org/rain/raincast@sha256:{'1' * 64}"
    (champion / accuracy.IMAGE).write_text(f"{image}\n")

    def judged(**env: str) -> tuple[int, str, dict[str, str]]:
        code, out, _ = gate(champion, poor.model, slice_csv, "--report", report, **env)
        return code, out, json.loads(report.read_text()) if report.exists() else {}

    known = {"model_sha256": model.describe(poor.model)["files"][model.GRAPH], "champion": image}
    code, out, reported = judged(RAINCAST_CHAMPION_UNRUNNABLE=reason)
    assert (code, reported) == (cli.DONE, known | {"outcome": "not worse"})
    assert f"the champion's image is {image}\n" in out
    assert out.endswith("RAINCAST_CHAMPION_UNRUNNABLE has no effect: not worse\n")
    for broken in ("model/model.onnx", "model/model.json", "data/stations.csv"):
        (champion / broken).write_bytes(b"")
        if broken == "data/stations.csv":
            (champion / broken).unlink()
        code, out, reported = judged()
        assert (code, reported) == (cli.FAILED, {})
        code, out, reported = judged(RAINCAST_CHAMPION_UNRUNNABLE=reason)
        assert code == cli.DONE
        error = reported.pop("error")
        assert reported == known | {"outcome": "champion unrunnable", "reason": reason}
        assert out.endswith(f"{error}\nnot compared: RAINCAST_CHAMPION_UNRUNNABLE: {reason}: minimum scores only\n")


@pytest.mark.parametrize(
    ("wrote", "message"),
    [
        ("pass", "wrote no file of forecasts"),
        ("os.symlink(__file__, output)", "wrote no file of forecasts"),
        ("open(output, 'w').write('Location,rain\\nAlbury,0.5\\n')", "wrote no forecasts: "),
        ("open(output, 'w').write('Location,probability_of_rain\\nAlbury,s3cret\\n')", "wrote no forecasts: "),
        ("open(output, 'w').write('Location,probability_of_rain\\nAlbury,0.5\\n')", "forecasts for other rows"),
    ],
)
def test_a_champion_that_writes_something_else_cannot_run(
    wrote: str, message: str, poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    champion = poor.as_image(tmp_path / "champion")
    (champion / "prediction.py").write_text(f"import os, sys\noutput = sys.argv[3]\n{wrote}\n")
    code, out, err = gate(champion, poor.model, slice_csv, RAINCAST_CHAMPION_UNRUNNABLE="numpy 3")
    assert (code, err) == (cli.DONE, "")
    assert message in out.splitlines()[-2]


def test_a_reason_does_not_help_a_challenger(good: Tree, poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    reason = {"RAINCAST_CHAMPION_UNRUNNABLE": "numpy 3"}
    code, out, _ = gate(good.as_image(tmp_path / "champion"), poor.model, slice_csv, **reason)
    assert code == cli.FAILED
    assert "FAILED: worse than the champion" in out
    challenger = tmp_path / "challenger"
    shutil.copytree(poor.model, challenger)
    (challenger / "model.onnx").write_bytes(b"")
    code, _, err = gate(poor.as_image(tmp_path / "same"), challenger, slice_csv, **reason)
    assert code == cli.FAILED
    assert "the challenger cannot forecast this record" in err


def test_the_champion_reaches_no_secret_of_the_job_and_nothing_outside_its_folder(
    poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    champion = poor.as_image(tmp_path / "champion")
    remote = tmp_path / "config"
    remote.write_text("url = https://gitlab-ci-token:s3cret-remote@gitlab.example.org/raincast.git")
    with socket.create_server(("127.0.0.1", 0)) as server:
        targets = {
            "read": [str(remote)],
            "write": [str(tmp_path / "outside"), str(champion / "prediction.py")],
            "port": server.getsockname()[1],
        }
        (champion / "prediction.py").write_text(f"TARGETS = {targets!r}\n{SPY}")
        code, out, err = gate(champion, poor.model, slice_csv, **SECRETS)
    assert code == cli.FAILED, out
    found = json.loads(err[err.index("{") : err.rindex("}") + 1])
    assert found["secrets"] == []
    assert set(found["variables"]) <= {*accuracy.PASSED, "HOME", "TMPDIR", "LC_CTYPE"}
    assert [Path(path).name for path in found["writes"]] == ["mine", "also-mine"]
    assert not (tmp_path / "outside").exists()
    if confined.landlock_version() >= 6:
        assert (found["connected"], found["signals"]) == (False, False)


def test_without_a_champion_only_the_minimum_scores_count(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    code, out, err = gate(tmp_path / "champion", poor.model, slice_csv)
    assert (code, err) == (cli.DONE, "")
    assert out == f"{tmp_path / 'champion'}: no champion yet: minimum scores only\n"


def test_models_of_different_data_without_dates_are_not_compared(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    champion = poor.as_image(tmp_path / "champion")
    description = model.describe(champion / "model") | {"data_sha256": "0" * 64}
    canonical = json.dumps(description, sort_keys=True, indent=1).encode()
    (champion / "model" / "model.json").write_text(json.dumps(description | {"sha256": model.sha256(canonical)}))
    code, out, _ = gate(champion, poor.model, slice_csv)
    assert code == cli.DONE
    reason = "they were trained on different data without dates, so their training rows are unknown"
    assert out.splitlines()[-1] == f"not compared: {reason}: minimum scores only"


def test_a_wrong_call_has_another_exit_code_than_a_failed_comparison(
    poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    code, _, err = gate(ROOT / "docs", poor.model, slice_csv)
    assert code == cli.WRONG_INPUT
    assert "not the application of an image: it lacks prediction.py, raincast, " in err
    lines = slice_csv.read_text().splitlines(keepends=True)
    (tmp_path / "shorter.csv").write_text("".join(lines[:-10]))
    code, _, err = gate(poor.as_image(tmp_path / "champion"), poor.model, tmp_path / "shorter.csv")
    assert code == cli.WRONG_INPUT
    assert "shorter.csv: the model was trained on other data, slice.csv with the SHA-256 " in err


def test_the_models_forecast_the_record_without_its_outcomes(tmp_path: Path, slice_csv: Path) -> None:
    table = reading.read(slice_csv, target=True)
    obs = table.pop(TARGET.name)
    accuracy.write(table, tmp_path / "written.csv")
    with (tmp_path / "written.csv").open(newline="") as file:
        assert TARGET.name not in next(csv.reader(file))
    assert len(obs) == len(table["Location"])
    for name, values in reading.read(tmp_path / "written.csv").items():
        np.testing.assert_array_equal(values, table[name])
