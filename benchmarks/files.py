#!/usr/bin/env python3
"""Forecasts of large files beside a script of pandas and scikit-learn, and how much memory they need.

    python benchmarks/files.py --model MODEL --data weatherAUS.csv.gz

`prediction.py FILE.csv -o OUT.parquet`, in an environment of requirements-serve.txt only, runs in turns with
benchmarks/peers/batch.py in its own, on the full record and on a larger file; each is one process, measured from its
start to its end. Their probabilities have to be the same. Then a larger file yet is forecast by `prediction.py` alone,
for its peak memory.

The larger files are the record again and again, each copy moved by a multiple of 12 Julian years (4,383 days) within
1900 to 2199, and when these years are full, once more under other, unknown, stations. No station has two observations
a day.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from side_by_side import BARS, OURS, PEERS, ROOT, environment, held, machine, main, note, parser, pins, ratios, spread
from side_by_side import table, variables

SHIFT = timedelta(days=3 * 1461)
FIRST, LAST = date(1900, 1, 1), date(2199, 12, 31)
RAINCAST, PANDAS, UNCHECKED = "prediction.py", "pandas + scikit-learn", "pandas + scikit-learn, values not checked"


@dataclass(frozen=True)
class Run:
    """What one process took."""

    seconds: float
    peak: float
    output: str


def measure(call: list[str], environment_variables: dict[str, str]) -> Run:
    """Run a process to its end: wall time, and peak memory in MB.

    A process counts the memory of the one that started it, up to its first instruction: this script has to stay small.
    """
    start = time.perf_counter()
    with subprocess.Popen(call, cwd=ROOT, env=environment_variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {shlex.join(call)}")
    return Run(seconds, usage.ru_maxrss * 1024 / 1e6, output)


def make(record: Path, path: Path, rows: int) -> None:
    """Write the record again and again, until there are so many rows."""
    with gzip.open(record, "rt") if record.suffix == ".gz" else record.open(encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    if not header.startswith("Date,Location,"):
        sys.exit(f"{record}: Date and Location have to be its first columns")
    split = [line.split(",", 2) for line in lines]
    days = {text: date.fromisoformat(text) for text, _, _ in split}
    if max(days.values()) - min(days.values()) >= SHIFT:
        sys.exit(f"{record}: it has to span less than {SHIFT.days} days")
    unfinished, left = path.with_suffix(".unfinished"), rows
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(f"{header}\n")
        for name, shift in copies(min(days.values()), max(days.values())):
            moved = {text: (day + shift).isoformat() for text, day in days.items()}
            file.writelines(f"{moved[day]},{station}{name},{rest}\n" for day, station, rest in split[:left])
            left -= len(split[:left])
            if not left:
                break
    unfinished.rename(path)


def copies(first: date, last: date) -> Iterator[tuple[str, timedelta]]:
    """What is added to a copy's stations and days: the record's own years first, then later, then earlier ones."""
    later, earlier = (LAST - last) // SHIFT, (first - FIRST) // SHIFT
    shifts = [number * SHIFT for number in (*range(later + 1), *range(-earlier, 0))]
    for number in itertools.count():
        yield from (((f" {number}" if number else ""), shift) for shift in shifts)


def difference(ours: Path, theirs: Path) -> tuple[int, float]:
    """Rows of two Parquet files that are in the same order, and the largest difference of their probabilities."""
    # Only the process that compares has to hold them.
    import pandas as pd  # pylint: disable=import-outside-toplevel

    left, right = pd.read_parquet(ours), pd.read_parquet(theirs)
    same = len(left) == len(right) and (left["Location"].to_numpy() == right["Location"].to_numpy()).all()
    same = same and (pd.to_datetime(left["Date"]).to_numpy() == pd.to_datetime(right["Date"]).to_numpy()).all()
    if not same:
        return len(left), float("nan")
    return len(left), float((left["probability_of_rain"] - right["probability_of_rain"]).abs().max(skipna=False))


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


class Comparison:
    """Both ways to forecast a file, and what was found."""

    # pylint: disable=too-many-instance-attributes  # all that the tables need

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.record = given.data.resolve()
        model = str(given.model.resolve())
        ours, theirs = environment(given.uv, work, OURS), environment(given.uv, work, PEERS / "batch.txt")
        self.variables = variables(PYTHONPATH=str(ROOT), TMPDIR=str(work))
        self.calls = {
            RAINCAST: [str(ours / "python"), "prediction.py", "{input}", "-o", "{output}", "--model", model],
            PANDAS: [str(theirs / "python"), str(PEERS / "batch.py"), "{input}", "{output}", model],
        }
        self.speeds: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.peaks: dict[int, list[float]] = defaultdict(list)
        self.peer_peaks: dict[int, list[float]] = defaultdict(list)
        self.largest = 0.0

    def file(self, rows: int) -> Path:
        """A file of so many rows, made where it is not there yet."""
        path = self.work / f"{rows}-rows.csv"
        if not path.exists():
            note(f"making {path}")
            apart(make, self.record, path, rows)
        return path

    def score(self, name: str, source: Path) -> tuple[Run, Path]:
        """Forecast a file."""
        output = self.work / f"forecasts-{name.split()[0]}.parquet"
        output.unlink(missing_ok=True)
        given = {"input": str(source), "output": str(output)}
        once = measure([part.format(**given) for part in self.calls[name]], self.variables)
        note(f"{name}, {source.name}: {once.seconds:.2f} s, {once.peak:.0f} MB")
        return once, output

    def compare(self, source: Path, rounds: int) -> None:
        """Both on a file, in turns; the first round is compared, and not measured."""
        rows = 0
        for number in range(rounds + 1):
            (ours, our_file), (theirs, their_file) = self.score(RAINCAST, source), self.score(PANDAS, source)
            if number == 0:
                rows, largest = apart(difference, our_file, their_file)
                if not largest <= 1e-9:
                    sys.exit(f"{source}: the forecasts differ by {largest:.2g}")
                self.largest = max(self.largest, largest)
                continue
            self.speeds[rows, RAINCAST].append(rows / ours.seconds)
            self.speeds[rows, PANDAS].append(rows / theirs.seconds)
            self.speeds[rows, UNCHECKED].append(rows / (theirs.seconds - float(theirs.output)))
            self.peaks[rows].append(ours.peak)
            self.peer_peaks[rows].append(theirs.peak)


def run(given: argparse.Namespace, work: Path) -> None:
    """Compare, measure memory, print."""
    found = Comparison(given, work)
    for source in (found.record, found.file(given.rows)):
        found.compare(source, given.rounds)
    larger = found.file(given.memory_rows)
    for _ in range(given.memory_rounds):
        once, _ = found.score(RAINCAST, larger)
        found.peaks[given.memory_rows].append(once.peak)
        found.speeds[given.memory_rows, RAINCAST].append(given.memory_rows / once.seconds)
    show(found)


def show(found: Comparison) -> None:
    """The tables."""
    given = found.given
    compared = sorted(found.peer_peaks)
    lines = [
        held(f"rows/s, {rows:,} rows: {RAINCAST} / {name}", ">= 1.8", ratios(ours, found.speeds[rows, name]), 2)
        for rows in compared
        for ours in [found.speeds[rows, RAINCAST]]
        for name in (PANDAS, UNCHECKED)
    ]
    most, less = found.peaks[given.memory_rows], found.peaks[given.rows]
    growth = [peak / statistics.median(less) for peak in most]
    lines.append(held(f"peak memory in MB, {given.memory_rows:,} rows", "<= 500", most))
    lines.append(held(f"peak memory, {given.memory_rows:,} rows / {given.rows:,} rows", "<= 1.2", growth, 2))
    print(table(BARS, lines))
    lines = []
    for rows, name in found.speeds:
        peaks = {RAINCAST: found.peaks, PANDAS: found.peer_peaks}.get(name, {}).get(rows)
        lines.append([f"{rows:,} rows: {name}", spread(found.speeds[rows, name]), spread(peaks) if peaks else ""])
    print(table(("", "rows/s", "peak memory MB"), lines))
    print(f"Largest difference between the probabilities: {found.largest:.2g}. {given.rounds} rounds. {machine()}.\n")
    print("- prediction.py:", pins(OURS, "numpy", "onnxruntime", "duckdb"))
    print("- batch.py:", pins(PEERS / "batch.txt", "numpy", "pandas", "scikit-learn", "pyarrow"))
    print("\n    " + shlex.join(["python", *sys.argv]))
    for call in found.calls.values():
        print("    " + " ".join(call).format(input="FILE.csv", output="OUT.parquet"))
    print(f"\n{(__doc__ or '').strip().rpartition(chr(10) * 2)[2]}")


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=1_000_000, help="of the larger file compared (%(default)s)")
    made.add_argument("--memory-rows", type=int, default=10_000_000, help="of the largest file (%(default)s)")
    made.add_argument("--memory-rounds", type=int, default=1, help="how often that is forecast (%(default)s)")
    return made.parse_args()


if __name__ == "__main__":
    main(run, arguments())
