"""A small model, so that unit tests need not wait for the training of the released one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.fixture(scope="session")
def trained(command: Command, slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model of few trees on a slice of the bundled observations; return its directory."""
    out = tmp_path_factory.mktemp("trained") / "model"
    run = command("train.py", "--data", slice_csv, "--out", out, "--iterations", 20, "--no-tracking")
    assert run.returncode == 0, run.stderr.decode()
    return out
