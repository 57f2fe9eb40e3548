#!/usr/bin/env python3
"""Throughput and memory of forecasting large files, compared with a script of pandas and scikit-learn.

    python -m benchmarks.files --model MODEL --data weatherAUS.csv.gz

`prediction.py FILE.csv -o OUT.parquet`, in an environment of requirements-serve.txt only, and benchmarks/peers/batch.py
in its own environment run in turns on the full record and on a larger file. Each is one process, measured from start to
end. With --before, `prediction.py` of an earlier commit runs in the same rounds. All probabilities must agree. Then
`prediction.py` alone forecasts a still larger file, for its peak memory.

The larger files repeat the record. Each copy is shifted by a multiple of 12 Julian years (4,383 days) within 1900 to
2199; when these years are full, the copies continue with other, unknown, stations. No station has two observations a
day.
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

from benchmarks.harness import (
    BAR_COLUMNS,
    PEERS,
    RAINCAST_PINS,
    ROOT,
    bar_row,
    commit,
    environment,
    machine,
    main,
    note,
    parser,
    pins,
    ratios,
    spread,
    table,
    variables,
)

SHIFT = timedelta(days=3 * 1461)
FIRST, LAST = date(1900, 1, 1), date(2199, 12, 31)
RAINCAST, BEFORE = "prediction.py", "prediction.py before"
PANDAS, UNCHECKED = "pandas + scikit-learn", "pandas + scikit-learn, values not checked"
RATIO_BAR = ">= 4.5"


@dataclass(frozen=True)
class Program:
    """A command that forecasts a file, and the folder it runs in."""

    call: list[str]
    folder: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Run:
    """Wall time, CPU time of all cores, peak memory in MB and standard output of one process."""

    seconds: float
    cpu_seconds: float
    peak: float
    output: str


def measure(program: Program, **paths: str) -> Run:
    """Run a process to its end.

    Linux counts the memory of the parent at the fork towards the child's peak, so this script must stay small.
    """
    call = [part.format(**paths) for part in program.call]
    start = time.perf_counter()
    with subprocess.Popen(
        call, cwd=program.folder, env=program.environment, stdout=subprocess.PIPE, text=True
    ) as process:
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
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, output)


def write_copies(record: Path, path: Path, rows: int) -> None:
    """Write copies of the record up to this number of rows."""
    with gzip.open(record, "rt") if record.suffix == ".gz" else record.open(encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    if not header.startswith("Date,Location,"):
        sys.exit(f"{record}: the first columns must be Date and Location")
    split = [line.split(",", 2) for line in lines]
    days = {text: date.fromisoformat(text) for text, _, _ in split}
    if max(days.values()) - min(days.values()) >= SHIFT:
        sys.exit(f"{record}: spans {SHIFT.days} days or more")
    unfinished, left = path.with_suffix(".unfinished"), rows
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(f"{header}\n")
        for suffix, shift in copies(min(days.values()), max(days.values())):
            shifted = {text: (day + shift).isoformat() for text, day in days.items()}
            file.writelines(f"{shifted[day]},{station}{suffix},{rest}\n" for day, station, rest in split[:left])
            left -= len(split[:left])
            if not left:
                break
    unfinished.rename(path)


def copies(first: date, last: date) -> Iterator[tuple[str, timedelta]]:
    """Yield station suffix and shift of each copy: the record's own years first, then later, then earlier ones."""
    later, earlier = (LAST - last) // SHIFT, (first - FIRST) // SHIFT
    shifts = [number * SHIFT for number in (*range(later + 1), *range(-earlier, 0))]
    for number in itertools.count():
        yield from (((f" {number}" if number else ""), shift) for shift in shifts)


def difference(forecasts: list[Path]) -> tuple[int, float]:
    """Return the rows of Parquet files and the largest difference of their probabilities, NaN if the rows differ."""
    # Imported here, to keep the parent process small.
    import pandas as pd  # pylint: disable=import-outside-toplevel

    first, *others = (pd.read_parquet(path) for path in forecasts)
    largest = 0.0
    for other in others:
        same = len(first) == len(other) and (first["Location"].to_numpy() == other["Location"].to_numpy()).all()
        same = same and (pd.to_datetime(first["Date"]).to_numpy() == pd.to_datetime(other["Date"]).to_numpy()).all()
        if not same:
            return len(first), float("nan")
        differences = (first["probability_of_rain"] - other["probability_of_rain"]).abs()
        largest = max(largest, float(differences.max(skipna=False)))
    return len(first), largest


def in_subprocess(function: Callable[..., Any], *values: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *values).result()


class Comparison:
    """The programs and their measurements."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        serving = str(environment(options.uv, work, RAINCAST_PINS) / "python")
        pandas = str(environment(options.uv, work, PEERS / "batch.txt") / "python")
        model = str(options.model.resolve())
        clean = variables(TMPDIR=str(work))
        command = [serving, "prediction.py", "{input}", "-o", "{output}", "--model"]
        self.programs = {RAINCAST: Program([*command, model], ROOT, clean)}
        if options.before:
            before_model = str((options.before_model or options.model).resolve())
            self.programs[BEFORE] = Program([*command, before_model], options.before.resolve(), clean)
        script = [pandas, str(PEERS / "batch.py"), "{input}", "{output}", model]
        self.programs[PANDAS] = Program(script, work, clean | {"PYTHONPATH": str(ROOT)})
        self.speeds: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.cpu_speeds: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.peaks: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.largest_difference = 0.0

    def file(self, rows: int) -> Path:
        """Return a file with this number of rows; write it if needed."""
        path = self.work / f"{rows}-rows.csv"
        if not path.exists():
            note(f"writing {path}")
            in_subprocess(write_copies, self.options.data.resolve(), path, rows)
        return path

    def forecast(self, name: str, observations: Path) -> tuple[Run, Path]:
        """Forecast a file; return measurement and output."""
        forecasts = self.work / f"forecasts-{list(self.programs).index(name)}.parquet"
        forecasts.unlink(missing_ok=True)
        result = measure(self.programs[name], input=str(observations), output=str(forecasts))
        note(f"{name}, {observations.name}: {result.seconds:.2f} s, {result.peak:.0f} MB")
        return result, forecasts

    def compare(self, observations: Path, rounds: int) -> int:
        """Run all programs on a file, in turns, and return its rows.

        A first round, not measured, fills the caches and compares the forecasts.
        """
        outputs = [self.forecast(name, observations)[1] for name in self.programs]
        rows, largest = in_subprocess(difference, outputs)
        if not largest <= 1e-9:
            sys.exit(f"{observations}: the forecasts differ by {largest:.2g}")
        self.largest_difference = max(self.largest_difference, largest)
        for _ in range(rounds):
            for name in self.programs:
                result, _ = self.forecast(name, observations)
                self.speeds[rows, name].append(rows / result.seconds)
                self.cpu_speeds[rows, name].append(rows / result.cpu_seconds)
                self.peaks[rows, name].append(result.peak)
                if name == PANDAS:
                    # The script prints the seconds of its checks.
                    self.speeds[rows, UNCHECKED].append(rows / (result.seconds - float(result.output)))
        return int(rows)

    def measure_memory(self) -> None:
        """Forecast the largest file with `prediction.py` alone."""
        rows = self.options.memory_rows
        for _ in range(self.options.memory_rounds):
            result, _ = self.forecast(RAINCAST, self.file(rows))
            self.peaks[rows, RAINCAST].append(result.peak)
            self.speeds[rows, RAINCAST].append(rows / result.seconds)
            self.cpu_speeds[rows, RAINCAST].append(rows / result.cpu_seconds)


def run(options: argparse.Namespace, work: Path) -> None:
    """Compare, measure memory, print."""
    comparison = Comparison(options, work)
    record_rows = comparison.compare(options.data.resolve(), options.rounds)
    comparison.compare(comparison.file(options.rows), options.rounds)
    comparison.measure_memory()
    show_bars(comparison, record_rows)
    show_runs(comparison)
    show_setting(comparison)


def show_bars(comparison: Comparison, record_rows: int) -> None:
    """Print ratios and peak memory with their bars."""
    options, rows = comparison.options, []
    for unit, speeds in (("s", comparison.speeds), ("core second", comparison.cpu_speeds)):
        for size in (record_rows, options.rows):
            for name in (PANDAS, UNCHECKED, BEFORE):
                if (size, name) in speeds:
                    limit = RATIO_BAR if (unit, size, name) == ("s", record_rows, PANDAS) else ""
                    values = ratios(speeds[size, RAINCAST], speeds[size, name])
                    rows.append(bar_row(f"rows/{unit}, {size:,} rows: {RAINCAST} / {name}", limit, values, 2))
    largest = comparison.peaks.get((options.memory_rows, RAINCAST))
    if largest:
        usual = statistics.median(comparison.peaks[options.rows, RAINCAST])
        rows.append(bar_row(f"peak memory in MB, {options.memory_rows:,} rows", "<= 500", largest))
        growth = [peak / usual for peak in largest]
        rows.append(bar_row(f"peak memory, {options.memory_rows:,} rows / {options.rows:,} rows", "<= 1.2", growth, 2))
    print(table(BAR_COLUMNS, rows))


def show_runs(comparison: Comparison) -> None:
    """Print throughput and peak memory of each program."""
    rows = []
    for (size, name), speeds in comparison.speeds.items():
        others = (comparison.cpu_speeds.get((size, name)), comparison.peaks.get((size, name)))
        rows.append(
            [f"{size:,} rows: {name}", spread(speeds), *(spread(values) if values else "" for values in others)]
        )
    print(table(("", "rows/s", "rows/core second", "peak memory MB"), rows))


def show_setting(comparison: Comparison) -> None:
    """Print machine, versions and commands."""
    options = comparison.options
    print(f"Largest difference of probabilities: {comparison.largest_difference:.2g}.")
    print(f"{options.rounds} rounds. {machine()}.\n")
    print(f"- {RAINCAST}, commit {commit(ROOT)}:", pins(RAINCAST_PINS, "numpy", "onnxruntime", "duckdb"))
    if options.before:
        print(f"- {BEFORE}: commit {commit(options.before)}")
    print("- batch.py:", pins(PEERS / "batch.txt", "numpy", "pandas", "scikit-learn", "pyarrow"))
    print("\n    " + shlex.join(["python", "-m", "benchmarks.files", *sys.argv[1:]]))
    for program in comparison.programs.values():
        call = " ".join(program.call).format(input="FILE.csv", output="OUT.parquet")
        print(f"    cd {program.folder}; {call}")
    print(f"\n{(__doc__ or '').strip().rpartition(chr(10) * 2)[2]}")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    command_line = parser(__doc__)
    command_line.add_argument("--rows", type=int, default=1_000_000, help="of the larger file (default: %(default)s)")
    command_line.add_argument(
        "--memory-rows", type=int, default=10_000_000, help="of the largest file (default: %(default)s)"
    )
    command_line.add_argument(
        "--memory-rounds", type=int, default=1, help="forecasts of the largest file, 0 for none (default: %(default)s)"
    )
    return command_line.parse_args()


if __name__ == "__main__":
    main(run, arguments())
