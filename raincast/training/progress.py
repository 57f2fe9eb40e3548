"""Progress of a training on stderr: a line for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from raincast.observations.errors import printable


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print the name of a stage on stderr when it begins, and its duration in seconds when it ends."""
    name = printable(name)
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
