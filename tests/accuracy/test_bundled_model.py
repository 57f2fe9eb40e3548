"""The model trained on the bundled observations: better than its baselines, reliable, and exactly served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from raincast import features, model, reading, training
from raincast.verification import Climatology, brier_score, brier_skill_score, expected_calibration_error, roc_auc

ROOT = Path(__file__).resolve().parents[2]
FORMS = (training.ONE_ROW, training.ONE_ROW_3PM)


@pytest.fixture(name="verification", scope="module")
def fixture_verification(trained: Path) -> dict[str, Any]:
    """What the training wrote about the last 20 % of each station's rows."""
    return dict(model.describe(trained)["verification"])


def test_the_bars_of_the_bundled_record_are_reached(verification: dict[str, Any]) -> None:
    scores = verification["forms"][training.ONE_ROW]
    assert scores["roc_auc"] >= 0.890
    assert scores["brier_skill_score"] >= 0.40


@pytest.mark.parametrize("form", FORMS)
def test_the_model_beats_climatology_and_persistence(form: str, verification: dict[str, Any]) -> None:
    scores = verification["forms"][form]
    for baseline in verification["baselines"].values():
        assert scores["brier_score"] < baseline["brier_score"]
        assert scores["log_loss"] < baseline["log_loss"]
        assert scores["roc_auc"] > baseline["roc_auc"]


@pytest.mark.parametrize("form", FORMS)
def test_the_probabilities_are_reliable(form: str, verification: dict[str, Any]) -> None:
    assert verification["forms"][form]["expected_calibration_error"] <= 0.015
    for row in verification["forms"][form]["reliability"]:
        # Three standard errors of a frequency, and a hundredth for the slow change of the climate itself.
        error = 3 * np.sqrt(row["mean_fcst"] * (1 - row["mean_fcst"]) / row["count"])
        assert row["frequency"] == pytest.approx(row["mean_fcst"], abs=error + 0.01)


def test_the_whole_day_knows_more_than_3_pm(verification: dict[str, Any]) -> None:
    whole, at_3pm = (verification["forms"][form] for form in FORMS)
    assert whole["brier_score"] < at_3pm["brier_score"]


def test_the_figures_in_the_description_come_from_what_serves(trained: Path, verification: dict[str, Any]) -> None:
    loaded = model.load(trained)
    table = reading.read(ROOT / "data" / "observations.csv.gz", target=True)
    obs = table.pop("RainTomorrow")
    known, rows = training.split(table, obs, training.ModelConfig())
    fcst = loaded.probability_of_rain(features.build(table)[rows])
    scores = verification["forms"][training.ONE_ROW]
    assert brier_score(fcst, obs[rows]) == pytest.approx(scores["brier_score"], abs=1e-12)
    assert roc_auc(fcst, obs[rows]) == pytest.approx(scores["roc_auc"], abs=1e-12)
    assert expected_calibration_error(fcst, obs[rows]) == pytest.approx(scores["expected_calibration_error"], abs=1e-12)
    climatology = Climatology.fit(table["Location"][known], table["Date"][known], obs[known])
    reference = climatology.forecast(table["Location"][rows], table["Date"][rows])
    skill = brier_skill_score(fcst, obs[rows], reference)
    assert skill == pytest.approx(scores["brier_skill_score"], abs=1e-12)


def test_joblib_and_onnx_forecast_the_same(trained: Path) -> None:
    frame = pd.read_csv(ROOT / "data" / "observations.csv.gz").tail(5000)
    pipeline = joblib.load(trained / model.PIPELINE)
    with_sklearn = pipeline.predict_proba(frame)[:, 1]
    with_onnx = model.load(trained).probability_of_rain(training.build_from_frame(frame))
    np.testing.assert_allclose(with_onnx, with_sklearn, atol=1e-9)
    assert np.ptp(with_onnx) > 0.9


def test_what_serves_is_small(trained: Path) -> None:
    assert (trained / model.GRAPH).stat().st_size <= 5_000_000


def test_each_of_many_rows_alone_is_forecast_as_in_the_batch(trained: Path) -> None:
    loaded = model.load(trained)
    table = reading.read(ROOT / "data" / "observations.csv.gz")
    matrix = features.build({name: values[:2000] for name, values in table.items()})
    alone = [loaded.probability_of_rain(matrix[row : row + 1])[0] for row in range(2000)]
    # onnxruntime adds the trees of one row in another order than a batch's, which may turn the last digit.
    np.testing.assert_allclose(alone, loaded.probability_of_rain(matrix), rtol=0, atol=1e-12)
