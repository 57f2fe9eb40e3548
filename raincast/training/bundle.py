"""Saving of a model directory: description, graphs, pipeline and report."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from raincast import __version__
from raincast.atomic import TargetError, check_parent, replace_directory, write_to_disk
from raincast.features.build import feature_names
from raincast.forecasting.model import (
    DESCRIPTION,
    GRAPH,
    PIPELINE,
    REPORT,
    SINGLE_ROW_GRAPH,
    canonical_json,
    read_file,
    sha256,
)
from raincast.observations import stations
from raincast.observations.table import Table
from raincast.redaction import redact
from raincast.training.config import ModelConfig
from raincast.training.splits import Rows


def check_target(directory: Path) -> None:
    """Raise TargetError if no model can be saved in a directory, or if that would delete files of another kind."""
    try:
        # Raises OSError for a loop of links.
        with suppress(FileNotFoundError):
            directory.stat()
        directory = directory.resolve()
        if directory.exists():
            parts = {DESCRIPTION, GRAPH, SINGLE_ROW_GRAPH, PIPELINE, REPORT}
            present = {path.name for path in directory.iterdir()}
            if present and (DESCRIPTION not in present or not present <= parts):
                raise TargetError(f"{directory}: holds other things than a model, which saving would delete")
        check_parent(directory)
    except OSError as error:
        raise TargetError(f"{directory}: no model can be saved there: {error.strerror}") from error


def save(
    directory: Path,
    description: dict[str, Any],
    files: dict[str, bytes],
    report: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Write a model directory atomically: a kill at any moment leaves the old one or the new one.

    `files` are the contents of the files besides the description, including model.onnx. `report` is called with a
    folder and the completed description, and writes the report. Raises TargetError.
    """
    check_target(directory)
    description = _without_nan(description) | {
        "name": "raincast",
        # Trainings that result in the same graph have the same version.
        "version": f"{__version__}+{sha256(files[GRAPH])[:8]}",
        "files": {name: sha256(content) for name, content in sorted(files.items())},
        "features": list(feature_names()),
        "stations_sha256": sha256(read_file(stations.PATH)),
    }
    with replace_directory(directory.resolve()) as folder:
        for name, content in files.items():
            write_to_disk(folder / name, content)
        signed = description | {"sha256": sha256(canonical_json(description))}
        write_to_disk(folder / DESCRIPTION, canonical_json(signed) + b"\n")
        (folder / REPORT).mkdir()
        report(folder / REPORT, description)


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(config: ModelConfig, table: Table, rows: Rows, data: str, data_sha256: str) -> dict[str, Any]:
    """Return the origin of a model: data, period, settings, code, time and libraries."""
    dates = table["Date"][rows]
    libraries = ("numpy", "scikit-learn", "onnx", "onnxruntime")
    # A fixed time makes model.json reproducible: https://reproducible-builds.org/specs/source-date-epoch/.
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return {
        "data": redact(data) if "://" in data else Path(data).name,
        "data_sha256": data_sha256,
        "rows": int(np.sum(rows)),
        "period": None if np.isnat(dates).any() else [str(dates.min()), str(dates.max())],
        "config": asdict(config),
        "commit": commit(),
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries},
    }


def commit() -> str | None:
    """Return the commit of the code, with "-dirty" appended if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
