"""The plugin that makes pylint faster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PLUGIN = "--load-plugins=ci.pylint_speed"
# Messages of the types of arrays and others, of scopes, and of several files.
FAULTY = '''"""Faulty."""
import os
import numpy as np

def total(values: np.ndarray, rows: np.ndarray) -> float:
    """Add."""
    made = np.ndarray([2])
    print(made.no_such_member, "".no_such_member, undefined)
    for row in rows:
        made = made + row
    return values.sum() + made.sum()
'''
COUNTED = """
import gc, sys
from astroid.brain import brain_numpy_ndarray
from pylint.lint import Run

parse, texts = brain_numpy_ndarray.extract_node, []
brain_numpy_ndarray.extract_node = lambda text: (texts.append(text), parse(text))[1]
Run(sys.argv[1:], exit=False)
print("parsed", len(texts), "collecting", gc.isenabled())
"""


@pytest.fixture(name="faulty")
def fixture_faulty(tmp_path: Path) -> Path:
    """A file with a message of each kind, which mentions arrays three times."""
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY, encoding="utf-8")
    return path


def checked(*call: str | Path) -> str:
    """Return what a call of Python from the checkout prints."""
    return subprocess.run(
        [sys.executable, *call], cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": "."}, check=False
    ).stdout


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_messages_are_the_same(jobs: str, faulty: Path) -> None:
    again = faulty.with_name("again.py")
    again.write_text(FAULTY, encoding="utf-8")
    pylint = ("-m", "pylint", "--jobs", jobs, "--score=no", faulty, again)
    messages = checked(*pylint)
    assert checked(*pylint, PLUGIN) == messages
    for symbol in ("no-member", "undefined-variable", "unused-import", "duplicate-code"):
        assert f"({symbol})" in messages


def test_the_report_for_gitlab_is_written_to_its_end(tmp_path: Path) -> None:
    source, report = tmp_path / "source.py", tmp_path / "report.json"
    plugins = (f"{PLUGIN},ci.code_quality", f"--output-format=text,code-quality:{report}")
    for text, found in (('"""Nothing is wrong."""\n', set()), (FAULTY, {"unused-import"})):
        source.write_text(text, encoding="utf-8")
        checked("-m", "pylint", "--jobs=1", "--enable=unused-import", source, *plugins)
        assert found <= {entry["check_name"] for entry in json.loads(report.read_text())}


def test_numpys_array_is_parsed_once_and_no_garbage_is_collected(faulty: Path) -> None:
    last = checked("-c", COUNTED, "--jobs=1", str(faulty), PLUGIN).splitlines()[-1]
    assert last == "parsed 1 collecting False"


def test_make_lint_checks_all_sources_with_the_plugin() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "lint"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if "/pylint " in line)
    assert "ci.pylint_speed" in line and "--fail-under=10" in line
    assert line.endswith(" raincast train.py prediction.py tests data benchmarks ci")
