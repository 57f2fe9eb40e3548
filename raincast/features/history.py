"""Features from earlier days at the same station."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raincast.features.own import Array, Columns
from raincast.observations import stations
from raincast.observations.table import Table, rows_of

HISTORY_DAYS = 30
WET_DAYS = 7
# More days than from 1900 to 2199, and a window.
STATION_STEP = 200_000
# Sums of whole millionths are exact.
MILLIONTHS = 1e6
ANOMALY_FIELDS = ("Humidity3pm", "Pressure3pm", "MaxTemp")


def history(table: Table, columns: Columns, place: NDArray[np.intp]) -> Columns:
    """Earlier days at the same station: change since yesterday, anomalies of 30 days, wet days of the last 7."""
    code = _station_codes(table, place)
    dated = np.flatnonzero(~np.isnat(table["Date"]))
    # One number that grows with the station, then with the day; stations lie further apart than any window reaches.
    moment = code[dated] * STATION_STEP + table["Date"][dated].astype(np.int64)
    order = np.argsort(moment)
    rows, moment = dated[order], moment[order]
    begin = {days: np.searchsorted(moment, moment - days) for days in (HISTORY_DAYS, WET_DAYS)}
    mean = {name: _mean_before(columns[name], rows, begin[HISTORY_DAYS]) for name in ANOMALY_FIELDS}
    before = np.maximum(np.arange(len(rows)) - 1, 0)
    yesterday = np.full(rows_of(table), np.nan)
    yesterday[rows] = np.where(moment[before] == moment - 1, columns["Pressure3pm"][rows[before]], np.nan)
    return {
        "Pressure3pm_since_yesterday": columns["Pressure3pm"] - yesterday,
        **{f"{name}_anomaly": columns[name] - mean[name] for name in ANOMALY_FIELDS},
        "wet_share_7_days": _mean_before(columns["wet"], rows, begin[WET_DAYS]),
    }


def _station_codes(table: Table, place: NDArray[np.intp]) -> NDArray[np.intp]:
    """A number for each station, known or not."""
    unknown = place < 0
    code = place.copy()
    if unknown.any():
        code[unknown] = len(stations.known().names) + np.unique(table["Location"][unknown], return_inverse=True)[1]
    return code


def _mean_before(values: Array, rows: NDArray[np.intp], begin: NDArray[np.intp]) -> Array:
    """For the i-th of `rows`: mean of the values there are in rows[begin[i]:i], NaN where there are none.

    The sums are of whole millionths, so that they are exact and hold nothing of what lies before the window.
    """
    ordered = values[rows]
    there = ~np.isnan(ordered)
    count = np.concatenate([[0], np.cumsum(there)])
    total = np.concatenate([[0], np.cumsum(np.rint(np.where(there, ordered, 0.0) * MILLIONTHS).astype(np.int64))])
    seen = count[:-1] - count[begin]
    result = np.full(len(values), np.nan)
    with np.errstate(invalid="ignore"):
        result[rows] = (total[:-1] - total[begin]) / MILLIONTHS / seen
    return result
