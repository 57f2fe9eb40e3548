"""The model as a scikit-learn pipeline over DataFrames, and the parity rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from raincast.features.build import build_features, context_mask
from raincast.observations.columns import COLUMNS
from raincast.observations.parsing import check_header, parse_blocks
from raincast.observations.table import Table
from raincast.verification import Array

# Made-up observations that a loaded model is tried with: a dry and a wet station with context, one with missing values.
PARITY_ROWS: tuple[dict[str, Any], ...] = (
    {
        "Date": "2016-01-15", "Location": "Adelaide", "MinTemp": 21.4, "MaxTemp": 38.9, "Rainfall": 0.0,
        "Evaporation": 11.8, "Sunshine": 13.2, "WindGustDir": "N", "WindGustSpeed": 52, "WindDir9am": "NNE",
        "WindDir3pm": "NNW", "WindSpeed9am": 11, "WindSpeed3pm": 22, "Humidity9am": 24, "Humidity3pm": 11,
        "Pressure9am": 1009.2, "Pressure3pm": 1005.7, "Cloud9am": 0, "Cloud3pm": 2, "Temp9am": 28.6, "Temp3pm": 37.8,
        "RainToday": "No",
    },
    {
        "Date": "2016-01-15", "Location": "Darwin", "MinTemp": 24.1, "MaxTemp": 29.7, "Rainfall": 46.2,
        "Evaporation": 2.4, "Sunshine": 0.3, "WindGustDir": "WNW", "WindGustSpeed": 63, "WindDir9am": "W",
        "WindDir3pm": "WNW", "WindSpeed9am": 26, "WindSpeed3pm": 30, "Humidity9am": 93, "Humidity3pm": 88,
        "Pressure9am": 1004.9, "Pressure3pm": 1001.6, "Cloud9am": 8, "Cloud3pm": 8, "Temp9am": 25.8, "Temp3pm": 27.9,
        "RainToday": "Yes",
    },
    {
        "Date": "2016-01-15", "Location": "MountGambier", "MinTemp": 14.0, "Rainfall": 0.4, "WindDir9am": "NNW",
        "WindSpeed9am": 9, "Humidity9am": 61, "Humidity3pm": 29, "Pressure9am": 1008.8, "Pressure3pm": 1004.1,
        "Temp9am": 20.3, "Temp3pm": 33.6, "RainToday": "No",
    },
)  # fmt: skip


def parity(fitted: Pipeline) -> dict[str, Any]:
    """Return scikit-learn's forecasts of PARITY_ROWS, as one table and as single rows.

    Loading the model on another machine repeats them.
    """
    frame = pd.DataFrame(list(PARITY_ROWS))
    together = build_from_frame(frame)
    single_rows = np.where(context_mask(), np.nan, together)
    return {
        "observations": list(PARITY_ROWS),
        "together": fitted.predict_proba(together)[:, 1].tolist(),
        "alone": fitted.predict_proba(single_rows)[:, 1].tolist(),
    }


def pipeline(fitted: Pipeline) -> Pipeline:
    """Return the model for scikit-learn: a DataFrame of observations in, probabilities out."""
    return Pipeline([("features", FunctionTransformer(build_from_frame)), *fitted.steps])


def build_from_frame(frame: pd.DataFrame) -> Array:
    """Return the feature matrix of a DataFrame with weatherAUS columns."""
    return build_features(table_from_frame(frame))


def table_from_frame(frame: pd.DataFrame) -> Table:
    """Return the table of a DataFrame with weatherAUS columns, checked like any other input."""
    known = [column.name for column in COLUMNS if column.name in frame]
    texts: dict[str, Sequence[str]] = {
        name: ["" if missing else str(value) for value, missing in zip(frame[name], frame[name].isna(), strict=True)]
        for name in known
    }
    check_header("DataFrame", [str(name) for name in frame.columns])
    return parse_blocks("DataFrame", [(texts, [])])


def dumped(fitted: Pipeline) -> bytes:
    """Return the pipeline as joblib writes it."""
    file = io.BytesIO()
    joblib.dump(fitted, file, compress=3)
    return file.getvalue()
