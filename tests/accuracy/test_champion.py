"""The saved model forecasts exactly what was trained and verified, from each of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from raincast.features.build import build_features
from raincast.forecasting import model
from raincast.observations.columns import TARGET
from raincast.observations.table import Table, take
from raincast.training import forms
from raincast.training.comparison import unseen_rows
from raincast.verification import Climatology, brier_score, brier_skill_score, expected_calibration_error, roc_auc


def test_the_scores_in_the_description_are_those_of_the_saved_graph(
    trained: Path, record: Table, description: dict[str, Any]
) -> None:
    rows, loaded = unseen_rows(record, [description]), model.load(trained)
    obs, fitted = record[TARGET.name][rows], ~np.isnan(record[TARGET.name]) & ~rows
    climatology = Climatology.fit(record["Location"][fitted], record["Date"][fitted], record[TARGET.name][fitted])
    reference = climatology.forecast(record["Location"][rows], record["Date"][rows])
    verified_forms = description["verification"]["forms"]
    matrices = forms.form_matrices(record)
    assert set(matrices) == set(verified_forms)
    for form, matrix in matrices.items():
        fcst = loaded.probability_of_rain(matrix[rows])
        scores = {
            "count": np.sum(rows),
            "brier_score": brier_score(fcst, obs),
            "roc_auc": roc_auc(fcst, obs),
            "expected_calibration_error": expected_calibration_error(fcst, obs),
            "brier_skill_score": brier_skill_score(fcst, obs, reference),
        }
        assert scores == pytest.approx({name: verified_forms[form][name] for name in scores}, abs=1e-12), form


def test_joblib_and_onnx_forecast_the_same(trained: Path, bundled_rows: list[dict[str, str]]) -> None:
    frame = pd.DataFrame(bundled_rows[-5000:])
    pipeline = joblib.load(trained / model.PIPELINE)
    with_sklearn = pipeline.predict_proba(frame)[:, 1]
    with_onnx = model.load(trained).probability_of_rain(pipeline[0].transform(frame))
    np.testing.assert_allclose(with_onnx, with_sklearn, atol=1e-9)
    assert np.ptp(with_onnx) > 0


def test_matrices_of_one_row_are_forecast_like_a_batch(trained: Path, record: Table) -> None:
    loaded = model.load(trained)
    matrix = build_features(take(record, slice(2000)))
    one_by_one = [loaded.probability_of_rain(matrix[row : row + 1])[0] for row in range(2000)]
    # The order in which onnxruntime adds trees depends on the number of rows and may change the last digit.
    np.testing.assert_allclose(one_by_one, loaded.probability_of_rain(matrix), rtol=0, atol=1e-12)
