"""The model directory: load it, check every file against its SHA-256, run its graphs.

`model.onnx` forecasts rows with context, `model-row.onnx` single rows, and `model.json` describes both. `model.joblib`
is the same model for scikit-learn and MLflow. It is never read here: loading a pickle executes code from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from raincast.features.build import feature_names
from raincast.observations import stations

DIRECTORY = Path(__file__).resolve().parents[2] / "model"
DESCRIPTION, GRAPH, SINGLE_ROW_GRAPH, PIPELINE = "model.json", "model.onnx", "model-row.onnx", "model.joblib"
INPUT, OUTPUT = "features", "probability_of_rain"
REPORT = "report"
# onnxruntime adds trees in an order that depends on the number of rows. Rounding drops the digits that this changes and
# keeps forecasts of the same row equal to 1e-12.
PROBABILITY_SCALE = 1e13


class ModelError(RuntimeError):
    """The model directory is missing, incomplete, changed, or made for other features."""


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """Load an ONNX graph to run on one thread without spinning: forecasts are small and cores are shared."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of rain for each row of a feature matrix, shape (rows,).

    Rows run in order of longitude, so that those of a station are adjacent: they take similar branches, which helps the
    processor's branch prediction.
    """
    order = np.argsort(matrix[:, feature_names().index("longitude")], kind="stable")
    (ordered,) = graph.run((OUTPUT,), {INPUT: matrix[order]})
    fcst = np.empty(len(matrix))
    fcst[order] = ordered
    return np.rint(fcst * PROBABILITY_SCALE) / PROBABILITY_SCALE


@dataclass(frozen=True)
class Model:
    """A loaded model: graphs for rows with context and for single rows, and the description from model.json."""

    graph: onnxruntime.InferenceSession
    single_row_graph: onnxruntime.InferenceSession
    description: dict[str, Any]

    @property
    def threshold(self) -> float:
        """Probability at and above which the forecast is Yes."""
        return float(self.description["threshold"])

    @property
    def version(self) -> str:
        """Package version and the start of the graph's SHA-256."""
        return str(self.description["version"])

    @property
    def trained(self) -> float:
        """Time of the training in seconds since 1970. Raises ModelError if the description lacks it."""
        if "trained" not in self.description:
            raise ModelError("the model does not say when it was trained; train again with this version of Raincast")
        return datetime.fromisoformat(self.description["trained"]).timestamp()

    def probability_of_rain(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of rain for each row of a feature matrix from `build_features`, shape (rows,)."""
        return run(self.graph, matrix)

    def single_row_probabilities(self, matrix: NDArray[np.float64]) -> list[float]:
        """Return the probability of rain for each row of own features; the rows are not each other's context.

        `matrix` has the shape (rows, own_feature_count()).
        """
        (fcst,) = self.single_row_graph.run((OUTPUT,), {INPUT: matrix})
        return [round(p * PROBABILITY_SCALE) / PROBABILITY_SCALE for p in fcst.tolist()]


def load(directory: Path = DIRECTORY) -> Model:
    """Load a model directory after checking every file against its SHA-256.

    All files come from one directory, even if another takes its place meanwhile. Raises ModelError if a file is missing
    or changed, or if the model was trained on other features or stations.
    """
    while True:
        with opened(directory) as descriptor:
            try:
                description, content = _read_files(directory, descriptor)
                break
            except ModelError:
                # The files of a directory that was exchanged are deleted while they are read here.
                if _is_at(descriptor, directory):
                    raise
    if tuple(description["features"]) != feature_names():
        raise ModelError(f"{directory}: trained on other features than this version of Raincast computes; train again")
    if description["stations_sha256"] != sha256(read_file(stations.PATH)):
        raise ModelError(f"{directory}: {stations.PATH.name} has changed since the training; train again")
    return Model(session(content[GRAPH]), session(content[SINGLE_ROW_GRAPH]), description)


@contextmanager
def opened(directory: Path) -> Iterator[int | None]:
    """Yield a descriptor of a directory, from which its files are read even if another takes its place; else None."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # Reading the description raises the error.
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(descriptor: int | None, directory: Path) -> bool:
    """Return True if a descriptor is that of the directory which now has this path."""
    try:
        return descriptor is None or os.path.samestat(os.fstat(descriptor), os.stat(directory))
    except OSError:
        return True


def _read_files(directory: Path, descriptor: int | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the description and the content of the files that it lists, each checked. Raises ModelError."""
    description = describe(directory, descriptor)
    content = {}
    missing = {GRAPH, SINGLE_ROW_GRAPH} - set(description["files"])
    if missing:
        raise ModelError(f"{directory}: has no {', '.join(sorted(missing))}; train again with this version of Raincast")
    for name, expected in description["files"].items():
        if name == PIPELINE and name not in os.listdir(directory if descriptor is None else descriptor):
            # The serving image leaves it out.
            continue
        content[name] = read_file(directory / name, descriptor)
        if sha256(content[name]) != expected:
            raise ModelError(f"{directory / name}: SHA-256 differs from that in {DESCRIPTION}: the file was changed")
    return description, content


def describe(directory: Path = DIRECTORY, descriptor: int | None = None) -> dict[str, Any]:
    """Return the content of model.json, checked against the SHA-256 it records of itself. Raises ModelError.

    With a `descriptor` the file is read from the directory that it refers to.
    """
    path = directory / DESCRIPTION
    try:
        description = json.loads(read_file(path, descriptor))
        expected = description.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a model description: {error}") from error
    if expected != sha256(canonical_json(description)):
        raise ModelError(f"{path}: SHA-256 differs from the one it records: the file was changed")
    return dict(description)


def read_file(path: Path, descriptor: int | None = None) -> bytes:
    """Read a file, with a `descriptor` of its directory from that. Raises ModelError."""
    try:
        name = path if descriptor is None else path.name
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=descriptor), "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file; train a model with `make train`") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def canonical_json(description: dict[str, Any]) -> bytes:
    """Serialize a description to the bytes whose SHA-256 it records."""
    return json.dumps(description, sort_keys=True, indent=1, allow_nan=False).encode()
