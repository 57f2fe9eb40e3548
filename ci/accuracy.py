"""Accuracy gate: compare the challenger, the new model, with the champion, the model of the image `latest`.

    python -m ci.accuracy --champion champion

`--champion` is the application from the champion's image: prediction.py, raincast/, data/stations.csv and model/. Each
model forecasts the record, without the outcomes, with its own prediction.py, so that a champion with older code can be
compared as well. This code gets no secret of this process and reaches no other file (ci/confined.py). If the folder
does not exist, there is no champion yet, and only the minimum scores in tests/accuracy count.

RAINCAST_CHAMPION_UNRUNNABLE says why the champion cannot run any more, such as after an update of a library. Then a
champion that does fail is not compared; the reason is in the output, the report, the image's label and its provenance.

Exit code: 0 if not worse or not comparable, 1 if worse or if a model fails to forecast, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
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

from ci import confined
from raincast import cli
from raincast.forecasting import model
from raincast.observations import download, reading
from raincast.observations.table import Table
from raincast.redaction import redact
from raincast.training.comparison import TOLERANCE, Contestant, Incomparable, Verdict, compare

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "data" / "observations.csv.gz"
APPLICATION = ("prediction.py", "raincast", "data/stations.csv", "model/model.json")
IMAGE = "image.txt"
# The variables that a model's code gets from this process; all others may be secrets.
PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OVERRIDE = "RAINCAST_CHAMPION_UNRUNNABLE"
WORSE = "worse"


class UnrunnableError(model.ModelError):
    """The champion cannot forecast the record, whatever the challenger does."""


@dataclass(frozen=True)
class Application:
    """A model directory with the prediction.py that runs it."""

    role: str
    script: Path
    directory: Path

    def contestant(self) -> Contestant:
        """Return the model for a comparison. Raises ModelError."""
        try:
            return Contestant(model.describe(self.directory), self.forecast)
        except model.ModelError as error:
            raise self.error(str(error)) from error

    def forecast(self, table: Table) -> NDArray[np.float64]:
        """Return the probability of rain for each row; the rows are each other's context. Raises ModelError."""
        with tempfile.TemporaryDirectory(prefix="raincast-") as name:
            observations, output = Path(name) / "observations.csv", Path(name) / "forecasts.csv"
            write(table, observations)
            run = self._run(Path(name), observations, "-o", output, "--model", self.directory)
            if run.returncode:
                reason = run.stderr.strip().rpartition("\n")[2]
                raise self.error(f"the {self.role} cannot forecast this record, exit code {run.returncode}: {reason}")
            if output.is_symlink() or not output.is_file():
                raise self.error(f"the {self.role} wrote no file of forecasts")
            try:
                types = {"Location": str, "probability_of_rain": float}
                forecasts = pd.read_csv(output, keep_default_na=False, usecols=list(types), dtype=types)
            except ValueError as error:
                raise self.error(f"the {self.role} wrote no forecasts: {error}") from error
        if forecasts["Location"].tolist() != table["Location"].tolist():
            raise self.error(f"the {self.role} returned forecasts for other rows or in another order")
        return forecasts["probability_of_rain"].to_numpy(np.float64)

    def _run(self, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
        """Run prediction.py in a folder of its own, without the environment and the files of this process."""
        env = {name: os.environ[name] for name in PASSED if name in os.environ}
        env |= {"HOME": str(folder), "TMPDIR": str(folder)}
        own = [self.script, self.script.parent / "raincast", self.script.parent / "data", self.directory]
        call = [sys.executable, "-I", confined.__file__, folder, *own, "--", sys.executable, self.script, *words]
        return subprocess.run(
            [*map(str, call)],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def error(self, message: str) -> model.ModelError:
        """Return the error of a model that cannot forecast."""
        return UnrunnableError(message) if self.role == "champion" else model.ModelError(message)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags default to RAINCAST_* in the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--champion", type=Path, required=True, help="folder of the champion's application; may be missing")
    add("--model", default=model.DIRECTORY, type=Path, help="model directory of the challenger (default: model/)")
    add("--data", default=record_setting(), help="challenger's training data (RAINCAST_DATA; default: bundled)")
    reason = "why the champion cannot run any more (RAINCAST_CHAMPION_UNRUNNABLE)"
    add("--champion-unrunnable", default=cli.setting("CHAMPION_UNRUNNABLE"), metavar="REASON", help=reason)
    add("--report", type=Path, help="write the outcome as JSON")
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
    """Compare, print and report the outcome, and exit with 1 if the challenger is worse."""
    report: dict[str, Any] = {"model_sha256": model.describe(given.model)["files"][model.GRAPH]}
    if fetched_from(given.champion):
        report["champion"] = fetched_from(given.champion)
        print(f"the champion's image is {report['champion']}")
    if given.report:
        given.report.unlink(missing_ok=True)
    try:
        report["outcome"] = outcome(given)
    except UnrunnableError as error:
        if not given.champion_unrunnable:
            raise UnrunnableError(f"{error}; if it never will again, set {OVERRIDE} to the reason") from error
        report |= {"outcome": "champion unrunnable", "reason": given.champion_unrunnable, "error": str(error)}
        print(f"{error}\nnot compared: {OVERRIDE}: {given.champion_unrunnable}: minimum scores only")
    else:
        if given.champion_unrunnable:
            print(f"{OVERRIDE} has no effect: {report['outcome']}")
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if report["outcome"] == WORSE:
        sys.exit(cli.FAILED)


def fetched_from(folder: Path) -> str | None:
    """Return the image, by its digest, that the champion in a folder was fetched from."""
    image = folder / IMAGE
    return image.read_text(encoding="utf-8").strip() if image.is_file() else None


def outcome(given: argparse.Namespace) -> str:
    """Compare, print the scores, and return the outcome. Raises UnrunnableError, and CallError for a wrong call."""
    if not given.champion.exists():
        print(f"{given.champion}: no champion yet: minimum scores only")
        return "no champion"
    missing = [part for part in APPLICATION if not (given.champion / part).exists()]
    if missing:
        kind = UnrunnableError if fetched_from(given.champion) else cli.CallError
        raise kind(f"{given.champion}: not the application of an image: it lacks {', '.join(missing)}")
    folder = given.champion.resolve()
    champion = Application("champion", folder / "prediction.py", folder / "model").contestant()
    challenger = Application("challenger", ROOT / "prediction.py", given.model.resolve()).contestant()
    for role, contestant in (("champion", champion), ("challenger", challenger)):
        training = contestant.description
        period = " to ".join(training["period"]) if training["period"] else "without dates"
        print(f"{role:12}  {training['version']}, trained on {training['rows']:,} rows of {training['data']}, {period}")
    table = read_record(given.data, challenger.description)
    if not confined.landlock_version():
        print("this kernel has no Landlock: the models' code can read files of this machine")
    try:
        verdict = compare(champion, challenger, table)
    except Incomparable as reason:
        print(f"not compared: {reason}: minimum scores only")
        return f"not compared: {reason}"
    show(verdict)
    if verdict.worse:
        forms = ", ".join(verdict.worse)
        print(f"\nFAILED: worse than the champion, beyond chance and a tolerance of {TOLERANCE}: {forms}")
        return WORSE
    print("\npassed: not worse than the champion")
    return "not worse"


if __name__ == "__main__":
    cli.main(lambda: judge(arguments()))
