"""A typical hand-written service: FastAPI, pydantic with the limits, a DataFrame, the joblib pipeline.

Forecasts in the event loop: for one record that is faster than FastAPI's threads.
"""

import datetime
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel, Field, create_model

from raincast.observations.columns import COLUMNS, DIRECTIONS, Column

PIPELINE = joblib.load(Path(os.environ["FASTAPI_MODEL"]) / "model.joblib")


def _field(column: Column) -> Any:
    if column.kind == "station":
        return Annotated[str, Field(min_length=1, max_length=64)]
    kind: Any = {
        "date": datetime.date,
        "number": Annotated[float, Field(ge=column.low, le=column.high)],
        "direction": Literal[DIRECTIONS],
        "yes_no": Literal["Yes", "No"],
    }[column.kind]
    return kind | None, None


Observation: Any = create_model("Observation", **{column.name: _field(column) for column in COLUMNS})


class Observations(BaseModel):  # pylint: disable=too-few-public-methods
    """Body of a request."""

    observations: list[Observation]


class Forecast(BaseModel):  # pylint: disable=too-few-public-methods
    """Forecast for one observation."""

    # pylint: disable=invalid-name  # named like the columns
    Date: datetime.date | None
    Location: str
    probability_of_rain: float


class Forecasts(BaseModel):  # pylint: disable=too-few-public-methods
    """Body of the response."""

    forecasts: list[Forecast]


app = FastAPI()


@app.post("/forecast")
async def forecast(body: Observations) -> Forecasts:
    """Return the probability of rain for each observation."""
    frame = pd.DataFrame([observation.model_dump() for observation in body.observations])
    probability = PIPELINE.predict_proba(frame)[:, 1]
    return Forecasts(
        forecasts=[
            Forecast(Date=observation.Date, Location=observation.Location, probability_of_rain=p)
            for observation, p in zip(body.observations, probability, strict=True)
        ]
    )
