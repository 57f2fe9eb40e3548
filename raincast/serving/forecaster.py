"""The headers and body of a request -> a response: decode, forecast, encode. Nothing here waits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np

from raincast.features.build import feature_matrix, single_row_matrix, unknown_stations
from raincast.features.own import packed_row
from raincast.forecasting.forecast import forecast_table, yes_or_no
from raincast.forecasting.model import Model
from raincast.forecasting.writing import render
from raincast.observations import stations
from raincast.observations.errors import ObservationError, TooMany, shorten
from raincast.serving import decoding, mlflow_protocol
from raincast.serving.messages import Forecast, ModelName
from raincast.serving.problems import CONTENT_TYPE as PROBLEM_TYPE
from raincast.serving.problems import Problem

JSON, CSV = "application/json", "text/csv"
FORECAST, INVOCATIONS = "/forecast", "/invocations"
# Bounds the memory of a table with many days; more at once are not faster.
DAYS_AT_ONCE = 500
# A single row with all columns has about 600 bytes. Larger bodies are not tried, since decoding them takes time.
SINGLE_ROW_BYTES = 2_048
Headers = dict[bytes, bytes]
T = TypeVar("T")


@dataclass(slots=True)
class Response:
    """A complete response.

    If forecasts were made, `observed` holds their observations, a Row or a table, and `probability` a number or an
    array.
    """

    # pylint: disable=too-many-instance-attributes  # the parts of a response, and what is counted of it

    status: int
    body: bytes
    content_type: str = JSON
    rows: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kind: str = ""
    observed: Any = None
    probability: Any = None


@dataclass(slots=True)
class SingleRow:
    """A request of one observation, complete but for its probability."""

    path: str
    csv: bool
    row: decoding.Row
    warnings: list[str]
    features: bytes


class Forecaster:
    """Responds to POST /forecast and POST /invocations with one model. Threads may share it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.threshold = model.threshold
        name = ModelName(model.description["name"], model.version)
        self._head = b'{"model":' + msgspec.json.encode(name) + b',"forecasts":'
        self._stations = stations.known().position

    def respond(self, path: str, headers: Headers, body: bytes) -> Response:
        """Return the response to a body. Raises Problem."""
        decoded = _decode(decoder(path, headers), body)
        if not decoding.is_row(decoded[0]):
            return self._table(path, headers, decoded)
        single = _single(path, headers, decoded)
        return self.complete(single, self.single_rows([single])[0])

    def single_row(self, path: str, headers: Headers, body: bytes) -> SingleRow | None:
        """Return the single row of a regular body; None for any other, also if `respond` would refuse it."""
        if len(body) > SINGLE_ROW_BYTES:
            return None
        try:
            regular = _REGULAR.get(decoder(path, headers))
            decoded = regular(body) if regular else None
        except (Problem, ObservationError):
            return None
        if decoded is None or not decoding.is_row(decoded[0]):
            return None
        return _single(path, headers, decoded)

    def _table(self, path: str, headers: Headers, decoded: decoding.Decoded) -> Response:
        observed, warnings = decoded
        dates, locations = observed["Date"], observed["Location"]
        probability = self.model.probability_of_rain(feature_matrix(observed, days_at_once=DAYS_AT_ONCE))
        unknown = unknown_stations(locations)
        warnings = [*warnings, unknown] if unknown else warnings
        if _wants_csv(path, headers):
            return self._csv(observed, dates, locations, probability, warnings)
        content = self._json(path, dates.tolist(), locations.tolist(), probability.tolist(), warnings)
        return Response(200, content, JSON, len(probability), observed=observed, probability=probability)

    def single_rows(self, singles: Sequence[SingleRow]) -> list[float]:
        """Return the probability of rain of each of some single rows, which are no context to each other."""
        return self.model.single_row_probabilities(single_row_matrix([single.features for single in singles]))

    def complete(self, single: SingleRow, probability: float) -> Response:
        """Return the response to a single row with its probability."""
        row, warnings = single.row, single.warnings
        location = row["Location"]
        if location not in self._stations:
            warnings = [*warnings, unknown_stations(np.array([location])) or ""]
        if single.csv:
            dates = np.array([row["Date"]], "datetime64[D]")
            response = self._csv(row, dates, np.array([location]), np.array([probability]), warnings)
            response.probability = probability
            return response
        content = self._json(single.path, [row["Date"]], [location], [probability], warnings)
        return Response(200, content, JSON, 1, observed=row, probability=probability)

    def _csv(self, observed: Any, dates: Any, locations: Any, probability: Any, warnings: list[str]) -> Response:
        content = render(forecast_table(self.model, dates, locations, probability), "csv")
        headers = tuple((b"warning", b'199 - "' + _header_text(text) + b'"') for text in warnings)
        rows = len(probability)
        return Response(
            200, content, f"{CSV}; charset=utf-8", rows, headers, observed=observed, probability=probability
        )

    def _json(
        self, path: str, dates: list[Any], locations: list[str], probability: list[float], warnings: list[str]
    ) -> bytes:
        """Encode forecasts, or predictions in the MLflow protocol."""
        if path == INVOCATIONS:
            return b'{"predictions":' + msgspec.json.encode([(1 - p, p) for p in probability]) + b"}"
        rain: list[Any] = yes_or_no(probability, self.threshold)
        forecasts = [*map(Forecast, dates, locations, probability, rain)]
        end = b',"warnings":' + msgspec.json.encode(warnings) + b"}" if warnings else b"}"
        return self._head + msgspec.json.encode(forecasts) + end


def _single(path: str, headers: Headers, decoded: decoding.Decoded) -> SingleRow:
    row, warnings = decoded
    return SingleRow(path, _wants_csv(path, headers), row, warnings, packed_row(row))


def _wants_csv(path: str, headers: Headers) -> bool:
    return path == FORECAST and b"accept" in headers and prefers_csv(headers[b"accept"])


def problem_response(path: str, problem: Problem) -> Response:
    """Return the response that carries a problem document."""
    # MLflow's own server sends these members.
    extra = {"error_code": "BAD_REQUEST", "message": problem.detail} if path == INVOCATIONS else {}
    return Response(problem.status, problem.document(**extra), PROBLEM_TYPE, 0, problem.headers, problem.kind)


def failure_response(path: str, error: Exception) -> Response:
    """Return the response to a request that failed: a problem, or an unexpected error."""
    return problem_response(path, error if isinstance(error, Problem) else Problem.internal(error))


def decoder(path: str, headers: Headers) -> Callable[[bytes], decoding.Decoded]:
    """Return the function that decodes a body, by its type. Raises Problem."""
    content_type = headers.get(b"content-type", b"")
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        raise Problem(415, "media_type", "the body has to be sent without Content-Encoding")
    if content_type != b"application/json":
        media_type, _, parameters = content_type.decode("latin-1").lower().partition(";")
        charset = re.search(r"charset\s*=\s*\"?([\w-]*)", parameters)
        if charset and charset[1] not in ("utf-8", "utf8", "us-ascii"):
            raise Problem(415, "media_type", "the body has to be UTF-8")
        if media_type.strip() == CSV:
            return decoding.decode_csv
        if media_type.strip() != JSON:
            raise Problem(415, "media_type", f"Content-Type has to be {JSON} or {CSV}")
    return decoding.decode if path == FORECAST else mlflow_protocol.decode


# The decoders that are fast enough for the event loop.
_REGULAR: dict[Any, Callable[[bytes], decoding.Decoded | None]] = {
    decoding.decode: decoding.decode_regular,
    mlflow_protocol.decode: mlflow_protocol.decode_regular,
}


def _decode(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return what a decoder returns. Raises Problem."""
    try:
        return decode(body)
    except TooMany as error:
        raise Problem(413, "too_large", str(error)) from error
    except ObservationError as error:
        raise Problem.of(error) from error
    except MemoryError as error:
        raise Problem(413, "too_large", "the body needs more memory than the service has") from error
    except RecursionError as error:
        raise Problem(400, "format", "the body is nested too deeply") from error


def prefers_csv(accept: bytes) -> bool:
    """Return True if an Accept header prefers CSV to JSON; the most specific part counts (RFC 9110, 12.5.1)."""
    if b"text/" not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        media_type, _, parameters = part.partition(";")
        quality = re.search(r"q\s*=\s*([01](?:\.\d{0,3})?)", parameters)
        weights[media_type.strip()] = float(quality[1]) if quality else 1.0
    csv, json = (
        next((weights[name] for name in (exact, exact.split("/", maxsplit=1)[0] + "/*", "*/*") if name in weights), 0.0)
        for exact in (CSV, JSON)
    )
    return csv > json


def _header_text(text: str) -> bytes:
    return shorten(text, 1_000).replace('"', "'").encode("ascii", "backslashreplace")
