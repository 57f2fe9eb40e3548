"""Text of the metrics for Prometheus, https://prometheus.io/docs/instrumenting/exposition_formats/.

Separate from `metrics`, so that the service starts without prometheus_client, whose import takes 16 of some 250 ms.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from raincast.serving.metrics import Metrics


def text(counts: Metrics) -> bytes:
    """Return the metrics of a service and of its process."""
    registry = CollectorRegistry()
    registry.register(_Collector(counts))
    ProcessCollector(registry=registry)
    return bytes(generate_latest(registry))


class _Collector(Collector):
    """Metrics of a service, for prometheus_client."""

    # pylint: disable=too-few-public-methods  # a collector's interface

    def __init__(self, counts: Metrics) -> None:
        self.counts = counts

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""
        info = GaugeMetricFamily("raincast_model_info", "The model of this service.", labels=list(self.counts.model))
        info.add_metric(list(self.counts.model.values()), 1)
        yield info
        requests = CounterMetricFamily(
            "raincast_requests", "Requests with a response.", labels=["method", "path", "status"]
        )
        for (method, path, status), count in self.counts.requests.items():
            requests.add_metric([method, path, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "raincast_request_seconds", "From a request's headers to its last byte.", labels=["path"]
        )
        for path, histogram in self.counts.seconds.items():
            seconds.add_metric([path], histogram.buckets(), histogram.sum)
        yield seconds
        errors = CounterMetricFamily("raincast_errors", "Requests refused or failed.", labels=["kind"])
        for kind, count in self.counts.errors.items():
            errors.add_metric([kind], count)
        yield errors
        yield CounterMetricFamily("raincast_rows", "Observations that were forecast.", self.counts.rows)
        missing = CounterMetricFamily(
            "raincast_missing_values",
            "Observations without this column; over raincast_rows_total: share.",
            labels=["column"],
        )
        for column, count in self.counts.missing.items():
            missing.add_metric([column], count)
        yield missing
        yield HistogramMetricFamily(
            "raincast_probability_of_rain",
            "Forecasts.",
            self.counts.probability.buckets(),
            self.counts.probability.sum,
        )
        for name, (meaning, value) in self.counts.gauges.items():
            family = CounterMetricFamily if name.endswith("_lost_lines") else GaugeMetricFamily
            yield family(f"raincast_{name}", meaning, value())
