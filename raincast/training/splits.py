"""Split in time: training, validation and verification rows."""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from raincast.observations.errors import ObservationError
from raincast.observations.table import Table
from raincast.training.config import ModelConfig

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]


def last_share(table: Table, share: float, among: Rows | None = None) -> Rows:
    """Mark the last share of a table's days, shape (rows,); without dates, of each station's rows in their order."""
    among = np.ones(len(table["Location"]), dtype=bool) if among is None else among
    dates = table["Date"]
    if not np.isnat(dates[among]).any():
        days = np.sort(dates[among])
        return np.asarray(among & (dates > days[int(len(days) * (1 - share)) - 1]))
    chosen = np.zeros(len(among), dtype=bool)
    for name in np.unique(table["Location"][among]):
        rows = np.flatnonzero(among & (table["Location"] == name))
        chosen[rows[int(len(rows) * (1 - share)) :]] = True
    return chosen


def split(table: Table, obs: Array, config: ModelConfig, verify_from: str | None = None) -> tuple[Rows, Rows]:
    """Mark the training and the verification rows: before and from a date (YYYY-MM-DD), or the last share.

    Rows whose outcome is unknown (NaN in `obs`) are in neither. Raises ObservationError if one side lacks rain days or
    dry days.
    """
    if verify_from is None:
        verified = last_share(table, config.verification_share)
    else:
        try:
            first = np.datetime64(dt.date.fromisoformat(verify_from))
        except ValueError as error:
            raise ObservationError(f"--verify-from: {verify_from!r} is not a date as YYYY-MM-DD") from error
        if np.isnat(table["Date"]).any():
            raise ObservationError(f"--verify-from {verify_from}: the observations have rows without a date")
        verified = np.asarray(table["Date"] >= first)
    known = ~np.isnan(obs)
    sides = known & ~verified, known & verified
    for name, rows in zip(("training", "verification"), sides, strict=True):
        require_both(obs, rows, f"the {name} period")
    return sides


def require_both(obs: Array, rows: Rows, period: str) -> None:
    """Raise ObservationError unless the rows of a period include rain days and dry days."""
    wet, dry = int(np.sum(obs[rows] == 1)), int(np.sum(obs[rows] == 0))
    if not wet or not dry:
        raise ObservationError(f"{period} has {wet} rain days and {dry} dry days; it needs some of each")
