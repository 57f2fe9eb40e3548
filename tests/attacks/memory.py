"""Peak memory of a command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

# Beyond this a process fails instead of taking the machine with it.
ADDRESS_SPACE = 4_000_000_000
# A process inherits the peak of the one that starts it, and that of the tests is large. This one is small.
STARTER = """
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
code = subprocess.call(sys.argv[3:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class Measured:
    """What a command has done: exit code (128 + N for signal N), peak of resident memory in bytes, standard error."""

    code: int
    peak: int
    stderr: str


def measured(script: str, *arguments: object, stdin: bytes = b"", **env: str) -> Measured:
    """Run a Python script and measure its peak memory."""
    with tempfile.NamedTemporaryFile() as peak:
        starter = [sys.executable, "-S", "-c", STARTER, peak.name, str(ADDRESS_SPACE)]
        completed = subprocess.run(
            [*starter, sys.executable, script, *map(str, arguments)],
            input=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | env,
            check=False,
        )
        return Measured(completed.returncode, int(peak.read()), completed.stderr.decode())
