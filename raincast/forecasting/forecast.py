"""Observations + model -> forecast table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from raincast.features.build import build_features, row_features
from raincast.forecasting.model import Model, ModelError
from raincast.observations.formats import record_blocks
from raincast.observations.parsing import parse_blocks
from raincast.observations.table import Table, rows_of

PARITY_TOLERANCE = 1e-9
FORECAST_COLUMNS = ("Date", "Location", "probability_of_rain", "rain_tomorrow")


def forecast(model: Model, table: Table) -> Table:
    """Return the forecast table, with FORECAST_COLUMNS, in the order of the observations.

    The observations of one table are each other's context.
    """
    return forecast_table(model, table["Date"], table["Location"], model.probability_of_rain(build_features(table)))


def forecast_table(
    model: Model, date: NDArray[np.datetime64], location: NDArray[np.str_], probability: NDArray[np.float64]
) -> Table:
    """Return the forecast table for given probabilities; each array has the shape (rows,)."""
    rain = np.array(yes_or_no(probability.tolist(), model.threshold), np.str_)
    return dict(zip(FORECAST_COLUMNS, (date, location, probability, rain), strict=True))


def yes_or_no(probabilities: Iterable[float], threshold: float) -> list[str]:
    """Return `rain_tomorrow` for each probability: "Yes" at or above the threshold."""
    return ["Yes" if probability >= threshold else "No" for probability in probabilities]


def check_parity(model: Model) -> None:
    """Raise ModelError if a model's forecasts on this machine differ from those of scikit-learn at its training."""
    parity = model.description.get("parity")
    if parity is None:
        raise ModelError("the model has no parity rows; train again with this version of Raincast")
    table = parse_blocks("the parity rows", record_blocks("the parity rows", parity["observations"])[1])
    rows = [{name: values[i].item() for name, values in table.items()} for i in range(rows_of(table))]
    fcst = {
        "together": model.probability_of_rain(build_features(table)),
        "alone": np.array([model.single_row_probabilities(row_features(row))[0] for row in rows]),
    }
    difference = np.max([np.abs(values - parity[name]) for name, values in fcst.items()])
    if not difference <= PARITY_TOLERANCE:
        raise ModelError(
            f"forecasts differ by {difference:g} from those of the training, at most {PARITY_TOLERANCE:g} is allowed"
        )
