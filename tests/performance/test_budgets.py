"""Resources of serving and batches, in measures that do not depend on the speed of the machine."""

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
# Nodes of all trees that a row visits, on average.
VISITED = 6_000
NEVER = {"joblib", "matplotlib", "mlflow", "onnx", "pandas", "pandera", "sklearn", "tests"}
# Records, when the service ends, the modules in memory and the pickles that were loaded.
WATCH = """
import atexit, sys
pickles = []
sys.addaudithook(lambda event, args: pickles.append(args) if event == "pickle.find_class" else None)
atexit.register(lambda: open("modules", "w").write(chr(10).join([*sys.modules, *("pickle:" + str(p) for p in pickles)])))
"""


@pytest.fixture(name="rows", scope="module")
def fixture_rows() -> Table:
    """Return some real observations."""
    table = reading.read(ROOT / "data" / "observations.csv.gz")
    return take(table, slice(None, None, len(table["Location"]) // 1000))


@pytest.mark.parametrize(("name", "limit"), [(model.GRAPH, MODEL_MB), (model.SINGLE_ROW_GRAPH, ROW_MODEL_MB)])
def test_the_graphs_are_small(trained: Path, name: str, limit: float) -> None:
    size = (trained / name).stat().st_size / 1e6
    assert size <= limit, f"{name} has {size:.2f} MB, at most {limit}"


def peak_memory(pid: int) -> float:
    """Return the peak resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def test_a_serving_process_is_small_and_loads_no_training_library(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, setup=WATCH) as server:
        for rows in (1, 50, 2_000):
            for _ in range(5):
                assert len(server.forecast(many(rows)).probabilities()) == rows
        megabytes = peak_memory(server.process.pid)
        assert server.stop() == 0
    modules = (tmp_path / "modules").read_text().splitlines()
    pickles = [line for line in modules if line.startswith("pickle:")]
    assert "raincast.serving.server" in modules
    assert not pickles, f"serving loads pickles: {pickles}"
    for_training = {name.split(".")[0] for name in modules} & NEVER
    assert not for_training, f"serving imports libraries of the training: {sorted(for_training)}"
    assert len(modules) <= MODULES, f"serving imports {len(modules)} modules, at most {MODULES}"
    assert megabytes <= SERVING_MB, f"a serving process has {megabytes:.0f} MB resident, at most {SERVING_MB}"


def test_a_batch_needs_little_memory(trained: Path, tmp_path: Path) -> None:
    # Until its exec a child process counts the memory of its parent: start it from a small process.
    measure = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    script, observations, output = ROOT / "prediction.py", ROOT / "data" / "observations.csv.gz", tmp_path / "out.csv"
    forecast = map(str, (sys.executable, script, observations, "-o", output, "--model", trained))
    call = [sys.executable, "-c", measure, *forecast]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAINCAST_")}
    process = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path, env=clean)
    megabytes = int(process.stdout) * 1024 / 1e6
    assert megabytes <= BATCH_MB, f"a batch of 99,516 rows needs {megabytes:.0f} MB, at most {BATCH_MB}"


@dataclass(frozen=True)
class Trees:
    """The nodes of a graph's trees."""

    attributes: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> Trees:
        """Read a graph's only TreeEnsemble."""
        (node,) = [node for node in onnx.load(path).graph.node if node.op_type == "TreeEnsemble"]
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return cls(
            {
                name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)
                for name, value in values.items()
            }
        )

    def walk(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each row, the number of visited nodes and the sum of the leaves reached."""
        at = self.attributes
        visited, logit = np.zeros(len(matrix), int), np.zeros(len(matrix))
        rows = np.arange(len(matrix))
        for root in at["tree_roots"]:
            node, inside = np.full(len(matrix), root), np.ones(len(matrix), bool)
            while inside.any():
                value = matrix[rows, at["nodes_featureids"][node]]
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


@pytest.mark.parametrize("name", [model.GRAPH, model.SINGLE_ROW_GRAPH])
def test_a_forecast_visits_few_nodes(trained: Path, rows: Table, name: str) -> None:
    loaded, matrix = model.load(trained), build_features(rows)
    fcst = loaded.probability_of_rain(matrix)
    if name == model.SINGLE_ROW_GRAPH:
        matrix = matrix[:, : own_feature_count()]
    visited, logit = Trees.of(trained / name).walk(matrix)
    # The walk gives the graph's forecasts up to a constant.
    assert np.ptp(np.log(fcst / (1 - fcst)) - logit) < 1e-6
    assert np.mean(visited) <= VISITED, f"{name} visits {np.mean(visited):,.0f} nodes a row, at most {VISITED:,}"
