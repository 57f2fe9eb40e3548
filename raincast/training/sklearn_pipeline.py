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

# Invented observations of three neighbouring stations, so that context matters; the last is as known at 3 pm.
PARITY_ROWS: tuple[dict[str, Any], ...] = (
    {
        "Date": "2016-09-13", "Location": "Melbourne", "MinTemp": 8.9, "MaxTemp": 15.8, "Rainfall": 3.4,
        "Evaporation": 2.8, "Sunshine": 4.6, "WindGustDir": "SW", "WindGustSpeed": 52, "WindDir9am": "WNW",
        "WindDir3pm": "SW", "WindSpeed9am": 17, "WindSpeed3pm": 26, "Humidity9am": 74, "Humidity3pm": 63,
        "Pressure9am": 1009.6, "Pressure3pm": 1008.1, "Cloud9am": 6, "Cloud3pm": 7, "Temp9am": 11.2, "Temp3pm": 14.7,
        "RainToday": "Yes",
    },
    {
        "Date": "2016-09-13", "Location": "MelbourneAirport", "MinTemp": 7.1, "MaxTemp": 14.9, "Rainfall": 5.2,
        "Evaporation": 3.0, "Sunshine": 3.9, "WindGustDir": "WSW", "WindGustSpeed": 63, "WindDir9am": "W",
        "WindDir3pm": "WSW", "WindSpeed9am": 24, "WindSpeed3pm": 33, "Humidity9am": 79, "Humidity3pm": 68,
        "Pressure9am": 1009.2, "Pressure3pm": 1007.6, "Cloud9am": 7, "Cloud3pm": 7, "Temp9am": 10.1, "Temp3pm": 13.6,
        "RainToday": "Yes",
    },
    {
        "Date": "2016-09-13", "Location": "Watsonia", "MinTemp": 6.4, "Rainfall": 0.8, "WindDir9am": "NW",
        "WindSpeed9am": 13, "Humidity9am": 81, "Humidity3pm": 60, "Pressure9am": 1009.9, "Pressure3pm": 1008.4,
        "Temp9am": 10.4, "Temp3pm": 14.2, "RainToday": "No",
    },
)  # fmt: skip


def parity(fitted: Pipeline) -> dict[str, Any]:
    """Return PARITY_ROWS with scikit-learn's forecasts for them, as one table and as single rows.

    `forecast.check_parity` compares them with those of a loaded model.
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
    """Return the table of a DataFrame with weatherAUS columns. Raises ObservationError like for any other input."""
    known = [column.name for column in COLUMNS if column.name in frame]
    texts: dict[str, Sequence[str]] = {
        name: ["" if missing else str(value) for value, missing in zip(frame[name], frame[name].isna(), strict=True)]
        for name in known
    }
    check_header("DataFrame", [str(name) for name in frame.columns])
    return parse_blocks("DataFrame", [(texts, [])])


def dumped(fitted: Pipeline) -> bytes:
    """Serialize a pipeline with joblib."""
    file = io.BytesIO()
    joblib.dump(fitted, file, compress=3)
    return file.getvalue()
