"""Run the fuzz targets for FUZZ_MINUTES (default 60) and print how many inputs each target has had.

    python -m tests.fuzz

Exit code: 0 if every input passed; 1 at the first failure, which is printed and kept in .hypothesis/ for the next run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter

CALL = (sys.executable, "-m", "pytest", "-q", "-x", "--hypothesis-profile=fuzz", "--hypothesis-show-statistics")
# The lines of hypothesis' statistics with the name of a target, and with its inputs.
STATISTICS = re.compile(r"^tests/fuzz/\S+::(\w+):$|(\d+) passing, (\d+) failing", re.MULTILINE)


def inputs(output: str) -> Counter[str]:
    """Count the inputs of each target by the statistics in pytest's output."""
    counts: Counter[str] = Counter()
    target = ""
    for name, passing, failing in STATISTICS.findall(output):
        target = name or target
        if not name:
            counts[target] += int(passing) + int(failing)
    return counts


def main() -> int:
    """Repeat the targets until the time is over; return the exit code."""
    end, counts, code = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "60")), Counter[str](), 0
    while code == 0 and time.monotonic() < end:
        done = subprocess.run([*CALL, "tests/fuzz"], capture_output=True, text=True, check=False)
        counts += inputs(done.stdout)
        code = done.returncode
        if code:
            print(done.stdout, done.stderr)
        print(f"{counts.total():,} inputs", flush=True)
    for target, count in sorted(counts.items()):
        print(f"{count:>12,}  {target}")
    return code


if __name__ == "__main__":
    sys.exit(main())
