"""A request's headers and body -> a response: decode, forecast, encode. Nothing here waits for anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from raincast import features, forecast, records, scoring, stations
from raincast.model import Model
from raincast.observations import ObservationError, shorten
from raincast.problems import CONTENT_TYPE as PROBLEM_TYPE
from raincast.problems import Problem

JSON, CSV = "application/json", "text/csv"
FORECAST, INVOCATIONS = "/forecast", "/invocations"
Headers = dict[bytes, bytes]


class _Forecast(msgspec.Struct, gc=False):  # pylint: disable=too-few-public-methods
    """One line of the forecast table, as JSON."""

    # pylint: disable=invalid-name  # the columns' own names
    Date: Any
    Location: str
    probability_of_rain: float
    rain_tomorrow: str


@dataclass(slots=True)
class Answer:
    """A response that is ready.

    Where forecasts were made, `observed` is what for, a Row or a table, and `probability` what came out, a number or an
    array.
    """

    # pylint: disable=too-many-instance-attributes  # the parts of a response, and what it is noted by

    status: int
    body: bytes
    content_type: str = JSON
    rows: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kind: str = ""
    observed: Any = None
    probability: Any = None


@dataclass(slots=True)
class Alone:
    """One observation, of which only the probability is not known yet, and how it is to be answered."""

    path: str
    csv: bool
    row: records.Row
    warned: list[str]
    matrix: Any


class Forecaster:
    """Answers POST /forecast and POST /invocations with one model. Threads may share it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.threshold = model.threshold
        name = {"name": model.description["name"], "version": model.version}
        self._head = b'{"model":' + msgspec.json.encode(name) + b',"forecasts":'
        self._stations = stations.known().position

    def answer(self, path: str, headers: Headers, body: bytes) -> Answer:
        """The response to a body. Raises Problem."""
        found = self.begin(path, headers, body)
        return found if isinstance(found, Answer) else self.finish(found, self.model.probability_alone(found.matrix))

    def begin(self, path: str, headers: Headers, body: bytes) -> Answer | Alone:
        """The response to a body, or the one observation in it, to be finished. Raises Problem."""
        try:
            observed, warned = decoder(path, headers)(body)
        except records.TooMany as error:
            raise Problem(413, "too_large", str(error)) from error
        except ObservationError as error:
            raise Problem.of(error) from error
        csv = path == FORECAST and b"accept" in headers and prefers_csv(headers[b"accept"])
        if records.is_row(observed):
            return Alone(path, csv, observed, warned, features.build_row(observed))
        dates, locations = observed["Date"], observed["Location"]
        probability = self.model.probability_of_rain(features.matrix(observed))
        unknown = features.unknown_stations(locations)
        warned = [*warned, unknown] if unknown else warned
        if csv:
            return self._csv(observed, dates, locations, probability, warned)
        content = self._content(path, dates.tolist(), locations.tolist(), probability.tolist(), warned)
        return Answer(200, content, JSON, len(probability), observed=observed, probability=probability)

    def finish(self, alone: Alone, p: float) -> Answer:
        """The response to one observation, with its probability."""
        row, warned = alone.row, alone.warned
        location = str(row["Location"])
        if location not in self._stations:
            warned = [*warned, features.unknown_stations(np.array([location])) or ""]
        if alone.csv:
            dates = np.array([row["Date"]], "datetime64[D]")
            answer = self._csv(row, dates, np.array([location]), np.array([p]), warned)
            answer.probability = p
            return answer
        content = self._content(alone.path, [row["Date"]], [location], [p], warned)
        return Answer(200, content, JSON, 1, observed=row, probability=p)

    def _csv(self, observed: Any, dates: Any, locations: Any, probability: Any, warned: list[str]) -> Answer:
        content = forecast.rendered(forecast.forecast_table(self.model, dates, locations, probability), "csv")
        shown = tuple((b"warning", b'199 - "' + _header(text) + b'"') for text in warned)
        content_type = f"{CSV}; charset=utf-8"
        return Answer(200, content, content_type, len(probability), shown, observed=observed, probability=probability)

    def _content(
        self, path: str, dates: list[Any], locations: list[str], probability: list[float], warned: list[str]
    ) -> bytes:
        """The JSON of forecasts, or of predictions in the MLflow protocol."""
        if path == INVOCATIONS:
            return b'{"predictions":' + msgspec.json.encode([(1 - p, p) for p in probability]) + b"}"
        least = self.threshold
        words = ["Yes" if p >= least else "No" for p in probability]
        forecasts = [*map(_Forecast, dates, locations, probability, words)]
        ending = b',"warnings":' + msgspec.json.encode(warned) + b"}" if warned else b"}"
        return self._head + msgspec.json.encode(forecasts) + ending


def refusal(path: str, problem: Problem) -> Answer:
    """The response that says why there is none."""
    if path == INVOCATIONS:
        # What MLflow's own server answers with, beside the problem document.
        problem.members |= {"error_code": "BAD_REQUEST", "message": problem.detail}
    return Answer(problem.status, problem.document(), PROBLEM_TYPE, 0, problem.headers, problem.kind)


def decoder(path: str, headers: Headers) -> Callable[[bytes], records.Decoded]:
    """What decodes a body, by its type. Raises Problem."""
    given = headers.get(b"content-type", b"")
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        raise Problem(415, "media_type", "the body has to be sent without Content-Encoding")
    if given != b"application/json":
        media_type, _, parameters = given.decode("latin-1").lower().partition(";")
        charset = re.search(r"charset\s*=\s*\"?([\w-]*)", parameters)
        if charset and charset[1] not in ("utf-8", "utf8", "us-ascii"):
            raise Problem(415, "media_type", "the body has to be UTF-8")
        if media_type.strip() == CSV:
            return records.of_csv
        if media_type.strip() != JSON:
            raise Problem(415, "media_type", f"Content-Type has to be {JSON} or {CSV}")
    return records.decode if path == FORECAST else scoring.decode


def prefers_csv(accept: bytes) -> bool:
    """Whether an Accept header prefers CSV to JSON; of its parts the most exact one counts (RFC 9110, 12.5.1)."""
    if b"text/" not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        media_type, _, parameters = part.partition(";")
        found = re.search(r"q\s*=\s*([01](?:\.\d{0,3})?)", parameters)
        weights[media_type.strip()] = float(found[1]) if found else 1.0
    csv, json = (
        next((weights[name] for name in (exact, exact.split("/", maxsplit=1)[0] + "/*", "*/*") if name in weights), 0.0)
        for exact in (CSV, JSON)
    )
    return csv > json


def _header(text: str) -> bytes:
    return shorten(text, 1_000).replace('"', "'").encode("ascii", "backslashreplace")
