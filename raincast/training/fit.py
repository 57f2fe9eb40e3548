"""Feature matrices -> fitted trees and the threshold."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from raincast.observations.table import Table
from raincast.training.config import ModelConfig
from raincast.training.splits import Rows, last_share, require_both
from raincast.verification import Array, best_f1_threshold


def fit_trees(matrices: dict[str, Array], obs: Array, rows: Rows, config: ModelConfig) -> Pipeline:
    """Fit boosted trees to the chosen rows of every form; each form has the same weight.

    `obs` is 1.0 if it rained the day after, shape (n,). The pipeline takes matrices of all features. Its first step
    drops those that are missing in every row, such as the context features of a record without dates.
    """
    classifier = HistGradientBoostingClassifier(
        learning_rate=config.learning_rate,
        max_iter=config.iterations,
        max_leaf_nodes=config.max_leaf_nodes,
        min_samples_leaf=config.min_samples_leaf,
        l2_regularization=config.l2_regularization,
        max_features=config.max_features,
        early_stopping=False,
        random_state=config.seed,
    )
    missing = np.all([np.isnan(matrix[rows]).all(axis=0) for matrix in matrices.values()], axis=0)
    columns = np.flatnonzero(~missing)
    stacked = np.concatenate([matrix[np.ix_(rows, columns)] for matrix in matrices.values()])
    with _openmp_threads(config.threads):
        classifier.fit(stacked, np.tile(obs[rows], len(matrices)))
    choose = FunctionTransformer(np.take, kw_args={"indices": columns.tolist(), "axis": 1})
    return Pipeline([("present", choose), ("classifier", classifier)])


@contextlib.contextmanager
def _openmp_threads(count: int) -> Iterator[None]:
    """Use exactly this many OpenMP threads: scikit-learn exceeds the number of cores only if the variable is set."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        with threadpool_limits(count, "openmp"):
            yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def choose_threshold(table: Table, matrices: dict[str, Array], obs: Array, rows: Rows, config: ModelConfig) -> float:
    """Return the probability with the best F1 on the last share of the training rows, from trees fitted without it."""
    validation = last_share(table, config.validation_share, rows)
    require_both(obs, rows & ~validation, "the training period before its validation")
    require_both(obs, validation, "the validation period at the end of the training")
    # Forecasts are calibrated, so the threshold hardly depends on the trees: a tenth of them, with three times the
    # learning rate, suffices in a tenth of the time.
    coarse = replace(config, iterations=max(1, config.iterations // 10), learning_rate=config.learning_rate * 3)
    fitted = fit_trees(matrices, obs, rows & ~validation, coarse)
    fcst = [fitted.predict_proba(matrix[validation])[:, 1] for matrix in matrices.values()]
    return best_f1_threshold(np.concatenate(fcst), np.tile(obs[validation], len(matrices)))
