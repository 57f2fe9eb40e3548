"""Forms of an observation: complete or as known at 3 pm, with context or as a single row."""

from __future__ import annotations

import numpy as np

from raincast.features.build import build_features, feature_names
from raincast.observations.table import Table, as_known_at_3pm, take
from raincast.training import forms
from raincast.training.forms import CONTEXT, CONTEXT_3PM, SINGLE_ROW, SINGLE_ROW_3PM


def test_dated_rows_come_in_four_forms_and_undated_in_two(dated: Table, undated: Table) -> None:
    assert list(forms.form_matrices(dated)) == [CONTEXT, SINGLE_ROW, CONTEXT_3PM, SINGLE_ROW_3PM]
    assert list(forms.form_matrices(undated)) == [SINGLE_ROW, SINGLE_ROW_3PM]


def test_each_form_has_the_features_that_serving_computes(dated: Table) -> None:
    matrices = forms.form_matrices(dated)
    for row in (0, 700, 4321):
        single = take(dated, slice(row, row + 1))
        np.testing.assert_array_equal(matrices[SINGLE_ROW][row], build_features(single)[0])
        np.testing.assert_array_equal(matrices[SINGLE_ROW_3PM][row], build_features(as_known_at_3pm(single))[0])
    np.testing.assert_array_equal(matrices[CONTEXT_3PM], build_features(as_known_at_3pm(dated)))


def test_the_3_pm_forms_have_no_later_measurement(dated: Table) -> None:
    later = ("MaxTemp", "Sunshine", "WindGust", "gust", "sunshine", "temperature_range")
    columns = [i for i, name in enumerate(feature_names()) if any(word in name for word in later)]
    assert len(columns) > 10
    matrices = forms.form_matrices(dated)
    assert np.isnan(matrices[CONTEXT_3PM][:, columns]).all()
    assert np.isnan(matrices[CONTEXT][:, columns]).all(axis=0).mean() < 0.2
