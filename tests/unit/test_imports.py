"""Boundaries between rooms: imports go downward, and serving never loads libraries of the training environment."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "raincast"
TRAINING_ONLY = {"joblib", "matplotlib", "mlflow", "onnx", "pandas", "pandera", "sklearn"}
# The rooms and modules that each room may import besides itself, from the bottom up.
ALLOWED = {
    "atomic": set(),
    "temporary": {"atomic"},
    "signals": set(),
    "redaction": set(),
    "verification": set(),
    "observations": {"temporary", "redaction"},
    "features": {"observations"},
    "forecasting": {"observations", "features", "temporary"},
    "batch": {"observations", "features", "forecasting", "temporary"},
    "serving": {"observations", "features", "forecasting"},
    "training": {"observations", "features", "forecasting", "verification", "atomic", "redaction"},
    "lifecycle": {
        "observations",
        "features",
        "forecasting",
        "verification",
        "atomic",
        "temporary",
        "training",
        "redaction",
    },
    "cli": {"observations", "forecasting", "atomic", "signals", "redaction"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imported(path: Path) -> set[str]:
    """Return the rooms and top-level modules of the package that a file imports."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "raincast":
            imported |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raincast."):
            imported.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "raincast" for alias in node.names), "use from ... import"
    return imported


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    assert _imported(path) <= ALLOWED[_room(path)] | {_room(path)}


def test_modules_of_a_room_do_not_import_each_other_in_a_circle() -> None:
    graph = {}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        graph[".".join(("raincast", *path.relative_to(PACKAGE).with_suffix("").parts))] = names | {
            str(node.module) for node in nodes
        }
    list(TopologicalSorter({name: set(graph) & imported for name, imported in graph.items()}).static_order())


def test_init_files_are_empty() -> None:
    assert [path for path in PACKAGE.glob("*/__init__.py") if path.read_text(encoding="utf-8")] == []


def test_only_tracking_imports_mlflow_and_only_train_imports_tracking() -> None:
    files = [*MODULES, ROOT / "train.py", ROOT / "prediction.py"]
    with_mlflow = {path.stem for path in files if "import mlflow" in path.read_text(encoding="utf-8")}
    with_tracking = {path.stem for path in files if "lifecycle" in _imported(path)}
    assert with_mlflow == {"tracking"}
    assert with_tracking == {"train"}


def _loaded_by(code: str) -> set[str]:
    """Return the top-level modules in memory after some code has run in a new process."""
    call = [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"]
    process = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(process.stdout.split())


@pytest.mark.parametrize("output_format", ["table", "csv", "json", "parquet"])
def test_a_forecast_loads_no_training_library_and_no_pickle(output_format: str, trained: Path) -> None:
    code = (
        "import sys, os\n"
        "def no_pickle(event, _):\n"
        "    assert event != 'pickle.find_class', 'a pickle was loaded'\n"
        "sys.addaudithook(no_pickle)\n"
        "import prediction\n"
        f"call = ['--format', '{output_format}', '--model', {str(trained)!r}, '-o', os.devnull]\n"
        "prediction.predict(prediction.arguments(call))"
    )
    assert not _loaded_by(code) & TRAINING_ONLY


def test_importing_the_package_reads_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, builtins, io, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy, onnxruntime, csv, gzip, zipfile, json, ctypes, tempfile\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from raincast import cli\n"
        "from raincast.features import build\n"
        "from raincast.forecasting import forecast, model\n"
        "from raincast.observations import reading, stations\n"
        "assert not [p for p in opened if not p.endswith(('.py', '.pyc')) and '.pyc.' not in p], opened"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
