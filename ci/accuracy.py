"""The new model beside the model in use: does it forecast worse, beyond chance?

    python -m ci.accuracy --champion champion

`--champion` is the application of the image in use: prediction.py, raincast/, data/stations.csv and model/. Each model
forecasts the whole record, without the answers, by its own prediction.py, so that a model in use of other code counts
as well. Verified are the rows that neither was trained on. Without that folder there is no model in use yet, and the
floors in tests/accuracy are all that counts.

Exit code: 0 not worse or nothing to compare with, 1 worse or a model that cannot forecast, 2 the call is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raincast import cli, verification
from raincast.forecasting import model
from raincast.observations import download, reading
from raincast.observations.columns import TARGET
from raincast.observations.table import Table, as_known_at_3pm
from raincast.training import splits

ROOT = Path(__file__).resolve().parent.parent

BUNDLED = ROOT / "data" / "observations.csv.gz"
APPLICATION = ("prediction.py", "raincast", "data/stations.csv", "model/model.json")
# The interval holds what the chance of the verified days does, but not what another seed of the training does, and
# who serves a model does not notice so little: docs/decisions.md has what was measured.
TOLERANCE = 0.0005
# An interval of fewer blocks would be narrower than it should be.
LEAST_BLOCKS = 20


class Incomparable(Exception):
    """There are no rows on which two models can be compared honestly."""


@dataclass(frozen=True)
class System:
    """A model with the code that it serves with."""

    role: str
    script: Path
    directory: Path

    @property
    def description(self) -> dict[str, Any]:
        """What its training wrote about it."""
        return model.describe(self.directory)

    def forecast(self, table: Path, folder: Path) -> pd.DataFrame:
        """The forecast table of a file. ModelError where it cannot forecast."""
        output = folder / "forecasts.csv"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "PYTHON"))}
        call = [sys.executable, self.script, table, "-o", output, "--model", self.directory]
        run = subprocess.run(call, cwd=folder, env=clean, capture_output=True, text=True, check=False)
        if run.returncode:
            said = run.stderr.strip().rpartition("\n")[2]
            raise model.ModelError(f"the {self.role} cannot forecast this record, exit code {run.returncode}: {said}")
        return pd.read_csv(output, keep_default_na=False, dtype={"Location": str})


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; flags default to RAINCAST_* in the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--champion", type=Path, required=True, help="application of the model in use, which need not exist yet")
    add("--model", default=model.DIRECTORY, type=Path, help="directory of the new model (default: model/)")
    add("--data", default=record_setting(), help="what it was trained on (RAINCAST_DATA; default: bundled)")
    return parser.parse_args(argv)


def record_setting() -> str:
    """Where the record is that a training takes unless told otherwise."""
    return cli.setting("DATA", str(BUNDLED)) or ""


def read_record(data: str, description: dict[str, Any]) -> Table:
    """The record that a model was trained on, with the answers. CallError where it is another one."""
    name = download.without_secrets(data)
    with download.local_copy(data) as path:
        sha256 = download.verified_sha256(name, path, None)
        if sha256 != description["data_sha256"]:
            raise cli.CallError(
                f"{name}: the model was trained on other data, {description['data']} with the SHA-256"
                f" {description['data_sha256'][:8]}...; RAINCAST_DATA says which"
            )
        return reading.read(path, name=name, target=True)


def unseen(table: Table, descriptions: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Which rows none of the models was trained on, shape (rows,). Raises Incomparable where nobody can tell.

    With dates these are the days after all training periods. Without, rows can only be told apart where all models are
    of the same data, and so split in the same way.
    """
    known, dates = ~np.isnan(table[TARGET.name]), table["Date"]
    periods = [description["period"] for description in descriptions]
    if not np.isnat(dates).any() and all(periods):
        last = max(period[1] for period in periods)
        rows = known & (dates > np.datetime64(last))
        if not rows.any():
            raise Incomparable(f"there is no day after {last}, the last one of their training")
        return np.asarray(rows)
    if len({description["data_sha256"] for description in descriptions}) > 1:
        raise Incomparable("they are of different data without dates, so nobody can tell what each was trained on")
    rows = known.copy()
    for description in descriptions:
        last_share = splits.last_share(table, description["config"]["verification_share"])
        if np.sum(known & ~last_share) != description["rows"]:
            raise Incomparable(f"{description['version']} was trained on other rows than its share of them says")
        rows &= last_share
    return rows


def blocks_of(table: Table, rows: NDArray[np.bool_]) -> tuple[NDArray[np.int64], str]:
    """What is resampled together, and what it is called. Raises Incomparable where there is too little of it."""
    if np.isnat(table["Date"]).any():
        blocks = verification.consecutive_blocks(table["Location"][rows])
        what = f"blocks of {verification.BLOCK_ROWS} rows of a station"
    else:
        blocks, what = verification.weekly_blocks(table["Date"][rows]), "weeks"
    count = len(np.unique(blocks))
    if count < LEAST_BLOCKS:
        raise Incomparable(f"{count} {what} are too few to tell anything from chance, it takes {LEAST_BLOCKS}")
    return blocks, f"{count:,} {what}"


def write(table: Table, path: Path) -> None:
    """Observations as CSV."""
    frame = pd.DataFrame(table)
    frame["RainToday"] = frame["RainToday"].map({1.0: "Yes", 0.0: "No"})
    frame.to_csv(path, index=False)


def forecasts(systems: Sequence[System], table: Table) -> list[NDArray[np.float64]]:
    """What each forecasts for all rows, which are each other's context. ModelError where one cannot."""
    found = []
    with tempfile.TemporaryDirectory(prefix="raincast-") as name:
        path = Path(name) / "observations.csv"
        write(table, path)
        for system in systems:
            made = system.forecast(path, Path(name))
            if made["Location"].tolist() != table["Location"].tolist():
                raise model.ModelError(f"the {system.role} does not forecast the rows it is given, in their order")
            found.append(made["probability_of_rain"].to_numpy(np.float64))
    return found


def compare(champion: System, challenger: System, data: str) -> dict[str, verification.Comparison]:
    """Print both models and what they are compared on; the comparison of each form of the observations."""
    descriptions = [champion.description, challenger.description]
    for system, known in zip((champion, challenger), descriptions, strict=True):
        period = " to ".join(known["period"]) if known["period"] else "without dates"
        print(f"{system.role:12}  {known['version']}, trained on {known['rows']:,} rows of {known['data']}, {period}")
    table = read_record(data, descriptions[1])
    rows = unseen(table, descriptions)
    blocks, what = blocks_of(table, rows)
    print(f"verified on {np.sum(rows):,} rows that neither was trained on; intervals resample {what}\n")
    obs = table.pop(TARGET.name)
    found = {}
    for form, observed in (("whole day", table), ("as known at 3 pm", as_known_at_3pm(table))):
        fcst = [made[rows] for made in forecasts((champion, challenger), observed)]
        found[form] = verification.compare(fcst[1], fcst[0], obs[rows], blocks)
    return found


def judge(given: argparse.Namespace) -> None:
    """Compare, print the verdict, and exit with 1 where it is red."""
    if not given.champion.exists():
        print(f"{given.champion}: no model in use yet: floors only")
        return
    lacking = [part for part in APPLICATION if not (given.champion / part).exists()]
    if lacking:
        raise cli.CallError(f"{given.champion}: not the application of an image: it has no {', '.join(lacking)}")
    folder = given.champion.resolve()
    champion = System("model in use", folder / "prediction.py", folder / "model")
    challenger = System("new model", ROOT / "prediction.py", given.model.resolve())
    try:
        found = compare(champion, challenger, given.data)
    except Incomparable as reason:
        print(f"not compared: {reason}: floors only")
        return
    print(f"{'Brier score':17} model in use  new model  difference  95 % interval       verdict")
    for form, result in found.items():
        interval = f"{result.low:+.5f} to {result.high:+.5f}"
        scores = f"{result.champion:12.5f}  {result.challenger:9.5f}  {result.difference:+10.5f}  {interval}"
        print(f"{form:17} {scores}  {'worse' if result.worse(TOLERANCE) else 'not worse'}")
    worse = [form for form, result in found.items() if result.worse(TOLERANCE)]
    if worse:
        print(f"\nRED: worse than the model in use, beyond chance and a tolerance of {TOLERANCE}: {', '.join(worse)}")
        sys.exit(cli.FAILED)
    print("\ngreen: not worse than the model in use")


if __name__ == "__main__":
    sys.exit(cli.run(lambda: judge(arguments())))
