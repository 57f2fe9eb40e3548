"""Observations -> fitted model: the forms of an observation, the split in time, the fit, the threshold."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from raincast import features, verification
from raincast.observations import COLUMNS, EXAMPLE, ObservationError, Table, as_known_at_3pm, check_header, parse_blocks
from raincast.progress import counter
from raincast.verification import Climatology, Persistence, best_f1_threshold

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]
Progress = Callable[[int], object]

CONTEXT, ONE_ROW = "with neighbours and history", "one row"
CONTEXT_3PM, ONE_ROW_3PM = f"{CONTEXT}, as known at 3 pm", f"{ONE_ROW}, as known at 3 pm"


@dataclass(frozen=True)
class ModelConfig:
    """What a training depends on besides its data."""

    # pylint: disable=too-many-instance-attributes  # each is one setting, and this is where settings are

    learning_rate: float = 0.06
    iterations: int = 500
    max_leaf_nodes: int = 45
    min_samples_leaf: int = 150
    l2_regularization: float = 35.0
    max_features: float = 0.167
    seed: int = 0
    # Gradients are summed by threads, and a sum depends on its order: a fixed number gives the same bytes on
    # any number of cores. Two threads add commutatively; three would not.
    threads: int = 2
    # Share of each station's rows, or of all days, kept for verification, and of the rest for the threshold.
    verification_share: float = 0.2
    validation_share: float = 0.2


def forms(table: Table) -> dict[str, Array]:
    """The feature matrices of a table in each form in which an observation may come.

    Complete or as known at 3 pm, each with its context and alone. Without context in the table (no dates) the two forms
    with context do not exist.
    """
    matrices = {}
    for with_context, alone, matrix in (
        (CONTEXT, ONE_ROW, features.build(table)),
        (CONTEXT_3PM, ONE_ROW_3PM, features.build(as_known_at_3pm(table))),
    ):
        if not np.isnan(matrix[:, features.context()]).all():
            matrices[with_context] = matrix
        matrices[alone] = np.where(features.context(), np.nan, matrix)
    return matrices


def last_share(table: Table, share: float, among: Rows | None = None) -> Rows:
    """Which rows are the last share of a table's days; without dates, of each station's rows in their order."""
    among = np.ones(len(table["Location"]), dtype=bool) if among is None else among
    dates = table["Date"]
    if not np.isnat(dates[among]).any():
        days = np.sort(dates[among])
        return np.asarray(among & (dates > days[int(len(days) * (1 - share)) - 1]))
    chosen = np.zeros(len(among), dtype=bool)
    for name in np.unique(table["Location"][among]):
        rows = np.flatnonzero(among & (table["Location"] == name))
        chosen[rows[int(len(rows) * (1 - share)) :]] = True
    return chosen


def split(table: Table, obs: Array, config: ModelConfig, verify_from: str | None = None) -> tuple[Rows, Rows]:
    """Which rows are fitted and which are verified: before and from a date (YYYY-MM-DD), or the last share.

    Rows whose outcome is unknown (NaN in `obs`) are in neither. Raises ObservationError where one side lacks rain days
    or dry days.
    """
    if verify_from is None:
        verified = last_share(table, config.verification_share)
    else:
        try:
            first = np.datetime64(dt.date.fromisoformat(verify_from))
        except ValueError as error:
            raise ObservationError(f"--verify-from: {verify_from!r} is not a date as YYYY-MM-DD") from error
        if np.isnat(table["Date"]).any():
            raise ObservationError(f"--verify-from {verify_from}: the observations have rows without a date")
        verified = np.asarray(table["Date"] >= first)
    known = ~np.isnan(obs)
    sides = known & ~verified, known & verified
    for name, rows in zip(("training", "verification"), sides, strict=True):
        _require_both(obs, rows, f"the {name} period")
    return sides


def _require_both(obs: Array, rows: Rows, where: str) -> None:
    wet, dry = int(np.sum(obs[rows] == 1)), int(np.sum(obs[rows] == 0))
    if not wet or not dry:
        raise ObservationError(f"{where} has {wet} rain days and {dry} dry days, it needs some of each")


def fit(matrices: dict[str, Array], obs: Array, rows: Rows, config: ModelConfig) -> Pipeline:
    """Boosted trees fitted to the chosen rows of every form, each form counting the same.

    `obs` is 1.0 where it rained the day after, shape (n,). The pipeline takes whole feature matrices; its first step
    leaves out the features that no row has (in a record without dates all neighbours and history).
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
        verbose=2,
    )
    absent = np.all([np.isnan(matrix[rows]).all(axis=0) for matrix in matrices.values()], axis=0)
    columns = np.flatnonzero(~absent)
    stacked = np.concatenate([matrix[np.ix_(rows, columns)] for matrix in matrices.values()])
    with (
        _threads(config.threads),
        counter(config.iterations, "tree") as trees,
        contextlib.redirect_stdout(_Trees(trees.update)),
    ):
        classifier.fit(stacked, np.tile(obs[rows], len(matrices)))
    choose = FunctionTransformer(np.take, kw_args={"indices": columns.tolist(), "axis": 1})
    return Pipeline([("present", choose), ("classifier", classifier.set_params(verbose=0))])


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Exactly so many OpenMP threads: scikit-learn goes beyond the number of cores only where the variable is set."""
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


class _Trees(io.TextIOBase):
    """Counts the trees that scikit-learn reports as text: it has no other sign of progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def write(self, text: str, /) -> int:
        if text.startswith("["):
            self.progress(1)
        return len(text)


def threshold(table: Table, matrices: dict[str, Array], obs: Array, rows: Rows, config: ModelConfig) -> float:
    """The probability with the best F1 on the last part of the training rows, by trees that have not seen it."""
    validation = last_share(table, config.validation_share, rows)
    _require_both(obs, rows & ~validation, "the training period before its validation")
    _require_both(obs, validation, "the validation period at the end of the training")
    # Its forecasts are calibrated, and then the threshold hardly depends on the trees: a tenth of them, learning three
    # times as fast, are enough and cost a tenth of the time.
    quick = replace(config, iterations=max(1, config.iterations // 10), learning_rate=config.learning_rate * 3)
    fitted = fit(matrices, obs, rows & ~validation, quick)
    fcst = [fitted.predict_proba(matrix[validation])[:, 1] for matrix in matrices.values()]
    return best_f1_threshold(np.concatenate(fcst), np.tile(obs[validation], len(matrices)))


def verify(
    table: Table, obs: Array, rows: tuple[Rows, Rows], fcsts: dict[str, Array], threshold_probability: float
) -> dict[str, Any]:
    """Verification of forecasts for the verified rows of a split, beside baselines that know only its fitted rows."""
    known, verified = rows
    locations, dates, wet = table["Location"], table["Date"], features.wet(table)
    climatology = Climatology.fit(locations[known], dates[known], obs[known])
    persistence = Persistence.fit(locations[known], wet[known], obs[known])
    baselines = {
        "climatology": climatology.forecast(locations[verified], dates[verified]),
        "persistence": persistence.forecast(locations[verified], wet[verified]),
    }
    return verification.verify(
        fcsts, baselines, obs[verified], locations[verified], dates[verified], threshold_probability
    )


def describe(config: ModelConfig, table: Table, rows: Rows, data: str, data_sha256: str) -> dict[str, Any]:
    """Where a model comes from: data, period, settings, code, time and libraries."""
    dates = table["Date"][rows]
    libraries = ("numpy", "scikit-learn", "onnx", "onnxruntime")
    # https://reproducible-builds.org/specs/source-date-epoch/: who wants the same model.json again says when it is.
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return {
        "data": data if "://" in data else Path(data).name,
        "data_sha256": data_sha256,
        "rows": int(np.sum(rows)),
        "period": None if np.isnat(dates).any() else [str(dates.min()), str(dates.max())],
        "config": asdict(config),
        "commit": commit(),
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries},
    }


def parity(fitted: Pipeline) -> dict[str, Any]:
    """What scikit-learn forecasts for EXAMPLE, as one table and each row alone: who loads the model tries the same."""
    frame = pd.DataFrame(list(EXAMPLE))
    together = build_from_frame(frame)
    alone = np.where(features.context(), np.nan, together)
    return {
        "observations": list(EXAMPLE),
        "together": fitted.predict_proba(together)[:, 1].tolist(),
        "alone": fitted.predict_proba(alone)[:, 1].tolist(),
    }


def commit() -> str | None:
    """The commit of the code, with "-dirty" behind it where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def pipeline(fitted: Pipeline) -> Pipeline:
    """The whole model for scikit-learn: a DataFrame of observations in, probabilities out."""
    return Pipeline([("features", FunctionTransformer(build_from_frame)), *fitted.steps])


def build_from_frame(frame: pd.DataFrame) -> Array:
    """`features.build` for a DataFrame with weatherAUS columns."""
    return features.build(table_from_frame(frame))


def table_from_frame(frame: pd.DataFrame) -> Table:
    """A table from a DataFrame with weatherAUS columns, checked like any other input."""
    known = [column.name for column in COLUMNS if column.name in frame]
    texts: dict[str, Sequence[str]] = {
        name: ["" if missing else str(value) for value, missing in zip(frame[name], frame[name].isna(), strict=True)]
        for name in known
    }
    check_header("DataFrame", [str(name) for name in frame.columns])
    return parse_blocks("DataFrame", [(texts, [])])


def dumped(fitted: Pipeline) -> bytes:
    """The pipeline as joblib writes it."""
    file = io.BytesIO()
    joblib.dump(fitted, file, compress=3)
    return file.getvalue()
