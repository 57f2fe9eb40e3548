"""Log of a training as an MLflow run: parameters, metrics, report and both models."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
from alembic.util import CommandError
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from sklearn.pipeline import Pipeline
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import HTTPError

from raincast import temporary
from raincast.features.build import build_features
from raincast.forecasting import model
from raincast.observations import stations
from raincast.observations.columns import COLUMNS
from raincast.observations.table import Table, take
from raincast.redaction import redact, without_parts_of

DEFAULT_STORE = "sqlite:///mlflow.db"
EXPERIMENT = "raincast"
EXAMPLE_ROWS = 5
PACKAGE = Path(__file__).resolve().parents[1]
SERVING_LIBRARIES = ("numpy", "onnxruntime")
PIPELINE_LIBRARIES = ("joblib", "numpy", "pandas", "scikit-learn", "threadpoolctl", "tqdm")


class TrackingError(ConnectionError):
    """The run could not be logged. The model itself is saved."""


def log(directory: Path, pipeline: Pipeline, table: Table) -> str:
    """Log a saved model directory and its pipeline as a run. Return the run's id.

    The store is MLFLOW_TRACKING_URI, `sqlite:///mlflow.db` by default. Raises TrackingError.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # By default MLflow retries for several minutes if the server does not respond.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    # By default MLflow prints the URL of the run with the store's user and password.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    store = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    example = frame(take(table, slice(0, EXAMPLE_ROWS)))
    try:
        with model.opened(directory) as descriptor:
            # All files are of one model, even if another training replaces it meanwhile.
            return _log(store, Path(f"/proc/self/fd/{descriptor}"), pipeline, table, example)
    except (
        mlflow.MlflowException,
        SQLAlchemyError,
        CommandError,
        HTTPError,
        ImportError,
        OSError,
        ValueError,
    ) as error:
        lines = without_parts_of(str(error), store).strip().split("\n")
        reason = f"not logged to {redact(store)}: {lines[0] or type(error).__name__}"
        # Without the cause, whose text may have secrets.
        raise TrackingError(f"the model is saved in {directory}, but {reason}") from None


def _log(store: str, directory: Path, pipeline: Pipeline, table: Table, example: pd.DataFrame) -> str:
    description = model.describe(directory)
    mlflow.set_tracking_uri(store)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=description["version"]) as run:
        mlflow.log_params(parameters(description))
        mlflow.log_metrics(metrics(description["verification"]))
        mlflow.set_tags({name: description[name] for name in ("version", "data_sha256", "commit")})
        mlflow.log_artifacts(str(directory / "report"), "report")
        mlflow.log_artifact(str(directory / model.DESCRIPTION))
        _log_pipeline(pipeline, example)
        _log_graph(directory, build_features(take(table, slice(0, EXAMPLE_ROWS))))
    return str(run.info.run_id)


def parameters(description: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the run: data, period, threshold and settings."""
    names = ("data", "data_sha256", "rows", "period", "threshold")
    return {name: description[name] for name in names} | dict(description["config"])


def metrics(verification: dict[str, Any]) -> dict[str, float]:
    """Return every score of every form and baseline, named `form.score`."""
    groups = verification["forms"] | verification["baselines"]
    return {
        f"{name.replace(',', '').replace(' ', '_')}.{score}": value
        for name, scores in groups.items()
        for score, value in scores.items()
        if isinstance(value, float)
    }


def signature() -> ModelSignature:
    """Return the pipeline's signature: weatherAUS columns, only Location required -> probabilities of no rain and rain.

    The columns have the type Any. With `double` MLflow would reject the columns of integers that pandas reads from most
    CSV files. The pipeline checks every value itself.
    """
    anything = AnyType()  # type: ignore[no-untyped-call]
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(anything, column.name, required=column.kind == "station") for column in COLUMNS
    ]
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype("float64"), (-1, 2))]))


def frame(table: Table) -> pd.DataFrame:
    """Return a table as the DataFrame that the logged pipeline takes: weatherAUS columns, None for missing."""
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        values = table[column.name]
        if column.kind == "date":
            columns[column.name] = [None if np.isnat(value) else str(value) for value in values]
        elif column.kind == "yes_no":
            columns[column.name] = [None if np.isnan(value) else "Yes" if value else "No" for value in values]
        else:
            columns[column.name] = [value or None for value in values] if column.kind == "direction" else values
    return pd.DataFrame(columns)


def _log_pipeline(pipeline: Pipeline, example: pd.DataFrame) -> None:
    with _code() as code:
        mlflow.sklearn.log_model(
            pipeline,
            name="pipeline",
            signature=signature(),
            input_example=example,
            pyfunc_predict_fn="predict_proba",
            serialization_format="cloudpickle",
            code_paths=code,
            pip_requirements=_pins(PIPELINE_LIBRARIES),
        )


def _log_graph(directory: Path, example: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    shape = (-1, example.shape[1])
    mlflow.onnx.log_model(
        onnx.load_from_string((directory / model.GRAPH).read_bytes()),
        name="graph",
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype("float64"), shape, model.INPUT)]),
            Schema([TensorSpec(np.dtype("float64"), (-1,), "probability_of_rain")]),
        ),
        input_example={model.INPUT: example},
        pip_requirements=_pins(SERVING_LIBRARIES),
    )


@contextmanager
def _code() -> Iterator[list[str]]:
    """Yield the code paths of the logged pipeline: the package, and the stations in the place where it reads them."""
    with temporary.folder() as folder:
        data = folder / "data"
        data.mkdir()
        (data / stations.PATH.name).write_bytes(stations.PATH.read_bytes())
        yield [str(PACKAGE), str(data)]


def _pins(libraries: tuple[str, ...]) -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in libraries]
