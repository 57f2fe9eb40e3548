"""Shards, parts of the days: a Kubernetes Indexed Job spreads one input over many pods."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INDEX = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the days; `index` counts from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Shard:
        """Parse `I/N`, or `N` with I in JOB_COMPLETION_INDEX of Kubernetes. Raises ValueError."""
        match = re.fullmatch(r"(?:(\d{1,9})/)?(\d{1,9})", text, re.ASCII)
        if not match:
            raise ValueError(f"{text!r} is not I/N, with I from 0 to N - 1, nor N with I in {INDEX}")
        index = match[1] if match[1] is not None else environment.get(INDEX, "")
        if not re.fullmatch(r"\d{1,9}", index, re.ASCII):
            raise ValueError(f"{text!r} lacks the part I: pass I/N or set {INDEX}")
        if int(index) >= int(match[2]):
            raise ValueError(f"there is no part {index} of {match[2]}: they are counted from 0")
        return cls(int(index), int(match[2]))

    def share(self, total: int) -> tuple[int, int]:
        """Return start and end (exclusive) of this part of `total` items."""
        return total * self.index // self.count, total * (self.index + 1) // self.count

    def of(self, path: Path) -> Path:
        """Return the path of this part of an output file: out.csv becomes out-3-of-10.csv."""
        index = str(self.index).zfill(len(str(self.count - 1)))
        return path.with_name(f"{path.stem}-{index}-of-{self.count}{path.suffix}")


WHOLE = Shard(0, 1)


def shard(text: str) -> Shard:
    """Return a shard, for argparse."""
    try:
        return Shard.parse(text, os.environ)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
