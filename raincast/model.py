"""The model directory: what serves, what describes it, and the proof that neither has changed.

`model.onnx` forecasts, `model.json` describes it, `model.joblib` is the same model for scikit-learn and MLflow and is
never read here: loading a pickle runs whatever is in it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from raincast import __version__, features, stations

DIRECTORY = Path(__file__).resolve().parent.parent / "model"
DESCRIPTION, GRAPH, ROW_GRAPH, PIPELINE = "model.json", "model.onnx", "model-row.onnx", "model.joblib"
INPUT, OUTPUT = "features", "probability_of_rain"
REPORT = "report"
# onnxruntime adds the trees of one row and of many in another order. Rounding leaves out the digits that depend on it,
# and keeps forecasts of the same row equal to 1e-12.
SCALE = 1e13
STALE_SECONDS = 3600.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class ModelError(RuntimeError):
    """The model directory is absent, incomplete, changed, or made for other features."""


class TargetError(ValueError):
    """A model cannot be saved where it should be."""


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """An ONNX graph ready to run, on one thread that does not spin: forecasts are small, and cores are shared."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of rain for each row of a feature matrix, shape (rows,).

    The rows of a station are run one after the other: they take much the same branches, which the processor learns to
    expect.
    """
    order = np.argsort(matrix[:, features.names().index("longitude")], kind="stable")
    (ordered,) = graph.run((OUTPUT,), {INPUT: matrix[order]})
    fcst = np.empty(len(matrix))
    fcst[order] = ordered
    return np.rint(fcst * SCALE) / SCALE


@dataclass(frozen=True)
class Model:
    """A loaded model: its graphs, for a matrix of features and for a row alone, and the description from model.json."""

    graph: onnxruntime.InferenceSession
    row_graph: onnxruntime.InferenceSession
    description: dict[str, Any]

    @property
    def threshold(self) -> float:
        """Probability from which on the forecast says rain."""
        return float(self.description["threshold"])

    @property
    def version(self) -> str:
        """Package version and the start of the graph's SHA-256."""
        return str(self.description["version"])

    @property
    def trained(self) -> float:
        """When it was trained, in seconds since 1970. Raises ModelError where it does not say."""
        if "trained" not in self.description:
            raise ModelError("the model does not say when it was trained; train again with this version of Raincast")
        return datetime.fromisoformat(self.description["trained"]).timestamp()

    def probability_of_rain(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of rain for each row of `features.build`, shape (rows,)."""
        return run(self.graph, matrix)

    def probability_alone(self, matrix: NDArray[np.float64]) -> float:
        """Probability of rain for the one row of `features.build_row`."""
        return self.probabilities_alone([matrix])[0]

    def probabilities_alone(self, matrices: Sequence[NDArray[np.float64]]) -> list[float]:
        """Probability of rain for each of some rows of `features.build_row`, which are no context to each other."""
        matrix = matrices[0] if len(matrices) == 1 else np.concatenate(matrices)
        (fcst,) = self.row_graph.run((OUTPUT,), {INPUT: matrix})
        return [round(p * SCALE) / SCALE for p in fcst.tolist()]


def load(directory: Path = DIRECTORY) -> Model:
    """The model in a directory, after checking every file against its SHA-256.

    Raises ModelError where a file is missing or changed, or where this code makes other features than it learned from.
    """
    description = describe(directory)
    content = {}
    absent = {GRAPH, ROW_GRAPH} - set(description["files"])
    if absent:
        raise ModelError(f"{directory}: has no {', '.join(sorted(absent))}; train again with this version of Raincast")
    for name, expected in description["files"].items():
        if name == PIPELINE and not (directory / name).exists():
            # An image holds only what serves.
            continue
        content[name] = _content(directory / name)
        if sha256(content[name]) != expected:
            raise ModelError(f"{directory / name}: SHA-256 differs from the one in {DESCRIPTION}: the file was changed")
    if tuple(description["features"]) != features.names():
        raise ModelError(f"{directory}: learned from other features than this version of Raincast makes; train again")
    if description["stations_sha256"] != sha256(_content(stations.PATH)):
        raise ModelError(f"{directory}: {stations.PATH.name} has changed since the training; train again")
    return Model(session(content[GRAPH]), session(content[ROW_GRAPH]), description)


def describe(directory: Path = DIRECTORY) -> dict[str, Any]:
    """The content of model.json, checked against its own SHA-256. Raises ModelError."""
    path = directory / DESCRIPTION
    try:
        description = json.loads(_content(path))
        expected = description.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a model description: {error}") from error
    if expected != sha256(_canonical(description)):
        raise ModelError(f"{path}: SHA-256 differs from its own: the file was changed")
    return dict(description)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file; train a model with `make train`") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _canonical(description: dict[str, Any]) -> bytes:
    return json.dumps(description, sort_keys=True, indent=1, allow_nan=False).encode()


def check_target(directory: Path) -> None:
    """Raise TargetError where no model can be saved, or where something else than a model would be lost by it."""
    directory = directory.resolve()
    try:
        if directory.exists():
            ours = {DESCRIPTION, GRAPH, ROW_GRAPH, PIPELINE, REPORT}
            there = {path.name for path in directory.iterdir()}
            if there and (DESCRIPTION not in there or not there <= ours):
                raise TargetError(f"{directory}: holds other things than a model, which saving would delete")
        directory.parent.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise TargetError(f"{directory}: no model can be saved there: {error.strerror}") from error


def save(
    directory: Path,
    description: dict[str, Any],
    files: dict[str, bytes],
    report: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Write a model directory, whole or not at all: a kill at any moment leaves the old one or the new.

    `files` is what the directory holds besides the description, model.onnx among it; `report` writes the report on the
    completed description into the folder it is given.
    """
    check_target(directory)
    directory = directory.resolve()
    for left in directory.parent.glob(f".{directory.name}.*"):
        # What a killed training left. A younger one may be another training's, still at work.
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        made.chmod(0o755)
        description = _without_nan(description) | {
            "name": "raincast",
            # The graph decides what is forecast: two trainings with the same outcome have the same version.
            "version": f"{__version__}+{sha256(files[GRAPH])[:8]}",
            "files": {name: sha256(content) for name, content in sorted(files.items())},
            "features": list(features.names()),
            "stations_sha256": sha256(_content(stations.PATH)),
        }
        for name, content in files.items():
            _write(made / name, content)
        _write(made / DESCRIPTION, _canonical(description | {"sha256": sha256(_canonical(description))}) + b"\n")
        (made / REPORT).mkdir()
        report(made / REPORT, description)
        _swap(made, directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a score that does not exist is null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(new: Path, directory: Path) -> None:
    """Put `new` in the place of `directory`; what stood there, if anything, is then at `new`."""
    if not directory.exists():
        new.rename(directory)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(new), os.fsencode(directory)
    if exchange and exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    # Systems that cannot exchange two names in one step: for an instant there is no model, never half a one.
    old = new.with_name(new.name + ".old")
    directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    old.rename(new)
