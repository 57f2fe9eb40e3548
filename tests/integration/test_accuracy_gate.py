"""`ci/accuracy.py` as the pipeline calls it: the model in use is a tree of its own, run with its own code."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci import accuracy
from raincast import cli
from raincast.forecasting import model
from raincast.observations import reading
from raincast.observations.columns import TARGET
from raincast.observations.table import Table
from raincast.training import forms
from tests.conftest import ROOT

GOOD, POOR = 40, 4
UNUSED = ("model.joblib", "report")


@dataclass(frozen=True)
class Tree:
    """A checkout with a model in it."""

    folder: Path

    @property
    def model(self) -> Path:
        """Its model directory."""
        return self.folder / "model"

    def train(self, data: Path, iterations: int) -> Tree:
        """Train with its own code."""
        call = [sys.executable, self.folder / "train.py", "--no-tracking", "--data", data, "--iterations", iterations]
        subprocess.run([*map(str, call), "--out", str(self.model)], check=True, capture_output=True, env=clean())
        return self

    def as_image(self, folder: Path) -> Path:
        """What an image holds of it, elsewhere."""
        for name in ("raincast", "model"):
            shutil.copytree(self.folder / name, folder / name, ignore=shutil.ignore_patterns(*UNUSED, "__pycache__"))
        (folder / "data").mkdir()
        shutil.copy(self.folder / "data" / "stations.csv", folder / "data")
        shutil.copy(self.folder / "prediction.py", folder)
        return folder


def clean() -> dict[str, str]:
    """The environment without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "MLFLOW_"))}


def checkout(folder: Path) -> Tree:
    """A copy of the code."""
    shutil.copytree(ROOT / "raincast", folder / "raincast", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for name in ("data/stations.csv", "train.py", "prediction.py"):
        shutil.copy(ROOT / name, folder / name)
    return Tree(folder)


@pytest.fixture(name="poor", scope="module")
def fixture_poor(slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree of this code with a model of few trees."""
    return checkout(tmp_path_factory.mktemp("poor")).train(slice_csv, POOR)


@pytest.fixture(name="good", scope="module")
def fixture_good(slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree with a model of more trees, by code that makes other features."""
    tree = checkout(tmp_path_factory.mktemp("good"))
    path = tree.folder / "raincast" / "features" / "own.py"
    code = path.read_text(encoding="utf-8")
    assert code.count('columns["gust_ratio"]') == 1
    path.write_text(code.replace('columns["gust_ratio"]', 'columns["ratio_of_gust"]'), encoding="utf-8")
    return tree.train(slice_csv, GOOD)


def gate(champion: Path, challenger: Path, data: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the comparison."""
    call = [sys.executable, "-m", "ci.accuracy", "--champion", champion, "--model", challenger, "--data", data]
    answer = subprocess.run(list(map(str, call)), capture_output=True, text=True, check=False, env=clean(), cwd=ROOT)
    return answer.returncode, answer.stdout, answer.stderr


def test_a_model_is_not_worse_than_itself(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    code, out, err = gate(poor.as_image(tmp_path / "champion"), poor.model, slice_csv)
    assert (code, err) == (cli.DONE, "")
    assert out.count("+0.00000 to +0.00000  not worse") == 2
    assert out.endswith("\npassed: not worse than the champion\n")


def test_a_poorer_model_is_red_beside_a_model_in_use_that_is_run_with_its_own_code(
    good: Tree, poor: Tree, slice_csv: Path, tmp_path: Path
) -> None:
    with pytest.raises(model.ModelError, match="learned from other features"):
        model.load(good.model)
    code, out, err = gate(good.as_image(tmp_path / "champion"), poor.model, slice_csv)
    assert (code, err) == (cli.FAILED, "")
    red = "FAILED: worse than the champion, beyond chance and a tolerance of 0.0005: whole day, as known at 3 pm"
    assert out.splitlines()[-1] == red
    # Each is scored as what its own training found.
    for form, line in ((forms.SINGLE_ROW, "whole day"), (forms.SINGLE_ROW_3PM, "as known at 3 pm")):
        scores = [float(number) for number in out.split(f"\n{line}")[1].split()[:2]]
        found = [model.describe(tree.model)["verification"]["forms"][form]["brier_score"] for tree in (good, poor)]
        assert scores == pytest.approx(found, abs=1e-5)


def test_a_model_in_use_that_cannot_forecast_the_record_is_red(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    champion = poor.as_image(tmp_path / "champion")
    (champion / "model" / "model.onnx").write_bytes(b"")
    code, _, err = gate(champion, poor.model, slice_csv)
    assert code == cli.FAILED
    assert err.startswith("accuracy.py: the champion cannot forecast this record, exit code 1: prediction.py: ")
    assert "SHA-256 differs" in err


def test_without_a_model_in_use_the_floors_are_all_that_counts(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
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


def test_a_wrong_call_is_told_from_a_red_verdict(poor: Tree, slice_csv: Path, tmp_path: Path) -> None:
    code, _, err = gate(ROOT / "docs", poor.model, slice_csv)
    assert code == cli.WRONG_INPUT
    assert "not the application of an image: it lacks prediction.py, raincast, " in err
    lines = slice_csv.read_text().splitlines(keepends=True)
    (tmp_path / "shorter.csv").write_text("".join(lines[:-10]))
    code, _, err = gate(poor.as_image(tmp_path / "champion"), poor.model, tmp_path / "shorter.csv")
    assert code == cli.WRONG_INPUT
    assert "shorter.csv: the model was trained on other data, slice.csv with the SHA-256 " in err


DAYS = np.arange("2015-01-01", "2016-01-01", dtype="datetime64[D]")


def a_year(undated: int = 0) -> Table:
    """A table of a day in each row, with its answers."""
    dates = np.where(np.arange(len(DAYS)) < undated, np.datetime64("NaT", "D"), DAYS)
    return {"Date": dates, "Location": np.array(["Sydney"] * len(DAYS)), TARGET.name: np.arange(len(DAYS)) % 2 * 1.0}


def described(last: str | None, rows: int = 292, data: str = "a", share: float = 0.2) -> dict[str, Any]:
    """What matters of a model.json."""
    period = ["2014-01-01", last] if last else None
    return {
        "version": "v", "data_sha256": data, "period": period, "rows": rows, "config": {"verification_share": share}
    }  # fmt: skip


def test_dated_models_are_verified_on_the_days_after_both_trainings_whatever_their_data() -> None:
    table = a_year()
    table[TARGET.name][-1] = np.nan
    rows = accuracy.unseen(table, [described("2015-03-01", data="b"), described("2015-06-30")])
    np.testing.assert_array_equal(rows, (DAYS > np.datetime64("2015-06-30")) & (DAYS < DAYS[-1]))
    with pytest.raises(accuracy.Incomparable, match="there is no day after 2016-06-30"):
        accuracy.unseen(table, [described("2015-03-01"), described("2016-06-30")])


def test_undated_models_of_the_same_data_are_verified_on_the_rows_that_both_kept() -> None:
    table = a_year(undated=len(DAYS))
    rows = accuracy.unseen(table, [described(None), described(None, rows=182, share=0.5)])
    assert np.flatnonzero(rows).tolist() == list(range(292, 365))


@pytest.mark.parametrize(
    ("champion", "reason"),
    [(described(None, data="b"), "different data without dates"), (described(None, rows=291), "trained on other rows")],
)
def test_undated_models_are_not_compared_where_nobody_can_tell_their_rows(
    champion: dict[str, Any], reason: str
) -> None:
    with pytest.raises(accuracy.Incomparable, match=reason):
        accuracy.unseen(a_year(undated=len(DAYS)), [champion, described(None)])


def test_blocks_are_weeks_of_dated_rows_and_rows_of_a_station_without() -> None:
    everything = np.ones(len(DAYS), bool)
    blocks, what = accuracy.blocks_of(a_year(), everything)
    assert (len(set(blocks)), what) == (53, "53 weeks")
    table = a_year(undated=len(DAYS)) | {"Location": np.repeat(np.arange(73).astype(str), 5)}
    assert accuracy.blocks_of(table, everything)[1] == "73 blocks of 30 rows of a station"
    with pytest.raises(accuracy.Incomparable, match="9 weeks are too few to tell anything from chance"):
        accuracy.blocks_of(a_year(), DAYS < np.datetime64("2015-03-02"))


def test_what_is_forecast_is_the_record_without_its_answers(tmp_path: Path, slice_csv: Path) -> None:
    table = reading.read(slice_csv, target=True)
    obs = table.pop(TARGET.name)
    accuracy.write(table, tmp_path / "written.csv")
    with (tmp_path / "written.csv").open(newline="") as file:
        assert TARGET.name not in next(csv.reader(file))
    assert len(obs) == len(table["Location"])
    for name, values in reading.read(tmp_path / "written.csv").items():
        np.testing.assert_array_equal(values, table[name])
