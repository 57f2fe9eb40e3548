"""Comparison of a challenger with the champion: choice of rows, bootstrap, decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast import verification
from raincast.observations.columns import TARGET
from raincast.observations.table import Table, as_known_at_3pm
from raincast.training import splits
from raincast.verification import Array, Comparison

# In units of the Brier score. The interval covers the variation between verified days, not between training seeds;
# docs/decisions.md has the measurement.
TOLERANCE = 0.0005
# Intervals from fewer blocks are too narrow.
MIN_BLOCKS = 20
FORMS: dict[str, Callable[[Table], Table]] = {"complete": lambda table: table, "as known at 3 pm": as_known_at_3pm}


class Incomparable(Exception):
    """No rows allow a fair comparison of two models."""


@dataclass(frozen=True)
class Contestant:
    """A model: the description from its training, and its forecasts of a table, shape (rows,)."""

    description: dict[str, Any]
    forecast: Callable[[Table], Array]


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison: number of verified rows, description of the blocks, and the scores of each form."""

    rows: int
    blocks: str
    comparisons: dict[str, Comparison]

    @property
    def worse(self) -> list[str]:
        """Forms in which the challenger is worse, beyond chance and the tolerance."""
        return [form for form, comparison in self.comparisons.items() if comparison.worse(TOLERANCE)]


def compare(champion: Contestant, challenger: Contestant, table: Table) -> Verdict:
    """Compare Brier scores on the rows of a table that neither model was trained on.

    The table has the column RainTomorrow; its rows are each other's context. Raises Incomparable, and the errors of the
    contestants.
    """
    rows = unseen_rows(table, [champion.description, challenger.description])
    blocks, blocks_text = resampling_blocks(table, rows)
    obs = table[TARGET.name][rows]
    observations = {name: values for name, values in table.items() if name != TARGET.name}
    comparisons = {}
    for form, in_form in FORMS.items():
        champion_fcst, fcst = (
            contestant.forecast(in_form(observations))[rows] for contestant in (champion, challenger)
        )
        comparisons[form] = verification.compare(fcst, champion_fcst, obs, blocks)
    return Verdict(int(np.sum(rows)), blocks_text, comparisons)


def unseen_rows(table: Table, descriptions: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Mark the rows that none of the models was trained on, shape (rows,). Raises Incomparable if they are unknown.

    With dates these are the days after all training periods. Without dates all models must have been trained on the
    same data: then the verification share of each gives its rows.
    """
    known, dates = ~np.isnan(table[TARGET.name]), table["Date"]
    periods = [description["period"] for description in descriptions]
    if not np.isnat(dates).any() and all(periods):
        last = max(period[1] for period in periods)
        rows = known & (dates > np.datetime64(last))
        if not rows.any():
            raise Incomparable(f"there is no day after {last}, the last day of their training")
        return np.asarray(rows)
    if len({description["data_sha256"] for description in descriptions}) > 1:
        raise Incomparable("they were trained on different data without dates, so their training rows are unknown")
    rows = known.copy()
    for description in descriptions:
        last_share = splits.last_share(table, description["config"]["verification_share"])
        if np.sum(known & ~last_share) != description["rows"]:
            raise Incomparable(f"{description['version']} was trained on other rows than its verification share leaves")
        rows &= last_share
    return rows


def resampling_blocks(table: Table, rows: NDArray[np.bool_]) -> tuple[NDArray[np.int64], str]:
    """Return the block of each chosen row and a description of the blocks. Raises Incomparable if there are too few."""
    if np.isnat(table["Date"]).any():
        blocks = verification.consecutive_blocks(table["Location"][rows])
        unit = f"blocks of {verification.BOOTSTRAP_BLOCK_ROWS} rows of a station"
    else:
        blocks, unit = verification.weekly_blocks(table["Date"][rows]), "weeks"
    count = len(np.unique(blocks))
    if count < MIN_BLOCKS:
        raise Incomparable(f"{count} {unit} are too few for an interval, at least {MIN_BLOCKS} are needed")
    return blocks, f"{count:,} {unit}"
