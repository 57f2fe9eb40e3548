"""Problem documents: the reason of a refusal, for programs and people."""

from __future__ import annotations

import http.client
import io
import json
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raincast.observations.errors import VIOLATIONS_KEPT, FormatError, ObservationError
from raincast.serving import decoding, problems
from raincast.serving.forecaster import problem_response
from raincast.serving.http_protocol import response_bytes
from raincast.serving.problems import Problem


def document_of(problem: Problem) -> dict[str, Any]:
    """Return a problem document as a client decodes it."""
    return cast(dict[str, Any], json.loads(problem.document()))


def response_to(problem: Problem) -> bytes:
    """Return the response to a request that is refused, as it is sent."""
    return response_bytes(problem_response("/forecast", problem), "id", (b"connection", b"close"))


def refused(body: str) -> Problem:
    """Return the problem of a JSON body."""
    with pytest.raises(ObservationError) as caught:
        decoding.decode(body.encode())
    return Problem.of(caught.value)


def test_a_document_has_status_title_detail_and_kind() -> None:
    assert document_of(Problem(413, "too_large", "the body is larger than 10 bytes")) == {
        "type": "about:blank",
        "title": "Request Entity Too Large",
        "status": 413,
        "detail": "the body is larger than 10 bytes",
        "kind": "too_large",
    }


def test_further_members_are_in_the_document() -> None:
    problem = Problem(422, "observations", "two are wrong", count=2, problems=[{"row": 1}])
    document = document_of(problem)
    assert document["count"] == 2
    assert document["problems"] == [{"row": 1}]


@pytest.mark.parametrize("length", [1_999, 2_000])
def test_a_detail_up_to_the_limit_is_kept(length: int) -> None:
    assert document_of(Problem(400, "format", "x" * length))["detail"] == "x" * length


def test_a_longer_detail_is_shortened_in_the_document_and_in_the_message() -> None:
    problem = Problem(400, "format", "begin " + "x" * 1_000_000)
    assert len(problem.detail) == problems.LONGEST_DETAIL == 2_000
    assert problem.detail.startswith("begin xxx")
    assert problem.detail.endswith("xxx...")
    assert document_of(problem)["detail"] == problem.detail
    assert len(response_to(problem)) < 3_000


@pytest.mark.parametrize("status", [400, 404, 405, 408, 411, 413, 415, 422, 431, 500, 501, 503, 505])
def test_the_response_to_a_refused_request_is_complete(status: int) -> None:
    problem = Problem(status, "kind", "Ein „Problem“ mit é und 🌧", more=[1, 2])
    connection = SimpleNamespace(makefile=lambda _: io.BytesIO(response_to(problem) + b"behind"))
    response = http.client.HTTPResponse(cast(socket.socket, connection))
    response.begin()
    assert (response.status, response.version) == (status, 11)
    assert response.reason == document_of(problem)["title"] == http.client.responses[status]
    assert response.getheader("Content-Type") == "application/problem+json"
    assert response.getheader("Connection") == "close"
    assert response.will_close
    assert response.getheader("X-Request-Id") == "id"
    assert (response.getheader("Retry-After") == "1") is (status == 503)
    body = response.read()
    assert int(str(response.getheader("Content-Length"))) == len(body)
    assert body == problem.document()
    assert json.loads(body)["detail"] == "Ein „Problem“ mit é und 🌧"


def test_a_format_error_is_400_of_the_kind_format() -> None:
    problem = Problem.of(FormatError("the request: not valid JSON: no"))
    assert (problem.status, problem.kind, problem.members) == (400, "format", {})
    assert problem.detail == "the request: not valid JSON: no"


def test_observations_that_break_a_limit_are_422_with_each_value() -> None:
    problem = refused(
        '{"observations": [{"Location": "Sydney", "Humidity3pm": 101}, {"Location": "Perth", "WindDir3pm": "%s"}]}'
        % ("X" * 100)
    )
    document = document_of(problem)
    assert (problem.status, problem.kind, document["status"]) == (422, "observations", 422)
    assert document["detail"].startswith(
        "the request: 2 problems: row 1, Humidity3pm: '101' is not a number, 0 to 100 %"
    )
    assert document["count"] == 2
    assert document["problems"] == [
        {"row": 1, "column": "Humidity3pm", "value": "101", "limit": "a number, 0 to 100 %"},
        {
            "row": 2,
            "column": "WindDir3pm",
            "value": "X" * 37 + "...",
            "limit": "one of N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW",
        },
    ]


def test_an_error_without_violations_counts_as_one() -> None:
    document = document_of(refused('[{"Rainfall": 1}]'))
    assert document["status"] == 422
    assert document["count"] == 1
    assert document["problems"] == []
    assert document["detail"].startswith("the request: there is no column Location")


def test_many_violations_are_counted_and_the_first_listed() -> None:
    body = json.dumps({"observations": [{"Location": "Sydney", "Rainfall": -1}] * 5_000})
    document = document_of(refused(body))
    assert document["count"] == 5_000
    assert [violation["row"] for violation in document["problems"]] == list(range(1, VIOLATIONS_KEPT + 1))
    assert len(document["detail"]) < 1_000


@pytest.mark.parametrize(
    "body",
    [
        r'[{"Location": "\ud800", "Rainfall": 1}]',
        r'[{"Location": "Sydney", "WindDir3pm": "\udfff"}]',
        r'[{"Loc\ud800tion": "Sydney", "Rainfall": 1}]',
        r'[{"Location": "Sydney", "Rainfall": 1, "\ud800": 1, "\ud800": 2}]',
    ],
)
def test_a_lone_surrogate_in_a_body_does_not_break_the_document(body: str) -> None:
    document = document_of(refused(body))
    assert document["status"] == 422
    assert document["detail"].startswith("the request: ")


def test_a_problem_is_an_exception_with_the_detail_as_message() -> None:
    with pytest.raises(Problem, match="^nobody is here$"):
        raise Problem(503, "busy", "nobody is here")
