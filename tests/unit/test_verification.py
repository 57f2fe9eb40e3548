"""Scores, baselines and intervals against hand-computed and published values, and against scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raincast import verification
from raincast.verification import Climatology, Contingency, Persistence

# The time of an example depends on the machine.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FCST = np.array([0.9, 0.8, 0.3, 0.1])
OBS = np.array([1.0, 0.0, 1.0, 0.0])

# Finley's tornado forecasts of 1884, as in Wilks (2019), table 9.1.
FINLEY = Contingency(hits=28, false_alarms=72, misses=23, correct_negatives=2680)


def to_arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities in steps of 0.05, and outcomes."""
    return np.array([step / 20 for step, _ in rows]), np.array([float(wet) for _, wet in rows])


# Few different probabilities, so that ties, 0.0 and 1.0 are common; both outcomes occur.
FORECASTS = (
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60)
    .filter(lambda rows: len({wet for _, wet in rows}) == 2)
    .map(to_arrays)
)


def days(*texts: str) -> np.ndarray:
    """Return dates from text, "NaT" for a missing one."""
    return np.array(texts, "datetime64[D]")


def test_brier_score_is_the_mean_squared_error() -> None:
    # (0.1^2 + 0.8^2 + 0.7^2 + 0.1^2) / 4
    assert verification.brier_score(FCST, OBS) == pytest.approx((0.01 + 0.64 + 0.49 + 0.01) / 4)


def test_brier_score_is_0_for_a_perfect_and_1_for_a_reversed_forecast() -> None:
    assert verification.brier_score(OBS, OBS) == 0
    assert verification.brier_score(1 - OBS, OBS) == 1


@UNTIMED
@given(FORECASTS)
def test_brier_score_is_that_of_scikit_learn(forecasts: tuple[np.ndarray, np.ndarray]) -> None:
    fcst, obs = forecasts
    assert verification.brier_score(fcst, obs) == pytest.approx(sklearn.metrics.brier_score_loss(obs, fcst))


def test_brier_skill_score_compares_with_the_reference() -> None:
    # The reference 0.5 has a Brier score of 0.25: 1 - 0.2875 / 0.25.
    assert verification.brier_skill_score(FCST, OBS, np.full(4, 0.5)) == pytest.approx(1 - 0.2875 / 0.25)


def test_brier_skill_score_is_1_when_perfect_and_0_for_the_reference_itself() -> None:
    assert verification.brier_skill_score(OBS, OBS, FCST) == 1
    assert verification.brier_skill_score(FCST, OBS, FCST) == 0


def test_brier_skill_score_against_a_perfect_reference_is_nan() -> None:
    assert np.isnan(verification.brier_skill_score(FCST, OBS, OBS))


def test_log_loss_is_minus_the_mean_log_of_the_probability_of_what_happened() -> None:
    # It rained at 0.9 and 0.3, it stayed dry at 0.8 (so 0.2) and 0.1 (so 0.9).
    expected = -(np.log(0.9) + np.log(0.2) + np.log(0.3) + np.log(0.9)) / 4
    assert verification.log_loss(FCST, OBS) == pytest.approx(expected)
    assert verification.log_loss(np.full(4, 0.5), OBS) == pytest.approx(np.log(2))


@pytest.mark.parametrize(("fcst", "obs"), [(0.0, 1.0), (1.0, 0.0)])
def test_log_loss_of_a_certain_and_wrong_forecast_is_finite(fcst: float, obs: float) -> None:
    # -ln(1e-15) = 15 ln(10)
    assert verification.log_loss(np.array([fcst]), np.array([obs])) == pytest.approx(15 * np.log(10))


@pytest.mark.parametrize("obs", [0.0, 1.0])
def test_log_loss_of_a_certain_and_right_forecast_is_0(obs: float) -> None:
    assert verification.log_loss(np.array([obs]), np.array([obs])) == 0


@UNTIMED
@given(FORECASTS)
def test_log_loss_is_that_of_scikit_learn(forecasts: tuple[np.ndarray, np.ndarray]) -> None:
    # Away from 0 and 1, where the two clip differently.
    fcst, obs = 0.01 + 0.98 * forecasts[0], forecasts[1]
    assert verification.log_loss(fcst, obs) == pytest.approx(sklearn.metrics.log_loss(obs, fcst))


def test_roc_auc_counts_the_pairs_in_the_right_order() -> None:
    # Of the pairs (0.9, 0.8), (0.9, 0.1), (0.3, 0.8) and (0.3, 0.1) three have the rain day above the dry one.
    assert verification.roc_auc(FCST, OBS) == pytest.approx(3 / 4)


def test_roc_auc_counts_a_tie_as_half_a_pair() -> None:
    # Rain at 0.5, dry at 0.5 and 0.2: half a pair and a whole one of two.
    assert verification.roc_auc(np.array([0.5, 0.5, 0.2]), np.array([1.0, 0.0, 0.0])) == pytest.approx(1.5 / 2)
    assert verification.roc_auc(np.full(4, 0.3), OBS) == pytest.approx(0.5)


@pytest.mark.parametrize("obs", [np.zeros(4), np.ones(4)])
def test_roc_auc_of_only_one_outcome_is_nan(obs: np.ndarray) -> None:
    assert np.isnan(verification.roc_auc(FCST, obs))


@UNTIMED
@given(FORECASTS)
def test_roc_auc_is_that_of_scikit_learn(forecasts: tuple[np.ndarray, np.ndarray]) -> None:
    fcst, obs = forecasts
    assert verification.roc_auc(fcst, obs) == pytest.approx(sklearn.metrics.roc_auc_score(obs, fcst))


@UNTIMED
@given(FORECASTS)
def test_roc_auc_is_the_area_under_the_roc_curve_and_turns_with_the_forecast(
    forecasts: tuple[np.ndarray, np.ndarray],
) -> None:
    fcst, obs = forecasts
    area = np.trapezoid(*verification.roc_curve(fcst, obs)[::-1])
    assert verification.roc_auc(fcst, obs) == pytest.approx(area)
    assert verification.roc_auc(1 - fcst, obs) == pytest.approx(1 - area)


def test_roc_curve_steps_through_the_thresholds() -> None:
    alarm_rate, detection = verification.roc_curve(FCST, OBS)
    # Falling threshold: rain at 0.9, dry at 0.8, rain at 0.3, dry at 0.1; two of each.
    np.testing.assert_allclose(alarm_rate, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(detection, [0, 0.5, 0.5, 1, 1])


def test_roc_curve_takes_a_tie_in_one_step() -> None:
    alarm_rate, detection = verification.roc_curve(np.array([0.4, 0.4, 0.4, 0.1]), np.array([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(alarm_rate, [0, 1, 1])
    np.testing.assert_allclose(detection, [0, 0.5, 1])


@UNTIMED
@given(FORECASTS)
def test_roc_curve_is_that_of_scikit_learn(forecasts: tuple[np.ndarray, np.ndarray]) -> None:
    fcst, obs = forecasts
    alarm_rate, detection = verification.roc_curve(fcst, obs)
    their_alarm_rate, their_detection, _ = sklearn.metrics.roc_curve(obs, fcst, drop_intermediate=False)
    np.testing.assert_allclose(alarm_rate, their_alarm_rate)
    np.testing.assert_allclose(detection, their_detection)


def test_reliability_means_and_frequencies_by_hand() -> None:
    table = verification.reliability(np.array([0.12, 0.18, 0.55, 0.11]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert [row.count for row in table] == [0, 3, 0, 0, 0, 1, 0, 0, 0, 0]
    assert table[1].mean_fcst == pytest.approx((0.12 + 0.18 + 0.11) / 3)
    assert table[1].frequency == pytest.approx(1 / 3)
    assert table[5].mean_fcst == pytest.approx(0.55)
    assert table[5].frequency == 1.0


def test_reliability_bins_lie_side_by_side_from_0_to_1() -> None:
    table = verification.reliability(FCST, OBS, bins=4)
    assert [(row.low, row.high) for row in table] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]


@pytest.mark.parametrize(("fcst", "position"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.5, 5), (0.9999, 9), (1.0, 9)])
def test_reliability_bins_hold_their_lower_edge_and_the_last_one_1_as_well(fcst: float, position: int) -> None:
    table = verification.reliability(np.array([fcst]), np.array([1.0]))
    assert [i for i, row in enumerate(table) if row.count] == [position]
    assert table[position].mean_fcst == fcst


def test_reliability_of_an_empty_bin_is_nan() -> None:
    row = verification.reliability(FCST, OBS)[5]
    assert row.count == 0
    assert np.isnan([row.mean_fcst, row.frequency]).all()


@UNTIMED
@given(FORECASTS, st.integers(1, 12))
def test_reliability_bins_together_hold_all_forecasts(forecasts: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    fcst, obs = forecasts
    filled = [row for row in verification.reliability(fcst, obs, bins) if row.count]
    assert sum(row.count for row in filled) == len(fcst)
    assert sum(row.count * row.mean_fcst for row in filled) == pytest.approx(np.sum(fcst))
    assert sum(row.count * row.frequency for row in filled) == pytest.approx(np.sum(obs))


@UNTIMED
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60))
def test_brier_score_is_reliability_minus_resolution_plus_uncertainty(rows: list[tuple[int, bool]]) -> None:
    # Murphy (1973); exact if all forecasts of a bin are equal, here its middle.
    fcst, obs = np.array([(step + 0.5) / 10 for step, _ in rows]), np.array([float(wet) for _, wet in rows])
    rate = np.mean(obs)
    table = [row for row in verification.reliability(fcst, obs) if row.count]
    reliability = sum(row.count * (row.mean_fcst - row.frequency) ** 2 for row in table) / len(obs)
    resolution = sum(row.count * (row.frequency - rate) ** 2 for row in table) / len(obs)
    assert verification.brier_score(fcst, obs) == pytest.approx(reliability - resolution + rate * (1 - rate))


def test_expected_calibration_error_weights_the_bins_by_their_counts() -> None:
    # Bin 0.1..0.2: three forecasts of mean 0.15, rain in a third; bin 0.8..0.9: one of 0.85 with rain.
    fcst, obs = np.array([0.14, 0.15, 0.16, 0.85]), np.array([0.0, 1.0, 0.0, 1.0])
    expected = (3 * (1 / 3 - 0.15) + 1 * (1 - 0.85)) / 4
    assert verification.expected_calibration_error(fcst, obs) == pytest.approx(expected)


def test_expected_calibration_error_of_frequencies_that_come_true_is_0() -> None:
    fcst, obs = np.array([0.25] * 4 + [0.75] * 4), np.array([0.0, 0, 0, 1, 0, 1, 1, 1])
    assert verification.expected_calibration_error(fcst, obs) == pytest.approx(0)


def test_contingency_scores_of_finleys_tornado_forecasts_are_the_published_ones() -> None:
    assert FINLEY.total == 2803
    assert FINLEY.probability_of_detection == pytest.approx(0.549, abs=0.0005)
    assert FINLEY.false_alarm_ratio == pytest.approx(0.720, abs=0.0005)
    assert FINLEY.frequency_bias == pytest.approx(1.96, abs=0.005)
    assert FINLEY.accuracy == pytest.approx(0.966, abs=0.0005)
    # 2 * 28 / (2 * 28 + 72 + 23)
    assert FINLEY.f1 == pytest.approx(56 / 151)


def test_f1_is_the_harmonic_mean_of_precision_and_detection() -> None:
    precision = 1 - FINLEY.false_alarm_ratio
    assert 2 / FINLEY.f1 == pytest.approx(1 / precision + 1 / FINLEY.probability_of_detection)


def test_contingency_scores_without_a_denominator_are_nan() -> None:
    dry = Contingency(hits=0, false_alarms=0, misses=0, correct_negatives=5)
    undefined = (dry.probability_of_detection, dry.false_alarm_ratio, dry.frequency_bias, dry.f1)
    assert np.isnan(undefined).all()
    assert dry.accuracy == 1
    assert np.isnan(Contingency(0, 0, 0, 0).accuracy)


def test_contingency_says_rain_from_the_threshold_on() -> None:
    fcst, obs = np.array([0.9, 0.5, 0.5, 0.4, 0.4, 0.1]), np.array([1.0, 1, 0, 1, 0, 0])
    assert verification.contingency(fcst, obs, 0.5) == Contingency(2, 1, 1, 2)
    assert verification.contingency(fcst, obs, 0.51) == Contingency(1, 0, 2, 3)
    assert verification.contingency(fcst, obs, 0.0) == Contingency(3, 3, 0, 0)


def test_best_f1_threshold_by_hand() -> None:
    # Rain from 0.9 on: F1 = 2/3; from 0.8: 2/4; from 0.3: 4/5, the highest; from 0.1: 4/6.
    assert verification.best_f1_threshold(FCST, OBS) == 0.3


@UNTIMED
@given(FORECASTS)
def test_best_f1_threshold_is_a_forecast_and_none_is_better(forecasts: tuple[np.ndarray, np.ndarray]) -> None:
    fcst, obs = forecasts
    threshold = verification.best_f1_threshold(fcst, obs)
    best = max(verification.contingency(fcst, obs, other).f1 for other in np.unique(fcst))
    assert threshold in fcst
    assert verification.contingency(fcst, obs, threshold).f1 == pytest.approx(best)


def test_scores_are_those_of_the_functions_of_their_names() -> None:
    reference = np.full(4, 0.5)
    # At 0.5: rain said at 0.9 (hit) and 0.8 (false alarm), not at 0.3 (miss) and 0.1 (correct negative).
    assert verification.scores(FCST, OBS, reference, 0.5) == {
        "count": 4,
        "brier_score": verification.brier_score(FCST, OBS),
        "brier_skill_score": verification.brier_skill_score(FCST, OBS, reference),
        "log_loss": verification.log_loss(FCST, OBS),
        "roc_auc": verification.roc_auc(FCST, OBS),
        "expected_calibration_error": verification.expected_calibration_error(FCST, OBS),
        "accuracy": 2 / 4,
        "f1": 2 / 4,
        "probability_of_detection": 1 / 2,
        "false_alarm_ratio": 1 / 2,
        "frequency_bias": 2 / 2,
    }


@pytest.fixture(name="climatology", scope="module")
def fixture_climatology() -> Climatology:
    """Sydney: 30 days of January with 12 wet, 10 dry ones of July. Perth: 8 dry ones of January, 2 dry without date."""
    locations = np.array(["Sydney"] * 40 + ["Perth"] * 10)
    january = [f"2015-01-{number:02}" for number in range(1, 31)]
    july = [f"2015-07-{number:02}" for number in range(1, 11)]
    dates = days(*january, *july, *january[:8], "NaT", "NaT")
    obs = np.array([1.0] * 12 + [0.0] * 38)
    return Climatology.fit(locations, dates, obs)


@pytest.mark.parametrize(
    ("location", "date", "expected"),
    [
        # All: 12 / 50 = 0.24. Sydney: (12 + 20 * 0.24) / (40 + 20) = 0.28. Perth: (0 + 20 * 0.24) / (10 + 20) = 0.16.
        ("Sydney", "2017-01-15", (12 + 20 * 0.28) / (30 + 20)),
        ("Sydney", "2017-07-31", (0 + 20 * 0.28) / (10 + 20)),
        ("Sydney", "2017-02-01", 0.28),
        ("Sydney", "NaT", 0.28),
        # The two rows without a date count for the station, not for a month.
        ("Perth", "2017-01-15", (0 + 20 * 0.16) / (8 + 20)),
        ("Perth", "2017-12-31", 0.16),
        ("Perth", "NaT", 0.16),
        ("Atlantis", "2017-01-15", 0.24),
        ("Atlantis", "NaT", 0.24),
    ],
)
def test_climatology_is_the_smoothed_rate(climatology: Climatology, location: str, date: str, expected: float) -> None:
    assert climatology.forecast(np.array([location]), days(date)) == pytest.approx(expected)


def test_climatology_forecasts_each_row_in_its_place(climatology: Climatology) -> None:
    fcst = climatology.forecast(np.array(["Atlantis", "Perth", "Sydney"]), days("2017-01-15", "2017-03-01", "NaT"))
    np.testing.assert_allclose(fcst, [0.24, 0.16, 0.28])


def test_climatology_approaches_the_frequency_with_more_days() -> None:
    def january(wet_days: int, dry_days: int) -> float:
        rows = wet_days + dry_days
        obs = np.append(np.ones(wet_days), np.zeros(dry_days))
        # Somewhere else it is dry, so that the rate of all is another one.
        locations = np.array(["Sydney"] * rows + ["Perth"] * rows)
        fitted = Climatology.fit(locations, np.full(2 * rows, np.datetime64("2015-01-01")), np.append(obs, 0 * obs))
        return fitted.station_month["Sydney", 1]

    few, many = january(5, 5), january(500, 500)
    assert few < many < 0.5
    assert many == pytest.approx(0.5, abs=0.01)


def test_persistence_is_the_smoothed_rate_of_each_station_after_wet_and_after_dry_days() -> None:
    # Sydney: three wet days, rain after two; four dry ones, rain after one. Perth: one wet day with rain after it, one
    # dry and one unknown without. All: 4 of 10.
    locations = np.array(["Sydney"] * 7 + ["Perth"] * 3)
    wet = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, np.nan])
    obs = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    fitted = Persistence.fit(locations, wet, obs)
    after_wet = (3 + 20 * 0.4) / (4 + 20)
    after_dry = (1 + 20 * 0.4) / (5 + 20)
    places = ["Sydney", "Sydney", "Perth", "Perth", "Atlantis", "Atlantis"]
    expected = [
        (2 + 20 * after_wet) / (3 + 20),
        (1 + 20 * after_dry) / (4 + 20),
        (1 + 20 * after_wet) / (1 + 20),
        (0 + 20 * after_dry) / (1 + 20),
        # An unknown station has the rates of all.
        after_wet,
        after_dry,
    ]
    np.testing.assert_allclose(fitted.forecast(np.array(places), np.array([1.0, 0.0] * 3)), expected)


def test_persistence_after_an_unknown_day_is_the_rate_of_all_days() -> None:
    fitted = Persistence.fit(np.array(["Sydney"] * 4), np.array([1.0, 0.0, 0.0, np.nan]), np.array([1.0, 0, 0, 0]))
    np.testing.assert_array_equal(fitted.forecast(np.array(["Sydney", "Atlantis"]), np.full(2, np.nan)), [0.25, 0.25])


@pytest.mark.parametrize("wet", [0.0, 1.0, np.nan])
def test_persistence_without_a_kind_of_day_has_the_rate_of_all_for_it(wet: float) -> None:
    fitted = Persistence.fit(np.array(["Sydney"] * 4), np.full(4, wet), np.array([1.0, 0.0, 0.0, 0.0]))
    fcst = fitted.forecast(np.array(["Sydney"] * 3), np.array([0.0, 1.0, np.nan]))
    np.testing.assert_allclose(fcst, [0.25, 0.25, 0.25])


def test_month_counts_from_1_and_is_0_without_a_date() -> None:
    dates = days(*(f"2016-{number:02}-29" for number in range(1, 13)), "NaT", "1969-12-31", "1900-01-01")
    np.testing.assert_array_equal(verification.month(dates), [*range(1, 13), 0, 12, 1])


def test_season_is_that_of_the_southern_year_and_empty_without_a_date() -> None:
    dates = days(*(f"2016-{number:02}-01" for number in range(1, 13)), "NaT")
    expected = ["DJF"] * 2 + ["MAM"] * 3 + ["JJA"] * 3 + ["SON"] * 3 + ["DJF", ""]
    np.testing.assert_array_equal(verification.season(dates), expected)


@pytest.mark.parametrize("first", ["1969-12-18", "1970-01-01", "2017-01-01"])
def test_weekly_blocks_are_seven_days_each_without_gap(first: str) -> None:
    blocks = verification.weekly_blocks(np.datetime64(first) + np.arange(70))
    assert set(np.diff(blocks)) == {0, 1}
    assert (np.unique(blocks, return_counts=True)[1][1:-1] == 7).all()


@UNTIMED
@given(st.lists(st.integers(-3, 5), min_size=1, max_size=40), st.integers(0, 2**32))
def test_block_bootstrap_keeps_blocks_whole(numbers: list[int], seed: int) -> None:
    blocks = np.array(numbers)
    for rows in verification.block_bootstrap(blocks, 3, seed):
        times = np.bincount(rows, minlength=len(blocks))
        drawn = {number: set(times[blocks == number]) for number in np.unique(blocks)}
        assert all(len(count) == 1 for count in drawn.values())
        assert sum(count.pop() for count in drawn.values()) == len(np.unique(blocks))


def test_block_bootstrap_draws_with_replacement_and_is_determined_by_its_seed() -> None:
    blocks = np.repeat(np.arange(20), 3)

    def resamples(seed: int) -> list[list[int]]:
        return [rows.tolist() for rows in verification.block_bootstrap(blocks, 5, seed)]

    first = resamples(1)
    assert len(first) == 5
    assert first == resamples(1)
    assert first != resamples(2)
    assert first[0] != first[1]
    assert all(len(set(rows)) < len(rows) for rows in first)


def test_confidence_interval_contains_the_mean_and_is_wider_when_a_weeks_rows_are_alike() -> None:
    generator = np.random.default_rng(7)
    blocks = np.repeat(np.arange(60), 7)
    alike = np.repeat(generator.normal(size=60), 7)
    mixed = generator.permutation(alike)

    def interval(values: np.ndarray) -> np.ndarray:
        return verification.confidence_interval(lambda rows: values[rows].mean(), blocks)

    intervals = [interval(values) for values in (alike, mixed)]
    for low, high in intervals:
        assert low < alike.mean() < high
    # Seven equal rows have the information of one: the interval is wider by about the root of 7.
    widths = [high - low for low, high in intervals]
    assert 1.5 < widths[0] / widths[1] < 4


def test_confidence_interval_is_near_that_of_normal_theory() -> None:
    values = np.random.default_rng(3).normal(size=400)
    low, high = verification.confidence_interval(lambda rows: values[rows].mean(), np.arange(400), repeats=2000)
    # 2 * 1.96 standard errors
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_confidence_interval_of_several_statistics_has_a_column_each() -> None:
    values = np.arange(12.0)
    interval = verification.confidence_interval(
        lambda rows: [values[rows].mean(), 1.0, -values[rows].mean()], np.arange(12) // 3
    )
    assert interval.shape == (2, 3)
    assert interval[:, 1].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(interval[:, 2], -interval[::-1, 0])


@UNTIMED
@given(st.lists(st.sampled_from(["Albury", "Cobar", "Sale"]), max_size=60), st.integers(1, 7))
def test_consecutive_blocks_hold_rows_of_a_station_that_follow_each_other(names: list[str], length: int) -> None:
    locations = np.array(names, dtype="U6")
    blocks = verification.consecutive_blocks(locations, length)
    assert len(blocks) == len(names)
    for number in np.unique(blocks):
        assert len(set(locations[blocks == number])) == 1
    for name in set(names):
        of_station = blocks[locations == name]
        assert set(np.diff(of_station)) <= {0, 1}
        assert (np.unique(of_station, return_counts=True)[1][:-1] == length).all()
        assert 1 <= np.sum(of_station == of_station[-1]) <= length


# 200 blocks of five equal days with a known chance of rain, and two forecasts with errors of the same size.
ALIKE = np.repeat(np.arange(200), 5)


def days_alike(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return forecasts of a challenger and of a champion, equally good, and the outcomes."""
    generator = np.random.default_rng(seed)
    chance = generator.uniform(0.2, 0.8, 200)
    obs = (generator.random(200) < chance).astype(np.float64)
    off = generator.choice([-0.1, 0.1], (2, 200))
    return (chance + off[0])[ALIKE], (chance + off[1])[ALIKE], obs[ALIKE]


def test_a_forecast_is_not_worse_than_itself() -> None:
    fcst, _, obs = days_alike(1)
    result = verification.compare(fcst, fcst, obs, ALIKE)
    assert result.difference == result.low == result.high == 0
    assert not result.worse()


def test_compare_returns_both_brier_scores_and_an_interval_around_their_difference() -> None:
    fcst, champion, obs = days_alike(2)
    result = verification.compare(fcst, champion, obs, ALIKE)
    assert result.challenger == verification.brier_score(fcst, obs)
    assert result.champion == verification.brier_score(champion, obs)
    assert result.low < result.difference < result.high
    assert result == verification.compare(fcst, champion, obs, ALIKE)


def test_the_noisier_forecast_is_worse_in_either_role() -> None:
    fcst, _, obs = days_alike(3)
    noisy = np.clip(fcst + np.random.default_rng(4).normal(0, 0.3, len(fcst)), 0, 1)
    worse, better = verification.compare(noisy, fcst, obs, ALIKE), verification.compare(fcst, noisy, obs, ALIKE)
    assert worse.worse()
    assert not better.worse()
    assert [better.low, better.high] == pytest.approx([-worse.high, -worse.low])
    # Worse, but not by more than twice as much.
    assert not worse.worse(tolerance=2 * worse.difference)


def test_a_slightly_noisier_forecast_is_not_worse_beyond_chance_in_few_rows() -> None:
    fcst, _, obs = days_alike(3)
    noisy = fcst + np.random.default_rng(4).normal(0, 0.01, len(fcst))
    assert not verification.compare(noisy, fcst, obs, ALIKE).worse()


def test_pairing_makes_the_interval_narrower_than_that_of_one_brier_score() -> None:
    fcst, _, obs = days_alike(5)
    result = verification.compare(fcst + 0.01, fcst, obs, ALIKE)
    low, high = verification.confidence_interval(lambda rows: verification.brier_score(fcst[rows], obs[rows]), ALIKE)
    assert result.high - result.low < (high - low) / 5


def test_the_interval_covers_zero_at_the_nominal_rate_with_blocks_and_not_with_rows() -> None:
    covered = {"blocks": 0, "rows": 0}
    for seed in range(200):
        fcst, champion, obs = days_alike(seed)
        for name, blocks in (("blocks", ALIKE), ("rows", np.arange(len(ALIKE)))):
            result = verification.compare(fcst, champion, obs, blocks, repeats=100)
            covered[name] += result.low <= 0 <= result.high
    # 95 % of 200, less three standard errors. Intervals over rows treat five equal days as independent: too narrow.
    assert covered["blocks"] >= 180
    assert covered["rows"] <= 150


# A verification period of 400 days at three stations, with forecasts equal to the chance of rain.
PLACES = np.array(["Albury", "Cobar", "Sale", "Albury"] * 100)
DATES = np.datetime64("2016-01-03") + np.arange(400)
CHANCE = np.random.default_rng(5).beta(1, 3, size=400)
RAIN = (np.random.default_rng(6).random(400) < CHANCE).astype(np.float64)
REFERENCE = np.full(400, 0.25)
SINGLE = 0.5 * CHANCE + 0.1
# Days of January to December in it: 3 January 2016 to 5 February 2017.
MONTHS = (29 + 31, 29 + 5, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def verified(dates: np.ndarray) -> dict[str, Any]:
    """Verify two forms and two baselines."""
    baselines = {"climatology": REFERENCE, "persistence": np.full(400, 0.4)}
    return verification.verify({"batch": CHANCE, "single": SINGLE}, baselines, RAIN, PLACES, dates, 0.2)


@pytest.fixture(name="dated", scope="module")
def fixture_dated() -> dict[str, Any]:
    """Verify with a date in each row."""
    return verified(DATES)


def test_verify_returns_rows_period_and_rain_frequency(dated: dict[str, Any]) -> None:
    assert dated["rows"] == 400
    # 2016 has 366 days: the 400th from 3 January 2016 is 5 February 2017.
    assert dated["period"] == ["2016-01-03", "2017-02-05"]
    assert dated["rain_frequency"] == RAIN.mean()


def test_verify_scores_each_form_and_baseline_against_the_first_baseline(dated: dict[str, Any]) -> None:
    assert list(dated["forms"]) == ["batch", "single"]
    assert list(dated["baselines"]) == ["climatology", "persistence"]
    for form, fcst in (("batch", CHANCE), ("single", SINGLE)):
        expected = verification.scores(fcst, RAIN, REFERENCE, 0.2)
        assert {name: dated["forms"][form][name] for name in expected} == expected
        assert len(dated["forms"][form]["reliability"]) == verification.BINS
        assert sum(row["count"] for row in dated["forms"][form]["reliability"]) == 400
    assert dated["baselines"]["climatology"]["brier_skill_score"] == 0
    persistence = verification.scores(np.full(400, 0.4), RAIN, REFERENCE, 0.2)
    assert dated["baselines"]["persistence"] == persistence


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("stations", {"Albury": 200, "Cobar": 100, "Sale": 100}),
        ("seasons", {"DJF": 29 + 29 + 31 + 31 + 5, "MAM": 31 + 30 + 31, "JJA": 30 + 31 + 31, "SON": 30 + 31 + 30}),
        (
            "months",
            {str(i): count for i, count in enumerate(MONTHS, start=1)},
        ),
    ],
)
def test_verify_scores_the_main_form_in_each_part(dated: dict[str, Any], part: str, count: dict[str, int]) -> None:
    assert {name: values["count"] for name, values in dated[part].items()} == count
    groups = {"stations": PLACES, "seasons": verification.season(DATES), "months": verification.month(DATES)}[part]
    for name, values in dated[part].items():
        at = groups.astype(np.str_) == name
        assert values == verification.scores(CHANCE[at], RAIN[at], REFERENCE[at], 0.2)


def test_verify_intervals_of_a_dated_period_bracket_their_scores(dated: dict[str, Any]) -> None:
    for form in dated["forms"].values():
        assert set(form["intervals"]) == {"brier_score", "brier_skill_score", "roc_auc"}
        for name, (low, high) in form["intervals"].items():
            assert low < form[name] < high


def test_verify_without_dates_has_no_period_intervals_seasons_and_months(dated: dict[str, Any]) -> None:
    undated = verified(np.full(400, np.datetime64("NaT", "D")))
    assert undated["period"] is None
    assert undated["seasons"] == undated["months"] == {}
    assert [form["intervals"] for form in undated["forms"].values()] == [{}, {}]
    # Everything else does not depend on dates.
    assert undated["stations"] == dated["stations"]
    assert undated["baselines"] == dated["baselines"]
    assert undated["forms"]["batch"]["brier_score"] == dated["forms"]["batch"]["brier_score"]


def test_verify_with_some_dates_scores_their_months_but_has_no_period_and_intervals() -> None:
    some = verified(np.where(np.arange(400) < 30, DATES, np.datetime64("NaT", "D")))
    assert some["period"] is None
    assert some["forms"]["batch"]["intervals"] == {}
    assert {name: values["count"] for name, values in some["months"].items()} == {"1": 29, "2": 1}
    assert {name: values["count"] for name, values in some["seasons"].items()} == {"DJF": 30}
    assert some["forms"]["batch"]["count"] == 400


def test_verify_returns_plain_numbers_that_json_can_hold(dated: dict[str, Any]) -> None:
    again = json.loads(json.dumps(dated))
    assert again["stations"] == dated["stations"]
    assert again["forms"]["batch"]["intervals"] == dated["forms"]["batch"]["intervals"]
