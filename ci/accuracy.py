"""Accuracy gate: compare the challenger, the new model, with the champion, the model of the image `latest`.

    python -m ci.accuracy --champion champion

`--champion` is the application from the champion's image: prediction.py, raincast/, data/stations.csv and model/. Each
model forecasts the record, without the outcomes, with its own prediction.py, so that a champion with older code can be
compared as well. If that folder does not exist, there is no champion yet, and only the minimum scores in tests/accuracy
count.

Exit code: 0 if not worse or not comparable, 1 if worse or if a model fails to forecast, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raincast import cli
from raincast.forecasting import model
from raincast.observations import download, reading
from raincast.observations.table import Table
from raincast.redaction import redact
from raincast.training.comparison import TOLERANCE, Contestant, Incomparable, Verdict, compare

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "data" / "observations.csv.gz"
APPLICATION = ("prediction.py", "raincast", "data/stations.csv", "model/model.json")


@dataclass(frozen=True)
class Application:
    """A model directory with the prediction.py that runs it."""

    role: str
    script: Path
    directory: Path

    def contestant(self) -> Contestant:
        """Return the model for a comparison. Raises ModelError."""
        return Contestant(model.describe(self.directory), self.forecast)

    def forecast(self, table: Table) -> NDArray[np.float64]:
        """Return the probability of rain for each row; the rows are each other's context. Raises ModelError."""
        with tempfile.TemporaryDirectory(prefix="raincast-") as name:
            observations, output = Path(name) / "observations.csv", Path(name) / "forecasts.csv"
            write(table, observations)
            env = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "PYTHON"))}
            call = [sys.executable, self.script, observations, "-o", output, "--model", self.directory]
            run = subprocess.run(list(map(str, call)), cwd=name, env=env, capture_output=True, text=True, check=False)
            if run.returncode:
                reason = run.stderr.strip().rpartition("\n")[2]
                raise model.ModelError(
                    f"the {self.role} cannot forecast this record, exit code {run.returncode}: {reason}"
                )
            forecasts = pd.read_csv(output, keep_default_na=False, dtype={"Location": str})
        if forecasts["Location"].tolist() != table["Location"].tolist():
            raise model.ModelError(f"the {self.role} returned forecasts for other rows or in another order")
        return forecasts["probability_of_rain"].to_numpy(np.float64)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags default to RAINCAST_* in the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--champion", type=Path, required=True, help="folder of the champion's application; may be missing")
    add("--model", default=model.DIRECTORY, type=Path, help="model directory of the challenger (default: model/)")
    add("--data", default=record_setting(), help="challenger's training data (RAINCAST_DATA; default: bundled)")
    return parser.parse_args(argv)


def record_setting() -> str:
    """Return the path or URL of the record that a training reads by default."""
    return cli.setting("DATA", str(BUNDLED)) or ""


def read_record(data: str, description: dict[str, Any]) -> Table:
    """Read the record that a model was trained on, with the outcomes. Raises CallError if `data` is another record."""
    name = redact(data)
    with download.local_copy(data) as path:
        sha256 = download.verified_sha256(name, path, None)
        if sha256 != description["data_sha256"]:
            raise cli.CallError(
                f"{name}: the model was trained on other data, {description['data']} with the SHA-256"
                f" {description['data_sha256'][:8]}...; set RAINCAST_DATA to that record"
            )
        return reading.read(path, name=name, target=True)


def write(table: Table, path: Path) -> None:
    """Write observations as CSV."""
    frame = pd.DataFrame(table)
    frame["RainToday"] = frame["RainToday"].map({1.0: "Yes", 0.0: "No"})
    frame.to_csv(path, index=False)


def show(verdict: Verdict) -> None:
    """Print the comparison of each form of the observations, and the verdict."""
    print(
        f"verified on {verdict.rows:,} rows that neither model was trained on; intervals from {verdict.blocks}\n\n"
        f"{'Brier score':17}     champion  challenger  difference  95 % interval       verdict"
    )
    for form, result in verdict.comparisons.items():
        interval = f"{result.low:+.5f} to {result.high:+.5f}"
        scores = f"{result.champion:12.5f}  {result.challenger:10.5f}  {result.difference:+10.5f}  {interval}"
        print(f"{form:17} {scores}  {'worse' if form in verdict.worse else 'not worse'}")


def judge(given: argparse.Namespace) -> None:
    """Compare, print the verdict, and exit with 1 if the challenger is worse."""
    if not given.champion.exists():
        print(f"{given.champion}: no champion yet: minimum scores only")
        return
    missing = [part for part in APPLICATION if not (given.champion / part).exists()]
    if missing:
        raise cli.CallError(f"{given.champion}: not the application of an image: it lacks {', '.join(missing)}")
    folder = given.champion.resolve()
    champion = Application("champion", folder / "prediction.py", folder / "model").contestant()
    challenger = Application("challenger", ROOT / "prediction.py", given.model.resolve()).contestant()
    for role, contestant in (("champion", champion), ("challenger", challenger)):
        training = contestant.description
        period = " to ".join(training["period"]) if training["period"] else "without dates"
        print(f"{role:12}  {training['version']}, trained on {training['rows']:,} rows of {training['data']}, {period}")
    table = read_record(given.data, challenger.description)
    try:
        verdict = compare(champion, challenger, table)
    except Incomparable as reason:
        print(f"not compared: {reason}: minimum scores only")
        return
    show(verdict)
    if verdict.worse:
        forms = ", ".join(verdict.worse)
        print(f"\nFAILED: worse than the champion, beyond chance and a tolerance of {TOLERANCE}: {forms}")
        sys.exit(cli.FAILED)
    print("\npassed: not worse than the champion")


if __name__ == "__main__":
    cli.main(lambda: judge(arguments()))
