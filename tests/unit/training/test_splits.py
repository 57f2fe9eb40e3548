"""Split in time: training, validation and verification rows."""

from __future__ import annotations

import numpy as np
import pytest

from raincast.observations.errors import ObservationError
from raincast.observations.table import Table
from raincast.training import splits
from tests.unit.training.conftest import CONFIG


def test_the_last_share_of_undated_rows_is_the_last_of_each_station(undated: Table) -> None:
    last = splits.last_share(undated, 0.2)
    for name in np.unique(undated["Location"]):
        of_station = last[undated["Location"] == name]
        assert of_station.tolist() == [False] * 480 + [True] * 120


def test_the_last_share_of_dated_rows_is_a_period_for_all_stations(dated: Table) -> None:
    last = splits.last_share(dated, 0.2)
    assert dated["Date"][~last].max() < dated["Date"][last].min()
    assert last.mean() == pytest.approx(0.2, abs=0.01)


def test_a_share_among_some_rows_takes_none_of_the_others(dated: Table) -> None:
    among = dated["Date"] < np.datetime64("2010-06-01")
    last = splits.last_share(dated, 0.25, among)
    assert not (last & ~among).any()
    assert dated["Date"][among & ~last].max() < dated["Date"][last].min()


def test_verification_starts_on_the_given_day(dated: Table) -> None:
    training, verification = splits.split(dated, dated["RainTomorrow"], CONFIG, "2011-02-03")
    assert dated["Date"][verification].min() == np.datetime64("2011-02-03")
    assert dated["Date"][training].max() == np.datetime64("2011-02-02")


def test_rows_without_an_outcome_are_neither_fitted_nor_verified(undated: Table) -> None:
    obs = undated["RainTomorrow"].copy()
    obs[::7] = np.nan
    training, verification = splits.split(undated, obs, CONFIG)
    assert not (training & verification).any()
    np.testing.assert_array_equal(training | verification, ~np.isnan(obs))


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("2017-02-30", "'2017-02-30' is not a date"),
        ("soon", "'soon' is not a date"),
        ("2030-01-01", "the verification period has 0 rain days and 0 dry days"),
        ("2010-01-01", "the training period has 0 rain days and 0 dry days"),
    ],
)
def test_an_impossible_verification_period_is_refused(day: str, message: str, dated: Table) -> None:
    with pytest.raises(ObservationError, match=message):
        splits.split(dated, dated["RainTomorrow"], CONFIG, day)


def test_a_period_without_rain_cannot_be_verified(undated: Table) -> None:
    obs = np.where(splits.last_share(undated, CONFIG.verification_share), 0.0, undated["RainTomorrow"])
    with pytest.raises(ObservationError, match="the verification period has 0 rain days and 1200 dry days"):
        splits.split(undated, obs, CONFIG)


def test_a_verification_date_needs_dates(undated: Table) -> None:
    with pytest.raises(ObservationError, match="rows without a date"):
        splits.split(undated, undated["RainTomorrow"], CONFIG, "2015-01-01")
