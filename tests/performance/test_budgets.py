"""What serving needs, in measures that are the same on a fast and on a slow machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from raincast.features.build import build_features, own_feature_count
from raincast.forecasting import model
from raincast.observations import reading
from raincast.observations.table import Table, take
from tests.conftest import ROOT
from tests.integration.serving import many, started

MODEL_MB, ROW_MODEL_MB = 2.0, 2.0
SERVING_MB, BATCH_MB = 150, 320
MODULES = 600
# Nodes that all trees together visit for one row.
VISITED = 6_000
NEVER = {"joblib", "matplotlib", "mlflow", "onnx", "pandas", "pandera", "sklearn", "tests"}
# Writes down, when the service ends, which modules it has and whether it has loaded a pickle.
WATCH = """
import atexit, sys
pickles = []
sys.addaudithook(lambda event, args: pickles.append(args) if event == "pickle.find_class" else None)
atexit.register(lambda: open("modules", "w").write(chr(10).join([*sys.modules, *("pickle:" + str(p) for p in pickles)])))
"""


@pytest.fixture(name="rows", scope="module")
def fixture_rows() -> Table:
    """Some real observations."""
    table = reading.read(ROOT / "data" / "observations.csv.gz")
    return take(table, slice(None, None, len(table["Location"]) // 1000))


@pytest.mark.parametrize(("name", "limit"), [(model.GRAPH, MODEL_MB), (model.ROW_GRAPH, ROW_MODEL_MB)])
def test_what_serves_is_small(trained: Path, name: str, limit: float) -> None:
    size = (trained / name).stat().st_size / 1e6
    assert size <= limit, f"{name} has {size:.2f} MB, at most {limit}"


def resident(pid: int, what: str) -> float:
    """Resident memory of a process in MB: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024 / 1e6


def test_a_serving_process_is_small_and_holds_nothing_that_trains(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, setup=WATCH) as server:
        for rows in (1, 50, 2_000):
            for _ in range(5):
                assert len(server.forecast(many(rows)).probabilities()) == rows
        megabytes = resident(server.process.pid, "VmHWM")
        assert server.stop() == 0
    modules = (tmp_path / "modules").read_text().splitlines()
    pickles = [line for line in modules if line.startswith("pickle:")]
    assert "raincast.server" in modules
    assert not pickles, f"serving loads pickles: {pickles}"
    trains = {name.split(".")[0] for name in modules} & NEVER
    assert not trains, f"serving imports what only trains: {sorted(trains)}"
    assert len(modules) <= MODULES, f"serving imports {len(modules)} modules, at most {MODULES}"
    assert megabytes <= SERVING_MB, f"a serving process has {megabytes:.0f} MB resident, at most {SERVING_MB}"


def test_a_batch_needs_little_memory(trained: Path, tmp_path: Path) -> None:
    # A process counts what the one that started it had, up to its first instruction: a small one has to start it.
    measure = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    call = [ROOT / "prediction.py", ROOT / "data" / "observations.csv.gz", "-o", tmp_path / "forecasts.csv"]
    call = [sys.executable, "-c", measure, sys.executable, *map(str, call), "--model", str(trained)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAINCAST_")}
    answer = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path, env=clean)
    megabytes = int(answer.stdout) * 1024 / 1e6
    assert megabytes <= BATCH_MB, f"a batch of 99,516 rows needs {megabytes:.0f} MB, at most {BATCH_MB}"


@dataclass(frozen=True)
class Trees:
    """The nodes of a graph's trees."""

    attributes: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> Trees:
        """From a graph's only TreeEnsemble."""
        (node,) = [node for node in onnx.load(path).graph.node if node.op_type == "TreeEnsemble"]
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return cls(
            {
                name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)
                for name, value in values.items()
            }
        )

    def walk(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many nodes are visited, and the sum of the leaves that are reached, for each row."""
        at = self.attributes
        visited, logit = np.zeros(len(matrix), int), np.zeros(len(matrix))
        every = np.arange(len(matrix))
        for root in at["tree_roots"]:
            node, inside = np.full(len(matrix), root), np.ones(len(matrix), bool)
            while inside.any():
                value = matrix[every, at["nodes_featureids"][node]]
                missing = np.isnan(value) & (at["nodes_missing_value_tracks_true"][node] == 1)
                true = missing | (value <= at["nodes_splits"][node])
                visited += inside
                leaf = np.where(true, at["nodes_trueleafs"][node], at["nodes_falseleafs"][node]) == 1
                following = np.where(true, at["nodes_truenodeids"][node], at["nodes_falsenodeids"][node])
                reached = inside & leaf
                logit[reached] += at["leaf_weights"][following[reached]]
                inside &= ~leaf
                node = np.where(inside, following, node)
        return visited, logit


@pytest.mark.parametrize("name", [model.GRAPH, model.ROW_GRAPH])
def test_a_forecast_visits_few_nodes(trained: Path, rows: Table, name: str) -> None:
    loaded, matrix = model.load(trained), build_features(rows)
    fcst = loaded.probability_of_rain(matrix)
    if name == model.ROW_GRAPH:
        matrix = matrix[:, : own_feature_count()]
    visited, logit = Trees.of(trained / name).walk(matrix)
    # The walk is that of the graph: a constant apart, which the graph adds to all rows, it ends in the same forecasts.
    assert np.ptp(np.log(fcst / (1 - fcst)) - logit) < 1e-6
    assert np.mean(visited) <= VISITED, f"{name} visits {np.mean(visited):,.0f} nodes a row, at most {VISITED:,}"
