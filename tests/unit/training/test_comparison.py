"""Comparison of a challenger with the champion: choice of rows, blocks, decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raincast import verification
from raincast.observations.columns import COLUMNS, TARGET
from raincast.observations.table import Table, empty
from raincast.training.comparison import (
    Contestant,
    Incomparable,
    compare,
    resampling_blocks,
    unseen_rows,
)

DAYS = np.arange("2015-01-01", "2016-01-01", dtype="datetime64[D]")


def a_year(undated: int = 0) -> Table:
    """Return a table of one year at one station with outcomes; the first `undated` rows have no date."""
    dates = np.where(np.arange(len(DAYS)) < undated, np.datetime64("NaT", "D"), DAYS)
    return {"Date": dates, "Location": np.array(["Sydney"] * len(DAYS)), TARGET.name: np.arange(len(DAYS)) % 2 * 1.0}


def described(last: str | None, rows: int = 292, data: str = "a", share: float = 0.2) -> dict[str, Any]:
    """Return the part of a model.json that the comparison reads."""
    period = ["2014-01-01", last] if last else None
    return {
        "version": "v", "data_sha256": data, "period": period, "rows": rows, "config": {"verification_share": share}
    }  # fmt: skip


def test_dated_models_are_compared_on_the_days_after_both_trainings() -> None:
    table = a_year()
    table[TARGET.name][-1] = np.nan
    rows = unseen_rows(table, [described("2015-03-01", data="b"), described("2015-06-30")])
    np.testing.assert_array_equal(rows, (DAYS > np.datetime64("2015-06-30")) & (DAYS < DAYS[-1]))
    with pytest.raises(Incomparable, match="there is no day after 2016-06-30"):
        unseen_rows(table, [described("2015-03-01"), described("2016-06-30")])


def test_undated_models_of_the_same_data_are_compared_on_rows_that_both_kept_for_verification() -> None:
    table = a_year(undated=len(DAYS))
    rows = unseen_rows(table, [described(None), described(None, rows=182, share=0.5)])
    assert np.flatnonzero(rows).tolist() == list(range(292, 365))


@pytest.mark.parametrize(
    ("champion", "reason"),
    [(described(None, data="b"), "different data without dates"), (described(None, rows=291), "trained on other rows")],
)
def test_undated_models_are_not_compared_if_their_training_rows_are_unknown(
    champion: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Incomparable, match=reason):
        unseen_rows(a_year(undated=len(DAYS)), [champion, described(None)])


def test_blocks_are_weeks_or_without_dates_consecutive_rows_of_a_station() -> None:
    all_rows = np.ones(len(DAYS), bool)
    blocks, text = resampling_blocks(a_year(), all_rows)
    assert (len(set(blocks)), text) == (53, "53 weeks")
    table = a_year(undated=len(DAYS)) | {"Location": np.repeat(np.arange(73).astype(str), 5)}
    assert resampling_blocks(table, all_rows)[1] == "73 blocks of 30 rows of a station"
    with pytest.raises(Incomparable, match="9 weeks are too few for an interval, at least 20 are needed"):
        resampling_blocks(a_year(), DAYS < np.datetime64("2015-03-02"))


def contestant(last: str, forecast: Callable[[Table], np.ndarray]) -> Contestant:
    """Return a model trained until a day, with a function as its forecasts."""
    return Contestant(described(last), forecast)


@pytest.fixture(name="observed_year")
def fixture_observed_year() -> Table:
    """Return a year with every column; humidity at 3 pm and the maximum temperature are high on the day before rain."""
    year = a_year()
    rain = year[TARGET.name]
    noise = np.random.default_rng(0).normal(0, 0.05, (2, len(DAYS)))
    observations = {column.name: empty(column, len(DAYS)) for column in COLUMNS}
    return observations | year | {"Humidity3pm": 0.4 + 0.2 * rain + noise[0], "MaxTemp": 0.4 + 0.2 * rain + noise[1]}


def of_humidity(table: Table) -> np.ndarray:
    """Return the humidity as the probability of rain."""
    return table["Humidity3pm"]


def of_temperature(table: Table) -> np.ndarray:
    """Return the maximum temperature as the probability of rain, 0.5 if it is unknown."""
    return np.nan_to_num(table["MaxTemp"], nan=0.5)


def test_a_model_is_not_worse_than_itself(observed_year: Table) -> None:
    verdict = compare(contestant("2015-03-01", of_humidity), contestant("2015-03-01", of_humidity), observed_year)
    assert verdict.worse == []
    assert list(verdict.comparisons) == ["complete", "as known at 3 pm"]
    assert [result.difference for result in verdict.comparisons.values()] == [0.0, 0.0]


def test_the_verdict_has_the_scores_of_the_unseen_rows(observed_year: Table) -> None:
    champion, challenger = contestant("2015-02-01", of_humidity), contestant("2015-03-01", of_temperature)
    verdict = compare(champion, challenger, observed_year)
    rows = DAYS > np.datetime64("2015-03-01")
    blocks, text = resampling_blocks(observed_year, rows)
    assert (verdict.rows, verdict.blocks) == (int(np.sum(rows)), text)
    fcst, champion_fcst, obs = (observed_year[name][rows] for name in ("MaxTemp", "Humidity3pm", TARGET.name))
    assert verdict.comparisons["complete"] == verification.compare(fcst, champion_fcst, obs, blocks)
    at_3pm = verification.compare(np.full(len(obs), 0.5), champion_fcst, obs, blocks)
    assert verdict.comparisons["as known at 3 pm"] == at_3pm


def test_the_verdict_names_the_forms_in_which_the_challenger_is_worse(observed_year: Table) -> None:
    observed_year["MaxTemp"] = np.clip(observed_year[TARGET.name], 0.1, 0.9)
    champion, challenger = contestant("2015-03-01", of_humidity), contestant("2015-03-01", of_temperature)
    # The maximum temperature forecasts better than the humidity, but is unknown at 3 pm.
    assert compare(champion, challenger, observed_year).worse == ["as known at 3 pm"]
    assert compare(challenger, champion, observed_year).worse == ["complete"]
    always_wrong = contestant("2015-03-01", lambda table: 1 - of_humidity(table))
    assert compare(champion, always_wrong, observed_year).worse == ["complete", "as known at 3 pm"]


def test_contestants_do_not_see_the_outcomes(observed_year: Table) -> None:
    columns: list[set[str]] = []

    def recording(table: Table) -> np.ndarray:
        columns.append(set(table))
        return of_humidity(table)

    compare(contestant("2015-03-01", recording), contestant("2015-03-01", recording), observed_year)
    assert columns == [set(observed_year) - {TARGET.name}] * 4


def test_a_slightly_worse_challenger_within_the_tolerance_is_not_worse(observed_year: Table) -> None:
    champion = contestant("2015-03-01", of_humidity)
    slightly_worse = contestant(
        "2015-03-01", lambda table: of_humidity(table) + np.where(observed_year[TARGET.name], -4e-4, 4e-4)
    )
    verdict = compare(champion, slightly_worse, observed_year)
    assert verdict.comparisons["complete"].low > 0
    assert verdict.worse == []


def test_models_without_a_common_unseen_row_are_not_compared(observed_year: Table) -> None:
    with pytest.raises(Incomparable, match="there is no day after 2016-06-30"):
        compare(contestant("2016-06-30", of_humidity), contestant("2015-03-01", of_humidity), observed_year)
