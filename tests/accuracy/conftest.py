"""The record that the model was trained on, and the description from its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.accuracy import read_record, record_setting
from raincast.forecasting import model
from raincast.observations.table import Table


@pytest.fixture(name="description", scope="session")
def fixture_description(trained: Path) -> dict[str, Any]:
    """Return the content of model.json."""
    return model.describe(trained)


@pytest.fixture(name="verification", scope="session")
def fixture_verification(description: dict[str, Any]) -> dict[str, Any]:
    """Return the results of the verification in model.json."""
    return dict(description["verification"])


@pytest.fixture(scope="session")
def record(description: dict[str, Any]) -> Table:
    """Read the bundled observations, or those of RAINCAST_DATA, with the outcomes.

    Fails if the model was trained on other data.
    """
    return read_record(record_setting(), description)
