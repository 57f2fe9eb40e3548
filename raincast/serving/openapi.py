"""The service's OpenAPI 3.1 document: components from the Structs of its messages and the declared columns."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from raincast import __version__
from raincast.observations.columns import COLUMNS, Column
from raincast.serving.decoding import field_type
from raincast.serving.messages import Forecasts, Predictions, ProblemDocument, Status, Version, schemas

# A day at two stations, made up.
EXAMPLE: tuple[dict[str, Any], ...] = (
    {
        "Date": "2017-06-01", "Location": "Sydney", "MinTemp": 9.4, "MaxTemp": 17.2, "Rainfall": 2.6,
        "Evaporation": 2.2, "Sunshine": 3.1, "WindGustDir": "SSE", "WindGustSpeed": 46, "WindDir9am": "W",
        "WindDir3pm": "SE", "WindSpeed9am": 13, "WindSpeed3pm": 24, "Humidity9am": 82, "Humidity3pm": 71,
        "Pressure9am": 1016.4, "Pressure3pm": 1013.8, "Cloud9am": 6, "Cloud3pm": 7, "Temp9am": 11.3, "Temp3pm": 15.8,
        "RainToday": "Yes",
    },
    {
        "Date": "2017-06-01", "Location": "Wollongong", "MinTemp": 10.1, "MaxTemp": 16.3, "Rainfall": 5.8,
        "WindGustDir": "S", "WindGustSpeed": 61, "WindDir9am": "WSW", "WindDir3pm": "SSE", "WindSpeed9am": 20,
        "WindSpeed3pm": 31, "Humidity9am": 74, "Humidity3pm": 78, "Pressure9am": 1015.9, "Pressure3pm": 1014.2,
        "Temp9am": 12.2, "Temp3pm": 14.5, "RainToday": "Yes",
    },
)  # fmt: skip

_TEXT = {"type": "string"}


def _documented_type(column: Column) -> Any:
    meaning = f"{column.meaning}{f' ({column.unit})' if column.unit else ''}"
    if column.kind == "station":
        return Annotated[str, Meta(description=meaning, min_length=1, max_length=64)]
    return Annotated[field_type(column), Meta(description=meaning)]


Observation = msgspec.defstruct(
    "Observation",
    [
        (column.name, _documented_type(column))
        if column.kind == "station"
        else (column.name, _documented_type(column), None)
        for column in COLUMNS
    ],
    kw_only=True,
)


class Observations(Struct):
    """Body of POST /forecast."""

    # pylint: disable=too-few-public-methods

    observations: Annotated[list[Observation], Meta(min_length=1)]  # type: ignore[valid-type]


class DataframeSplit(Struct):
    """Body of POST /invocations: columns and rows, as pandas' orient "split"."""

    # pylint: disable=too-few-public-methods

    dataframe_split: dict[str, Any]


class DataframeRecords(Struct):
    """Body of POST /invocations: a list of observations."""

    # pylint: disable=too-few-public-methods

    dataframe_records: list[dict[str, Any]]


class Instances(Struct):
    """Body of POST /invocations: a list of observations."""

    # pylint: disable=too-few-public-methods

    instances: list[dict[str, Any]]


class Inputs(Struct):
    """Body of POST /invocations: a list of values for each column, or a list of observations."""

    # pylint: disable=too-few-public-methods

    inputs: dict[str, Any] | list[Any]


_INVOCATIONS = (DataframeSplit, DataframeRecords, Instances, Inputs)


def document(model_version: str) -> dict[str, Any]:
    """Return the document, https://spec.openapis.org/oas/v3.1.1.html."""
    components = schemas(Observations, Forecasts, *_INVOCATIONS, Predictions, Status, Version, ProblemDocument)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Raincast",
            "version": __version__,
            "description": f"Does it rain tomorrow at an Australian weather station? Model {model_version}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: dict(operations) for path, operations in _paths().items()},
        "components": {"schemas": components},
    }


def _paths() -> dict[str, dict[str, Any]]:
    problems = {str(status): _problem(text) for status, text in _PROBLEMS.items()}
    observed = {
        "application/json": {"schema": _ref("Observations"), "example": {"observations": list(EXAMPLE)}},
        "text/csv": {"schema": _TEXT, "example": _csv_example()},
    }
    table = {"application/json": {"schema": _ref("Forecasts")}, "text/csv": {"schema": _TEXT}}
    protocol = {
        "application/json": {"schema": {"anyOf": [_ref(kind.__name__) for kind in _INVOCATIONS]}},
        "text/csv": {"schema": _TEXT},
    }
    return {
        "/forecast": {
            "post": {
                "operationId": "forecast",
                "summary": "Forecast observations; those of one request are each other's context",
                "requestBody": {"required": True, "content": observed},
                "responses": {"200": {"description": "Forecasts, in the order of the observations", "content": table}}
                | problems,
            }
        },
        "/invocations": {
            "post": {
                "operationId": "invocations",
                "summary": "Probabilities of no rain and of rain for each observation, in the MLflow protocol",
                "requestBody": {"required": True, "content": protocol},
                "responses": {"200": _json("Predictions", _ref("Predictions"))} | problems,
            }
        },
        "/ping": {"get": _get("ping", "Liveness probe of MLflow and SageMaker clients", {"200": _plain()})},
        "/healthz": {"get": _get("healthz", "Liveness probe", {"200": _json("Alive", _ref("Status"))})},
        "/readyz": {
            "get": _get(
                "readyz",
                "Readiness probe: the model is loaded and has passed its parity check",
                {"200": _json("Ready", _ref("Status")), "503": _problem("The service drains")},
            )
        },
        "/version": {"get": _get("version", "Versions of code and model", {"200": _json("Versions", _ref("Version"))})},
        "/metrics": {
            "get": _get(
                "metrics",
                "Metrics for Prometheus",
                {"200": {"description": "Exposition format 0.0.4", "content": {"text/plain": {"schema": _TEXT}}}},
            )
        },
        "/openapi.json": {"get": _get("openapi", "This document", {"200": _json("OpenAPI", {"type": "object"})})},
        "/docs": {"get": _get("docs", "This document as a page", {"200": _html()})},
        "/": {"get": _get("home", "Home page", {"200": _html()})},
    }


_PROBLEMS = {
    400: "The body is neither JSON nor CSV",
    408: "The request did not come in time",
    413: "The body, or the number of observations, is too large",
    415: "Neither JSON nor CSV",
    422: "Observations that break a limit, each named by row, column, value and limit",
    503: "Too many requests are waiting",
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _plain() -> dict[str, Any]:
    return {"description": "Alive", "content": {"application/json": {}}}


def _html() -> dict[str, Any]:
    return {"description": "A page", "content": {"text/html": {"schema": _TEXT}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("ProblemDocument")}}}


def _get(operation: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "responses": responses}


def _csv_example() -> str:
    columns = list(EXAMPLE[0])
    lines = [",".join(str(row.get(name, "")) for name in columns) for row in EXAMPLE]
    return "\n".join([",".join(columns), *lines]) + "\n"
