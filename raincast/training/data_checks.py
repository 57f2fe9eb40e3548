"""Checks of a table before a training, with pandera. Limits come from `COLUMNS`."""

from __future__ import annotations

import warnings

import pandas as pd
import pandera.pandas as pa

from raincast.observations.columns import COLUMNS, DIRECTIONS, TARGET, Column
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.table import Table

# Fewer rows of either outcome do not support a probability.
MIN_ROWS_PER_OUTCOME = 50
# Higher readings of the evaporation pan accumulate over several days.
SEVERAL_DAYS_EVAPORATION_MM = 30.0


def check(name: str, table: Table) -> None:
    """Raise ObservationError if a table is unfit for training; warn once for each kind of doubtful value.

    `name` is the data's name in messages.
    """
    frame = pd.DataFrame(table)
    undated = int(frame["Date"].isna().sum())
    if 0 < undated < len(frame):
        raise ObservationError(f"{name}: {undated} of {len(frame)} rows have no date; training needs all dates or none")
    unknown = int(frame[TARGET.name].isna().sum())
    if unknown:
        warnings.warn(
            f"{name}: {unknown} of {len(frame)} rows have no {TARGET.name}; they serve only as context for other rows",
            ObservationWarning,
            stacklevel=2,
        )
    try:
        training_schema().validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        first = cases.iloc[0]
        place = "" if pd.isna(first["index"]) else f" in row {int(first['index']) + 1} ({first['failure_case']})"
        count = f"{len(cases)} problem{'s' if len(cases) > 1 else ''}"
        message = f"{name}: {count}: {first['column']}: not {first['check']}{place}"
        raise ObservationError(message) from error
    try:
        doubtful_schema().validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        for relation, cases in error.failure_cases.groupby("check", sort=True):
            rows = cases["index"].unique()
            warnings.warn(
                f"{name}: {len(rows)} of {len(frame)} rows break {relation}, the first is row {int(min(rows)) + 1}",
                ObservationWarning,
                stacklevel=2,
            )


def training_schema() -> pa.DataFrameSchema:
    """Return the requirements on a training table: limits, and enough rows of each outcome."""
    outcomes = pa.Check(
        lambda rain: min((rain == 0).sum(), (rain == 1).sum()) >= MIN_ROWS_PER_OUTCOME,
        error=f"at least {MIN_ROWS_PER_OUTCOME} rows each of Yes and No",
    )
    columns = {column.name: pa.Column(None, _limits(column), nullable=True) for column in COLUMNS}
    return pa.DataFrameSchema({**columns, TARGET.name: pa.Column(float, [*_limits(TARGET), outcomes], nullable=True)})


def _limits(column: Column) -> list[pa.Check]:
    if column.kind == "number":
        return [pa.Check.in_range(column.low, column.high, error=column.limit)]
    if column.kind == "direction":
        return [pa.Check.isin([*DIRECTIONS, ""], error=column.limit)]
    return [pa.Check.isin([0.0, 1.0], error=column.limit)] if column.kind == "yes_no" else []


def doubtful_schema() -> pa.DataFrameSchema:
    """Return the relations expected between the columns of a row. Values that break one are doubtful but usable."""
    relations = {
        "MinTemp <= MaxTemp": lambda t: ~(t.MinTemp > t.MaxTemp),
        "Temp3pm <= MaxTemp + 1 degC": lambda t: ~(t.Temp3pm > t.MaxTemp + 1),
        "WindSpeed9am <= WindGustSpeed": lambda t: ~(t.WindSpeed9am > t.WindGustSpeed),
        "WindSpeed3pm <= WindGustSpeed": lambda t: ~(t.WindSpeed3pm > t.WindGustSpeed),
        "a pressure change of at most 15 hPa": lambda t: ~((t.Pressure3pm - t.Pressure9am).abs() > 15),
        "RainToday is Yes exactly above 1 mm": lambda t: (
            t.Rainfall.isna() | t.RainToday.isna() | ((t.Rainfall > 1) == (t.RainToday == 1))
        ),
        f"Evaporation <= {SEVERAL_DAYS_EVAPORATION_MM:g} mm (more is of several days)": lambda t: (
            ~(t.Evaporation > SEVERAL_DAYS_EVAPORATION_MM)
        ),
    }
    return pa.DataFrameSchema(checks=[pa.Check(holds, error=name) for name, holds in relations.items()])
