"""The boundaries: imports go downward, and what serves never loads what trains."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "raincast"
TRAINING_ONLY = {"joblib", "matplotlib", "mlflow", "onnx", "pandas", "pandera", "sklearn"}
# What each module may import from the package, from the bottom up.
LAYERS = {
    "observations": set(),
    "stations": set(),
    "verification": set(),
    "progress": set(),
    "formats": {"observations"},
    "reading": {"formats", "observations"},
    "straight": set(),
    "features": {"observations", "stations", "straight"},
    "model": {"features", "stations"},
    "forecast": {"features", "formats", "model", "observations"},
    "shards": set(),
    "command": {"model", "observations", "shards"},
    "staging": {"formats", "observations", "reading"},
    "bulk": {"features", "forecast", "formats", "model", "observations", "shards", "staging"},
    "records": {"formats", "observations"},
    "scoring": {"observations", "records"},
    "problems": {"observations"},
    "answers": {"features", "forecast", "model", "observations", "problems", "records", "scoring", "stations"},
    "connections": {"answers", "problems"},
    "health": set(),
    "journal": set(),
    "metrics": {"observations"},
    "exposition": {"metrics"},
    "openapi": {"observations"},
    "pages": {"model", "observations", "openapi"},
    "server": {
        "answers",
        "connections",
        "exposition",
        "forecast",
        "journal",
        "metrics",
        "model",
        "observations",
        "openapi",
        "pages",
        "problems",
        "records",
    },
    "source": {"observations", "reading"},
    "quality": {"observations"},
    "onnx_export": {"features", "model", "observations"},
    "training": {"features", "observations", "progress", "verification"},
    "report": {"features", "observations", "stations", "verification"},
    "tracking": {"features", "model", "observations", "stations"},
}


def _imported(path: Path) -> set[str]:
    """Modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "raincast":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raincast."):
            found.add(str(node.module).split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_from_below(path: Path) -> None:
    allowed = LAYERS.get(path.stem, set())
    assert path.stem in LAYERS or path.stem == "__init__", "a new module: give it a place in LAYERS"
    assert _imported(path) <= allowed


def test_only_tracking_imports_mlflow_and_only_train_imports_tracking() -> None:
    files = [*PACKAGE.glob("*.py"), ROOT / "train.py", ROOT / "prediction.py"]
    with_mlflow = {path.stem for path in files if "import mlflow" in path.read_text(encoding="utf-8")}
    with_tracking = {path.stem for path in files if "tracking" in _imported(path)}
    assert with_mlflow == {"tracking"}
    assert with_tracking == {"train"}


def _loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after some code has run in a fresh process."""
    call = [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"]
    answer = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(answer.stdout.split())


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet"])
def test_a_forecast_loads_nothing_that_trains_and_no_pickle(form: str, trained: Path) -> None:
    code = (
        "import sys, os\n"
        "def no_pickle(event, _):\n"
        "    assert event != 'pickle.find_class', 'a pickle was loaded'\n"
        "sys.addaudithook(no_pickle)\n"
        "import prediction\n"
        f"given = prediction.arguments(['--format', '{form}', '--model', {str(trained)!r}, '-o', os.devnull])\n"
        "prediction.predict(given)"
    )
    assert not _loaded_by(code) & TRAINING_ONLY


def test_importing_the_package_reads_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, builtins, io, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy, onnxruntime, csv, gzip, zipfile, json, ctypes, tempfile\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from raincast import command, features, forecast, model, observations, reading, stations\n"
        "assert not [p for p in opened if not p.endswith(('.py', '.pyc')) and '.pyc.' not in p], opened"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
