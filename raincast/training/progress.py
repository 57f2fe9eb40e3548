"""Progress of a training on stderr: a line for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print a stage on stderr as it begins and, when it has ended, the seconds it took."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
