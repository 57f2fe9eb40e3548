"""Verification of a fitted model on the verification rows, and the importance of each measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast import verification
from raincast.features.build import build_features
from raincast.features.own import wet
from raincast.observations.columns import MEASUREMENTS
from raincast.observations.table import Table, take
from raincast.training.splits import Rows
from raincast.verification import Array, Climatology, Persistence, brier_score

PERMUTED_ROWS = 10_000


def verify(
    table: Table, obs: Array, rows: tuple[Rows, Rows], fcsts: dict[str, Array], threshold_probability: float
) -> dict[str, Any]:
    """Verify forecasts of the verification rows of a split against baselines fitted to its training rows.

    `rows` are the training and the verification rows; `fcsts` are the forecasts of the latter by form.
    """
    fitted, verified = rows
    locations, dates, wet_days = table["Location"], table["Date"], wet(table)
    climatology = Climatology.fit(locations[fitted], dates[fitted], obs[fitted])
    persistence = Persistence.fit(locations[fitted], wet_days[fitted], obs[fitted])
    baselines = {
        "climatology": climatology.forecast(locations[verified], dates[verified]),
        "persistence": persistence.forecast(locations[verified], wet_days[verified]),
    }
    return verification.verify(
        fcsts, baselines, obs[verified], locations[verified], dates[verified], threshold_probability
    )


def permutation_importance(
    probability: Callable[[Array], Array], table: Table, obs: Array, rows: NDArray[np.bool_], seed: int = 0
) -> dict[str, float]:
    """Return the rise of the Brier score when one measurement is shuffled over the table, largest first.

    This removes the measurement's information from own features, history and neighbours. The chosen `rows` are shuffled
    among themselves, and at most PERMUTED_ROWS of them are scored; `obs` and `rows` have the shape (rows,).
    """
    generator = np.random.default_rng(seed)
    table, obs = take(table, rows), obs[rows]
    scored = generator.permutation(len(obs))[:PERMUTED_ROWS]
    order = generator.permutation(len(obs))

    def brier(table: Table) -> float:
        return brier_score(probability(build_features(table)[scored]), obs[scored])

    unshuffled = brier(table)
    rise = {name: brier(table | {name: table[name][order]}) - unshuffled for name in MEASUREMENTS}
    return dict(sorted(rise.items(), key=lambda item: -item[1]))
