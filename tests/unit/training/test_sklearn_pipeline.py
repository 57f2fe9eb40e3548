"""The scikit-learn pipeline over DataFrames, and the parity rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from raincast.forecasting import forecast, model
from raincast.observations.errors import ObservationError
from raincast.observations.table import Table
from raincast.training import onnx_export, sklearn_pipeline
from raincast.training.forms import CONTEXT


def test_the_saved_pipeline_takes_a_frame_of_observations(
    fitted: tuple[Any, Any], dated: Table, slice_csv: Path
) -> None:
    saved = joblib.load(io.BytesIO(sklearn_pipeline.dumped(sklearn_pipeline.pipeline(fitted[0]))))
    frame = pd.read_csv(slice_csv).assign(Date=pd.to_datetime(dated["Date"]))
    expected = fitted[0].predict_proba(fitted[1][CONTEXT])
    np.testing.assert_allclose(saved.predict_proba(frame), expected, atol=1e-12)
    with pytest.raises(ObservationError, match="DataFrame: there is no column Location"):
        saved.predict_proba(frame.drop(columns="Location"))


def test_the_description_holds_scikit_learns_forecasts_of_the_parity_rows(
    contextual: tuple[Any, Any],
) -> None:
    pipeline, matrices = contextual
    graphs = {name: model.session(content) for name, content in onnx_export.export(pipeline, matrices).items()}
    loaded = model.Model(
        graphs[model.GRAPH], graphs[model.SINGLE_ROW_GRAPH], {"parity": sklearn_pipeline.parity(pipeline)}
    )
    forecast.check_parity(loaded)
    parity = loaded.description["parity"]
    assert json.loads(json.dumps(parity)) == parity
    # The stations are neighbours: context changes their forecasts.
    assert parity["together"] != parity["alone"]
