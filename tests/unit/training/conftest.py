"""Tables of real rows, and small classifiers fitted to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from raincast.features.build import feature_names
from raincast.observations import reading
from raincast.observations.table import Table
from raincast.training import fit, forms
from raincast.training.config import ModelConfig
from raincast.training.forms import CONTEXT
from raincast.verification import Array

CONFIG = ModelConfig(iterations=12, max_leaf_nodes=15)


@pytest.fixture(name="undated", scope="session")
def fixture_undated(slice_csv: Path) -> Table:
    """Return real rows without dates, with the column RainTomorrow."""
    return reading.read(slice_csv, target=True)


@pytest.fixture(name="dated", scope="session")
def fixture_dated(undated: Table) -> Table:
    """Return the same rows with dates, from the same day on at every station, so that rows have context."""
    dates = np.datetime64("2010-01-01") + np.arange(len(undated["Location"])) % 600
    return undated | {"Date": dates.astype("datetime64[D]")}


@pytest.fixture(name="fitted", scope="session")
def fixture_fitted(dated: Table) -> tuple[Pipeline, dict[str, Array]]:
    """Return a small classifier fitted to all four forms, and the matrices."""
    matrices = forms.form_matrices(dated)
    rows = np.ones(len(dated["Location"]), dtype=bool)
    return fit.fit_trees(matrices, dated["RainTomorrow"], rows, CONFIG), matrices


@pytest.fixture(name="contextual", scope="session")
def fixture_contextual(dated: Table, fitted: tuple[Pipeline, dict[str, Array]]) -> tuple[Pipeline, dict[str, Array]]:
    """Return a small classifier with many splits on context features, since its outcome depends on them."""
    matrices = {CONTEXT: fitted[1][CONTEXT]}
    names = feature_names()
    humidity = matrices[CONTEXT][:, names.index("Humidity3pm_within_250km")]
    since = matrices[CONTEXT][:, names.index("Pressure3pm_since_yesterday")]
    obs = np.where(humidity + 2 * since > 55, 1.0, dated["RainTomorrow"])
    rows = ~np.isnan(obs)
    return fit.fit_trees(matrices, obs, rows, replace(CONFIG, max_features=0.9)), matrices
