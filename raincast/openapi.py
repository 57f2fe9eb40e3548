"""The service's OpenAPI 3.1 document, from the declaration of the observation."""

from __future__ import annotations

from typing import Any

from raincast import __version__
from raincast.observations import EXAMPLE, json_schema

_TEXT = {"type": "string"}


def document(model_version: str) -> dict[str, Any]:
    """The document, https://spec.openapis.org/oas/v3.1.1.html."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Raincast",
            "version": __version__,
            "description": f"Does it rain tomorrow at an Australian weather station? Model {model_version}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: dict(operations) for path, operations in _paths().items()},
        "components": {"schemas": _schemas()},
    }


def _paths() -> dict[str, dict[str, Any]]:
    problems = {str(status): _problem(text) for status, text in _PROBLEMS.items()}
    observed = {
        "application/json": {"schema": _ref("Observations"), "example": {"observations": list(EXAMPLE)}},
        "text/csv": {"schema": _TEXT, "example": _csv_example()},
    }
    table = {"application/json": {"schema": _ref("Forecasts")}, "text/csv": {"schema": _TEXT}}
    protocol = {"application/json": {"schema": _ref("Invocation")}, "text/csv": {"schema": _TEXT}}
    return {
        "/forecast": {
            "post": {
                "operationId": "forecast",
                "summary": "Observations in, forecasts out; the observations of one request are each other's context",
                "requestBody": {"required": True, "content": observed},
                "responses": {"200": {"description": "Forecasts, in the order of the observations", "content": table}}
                | problems,
            }
        },
        "/invocations": {
            "post": {
                "operationId": "invocations",
                "summary": "The MLflow scoring protocol: probabilities of no rain and of rain for each observation",
                "requestBody": {"required": True, "content": protocol},
                "responses": {"200": _json("Predictions", _ref("Predictions"))} | problems,
            }
        },
        "/ping": {
            "get": _get("ping", "Whether the service answers, for MLflow and SageMaker clients", {"200": _plain()})
        },
        "/healthz": {"get": _get("healthz", "Whether the process lives", {"200": _json("It does", _ref("Status"))})},
        "/readyz": {
            "get": _get(
                "readyz",
                "Whether requests are wanted: the model is loaded and has answered its parity rows",
                {"200": _json("They are", _ref("Status")), "503": _problem("The service drains")},
            )
        },
        "/version": {"get": _get("version", "What serves", {"200": _json("Versions", _ref("Version"))})},
        "/metrics": {
            "get": _get(
                "metrics",
                "Counts for Prometheus",
                {"200": {"description": "Exposition format 0.0.4", "content": {"text/plain": {"schema": _TEXT}}}},
            )
        },
        "/openapi.json": {"get": _get("openapi", "This document", {"200": _json("OpenAPI", {"type": "object"})})},
        "/docs": {"get": _get("docs", "This document as a page", {"200": _html()})},
        "/": {"get": _get("home", "What this is", {"200": _html()})},
    }


_PROBLEMS = {
    400: "The body is no JSON or CSV",
    408: "The request did not come in time",
    413: "The body, or the number of observations, is too large",
    415: "Neither JSON nor CSV",
    422: "Observations that break a limit, each with row, column, value and limit",
    503: "Too many requests are waiting",
}


def _schemas() -> dict[str, Any]:
    observation = json_schema()
    loose = {"type": "array", "items": {"type": "object"}}
    forecast = {
        "Date": {"type": ["string", "null"], "format": "date"},
        "Location": _TEXT,
        "probability_of_rain": {"type": "number", "minimum": 0, "maximum": 1},
        "rain_tomorrow": {"enum": ["Yes", "No"]},
    }
    problem = {
        "row": {"type": "integer"},
        "column": _TEXT,
        "value": _TEXT,
        "limit": _TEXT,
    }
    texts = {name: _TEXT for name in ("type", "title", "detail", "kind")}
    return {
        "Observation": observation,
        "Observations": _object({"observations": {"type": "array", "items": _ref("Observation"), "minItems": 1}}),
        "Forecasts": _object(
            {
                "model": _object({"name": _TEXT, "version": _TEXT}),
                "forecasts": {"type": "array", "items": _object(forecast)},
                "warnings": {"type": "array", "items": _TEXT},
            },
            "warnings",
        ),
        "Invocation": {
            "oneOf": [
                _object({"dataframe_split": {"type": "object"}}),
                _object({"dataframe_records": loose}),
                _object({"instances": loose}),
                _object({"inputs": {"type": ["object", "array"]}}),
            ]
        },
        "Predictions": _object(
            {
                "predictions": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                }
            }
        ),
        "Status": _object({"status": _TEXT}),
        "Version": _object(
            {
                name: {"type": ["string", "null"]}
                for name in ("package", "model", "commit", "data_sha256", "model_sha256")
            }
        ),
        "Problem": _object(
            texts
            | {
                "status": {"type": "integer"},
                "count": {"type": "integer", "description": "how many problems there are"},
                "problems": {"type": "array", "items": _object(problem), "description": "the first thousand of them"},
            },
            "count",
            "problems",
        ),
    }


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _plain() -> dict[str, Any]:
    return {"description": "It does", "content": {"application/json": {}}}


def _html() -> dict[str, Any]:
    return {"description": "A page", "content": {"text/html": {"schema": _TEXT}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _get(operation: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "responses": responses}


def _csv_example() -> str:
    columns = list(EXAMPLE[0])
    lines = [",".join(str(row.get(name, "")) for name in columns) for row in EXAMPLE]
    return "\n".join([",".join(columns), *lines]) + "\n"


PATHS = frozenset(_paths())
