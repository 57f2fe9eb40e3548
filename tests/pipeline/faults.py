"""What may go wrong with a push, each as one change of a checkout: the pipeline has to go red at the right job.

A fault that is in the data writes a record of its own into the checkout and returns the variables that the pipeline is
then given, as a team sets RAINCAST_DATA for its own record; a fault in the code returns none. What is not found as
it is expected is an AssertionError: a fault that changes nothing would prove nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from raincast.observations import ANSWERS, TARGET

Variables = dict[str, str]
BUNDLED = Path("data") / "observations.csv.gz"
FAULTY = Path("data") / "faulty.csv.gz"
# What stands in a record beside its measurements.
KEPT = {"Date", "Location", *ANSWERS}


def label_leak(checkout: Path) -> Variables:
    """RISK_MM as a feature, under another name: the columns of rain are joined a day late, and are tomorrow's."""
    frame = _read(checkout)
    return _write(checkout, frame.assign(Rainfall=_risk_mm(frame), RainToday=frame[TARGET.name]))


def answer_as_column(checkout: Path) -> Variables:
    """RISK_MM as a feature, in the code: declared as one more measurement, and in the record."""
    before = '    Column("RainToday", "yes_no",'
    column = '    Column("RISK_MM", "number", "rain in the 24 h from 9 am", "mm", 0, 500),'
    _replace(checkout / "raincast" / "observations.py", before, f"{column}\n{before}")
    _replace(
        checkout / "raincast" / "observations.py", 'frozenset({"RISK_MM", TARGET.name})', "frozenset({TARGET.name})"
    )
    _replace(checkout / "raincast" / "records.py", '("RISK_MM", "RainTomorrow")', '("RainTomorrow",)')
    frame = _read(checkout)
    return _write(checkout, frame.assign(RISK_MM=_risk_mm(frame)))


def shuffled_target(checkout: Path) -> Variables:
    """The answers stand at other rows: a join that lost its key."""
    frame = _read(checkout)
    generator = np.random.default_rng(0)
    return _write(checkout, frame.assign(**{TARGET.name: generator.permutation(frame[TARGET.name])}))


def noise(checkout: Path) -> Variables:
    """The measurements say nothing: each column is shuffled on its own, within itself."""
    frame = _read(checkout)
    generator = np.random.default_rng(0)
    shuffled = {name: generator.permutation(frame[name]) for name in frame if name not in KEPT}
    assert len(shuffled) == 20
    return _write(checkout, frame.assign(**shuffled))


def simpler_model(checkout: Path) -> Variables:
    """Reliable, and above the floors of a team's record, but worse than the model in use: trees of three splits."""
    path = checkout / "raincast" / "training.py"
    code = path.read_text(encoding="utf-8")
    simpler, count = re.subn(r"max_leaf_nodes: int = \d+", "max_leaf_nodes: int = 4", code)
    assert count == 1, f"{path}: max_leaf_nodes is there {count} times, expected is once"
    path.write_text(simpler, encoding="utf-8")
    return _write(checkout, _read(checkout))


def slow_model(checkout: Path) -> Variables:
    """A forecast of one record costs many times as much: its graph is run again and again."""
    path = checkout / "raincast" / "model.py"
    code = path.read_text(encoding="utf-8")
    run = re.compile(r"(self\.row_graph\.run\((?:None|\([^()]*\)), \{[^{}]*\}\))")
    slow, count = run.subn(r"[\1 for _ in range(40)][-1]", code)
    assert count == 1, f"{path}: the graph of a row is run in {count} places, expected is once"
    path.write_text(slow, encoding="utf-8")
    return {}


def value_out_of_limits(checkout: Path) -> Variables:
    """A broken schema: a humidity that cannot be."""
    frame = _read(checkout)
    frame.loc[1000, "Humidity3pm"] = "171"
    return _write(checkout, frame)


def missing_target(checkout: Path) -> Variables:
    """A broken schema: the column to learn has another name."""
    return _write(checkout, _read(checkout).rename(columns={TARGET.name: "rain_tomorrow"}))


def _read(checkout: Path) -> pd.DataFrame:
    """The bundled observations as text."""
    frame = pd.read_csv(checkout / BUNDLED, dtype=str, keep_default_na=False)
    assert set(frame[TARGET.name]) == {"Yes", "No"}
    return frame


def _risk_mm(frame: pd.DataFrame) -> np.ndarray:
    """Tomorrow's rain in mm, which the bundled record lacks: drawn from its own rain days or dry days."""
    amount = pd.to_numeric(frame["Rainfall"], errors="coerce")
    generator = np.random.default_rng(0)
    wet, dry = (generator.choice(frame["Rainfall"][kind], len(frame)) for kind in (amount > 1, amount <= 1))
    return np.where(frame[TARGET.name] == "Yes", wet, dry)


def _write(checkout: Path, frame: pd.DataFrame) -> Variables:
    # The same bytes each time: no time in the gzip header.
    frame.to_csv(checkout / FAULTY, index=False, compression={"method": "gzip", "mtime": 1, "compresslevel": 1})
    return {"RAINCAST_DATA": str(FAULTY)}


def _replace(path: Path, old: str, new: str) -> None:
    code = path.read_text(encoding="utf-8")
    assert code.count(old) == 1, f"{path}: {old!r} is there {code.count(old)} times, expected is once"
    path.write_text(code.replace(old, new), encoding="utf-8")
