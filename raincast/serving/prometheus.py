"""The service's counts as Prometheus reads them: https://prometheus.io/docs/instrumenting/exposition_formats/.

Apart from the counts, so that a service starts without importing prometheus_client, which takes 16 ms of some 250.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from raincast.serving.metrics import Metrics


def text(counted: Metrics) -> bytes:
    """What a service has counted, and what its process uses."""
    registry = CollectorRegistry()
    registry.register(_Collector(counted))
    ProcessCollector(registry=registry)
    return bytes(generate_latest(registry))


class _Collector(Collector):
    """A service's counts, for prometheus_client."""

    # pylint: disable=too-few-public-methods  # all that a collector has

    def __init__(self, counted: Metrics) -> None:
        self.counted = counted

    def collect(self) -> Iterable[Metric]:
        """Everything, for prometheus_client."""
        info = GaugeMetricFamily("raincast_model_info", "The model that serves.", labels=list(self.counted.model))
        info.add_metric(list(self.counted.model.values()), 1)
        yield info
        requests = CounterMetricFamily("raincast_requests", "Answered requests.", labels=["method", "path", "status"])
        for (method, path, status), count in self.counted.requests.items():
            requests.add_metric([method, path, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "raincast_request_seconds", "From a request's headers to its last byte.", labels=["path"]
        )
        for path, histogram in self.counted.seconds.items():
            seconds.add_metric([path], histogram.buckets(), histogram.sum)
        yield seconds
        errors = CounterMetricFamily("raincast_errors", "Requests refused or failed.", labels=["kind"])
        for kind, count in self.counted.errors.items():
            errors.add_metric([kind], count)
        yield errors
        yield CounterMetricFamily("raincast_rows", "Observations that were forecast.", self.counted.rows)
        missing = CounterMetricFamily(
            "raincast_missing_values",
            "Observations without this column; over raincast_rows_total: share.",
            labels=["column"],
        )
        for column, count in self.counted.missing.items():
            missing.add_metric([column], count)
        yield missing
        yield HistogramMetricFamily(
            "raincast_probability_of_rain",
            "Forecasts.",
            self.counted.probability.buckets(),
            self.counted.probability.sum,
        )
        for name, (meaning, value) in self.counted.gauges.items():
            family = CounterMetricFamily if name.endswith("_lost_lines") else GaugeMetricFamily
            yield family(f"raincast_{name}", meaning, value())
