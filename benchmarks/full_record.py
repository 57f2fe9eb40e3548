#!/usr/bin/env python3
"""Train on the full record with the user's command and compare the results with their bars.

    make benchmark-training DATA=weatherAUS.csv.gz

Trains before 2015-07-01 and verifies from then on; prints seconds, peak memory, the graph's size and the scores of each
form of the observation.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT
from raincast.forecasting import model

VERIFY_FROM = "2015-07-01"
# Least ROC AUC, least Brier skill, largest expected calibration error.
BARS = {
    "with context": (0.914, 0.445, 0.010),
    "single row": (0.891, 0.387, 0.010),
    "with context, as known at 3 pm": (0.908, 0.425, 0.010),
    "single row, as known at 3 pm": (0.882, 0.360, 0.010),
}


def main(data: str) -> int:
    """Train in a temporary folder, MLflow store included; return exit code 1 if a bar is missed."""
    with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
        out = Path(folder) / "model"
        call = [sys.executable, str(ROOT / "train.py"), "--data", os.path.abspath(data), "--out", str(out)]
        start = time.perf_counter()
        subprocess.run([*call, "--verify-from", VERIFY_FROM], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        description, size = model.describe(out), (out / model.GRAPH).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    reached = [seconds <= 240, peak <= 3e9, size <= 5e6]
    print(f"{seconds:.0f} s (bar 240), peak memory {peak / 1e9:.2f} GB (bar 3), model.onnx {size / 1e6:.2f} MB (bar 5)")
    for form, bars in BARS.items():
        scores = description["verification"]["forms"][form]
        auc, skill, error = (scores[n] for n in ("roc_auc", "brier_skill_score", "expected_calibration_error"))
        reached += [auc >= bars[0], skill >= bars[1], error <= bars[2]]
        print(f"{form:46} AUC {auc:.4f} ({bars[0]})  skill {skill:.4f} ({bars[1]})  ECE {error:.4f} ({bars[2]})")
    print("model.onnx", description["files"][model.GRAPH], "versions", description["versions"])
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
