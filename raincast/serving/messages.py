"""JSON messages of the service as Structs: bodies are encoded from them, and the OpenAPI document describes them."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

# pylint: disable=too-few-public-methods  # Structs hold fields


class Forecast(Struct, gc=False):
    """A row of the forecast table."""

    # pylint: disable=invalid-name  # the columns' own names
    Date: datetime.date | None
    Location: str
    probability_of_rain: Annotated[float, Meta(ge=0, le=1)]
    rain_tomorrow: Literal["Yes", "No"]


class ModelName(Struct):
    """The model that forecasts."""

    name: str
    version: str


class Forecasts(Struct):
    """Forecasts, in the order of the observations."""

    model: ModelName
    forecasts: list[Forecast]
    warnings: list[str] | UnsetType = UNSET


class Predictions(Struct):
    """Probabilities of no rain and of rain for each observation, in the MLflow protocol."""

    predictions: list[tuple[float, float]]


class Status(Struct):
    """Response to a probe."""

    status: str


class Version(Struct):
    """Versions of code and model."""

    package: str
    model: str
    commit: str | None
    data_sha256: str
    model_sha256: str


class Violation(Struct):
    """A value that breaks its limit; rows count from 1."""

    row: int
    column: str
    value: str
    limit: str


class ProblemDocument(Struct):
    """A problem document, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    kind: str
    count: Annotated[int | UnsetType, Meta(description="number of violations")] = UNSET
    problems: Annotated[list[Violation] | UnsetType, Meta(description="the first thousand violations")] = UNSET
    error_code: Annotated[str | UnsetType, Meta(description="of POST /invocations, as MLflow's server has it")] = UNSET
    message: Annotated[str | UnsetType, Meta(description="of POST /invocations, as MLflow's server has it")] = UNSET


def schemas(*types: Any) -> dict[str, Any]:
    """Return the JSON Schemas of types, by their names, as components of an OpenAPI document."""
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return components
