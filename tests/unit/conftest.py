"""A model for unit tests, which wait for no training of the one that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.fixture(scope="session")
def trained(command: Command, slice_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of few trees, learned from a slice of the bundled observations."""
    out = tmp_path_factory.mktemp("trained") / "model"
    run = command("train.py", "--data", slice_csv, "--out", out, "--iterations", 20, "--no-tracking")
    assert run.returncode == 0, run.stderr.decode()
    return out
