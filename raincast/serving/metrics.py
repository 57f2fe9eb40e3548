"""Counters of the service: plain numbers, since each request changes them; `prometheus` formats them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raincast.observations.columns import COLUMNS, MEASUREMENTS
from raincast.observations.table import Table
from raincast.serving.forecaster import FORECAST, INVOCATIONS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Series that exist from the start: Prometheus sees the first error only as an increase from 0.
STATUSES = (200, 500, 501, 503, 505)
KINDS = (
    "busy", "disconnected", "draining", "format", "headers", "http", "internal", "media_type", "method", "not_found",
    "observations", "slow", "too_large",
)  # fmt: skip
PROBABILITIES = tuple(round(0.05 * i, 2) for i in range(1, 21))


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, values: NDArray[np.float64]) -> None:
        """Count every value of an array."""
        for place, count in zip(*np.unique(np.searchsorted(self.bounds, values), return_counts=True), strict=True):
            self.counts[place] += int(count)
        self.sum += float(np.sum(values))

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as Prometheus expects them."""
        total, cumulative = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            cumulative.append((bound, float(total)))
        return cumulative


class Metrics:
    """Counters of the service. Only the event loop's thread adds to them."""

    # pylint: disable=too-many-instance-attributes  # one for each metric

    def __init__(self, model: dict[str, str], gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self.model, self.gauges = model, gauges
        paths = (FORECAST, INVOCATIONS)
        self.requests = Counter({("POST", path, status): 0 for path in paths for status in STATUSES})
        self.seconds = {path: Histogram(SECONDS) for path in paths}
        self.errors = Counter(dict.fromkeys(KINDS, 0))
        self.rows = 0
        self.missing: Counter[str] = Counter({name: 0 for name in MEASUREMENTS})
        self.probability = Histogram(PROBABILITIES)

    def responded(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a response."""
        self.requests[method, path, status] += 1
        try:
            self.seconds[path].add(seconds)
        except KeyError:
            self.seconds[path] = Histogram(SECONDS)
            self.seconds[path].add(seconds)

    def forecast_row(self, row: dict[str, Any], probability: float) -> None:
        """Count the forecast of a single row."""
        self.rows += 1
        self.probability.add(probability)
        for name, value in row.items():
            if value != value or value == "":  # pylint: disable=comparison-with-itself  # the fastest test for NaN
                self.missing[name] += 1

    def forecast_table(self, table: Table, probability: NDArray[np.float64]) -> None:
        """Count the forecasts of a table."""
        self.rows += len(probability)
        self.probability.add_all(probability)
        for column in COLUMNS:
            if column.kind not in ("station", "date"):
                values = table[column.name]
                missing = values == "" if column.kind == "direction" else np.isnan(values)
                self.missing[column.name] += int(np.sum(missing))
