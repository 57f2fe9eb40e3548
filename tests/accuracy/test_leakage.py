"""The input may contain tomorrow's rain; it is never read, so that forecasts do not depend on it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ci.accuracy import write
from raincast.observations.columns import OUTCOME_COLUMNS, TARGET
from raincast.observations.table import Table, rows_of, take
from tests.conftest import Command
from tests.integration.serving import started

ROWS = 400


@pytest.fixture(name="inputs", scope="module")
def fixture_inputs(record: Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Return the same real observations without the outcomes, and with right, opposite and shuffled ones."""
    obs = record[TARGET.name]
    known = np.flatnonzero(~np.isnan(obs))
    rows = known[:: max(1, len(known) // ROWS)]
    path = tmp_path_factory.mktemp("leakage") / "observations.csv"
    write({name: values for name, values in take(record, rows).items() if name not in OUTCOME_COLUMNS}, path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    wet = obs[rows] == 1
    assert 0 < np.sum(wet) < len(wet)
    inputs = {"absent": frame}
    for name, rain in (("right", wet), ("opposite", ~wet), ("shuffled", np.random.default_rng(0).permutation(wet))):
        outcomes = {"RISK_MM": np.where(rain, "12.4", "0.0"), "RainTomorrow": np.where(rain, "Yes", "No")}
        inputs[name] = frame.assign(**outcomes)
    assert set(inputs["right"]) - set(frame) == OUTCOME_COLUMNS
    assert rows_of(record) >= len(frame) >= ROWS
    return inputs


def test_forecasts_of_a_file_do_not_depend_on_outcomes_in_it(
    inputs: dict[str, pd.DataFrame], command: Command, trained: Path
) -> None:
    forecasts = {}
    for name, frame in inputs.items():
        process = command("prediction.py", "-", "--model", trained, stdin=frame.to_csv(index=False).encode())
        assert process.returncode == 0, process.stderr
        forecasts[name] = process.stdout
    changed = [name for name, forecast in forecasts.items() if forecast != forecasts["absent"]]
    assert not changed, f"tomorrow's rain leaks into forecasts of a file: {changed} outcomes change them"


def test_forecasts_of_the_service_do_not_depend_on_outcomes_in_the_request(
    inputs: dict[str, pd.DataFrame], trained: Path, tmp_path: Path
) -> None:
    with started(tmp_path, "--model", trained) as server:
        for path, member in (("/forecast", "observations"), ("/invocations", "dataframe_records")):
            responses = {}
            for name, frame in inputs.items():
                typed = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
                rows = json.loads(typed.to_json(orient="records"))
                # All rows together, and the first ones as single rows, which take the fast path and the other graph.
                batches = (rows, *([row] for row in rows[:20]))
                replies = [server.ask("POST", path, json.dumps({member: batch}).encode()) for batch in batches]
                assert {reply.status for reply in replies} == {200}, replies[0].body[:500]
                responses[name] = [reply.body for reply in replies]
            changed = [name for name, bodies in responses.items() if bodies != responses["absent"]]
            assert not changed, f"tomorrow's rain leaks into forecasts of {path}: {changed} outcomes change them"
