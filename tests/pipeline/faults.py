"""Faults of a push, each as one change of a checkout: the pipeline must fail at the right job.

A fault in the data writes its own record into the checkout and returns the variables for the pipeline, as a team sets
RAINCAST_DATA for its own record; a fault in the code returns none. A fault raises AssertionError if the code or the
data are not as it expects, because a fault that changes nothing proves nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raincast.observations.columns import OUTCOME_COLUMNS, TARGET

Variables = dict[str, str]
BUNDLED = Path("data") / "observations.csv.gz"
FAULTY = Path("data") / "faulty.csv.gz"
# The columns of a record that are no measurements.
KEPT = {"Date", "Location", *OUTCOME_COLUMNS}


def label_leak(checkout: Path) -> Variables:
    """Leak RISK_MM under another name: the columns of rain are joined a day late and have tomorrow's values."""
    frame = _read(checkout)
    return _write(checkout, frame.assign(Rainfall=_risk_mm(frame), RainToday=frame[TARGET.name]))


def outcome_as_column(checkout: Path) -> Variables:
    """Leak RISK_MM in the code: declare it as one more measurement, and add it to the record."""
    before = '    Column("RainToday", "yes_no",'
    column = '    Column("RISK_MM", "number", "rain in the 24 h from 9 am", "mm", 0, 500),'
    _replace(checkout / "raincast" / "observations" / "columns.py", before, f"{column}\n{before}")
    _replace(
        checkout / "raincast" / "observations" / "columns.py",
        'frozenset({"RISK_MM", TARGET.name})',
        "frozenset({TARGET.name})",
    )
    _replace(checkout / "raincast" / "serving" / "decoding.py", '("RISK_MM", "RainTomorrow")', '("RainTomorrow",)')
    frame = _read(checkout)
    return _write(checkout, frame.assign(RISK_MM=_risk_mm(frame)))


def shuffled_target(checkout: Path) -> Variables:
    """Shuffle the target among the rows, as a join without its key does."""
    frame = _read(checkout)
    generator = np.random.default_rng(0)
    return _write(checkout, frame.assign(**{TARGET.name: generator.permutation(frame[TARGET.name])}))


def noise(checkout: Path) -> Variables:
    """Shuffle each measurement on its own, so that none predicts anything."""
    frame = _read(checkout)
    generator = np.random.default_rng(0)
    shuffled = {str(name): generator.permutation(frame[name]) for name in frame if name not in KEPT}
    assert len(shuffled) == 20
    return _write(checkout, frame.assign(**shuffled))


def simpler_model(checkout: Path) -> Variables:
    """Train trees of three splits: reliable and above the minimum scores of a team's record, but below the champion."""
    path = checkout / "raincast" / "training" / "config.py"
    code = path.read_text(encoding="utf-8")
    simpler, count = re.subn(r"max_leaf_nodes: int = \d+", "max_leaf_nodes: int = 4", code)
    assert count == 1, f"{path}: found max_leaf_nodes {count} times, expected once"
    path.write_text(simpler, encoding="utf-8")
    return _write(checkout, _read(checkout))


def slow_model(checkout: Path) -> Variables:
    """Run the graph of a single row many times for each forecast."""
    path = checkout / "raincast" / "forecasting" / "model.py"
    code = path.read_text(encoding="utf-8")
    run = re.compile(r"(self\.single_row_graph\.run\((?:None|\([^()]*\)), \{[^{}]*\}\))")
    slow, count = run.subn(r"[\1 for _ in range(40)][-1]", code)
    assert count == 1, f"{path}: found {count} calls of the single-row graph, expected once"
    path.write_text(slow, encoding="utf-8")
    return {}


def value_out_of_limits(checkout: Path) -> Variables:
    """Break the schema with an impossible humidity."""
    frame = _read(checkout)
    frame.loc[1000, "Humidity3pm"] = "171"
    return _write(checkout, frame)


def missing_target(checkout: Path) -> Variables:
    """Break the schema: rename the target."""
    return _write(checkout, _read(checkout).rename(columns={TARGET.name: "rain_tomorrow"}))


def _read(checkout: Path) -> pd.DataFrame:
    """Return the bundled observations as text."""
    frame = pd.read_csv(checkout / BUNDLED, dtype=str, keep_default_na=False)
    assert set(frame[TARGET.name]) == {"Yes", "No"}
    return frame


def _risk_mm(frame: pd.DataFrame) -> NDArray[np.object_]:
    """Return tomorrow's rain in mm, which the bundled record lacks: drawn from its own wet and dry days."""
    amount = pd.to_numeric(frame["Rainfall"], errors="coerce")
    generator = np.random.default_rng(0)
    wet, dry = (generator.choice(frame["Rainfall"][kind], len(frame)) for kind in (amount > 1, amount <= 1))
    return np.where(frame[TARGET.name] == "Yes", wet, dry)


def _write(checkout: Path, frame: pd.DataFrame) -> Variables:
    # A fixed time in the gzip header, for the same bytes each time.
    frame.to_csv(checkout / FAULTY, index=False, compression={"method": "gzip", "mtime": 1, "compresslevel": 1})
    return {"RAINCAST_DATA": str(FAULTY)}


def _replace(path: Path, old: str, new: str) -> None:
    code = path.read_text(encoding="utf-8")
    assert code.count(old) == 1, f"{path}: found {old!r} {code.count(old)} times, expected once"
    path.write_text(code.replace(old, new), encoding="utf-8")
