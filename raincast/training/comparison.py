"""Comparison of a challenger with the champion: on which rows, by which test, and the decision.

The gate of the pipeline calls it; a promotion needs the same.
"""

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

# Of the Brier score. The interval covers the chance of the verified days, not that of the training's seed:
# docs/decisions.md has the measurement.
TOLERANCE = 0.0005
# An interval of fewer blocks would be narrower than it should be.
LEAST_BLOCKS = 20
FORMS: dict[str, Callable[[Table], Table]] = {"whole day": lambda table: table, "as known at 3 pm": as_known_at_3pm}


class Incomparable(Exception):
    """There are no rows on which two models can be compared honestly."""


@dataclass(frozen=True)
class Contestant:
    """A model: the description from its training, and its forecasts of a table, shape (rows,)."""

    description: dict[str, Any]
    forecast: Callable[[Table], Array]


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison: number of verified rows, what was resampled, and the scores of each form."""

    rows: int
    blocks: str
    comparisons: dict[str, Comparison]

    @property
    def worse(self) -> list[str]:
        """Forms in which the challenger is worse, beyond chance and the tolerance."""
        return [form for form, comparison in self.comparisons.items() if comparison.worse(TOLERANCE)]


def compare(champion: Contestant, challenger: Contestant, table: Table) -> Verdict:
    """Compare Brier scores on the rows of a table that neither model was trained on.

    The table has the column RainTomorrow; its rows are each other's context. Raises Incomparable, and what the
    contestants raise.
    """
    rows = unseen_rows(table, [champion.description, challenger.description])
    blocks, what = resampling_blocks(table, rows)
    obs = table[TARGET.name][rows]
    observed = {name: values for name, values in table.items() if name != TARGET.name}
    comparisons = {}
    for form, known in FORMS.items():
        fcst = [contestant.forecast(known(observed))[rows] for contestant in (champion, challenger)]
        comparisons[form] = verification.compare(fcst[1], fcst[0], obs, blocks)
    return Verdict(int(np.sum(rows)), what, comparisons)


def unseen_rows(table: Table, descriptions: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Mark the rows that none of the models was trained on, shape (rows,). Raises Incomparable if that is unknown.

    With dates these are the days after all training periods. Without dates rows can only be told apart if all models
    were trained on the same data, and so split in the same way.
    """
    known, dates = ~np.isnan(table[TARGET.name]), table["Date"]
    periods = [description["period"] for description in descriptions]
    if not np.isnat(dates).any() and all(periods):
        last = max(period[1] for period in periods)
        rows = known & (dates > np.datetime64(last))
        if not rows.any():
            raise Incomparable(f"there is no day after {last}, the last one of their training")
        return np.asarray(rows)
    if len({description["data_sha256"] for description in descriptions}) > 1:
        raise Incomparable("they were trained on different data without dates, so their training rows are unknown")
    rows = known.copy()
    for description in descriptions:
        last_share = splits.last_share(table, description["config"]["verification_share"])
        if np.sum(known & ~last_share) != description["rows"]:
            raise Incomparable(f"{description['version']} was trained on other rows than its share of them says")
        rows &= last_share
    return rows


def resampling_blocks(table: Table, rows: NDArray[np.bool_]) -> tuple[NDArray[np.int64], str]:
    """Return the block of each of the chosen rows, and a description of the blocks. Raises Incomparable if few."""
    if np.isnat(table["Date"]).any():
        blocks = verification.consecutive_blocks(table["Location"][rows])
        what = f"blocks of {verification.BOOTSTRAP_BLOCK_ROWS} rows of a station"
    else:
        blocks, what = verification.weekly_blocks(table["Date"][rows]), "weeks"
    count = len(np.unique(blocks))
    if count < LEAST_BLOCKS:
        raise Incomparable(f"{count} {what} are too few for an interval, the least is {LEAST_BLOCKS}")
    return blocks, f"{count:,} {what}"
