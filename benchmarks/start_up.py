#!/usr/bin/env python3
"""Wall time of a forecast of the sample compared with only importing scikit-learn and pandas.

    make benchmark

Both run in fresh processes of the same Python, in turns; the medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib import metadata

from benchmarks.harness import ROOT

ROUNDS = 15
CALLS = {
    "prediction.py on the sample": [sys.executable, str(ROOT / "prediction.py")],
    "import sklearn, pandas": [sys.executable, "-c", "import sklearn, pandas"],
}


def seconds(call: list[str]) -> float:
    """Return the wall time of one process."""
    start = time.perf_counter()
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Warm up, run in turns, print the medians and their ratio."""
    for call in CALLS.values():
        seconds(call)
    runs: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(ROUNDS):
        for name, call in CALLS.items():
            runs[name].append(seconds(call))
    medians = {name: statistics.median(times) for name, times in runs.items()}
    for name, median in medians.items():
        print(f"{name:30} median of {ROUNDS}: {median:.3f} s ({min(runs[name]):.3f} to {max(runs[name]):.3f})")
    forecast, imports = medians.values()
    print(f"ratio {forecast / imports:.2f}")
    libraries = ("numpy", "onnxruntime", "scikit-learn", "pandas")
    print("python", sys.version.split()[0], *(f"{name} {metadata.version(name)}" for name in libraries))


if __name__ == "__main__":
    main()
