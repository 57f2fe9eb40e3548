"""Features from earlier days at the same station."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raincast.features.own import Array, Columns
from raincast.observations import stations
from raincast.observations.table import Table, rows_of

HISTORY_DAYS = 30
WET_DAYS = 7
# More days than from 1900 to 2199 and a window.
STATION_STEP = 200_000
MILLIONTHS = 1e6
ANOMALY_FIELDS = ("Humidity3pm", "Pressure3pm", "MaxTemp")


def history(table: Table, columns: Columns, place: NDArray[np.intp]) -> Columns:
    """Return the change since yesterday, the anomalies from 30 days and the share of wet days among the last 7."""
    code = _station_codes(table, place)
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    # One number that orders rows by station, then day. STATION_STEP is longer than any window: windows do not overlap.
    moment = code[dated] * STATION_STEP + table["Date"][dated].astype(np.int64)
    order = np.argsort(moment)
    rows, moment = dated[order], moment[order]
    first = {days: np.searchsorted(moment, moment - days) for days in (HISTORY_DAYS, WET_DAYS)}
    mean = {name: _mean_before(columns[name], rows, first[HISTORY_DAYS]) for name in ANOMALY_FIELDS}
    before = np.maximum(np.arange(len(rows)) - 1, 0)
    yesterday = np.full(rows_of(table), np.nan)
    yesterday[rows] = np.where(moment[before] == moment - 1, columns["Pressure3pm"][rows[before]], np.nan)
    return {
        "Pressure3pm_since_yesterday": columns["Pressure3pm"] - yesterday,
        **{f"{name}_anomaly": columns[name] - mean[name] for name in ANOMALY_FIELDS},
        "wet_share_7_days": _mean_before(columns["wet"], rows, first[WET_DAYS]),
    }


def _station_codes(table: Table, place: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return a number for each row's station, known or unknown."""
    unknown = place < 0
    code = place.copy()
    if unknown.any():
        code[unknown] = len(stations.known().names) + np.unique(table["Location"][unknown], return_inverse=True)[1]
    return code


def _mean_before(values: Array, rows: NDArray[np.intp], first: NDArray[np.intp]) -> Array:
    """Return, for the i-th of `rows`, the mean of the values in rows[first[i]:i] without NaN; NaN if there are none.

    The cumulative sums are integers in millionths. They are exact, so values before the window leave no rounding error.
    """
    ordered = values[rows]
    present = ~np.isnan(ordered)
    count = np.concatenate([[0], np.cumsum(present)])
    total = np.concatenate([[0], np.cumsum(np.rint(np.where(present, ordered, 0.0) * MILLIONTHS).astype(np.int64))])
    in_window = count[:-1] - count[first]
    result = np.full(len(values), np.nan)
    with np.errstate(invalid="ignore"):
        result[rows] = (total[:-1] - total[first]) / MILLIONTHS / in_window
    return result
