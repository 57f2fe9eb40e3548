"""Metrics: Prometheus reads the recorded values."""

from __future__ import annotations

import re
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from raincast.observations.columns import MEASUREMENTS
from raincast.observations.table import rows_of
from raincast.serving import decoding, metrics, prometheus
from raincast.serving.metrics import PROBABILITIES, SECONDS, Histogram, Metrics
from tests.unit.bodies import Sent, as_table, bodies

CODE = "".join(path.read_text() for path in Path(metrics.__file__).parent.glob("*.py"))
UNTIMED = settings(deadline=None, derandomize=True)
# Including values on a bound and next to it.
PROBABILITY = (
    st.floats(0, 1)
    | st.sampled_from(PROBABILITIES)
    | st.sampled_from([float(np.nextafter(p, 1)) for p in PROBABILITIES])
)
DURATION = st.floats(0, 100) | st.sampled_from(SECONDS)


def families(counts: Metrics) -> dict[str, Metric]:
    """Return the metric families that a Prometheus server reads, by their unique names."""
    parsed = list(text_string_to_metric_families(prometheus.text(counts).decode()))
    names = [family.name for family in parsed]
    assert len(set(names)) == len(names)
    return dict(zip(names, parsed, strict=True))


def value(counts: Metrics, sample_name: str, **labels: str) -> float:
    """Return the only sample of this name with exactly these labels."""
    samples = [
        sample for family in families(counts).values() for sample in family.samples if sample.name == sample_name
    ]
    (sample,) = [sample for sample in samples if sample.labels == labels]
    return float(sample.value)


def buckets(counts: Metrics, name: str, /, **labels: str) -> dict[float, float]:
    """Return cumulative counts of a histogram by their bounds."""
    samples = [sample for sample in families(counts)[name].samples if sample.name == f"{name}_bucket"]
    return {
        float(sample.labels["le"]): sample.value
        for sample in samples
        if {key: text for key, text in sample.labels.items() if key != "le"} == labels
    }


@pytest.fixture(name="counts")
def fixture_counted() -> Metrics:
    """Return the metrics of a service that has just started."""
    return fresh()


def fresh() -> Metrics:
    """Return metrics before the first request."""
    return Metrics({"name": "raincast", "version": "1+abc"}, {})


@UNTIMED
@given(st.lists(PROBABILITY))
def test_values_and_an_array_of_them_are_counted_alike(values: list[float]) -> None:
    single, array = Histogram(PROBABILITIES), Histogram(PROBABILITIES)
    for probability in values:
        single.add(probability)
    array.add_all(np.array(values, float))
    assert single.counts == array.counts
    assert all(isinstance(count, int) for count in array.counts)
    assert array.sum == pytest.approx(single.sum)


@UNTIMED
@given(st.lists(DURATION), st.lists(DURATION))
def test_buckets_count_values_up_to_and_including_each_bound(first: list[float], second: list[float]) -> None:
    histogram = Histogram(SECONDS)
    histogram.add_all(np.array(first, float))
    for seconds in second:
        histogram.add(seconds)
    ordered = sorted(first + second)
    bounds, counts = zip(*histogram.buckets(), strict=True)
    assert bounds == (*map(str, SECONDS), "+Inf")
    assert counts == (*(bisect_right(ordered, bound) for bound in SECONDS), len(ordered))
    assert histogram.sum == pytest.approx(sum(ordered))


def test_bounds_increase_and_those_of_probabilities_end_at_1() -> None:
    for bounds in (SECONDS, PROBABILITIES):
        assert list(bounds) == sorted(set(bounds))
    assert PROBABILITIES[-1] == 1.0


def test_metrics_of_a_new_service_are_0(counts: Metrics) -> None:
    initial = families(counts)
    assert value(counts, "raincast_rows_total") == 0
    assert value(counts, "raincast_model_info", name="raincast", version="1+abc") == 1
    assert {
        column: value(counts, "raincast_missing_values_total", column=column) for column in MEASUREMENTS
    } == dict.fromkeys(MEASUREMENTS, 0)
    assert set(buckets(counts, "raincast_probability_of_rain").values()) == {0}
    assert initial["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert all(family.documentation for family in initial.values())


def test_series_of_errors_exist_before_the_first(counts: Metrics) -> None:
    raised, kinds = set(), set(re.findall(r'kind="(\w+)"', CODE))
    for status, kind in re.findall(r'(?:Problem|cls)\((\d+), "(\w+)"', CODE):
        raised.add(status)
        kinds.add(kind)
    kinds |= set(re.findall(r'\d{3}: "(\w+)"', CODE))
    assert {"500", "503"} <= (failures := {status for status in raised if status.startswith("5")})
    for path in ("/forecast", "/invocations"):
        for status in ("200", *failures):
            assert value(counts, "raincast_requests_total", method="POST", path=path, status=status) == 0
        assert value(counts, "raincast_request_seconds_count", path=path) == 0
    exported = {sample.labels["kind"]: sample.value for sample in families(counts)["raincast_errors"].samples}
    assert exported == dict.fromkeys(kinds, 0)


def test_metrics_have_the_types_of_prometheus(counts: Metrics) -> None:
    counts.responded("POST", "/forecast", 200, 0.001)
    counts.errors["format"] += 1
    types = {name: family.type for name, family in families(counts).items() if name.startswith("raincast_")}
    assert types == {
        "raincast_model_info": "gauge",
        "raincast_requests": "counter",
        "raincast_request_seconds": "histogram",
        "raincast_errors": "counter",
        "raincast_rows": "counter",
        "raincast_missing_values": "counter",
        "raincast_probability_of_rain": "histogram",
    }


def test_responses_are_counted_by_method_path_and_status_and_timed_by_path(counts: Metrics) -> None:
    for status, seconds in ((200, 0.0005), (200, 0.0006), (422, 40.0)):
        counts.responded("POST", "/forecast", status, seconds)
    counts.responded("GET", "/ping", 200, 0.1)
    assert value(counts, "raincast_requests_total", method="POST", path="/forecast", status="200") == 2
    assert value(counts, "raincast_requests_total", method="POST", path="/forecast", status="422") == 1
    assert value(counts, "raincast_requests_total", method="GET", path="/ping", status="200") == 1
    cumulative = buckets(counts, "raincast_request_seconds", path="/forecast")
    assert [cumulative[bound] for bound in (0.0002, 0.0005, 0.001, 30.0, float("inf"))] == [0, 1, 2, 2, 3]
    assert value(counts, "raincast_request_seconds_count", path="/forecast") == 3
    assert value(counts, "raincast_request_seconds_sum", path="/forecast") == pytest.approx(40.0011)
    assert value(counts, "raincast_request_seconds_count", path="/ping") == 1


@UNTIMED
@given(st.lists(DURATION, min_size=1))
def test_histograms_are_cumulative_and_end_at_their_count(seconds: list[float]) -> None:
    counts = fresh()
    for one in seconds:
        counts.responded("GET", "/", 200, one)
    cumulative = buckets(counts, "raincast_request_seconds", path="/")
    assert list(cumulative) == [*SECONDS, float("inf")]
    assert list(cumulative.values()) == sorted(cumulative.values())
    assert cumulative[float("inf")] == value(counts, "raincast_request_seconds_count", path="/") == len(seconds)


@pytest.mark.parametrize("text", ['a"b', "back\\slash", "new\nline", "é", ""])
def test_a_label_may_be_any_text(text: str) -> None:
    counts = Metrics({"commit": text}, {})
    counts.responded(text, "/", 200, 0.1)
    counts.errors[text] += 2
    assert value(counts, "raincast_model_info", commit=text) == 1
    assert value(counts, "raincast_requests_total", method=text, path="/", status="200") == 1
    assert value(counts, "raincast_errors_total", kind=text) == 2


def test_gauges_are_read_on_each_scrape_and_lost_lines_are_a_counter() -> None:
    state = {"waiting": 3.0, "lost": 5.0}
    counts = Metrics(
        {"name": "raincast"},
        {
            "waiting_requests": ("Waiting.", lambda: state["waiting"]),
            "request_log_lost_lines": ("Lost.", lambda: state["lost"]),
        },
    )
    assert value(counts, "raincast_waiting_requests") == 3
    state["waiting"], state["lost"] = 0.0, 6.0
    assert value(counts, "raincast_waiting_requests") == 0
    assert value(counts, "raincast_request_log_lost_lines_total") == 6
    assert families(counts)["raincast_waiting_requests"].type == "gauge"
    assert families(counts)["raincast_request_log_lost_lines"].type == "counter"


@UNTIMED
@given(bodies(), st.data())
def test_rows_and_a_table_of_them_are_counted_alike(sent: list[Sent], data: st.DataObject) -> None:
    table = as_table(decoding.decode_records(sent)[0])
    fcst = data.draw(st.lists(PROBABILITY, min_size=rows_of(table), max_size=rows_of(table)))
    single, array = fresh(), fresh()
    for row, probability in zip(decoding.rows_of_table(table), fcst, strict=True):
        single.forecast_row(row, probability)
    array.forecast_table(table, np.array(fcst))
    assert single.rows == array.rows == len(fcst)
    assert single.missing == array.missing
    assert single.probability.counts == array.probability.counts
    assert single.probability.sum == pytest.approx(array.probability.sum)
    assert buckets(single, "raincast_probability_of_rain") == buckets(array, "raincast_probability_of_rain")


@UNTIMED
@given(bodies())
def test_missing_values_are_counted_by_column(sent: list[Sent]) -> None:
    counts = fresh()
    table = as_table(decoding.decode_records(sent)[0])
    counts.forecast_table(table, np.zeros(rows_of(table)))
    counts.forecast_table(table, np.ones(rows_of(table)))
    missing = {name: 2 * sum(one.get(name) is None for one in sent) for name in MEASUREMENTS}
    assert {name: value(counts, "raincast_missing_values_total", column=name) for name in MEASUREMENTS} == missing
    assert value(counts, "raincast_rows_total") == 2 * len(sent)
    assert value(counts, "raincast_probability_of_rain_count") == 2 * len(sent)
    assert value(counts, "raincast_probability_of_rain_sum") == len(sent)


def test_the_content_type_is_that_of_the_text_format(counts: Metrics) -> None:
    assert metrics.CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert prometheus.text(counts).decode("utf-8").endswith("\n")
