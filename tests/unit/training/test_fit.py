"""The fit of the trees and the choice of the threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raincast.features.build import context_mask
from raincast.forecasting import model
from raincast.observations.errors import ObservationError
from raincast.observations.table import Table
from raincast.training import fit, forms, onnx_export, splits
from raincast.training.forms import CONTEXT, SINGLE_ROW
from tests.unit.training.conftest import CONFIG


def test_a_validation_period_without_rain_gives_no_threshold(undated: Table) -> None:
    rows = np.ones(len(undated["Location"]), dtype=bool)
    obs = np.where(splits.last_share(undated, CONFIG.validation_share), 0.0, undated["RainTomorrow"])
    with pytest.raises(ObservationError, match="the validation period at the end of the training has 0 rain days"):
        fit.choose_threshold(undated, forms.form_matrices(undated), obs, rows, CONFIG)


def test_the_threshold_depends_on_training_rows_only(dated: Table) -> None:
    obs = dated["RainTomorrow"]
    rows, _ = splits.split(dated, obs, CONFIG)
    matrices = forms.form_matrices(dated)
    opposite = np.where(rows, obs, 1 - obs)
    threshold = fit.choose_threshold(dated, matrices, obs, rows, CONFIG)
    assert fit.choose_threshold(dated, matrices, opposite, rows, CONFIG) == threshold
    assert 0 < threshold < 1


def test_the_same_data_gives_the_same_bytes(dated: Table, fitted: tuple[Any, Any]) -> None:
    pipeline, matrices = fitted
    rows = np.ones(len(dated["Location"]), dtype=bool)
    again = fit.fit_trees(matrices, dated["RainTomorrow"], rows, CONFIG)
    assert onnx_export.to_onnx(again) == onnx_export.to_onnx(pipeline)


def test_features_that_are_missing_in_all_rows_are_left_out(undated: Table, dated: Table) -> None:
    matrices = forms.form_matrices(undated)
    rows = np.ones(len(undated["Location"]), dtype=bool)
    fitted = fit.fit_trees(matrices, undated["RainTomorrow"], rows, replace(CONFIG, iterations=3))
    chosen = fitted.named_steps["present"].kw_args["indices"]
    assert not context_mask()[chosen].any()
    graph = model.session(onnx_export.export(fitted, matrices)[model.GRAPH])
    np.testing.assert_array_equal(
        model.run(graph, matrices[SINGLE_ROW]), model.run(graph, forms.form_matrices(dated)[CONTEXT])
    )
