"""The service's counts: what Prometheus reads is what was counted."""

from __future__ import annotations

from bisect import bisect_right

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

UNTIMED = settings(deadline=None, derandomize=True)
# Any probability and time, those on a bound and just beside it among them.
PROBABILITY = (
    st.floats(0, 1)
    | st.sampled_from(PROBABILITIES)
    | st.sampled_from([float(np.nextafter(p, 1)) for p in PROBABILITIES])
)
DURATION = st.floats(0, 100) | st.sampled_from(SECONDS)


def families(counted: Metrics) -> dict[str, Metric]:
    """What a Prometheus server reads, by name; every name once."""
    found = list(text_string_to_metric_families(prometheus.text(counted).decode()))
    names = [family.name for family in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def value(counted: Metrics, sample_name: str, **labels: str) -> float:
    """The one sample of this name with exactly these labels."""
    samples = [
        sample for family in families(counted).values() for sample in family.samples if sample.name == sample_name
    ]
    (sample,) = [sample for sample in samples if sample.labels == labels]
    return float(sample.value)


def buckets(counted: Metrics, name: str, /, **labels: str) -> dict[float, float]:
    """Cumulative counts of a histogram by their bounds."""
    samples = [sample for sample in families(counted)[name].samples if sample.name == f"{name}_bucket"]
    return {
        float(sample.labels["le"]): sample.value
        for sample in samples
        if {key: text for key, text in sample.labels.items() if key != "le"} == labels
    }


@pytest.fixture(name="counted")
def fixture_counted() -> Metrics:
    """Counts of a service that has just started."""
    return fresh()


def fresh() -> Metrics:
    """Counts without anything counted."""
    return Metrics({"name": "raincast", "version": "1+abc"}, {})


@UNTIMED
@given(st.lists(PROBABILITY))
def test_values_one_by_one_and_as_an_array_are_counted_alike(values: list[float]) -> None:
    alone, together = Histogram(PROBABILITIES), Histogram(PROBABILITIES)
    for probability in values:
        alone.add(probability)
    together.add_all(np.array(values, float))
    assert alone.counts == together.counts
    assert all(isinstance(count, int) for count in together.counts)
    assert together.sum == pytest.approx(alone.sum)


@UNTIMED
@given(st.lists(DURATION), st.lists(DURATION))
def test_buckets_are_the_counts_up_to_and_with_each_bound(first: list[float], second: list[float]) -> None:
    histogram = Histogram(SECONDS)
    histogram.add_all(np.array(first, float))
    for seconds in second:
        histogram.add(seconds)
    ordered = sorted(first + second)
    bounds, counts = zip(*histogram.buckets(), strict=True)
    assert bounds == (*map(str, SECONDS), "+Inf")
    assert counts == (*(bisect_right(ordered, bound) for bound in SECONDS), len(ordered))
    assert histogram.sum == pytest.approx(sum(ordered))


def test_bounds_rise_and_those_of_probabilities_end_at_certainty() -> None:
    for bounds in (SECONDS, PROBABILITIES):
        assert list(bounds) == sorted(set(bounds))
    assert PROBABILITIES[-1] == 1.0


def test_a_service_that_has_just_started_has_all_its_counts_at_0(counted: Metrics) -> None:
    found = families(counted)
    assert value(counted, "raincast_rows_total") == 0
    assert value(counted, "raincast_model_info", name="raincast", version="1+abc") == 1
    assert {
        column: value(counted, "raincast_missing_values_total", column=column) for column in MEASUREMENTS
    } == dict.fromkeys(MEASUREMENTS, 0)
    assert set(buckets(counted, "raincast_probability_of_rain").values()) == {0}
    assert found["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert all(family.documentation for family in found.values())


def test_the_types_are_those_of_prometheus(counted: Metrics) -> None:
    counted.responded("POST", "/forecast", 200, 0.001)
    counted.errors["format"] += 1
    types = {name: family.type for name, family in families(counted).items() if name.startswith("raincast_")}
    assert types == {
        "raincast_model_info": "gauge",
        "raincast_requests": "counter",
        "raincast_request_seconds": "histogram",
        "raincast_errors": "counter",
        "raincast_rows": "counter",
        "raincast_missing_values": "counter",
        "raincast_probability_of_rain": "histogram",
    }


def test_answers_are_counted_by_method_path_and_status_and_timed_by_path(counted: Metrics) -> None:
    for status, seconds in ((200, 0.0005), (200, 0.0006), (422, 40.0)):
        counted.responded("POST", "/forecast", status, seconds)
    counted.responded("GET", "/ping", 200, 0.1)
    assert value(counted, "raincast_requests_total", method="POST", path="/forecast", status="200") == 2
    assert value(counted, "raincast_requests_total", method="POST", path="/forecast", status="422") == 1
    assert value(counted, "raincast_requests_total", method="GET", path="/ping", status="200") == 1
    found = buckets(counted, "raincast_request_seconds", path="/forecast")
    assert [found[bound] for bound in (0.0002, 0.0005, 0.001, 30.0, float("inf"))] == [0, 1, 2, 2, 3]
    assert value(counted, "raincast_request_seconds_count", path="/forecast") == 3
    assert value(counted, "raincast_request_seconds_sum", path="/forecast") == pytest.approx(40.0011)
    assert value(counted, "raincast_request_seconds_count", path="/ping") == 1


@UNTIMED
@given(st.lists(DURATION, min_size=1))
def test_the_histograms_of_the_exposition_are_cumulative_and_end_at_their_count(seconds: list[float]) -> None:
    counted = fresh()
    for one in seconds:
        counted.responded("GET", "/", 200, one)
    found = buckets(counted, "raincast_request_seconds", path="/")
    assert list(found) == [*SECONDS, float("inf")]
    assert list(found.values()) == sorted(found.values())
    assert found[float("inf")] == value(counted, "raincast_request_seconds_count", path="/") == len(seconds)


@pytest.mark.parametrize("text", ['a"b', "back\\slash", "new\nline", "é", ""])
def test_any_text_comes_back_as_a_label(text: str) -> None:
    counted = Metrics({"commit": text}, {})
    counted.responded(text, "/", 200, 0.1)
    counted.errors[text] += 2
    assert value(counted, "raincast_model_info", commit=text) == 1
    assert value(counted, "raincast_requests_total", method=text, path="/", status="200") == 1
    assert value(counted, "raincast_errors_total", kind=text) == 2


def test_gauges_are_asked_each_time_and_lost_lines_are_a_counter() -> None:
    state = {"waiting": 3.0, "lost": 5.0}
    counted = Metrics(
        {"name": "raincast"},
        {
            "waiting_requests": ("Waiting.", lambda: state["waiting"]),
            "request_log_lost_lines": ("Lost.", lambda: state["lost"]),
        },
    )
    assert value(counted, "raincast_waiting_requests") == 3
    state["waiting"], state["lost"] = 0.0, 6.0
    assert value(counted, "raincast_waiting_requests") == 0
    assert value(counted, "raincast_request_log_lost_lines_total") == 6
    assert families(counted)["raincast_waiting_requests"].type == "gauge"
    assert families(counted)["raincast_request_log_lost_lines"].type == "counter"


@UNTIMED
@given(bodies(), st.data())
def test_rows_one_by_one_and_a_table_are_counted_alike(sent: list[Sent], data: st.DataObject) -> None:
    table = as_table(decoding.of_records(sent)[0])
    fcst = data.draw(st.lists(PROBABILITY, min_size=rows_of(table), max_size=rows_of(table)))
    alone, together = fresh(), fresh()
    for row, probability in zip(decoding.rows_of_table(table), fcst, strict=True):
        alone.forecast_row(row, probability)
    together.forecast_table(table, np.array(fcst))
    assert alone.rows == together.rows == len(fcst)
    assert alone.missing == together.missing
    assert alone.probability.counts == together.probability.counts
    assert alone.probability.sum == pytest.approx(together.probability.sum)
    assert buckets(alone, "raincast_probability_of_rain") == buckets(together, "raincast_probability_of_rain")


@UNTIMED
@given(bodies())
def test_missing_values_are_counted_by_column(sent: list[Sent]) -> None:
    counted = fresh()
    table = as_table(decoding.of_records(sent)[0])
    counted.forecast_table(table, np.zeros(rows_of(table)))
    counted.forecast_table(table, np.ones(rows_of(table)))
    missing = {name: 2 * sum(one.get(name) is None for one in sent) for name in MEASUREMENTS}
    assert {name: value(counted, "raincast_missing_values_total", column=name) for name in MEASUREMENTS} == missing
    assert value(counted, "raincast_rows_total") == 2 * len(sent)
    assert value(counted, "raincast_probability_of_rain_count") == 2 * len(sent)
    assert value(counted, "raincast_probability_of_rain_sum") == len(sent)


def test_the_content_type_is_that_of_the_text_format(counted: Metrics) -> None:
    assert metrics.CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert prometheus.text(counted).decode("utf-8").endswith("\n")
