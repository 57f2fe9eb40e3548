"""Checks before a training: unfit tables are refused, doubtful values give a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from raincast.observations import reading
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.table import Table
from raincast.training import data_checks


@pytest.fixture(name="table")
def fixture_table(slice_csv: Path) -> Table:
    """Return real rows with the outcome."""
    return reading.read(slice_csv, target=True)


def test_real_rows_pass_without_a_warning(table: Table) -> None:
    table["Evaporation"] = np.minimum(table["Evaporation"], data_checks.SEVERAL_DAYS_EVAPORATION_MM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data_checks.check("slice", table)


def test_the_error_names_a_value_beyond_its_limit(table: Table) -> None:
    table["Humidity3pm"][41] = 150.0
    with pytest.raises(ObservationError, match=r"1 problem: Humidity3pm: not a number, 0 to 100 % in row 42 \(150.0\)"):
        data_checks.check("slice", table)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_a_table_with_only_one_outcome_is_refused(outcome: float, table: Table) -> None:
    table["RainTomorrow"][:] = outcome
    with pytest.raises(ObservationError, match="RainTomorrow: not at least 50 rows each of Yes and No"):
        data_checks.check("slice", table)


@pytest.mark.parametrize(
    ("change", "relation"),
    [
        ({"MinTemp": 30.0, "MaxTemp": 20.0, "Temp3pm": 20.0}, "MinTemp <= MaxTemp"),
        ({"Temp3pm": 30.0, "MaxTemp": 28.0, "MinTemp": 10.0}, r"Temp3pm <= MaxTemp \+ 1 degC"),
        ({"WindSpeed9am": 60.0, "WindGustSpeed": 50.0, "WindSpeed3pm": 10.0}, "WindSpeed9am <= WindGustSpeed"),
        ({"WindSpeed3pm": 60.0, "WindGustSpeed": 50.0, "WindSpeed9am": 10.0}, "WindSpeed3pm <= WindGustSpeed"),
        ({"Pressure9am": 1000.0, "Pressure3pm": 1020.0}, "a pressure change of at most 15 hPa"),
        ({"Rainfall": 1.0, "RainToday": 1.0}, "RainToday is Yes exactly above 1 mm"),
        ({"Evaporation": 31.0}, "Evaporation <= 30 mm"),
    ],
)
def test_a_doubtful_relation_is_one_warning(change: dict[str, float], relation: str, table: Table) -> None:
    table["Evaporation"] = np.minimum(table["Evaporation"], data_checks.SEVERAL_DAYS_EVAPORATION_MM)
    for name, value in change.items():
        table[name][[7, 9]] = value
    with pytest.warns(ObservationWarning, match=f"2 of 6000 rows break {relation}.*, the first is row 8$") as caught:
        data_checks.check("slice", table)
    assert len(caught) == 1


def test_a_table_with_dates_in_only_some_rows_is_refused(table: Table) -> None:
    table["Date"][:10] = np.datetime64("2010-01-01")
    with pytest.raises(ObservationError, match="5990 of 6000 rows have no date; training needs all dates or none"):
        data_checks.check("slice", table)


def test_rows_without_an_outcome_are_counted_in_a_warning(table: Table) -> None:
    table["Evaporation"] = np.minimum(table["Evaporation"], data_checks.SEVERAL_DAYS_EVAPORATION_MM)
    table["RainTomorrow"][[1, 2, 3]] = np.nan
    with pytest.warns(ObservationWarning, match="3 of 6000 rows have no RainTomorrow"):
        data_checks.check("slice", table)
