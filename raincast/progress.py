"""What a long command is doing, on stderr: a line for each stage, a bar where it can be counted."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what begins and, when it is done, how long it took."""
    print(f"{what} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def counter(total: int, unit: str) -> tqdm[Any]:
    """A bar over `total` units, shown on a terminal when the work takes more than a second."""
    return tqdm(total=total, unit=unit, delay=1, leave=False, disable=None)
