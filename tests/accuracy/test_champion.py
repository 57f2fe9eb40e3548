"""What serves is what was trained and verified: exactly, in each of its files, and small."""

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
from raincast.training.comparison import unseen_rows
from raincast.verification import Climatology, brier_score, brier_skill_score, expected_calibration_error, roc_auc


def test_the_figures_in_the_description_come_from_what_serves(
    trained: Path, record: Table, description: dict[str, Any]
) -> None:
    rows, loaded = unseen_rows(record, [description]), model.load(trained)
    obs, known = record[TARGET.name][rows], ~np.isnan(record[TARGET.name]) & ~rows
    climatology = Climatology.fit(record["Location"][known], record["Date"][known], record[TARGET.name][known])
    reference = climatology.forecast(record["Location"][rows], record["Date"][rows])
    verified_forms = description["verification"]["forms"]
    matrices = forms.form_matrices(record)
    assert set(matrices) == set(verified_forms)
    for form, matrix in matrices.items():
        fcst = loaded.probability_of_rain(matrix[rows])
        found = {
            "count": np.sum(rows),
            "brier_score": brier_score(fcst, obs),
            "roc_auc": roc_auc(fcst, obs),
            "expected_calibration_error": expected_calibration_error(fcst, obs),
            "brier_skill_score": brier_skill_score(fcst, obs, reference),
        }
        assert found == pytest.approx({name: verified_forms[form][name] for name in found}, abs=1e-12), form


def test_joblib_and_onnx_forecast_the_same(trained: Path, bundled_rows: list[dict[str, str]]) -> None:
    frame = pd.DataFrame(bundled_rows[-5000:])
    pipeline = joblib.load(trained / model.PIPELINE)
    with_sklearn = pipeline.predict_proba(frame)[:, 1]
    with_onnx = model.load(trained).probability_of_rain(pipeline[0].transform(frame))
    np.testing.assert_allclose(with_onnx, with_sklearn, atol=1e-9)
    assert np.ptp(with_onnx) > 0


def test_each_of_many_rows_alone_is_forecast_as_in_the_batch(trained: Path, record: Table) -> None:
    loaded = model.load(trained)
    matrix = build_features(take(record, slice(2000)))
    alone = [loaded.probability_of_rain(matrix[row : row + 1])[0] for row in range(2000)]
    # onnxruntime adds the trees of one row in another order than a batch's, which may turn the last digit.
    np.testing.assert_allclose(alone, loaded.probability_of_rain(matrix), rtol=0, atol=1e-12)
