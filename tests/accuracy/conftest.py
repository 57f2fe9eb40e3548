"""The record that the model was trained on, and what its training wrote about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.accuracy import read_record, record_setting
from raincast.forecasting import model
from raincast.observations.table import Table


@pytest.fixture(name="description", scope="session")
def fixture_description(trained: Path) -> dict[str, Any]:
    """model.json."""
    return model.describe(trained)


@pytest.fixture(name="verification", scope="session")
def fixture_verification(description: dict[str, Any]) -> dict[str, Any]:
    """What the training wrote about the rows it kept for verification."""
    return dict(description["verification"])


@pytest.fixture(scope="session")
def record(description: dict[str, Any]) -> Table:
    """The bundled observations, or those of RAINCAST_DATA, with the answers. Fails where the model is of others."""
    return read_record(record_setting(), description)
