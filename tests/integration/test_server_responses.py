"""Responses of the service: correct numbers, a documented response to any request, log lines and metrics."""

# pylint: disable=no-value-for-parameter  # hypothesis passes them

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks
from threadpoolctl import threadpool_limits

from raincast.forecasting import forecast, model
from raincast.observations import reading
from raincast.observations.columns import COLUMNS, MEASUREMENTS
from raincast.serving.openapi import EXAMPLE
from tests.conftest import Command
from tests.integration.serving import CSV, JSON, ROW, Reply, Server, body_of, eventually, many, request, started
from tests.integration.test_bad_input import BAD, GOOD, with_rows

FUZZED = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def for_all(holds: Callable[..., None], examples: int = 60, **strategies: st.SearchStrategy[Any]) -> None:
    """Check a property on examples of strategies that are known only at run time."""
    settings(FUZZED, max_examples=examples)(given(**strategies)(holds))()


PATHS = ("/forecast", "/invocations")
LARGEST_REFUSAL = 400_000
Rows = list[dict[str, str]]


@pytest.fixture(name="server", scope="module")
def fixture_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service for requests that leave no state."""
    with started(tmp_path_factory.mktemp("server"), "--model", trained) as server:
        yield server


@pytest.fixture(name="rows", scope="module")
def fixture_rows(bundled_rows: Rows) -> Rows:
    """Return 300 real rows, ten days at thirty stations, which are context for each other."""
    names = sorted({row["Location"] for row in bundled_rows})[:30]
    rows = []
    for name in names:
        ten = [row for row in bundled_rows if row["Location"] == name][:10]
        rows += [{"Date": f"2016-07-{day:02d}"} | row for day, row in enumerate(ten, 1)]
    for row in rows:
        del row["RainTomorrow"]
    return rows


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return rows of the same columns as a CSV body."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_numbers(row: dict[str, str]) -> dict[str, Any]:
    """Return a row with numbers as numbers and None for missing values."""
    kinds = {column.name: column.kind for column in COLUMNS}
    return {
        name: None if text in ("", "NA") else float(text) if kinds[name] == "number" else text
        for name, text in row.items()
    }


def assert_refused(reply: Reply, *statuses: int) -> str:
    """Assert that a problem document has one of the statuses, a bounded size and no traceback; return its detail."""
    assert reply.status in (statuses or (400, 413, 415, 422)), (reply.status, reply.body[:2000])
    assert reply.headers["content-type"] == "application/problem+json"
    assert len(reply.body) < LARGEST_REFUSAL
    assert b"Traceback" not in reply.body
    document = reply.json()
    assert document["status"] == reply.status
    assert all(isinstance(document[name], str) and document[name] for name in ("type", "title", "detail"))
    return str(document["detail"])


def assert_answered(reply: Reply) -> None:
    """Assert that a response has forecasts or is a refusal."""
    if reply.status != 200:
        assert_refused(reply)


@pytest.fixture(name="expected", scope="module")
def fixture_expected(rows: Rows, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the forecasts of the library for the 300 rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_bytes(as_csv(rows))
    probability = forecast.forecast(model.load(trained), reading.read(path))["probability_of_rain"]
    return [float(p) for p in probability]


def test_300_rows_are_forecast_as_by_the_library_and_the_command(
    server: Server, rows: Rows, expected: list[float], command: Command, trained: Path, tmp_path: Path
) -> None:
    reply = server.forecast([as_numbers(row) for row in rows])
    np.testing.assert_allclose(reply.probabilities(), expected, rtol=0, atol=1e-12)
    (tmp_path / "rows.csv").write_bytes(as_csv(rows))
    run = command("prediction.py", tmp_path / "rows.csv", "--format", "json", "--model", trained)
    for ours, theirs in zip(reply.json()["forecasts"], json.loads(run.stdout), strict=True):
        assert ours["probability_of_rain"] == pytest.approx(theirs.pop("probability_of_rain"), rel=0, abs=1e-12)
        assert {name: ours[name] for name in theirs} == theirs
    document = reply.json()
    assert document["model"] == {"name": "raincast", "version": model.describe(trained)["version"]}
    assert "warnings" not in document


def test_the_format_of_a_request_does_not_change_its_forecasts(
    server: Server, rows: Rows, expected: list[float]
) -> None:
    numbers = [as_numbers(row) for row in rows]
    for reply in (
        server.ask("POST", "/forecast", as_csv(rows), content_type=CSV),
        server.forecast(rows),
        server.ask("POST", "/forecast?units=metric", body_of(numbers)),
        server.ask("POST", "/forecast", json.dumps(numbers, indent=1).encode()),
        server.ask("POST", "/forecast", "\n".join(map(json.dumps, numbers)).encode()),
    ):
        np.testing.assert_allclose(reply.probabilities(), expected, rtol=0, atol=1e-12)
    in_csv = server.ask("POST", "/forecast", as_csv(rows), content_type=CSV, accept=CSV)
    assert in_csv.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(in_csv.body.decode())))
    assert [(line["Date"], line["Location"]) for line in table] == [(row["Date"], row["Location"]) for row in rows]
    probabilities = [float(line["probability_of_rain"]) for line in table]
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dated", [True, False])
def test_single_rows_are_forecast_as_by_the_library(dated: bool, server: Server, rows: Rows, trained: Path) -> None:
    loaded = model.load(trained)
    with server.client() as client:
        for row in rows[::6]:
            single = dict(row)
            if not dated:
                del single["Date"]
            table = reading.read(io.BytesIO(as_csv([single])), name="row")
            expected = forecast.forecast(loaded, table)["probability_of_rain"].tolist()
            for body in ([as_numbers(single)], [single]):
                probabilities = client.ask("POST", "/forecast", body_of(body)).probabilities()
                np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-12)
            reply = client.ask("POST", "/forecast", as_csv([single]), content_type=CSV)
            np.testing.assert_allclose(reply.probabilities(), expected, rtol=0, atol=1e-12)


@threadpool_limits.wrap(limits=1)  # busy-waiting threads of scikit-learn would take the cores from the service
def test_forecasts_are_those_of_scikit_learn(server: Server, rows: Rows, trained: Path) -> None:
    pipeline = joblib.load(trained / "model.joblib")
    frame = pd.DataFrame([as_numbers(row) for row in rows])
    expected = pipeline.predict_proba(frame)[:, 1]
    probabilities = server.forecast([as_numbers(row) for row in rows]).probabilities()
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-9)
    for i in range(0, len(rows), 30):
        (single,) = server.forecast([as_numbers(rows[i])]).probabilities()
        assert single == pytest.approx(pipeline.predict_proba(frame[i : i + 1])[0, 1], rel=0, abs=1e-9)


VALUES = {
    "number": lambda column: st.floats(column.low, column.high),
    "direction": lambda _: st.sampled_from(["N", "SSW", "NW"]),
    "yes_no": lambda _: st.sampled_from(["Yes", "No"]),
    "date": lambda _: st.dates(pd.Timestamp("1900-01-01").date(), pd.Timestamp("2199-12-31").date()).map(str),
    "station": lambda _: st.sampled_from(["Sydney", "Perth", "Atlantis"]),
}
OBSERVATION = st.fixed_dictionaries(
    {"Location": VALUES["station"](None), "Rainfall": st.floats(0, 500)},
    optional={c.name: VALUES[c.kind](c) | st.none() for c in COLUMNS if c.name not in ("Location", "Rainfall")},
)


@FUZZED
@given(row=OBSERVATION)
def test_numbers_as_text_give_the_same_forecasts(row: dict[str, Any], server: Server) -> None:
    text = {name: value if value is None else str(value) for name, value in row.items()}
    as_number, as_text = server.forecast([row]), server.forecast([text])
    assert as_number.status == as_text.status == 200
    assert as_number.json() == as_text.json()
    pair = server.forecast([row | {"Date": None}, row | {"Date": None}]).probabilities()
    assert pair == server.forecast([row | {"Date": None}]).probabilities() * 2


def test_the_threshold_decides_between_yes_and_no(server: Server, rows: Rows, trained: Path) -> None:
    threshold = model.load(trained).threshold
    lines = server.forecast(rows).json()["forecasts"]
    assert {line["rain_tomorrow"] for line in lines} == {"Yes", "No"}
    for line in lines:
        assert line["rain_tomorrow"] == ("Yes" if line["probability_of_rain"] >= threshold else "No")


def test_an_unknown_station_is_forecast_with_a_warning(server: Server) -> None:
    unknown = ROW | {"Location": "Atlantis"}
    for rows in ([unknown], [unknown, ROW]):
        reply = server.forecast(rows)
        assert len(reply.probabilities()) == len(rows)
        (warning,) = reply.json()["warnings"]
        assert warning == "1 unknown station(s), forecast without a place or neighbours: Atlantis"
        assert server.forecast(rows, accept=CSV).headers["warning"] == f'199 - "{warning}"'
    assert "warnings" not in server.forecast([ROW]).json()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/*", CSV),
        ("text/csv, */*;q=0.1", CSV),
        ("text/csv;q=0.9, application/json;q=0.5", CSV),
        ("text/csv ; q=1.0,application/json ; q=0.999", CSV),
        ("application/json;q=0, text/csv", CSV),
        ("application/json", JSON),
        ("*/*", JSON),
        ("", JSON),
        ("text/csv;q=0.5, application/json;q=0.9", JSON),
        ("application/json, text/csv", JSON),
        ("text/csv;q=0", JSON),
        ("text/csv;q=0, text/*", JSON),
        ("text/csv;q=0.5, */*", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("image/png", JSON),
        (";;,q=,=\x80", JSON),
    ],
)
def test_the_accept_header_decides_between_csv_and_json(accept: str, content_type: str, server: Server) -> None:
    for rows in ([ROW], many(100)):
        reply = server.forecast(rows, accept=accept)
        assert reply.status == 200
        assert reply.headers["content-type"].split(";")[0] == content_type
        assert reply.body.startswith(b"Date,Location," if content_type == CSV else b'{"model":')


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_body_is_refused_with_the_reason(case: str, server: Server) -> None:
    content, message = BAD[case]
    content_type = JSON if "JSON" in case else CSV
    detail = assert_refused(server.ask("POST", "/forecast", content, content_type=content_type), 400, 413, 422)
    if not any(word in case for word in ("gzip", "Parquet")):
        assert re.search(message.replace("the file is empty", "the request: the body is empty"), detail), detail
    assert_refused(server.ask("POST", "/invocations", content, content_type=content_type), 400, 413, 422)


def test_a_problem_document_names_row_column_value_and_limit(server: Server) -> None:
    invalid = with_rows("2017-01-01,Albury,0,45,N", "2017-01-02,Albury,0,150,N")
    for path, body, content_type in (
        ("/forecast", invalid, CSV),
        ("/invocations", invalid, CSV),
        ("/forecast", body_of([ROW, ROW | {"Humidity3pm": 150}]), JSON),
        ("/invocations", json.dumps({"instances": [ROW, ROW | {"Humidity3pm": "150"}]}).encode(), JSON),
    ):
        reply = server.ask("POST", path, body, content_type=content_type)
        assert_refused(reply, 422)
        document = reply.json()
        assert (document["title"], document["type"], document["count"]) == ("Unprocessable Entity", "about:blank", 1)
        (violation,) = document["problems"]
        assert violation == {"row": 2, "column": "Humidity3pm", "value": "150", "limit": "a number, 0 to 100 %"}
        assert ("error_code" in document) == (path == "/invocations")


@pytest.mark.parametrize("path", PATHS)
def test_compressed_bodies_and_other_types_are_refused(path: str, server: Server) -> None:
    good = with_rows(GOOD)
    packed = gzip.compress(good)
    assert_refused(server.ask("POST", path, packed, content_type=CSV, content_encoding="gzip"), 415)
    assert_refused(server.ask("POST", path, packed, content_type=CSV), 400)
    assert_refused(server.ask("POST", path, packed, content_type="application/gzip"), 415)
    parquet = io.BytesIO()
    pd.DataFrame([ROW]).to_parquet(parquet)
    assert_refused(server.ask("POST", path, parquet.getvalue(), content_type="application/vnd.apache.parquet"), 415)
    assert_refused(server.ask("POST", path, parquet.getvalue(), content_type=CSV), 400)
    assert_refused(server.ask("POST", path, parquet.getvalue()), 400)
    assert_refused(server.ask("POST", path, good, content_type="text/csv; charset=latin-1"), 415)
    assert_refused(server.ask("POST", path, good, content_type="text/plain"), 415)
    assert server.ask("POST", path, good, content_type='Text/CSV ; Charset="UTF-8"').status == 200


def test_other_paths_and_methods_are_refused(server: Server) -> None:
    assert assert_refused(server.ask("GET", "/nowhere"), 404)
    assert assert_refused(server.ask("POST", "/nowhere", b"{}"), 404)
    for path, allowed in (("/forecast", "POST"), ("/invocations", "POST"), ("/healthz", "GET, HEAD")):
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "POST"):
            if method not in allowed.split(", "):
                reply = server.ask(method, path)
                assert reply.status == 405
                assert ", ".join(sorted(reply.headers["allow"].split(", "))) == allowed, method
    for path in ("/", "/docs", "/healthz", "/readyz", "/ping", "/version", "/metrics", "/openapi.json"):
        full, head = server.ask("GET", path), server.ask("HEAD", path)
        assert (full.status, head.status) == (200, 200)
        if path != "/metrics":
            assert head.headers["content-length"] == str(len(full.body))


def test_deep_nesting_is_refused(server: Server) -> None:
    deep = b"[" * 7000 + b"]" * 7000
    for path, body in (
        ("/forecast", deep),
        ("/forecast", b'{"observations":' + deep + b"}"),
        ("/forecast", b'{"observations":[{"Location":"Sydney","Rainfall":1,"RISK_MM":' + deep + b"}]}"),
        ("/forecast", b'{"observations":[{"Location":"Sydney","Rainfall":1,"Unknown":' + deep + b"}]}"),
        ("/forecast", b'{"observations":[{"Location":"Sydney","Rainfall":' + deep + b"}]}"),
        ("/invocations", b'{"instances":' + deep + b"}"),
        ("/invocations", b'{"instances":[{"Location":"Sydney","Rainfall":1,"RISK_MM":' + deep + b"}]}"),
        ("/invocations", b'{"dataframe_split":{"columns":["Location","Rainfall"],"data":[["Sydney",' + deep + b"]]}}"),
    ):
        assert_answered(server.ask("POST", path, body))
        assert_answered(server.ask("POST", path, body + b" " * 20_000))


SURROGATES = (
    b'{"Location":"\\ud800","Rainfall":1}',
    b'{"Location":"Sydney","Rainfall":"\\ud800"}',
    b'{"Location":"Sydney","Rainfall":1,"\\ud800":1}',
)


@pytest.mark.parametrize("padding", [0, 20_000])
@pytest.mark.parametrize("row", SURROGATES)
def test_a_lone_surrogate_gets_a_valid_response(row: bytes, padding: int, server: Server) -> None:
    for path, name in (("/forecast", b"observations"), ("/invocations", b"dataframe_records")):
        reply = server.ask("POST", path, b'{"%b":[%b]}' % (name, row) + b" " * padding)
        assert_answered(reply)
        assert "x-request-id" in reply.headers
        json.loads(reply.body.decode("utf-8"))
    assert_answered(server.ask("POST", "/forecast", b'{"observations":[%b]}' % row + b" " * padding, accept=CSV))


@pytest.mark.parametrize("rows", [1, 3000])
@pytest.mark.parametrize("name", ["a\r\nset-cookie: evil=1", "a\nb", "a\0b", "a\x1bb", 'a"b', "ü\u2028", "a\\"])
def test_the_name_of_a_column_cannot_inject_headers(name: str, rows: int, server: Server) -> None:
    replies = [server.ask("POST", "/forecast", body_of([{name: 1} | ROW] + many(rows - 1)), accept=CSV)]
    if "\0" not in name:
        body = as_csv([{name: 1} | ROW] + [{name: 1} | row for row in many(rows - 1)])
        replies.append(server.ask("POST", "/forecast", body, content_type=CSV, accept=CSV))
    for reply in replies:
        assert reply.status == 200
        assert reply.body.startswith(b"Date,Location,")
        assert "1 unknown column(s) ignored" in reply.headers["warning"]
        assert set(reply.headers) == {"date", "content-type", "content-length", "x-request-id", "warning"}
        assert reply.headers["warning"].isprintable()


def test_a_refusal_does_not_echo_the_body(server: Server) -> None:
    long = "\x01" * 5000
    for body, content_type in (
        (body_of([ROW | {"Humidity3pm": long}] * 1500), JSON),
        (body_of([{name.name: long for name in COLUMNS}] * 90), JSON),
        (body_of([{f"{long}{i}": 1 for i in range(1000)}]), JSON),
        (as_csv([{f"c{i}": 1 for i in range(9000)}]), CSV),
        (b",".join([b"Rainfall"] * 7000), CSV),
        (b"Location,Rainfall\n" + b"Sydney,x\n" * 9000, CSV),
        (b"Location,Rainfall\n" + b'"' + b"x\n" * 9000, CSV),
    ):
        assert_refused(server.ask("POST", "/forecast", body, content_type=content_type), 400, 413, 422)


SCALAR = st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["observations", "Location", "Rainfall"]) | st.text(max_size=9), inner)
    ),
    max_leaves=12,
)
VALID: dict[str, list[Any]] = {
    "/forecast": [{"observations": [ROW]}, {"observations": list(EXAMPLE)}, [ROW, ROW]],
    "/invocations": [
        {"dataframe_records": [ROW, ROW]},
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values()), list(ROW.values())]}},
        {"inputs": {name: [value] for name, value in ROW.items()}},
        {"instances": [dict(EXAMPLE[0])]},
    ],
}


@st.composite
def mutated(draw: st.DrawFn, path: str) -> bytes:
    """Return a valid body with some values replaced, then with some bytes removed, inserted or replaced."""
    document = json.loads(json.dumps(draw(st.sampled_from(VALID[path]))))
    for _ in range(draw(st.integers(0, 3))):
        place = document
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not draw(st.integers(0, 3)):
                place[key] = draw(ANY_JSON)
                break
            place = place[key]
    content = json.dumps(document).encode()
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 9)))
        content = content[:start] + draw(st.binary(max_size=5)) + content[end:]
    return content


NAMES = st.sampled_from([column.name for column in COLUMNS] + ["RISK_MM", "RainTomorrow", "", "x"])
CELL = st.sampled_from(["", "NA", "1", "20.5", "Sydney", "N", "Yes", "2017-01-01", '"', "1e5", "\r", "\n"]) | st.text()


@st.composite
def any_csv(draw: st.DrawFn) -> bytes:
    """Return lines of cells, mostly with a header that has the required columns."""
    header = draw(st.just(["Location", "Rainfall"]) | st.just([])) + draw(st.lists(NAMES, max_size=4))
    lines = draw(st.lists(st.lists(CELL, min_size=len(header), max_size=len(header) + 1), max_size=5))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join([",".join(header), *map(",".join, lines)])
    return text.encode()


@pytest.mark.parametrize("path", PATHS)
def test_any_bytes_get_a_documented_response(path: str, server: Server) -> None:
    before = len(server.stderr())
    types = st.sampled_from([JSON, CSV, "text/plain", "", "application/json; charset=latin-1"]) | st.text(
        st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20
    )

    def holds(content: bytes, content_type: str, accept: str) -> None:
        assert_answered(server.ask("POST", path, content, content_type=content_type, accept=accept))

    for_all(holds, content=st.binary(max_size=500), content_type=types, accept=types)
    assert server.ask("GET", "/healthz").status == 200
    assert "Traceback" not in server.stderr()[before:]


@pytest.mark.parametrize("kind", ["json", "mutated", "csv"])
@pytest.mark.parametrize("path", PATHS)
def test_any_json_and_csv_gets_a_documented_response(path: str, kind: str, server: Server) -> None:
    before = len(server.stderr())
    bodies = {
        "json": ANY_JSON.map(lambda value: json.dumps(value).encode()),
        "mutated": mutated(path),
        "csv": any_csv(),
    }

    def holds(content: bytes, accept: str, padding: int) -> None:
        content_type = CSV if kind == "csv" else JSON
        body = content + b" " * padding
        assert_answered(server.ask("POST", path, body, content_type=content_type, accept=accept))

    paddings = st.sampled_from([0, 0, 0, 17_000])
    for_all(holds, content=bodies[kind], accept=st.sampled_from([JSON, CSV]), padding=paddings)
    assert server.ask("GET", "/healthz").status == 200
    assert "Traceback" not in server.stderr()[before:]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_response_conforms_to_the_openapi_document(mode: schemathesis.GenerationMode, server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    documented = {
        f"{method.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for method in methods
    }
    assert {operation.label for operation in operations} == documented - {"GET /openapi.json"}
    # Numbers may be text, unknown columns are ignored, and no schema forbids duplicate observations.
    out_of_scope: Any = [checks.negative_data_rejection, checks.positive_data_acceptance]
    for operation in operations:
        if mode == schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
            continue

        def holds(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(base_url=url, excluded_checks=out_of_scope)

        examples = 60 if operation.method == "post" else 2
        for_all(holds, examples, case=operation.as_strategy(generation_mode=mode))


def test_the_request_log_has_one_line_for_each_request(server: Server, trained: Path) -> None:
    asked = {
        "fast": ("POST", "/forecast", body_of([ROW]), 200, 1),
        "large": ("POST", "/forecast", body_of(many(300)), 200, 300),
        "protocol": ("POST", "/invocations", json.dumps({"instances": [ROW, ROW]}).encode(), 200, 2),
        "invalid": ("POST", "/forecast", b"{}", 422, 0),
        "malformed": ("POST", "/forecast", b"{" + b" " * 20_000, 400, 0),
        "nowhere": ("GET", '/a"b%22%0A%C3%BC' + "x" * 500, b"", 404, 0),
        "query": ("GET", "/healthz?a=b", b"", 200, 0),
        "head": ("HEAD", "/", b"", 200, 0),
    }
    version = model.describe(trained)["version"]
    for request_id, (method, path, body, status, rows) in asked.items():
        reply = server.ask(method, path, body, x_request_id=request_id)
        assert (reply.status, reply.headers["x-request-id"]) == (status, request_id)
        line = server.logged(request_id)
        time, milliseconds = line.pop("time"), line.pop("milliseconds")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        assert 0 < milliseconds < 60_000
        shown = line.pop("path")
        if request_id == "nowhere":
            assert shown.startswith('/a"b"') and shown.isprintable() and len(shown) <= 210
        else:
            assert shown == path.partition("?")[0]
        assert line == {
            "request_id": request_id,
            "method": method,
            "status": status,
            "rows": rows,
            "model": version,
        }
    assert len([line for line in server.log() if line["request_id"] in asked]) == len(asked)


@pytest.mark.parametrize(("sent_id", "kept"), [
    ("4bf92f3577b34da6a3ce929d0e0e4736", True),
    ("a.b/c:d+e=f@g-h_1", True),
    ("x" * 128, True),
    ("x" * 129, False),
    ('a"b', False),
    ("a b", False),
    ("a,b", False),
    ("a\\nb", False),
    ("a\tb", False),
    ("é", False),
    ("", False),
])  # fmt: skip
def test_a_valid_request_id_is_used(sent_id: str, kept: bool, server: Server) -> None:
    for rows in (1, 300):
        reply = server.forecast(many(rows), x_request_id=sent_id)
        returned = reply.headers["x-request-id"]
        assert (returned == sent_id) == kept
        assert re.fullmatch(r"[\x21-\x7e]{1,128}", returned)
        if not kept:
            assert server.logged(returned)["rows"] == rows
    assert server.forecast([ROW]).headers["x-request-id"] != server.forecast([ROW]).headers["x-request-id"]


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("traceparent", "followed"), [
    (f"00-{TRACE}-{PARENT}-01", True),
    (f"00-{TRACE}-{PARENT}-00", True),
    (f"cc-{TRACE}-{PARENT}-01", True),
    (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
    (f"cc-{TRACE}-{PARENT}-01.no", False),
    (f"00-{TRACE}-{PARENT}-01-no", False),
    (f"ff-{TRACE}-{PARENT}-01", False),
    (f"00-{TRACE.upper()}-{PARENT}-01", False),
    (f"00-{'0' * 32}-{PARENT}-01", False),
    (f"00-{TRACE}-{'0' * 16}-01", False),
    (f"00-{TRACE}-{PARENT}", False),
    (f'00-{TRACE}-{PARENT}-01"', False),
    ("", False),
])  # fmt: skip
def test_the_request_log_names_the_trace_of_a_valid_traceparent(
    traceparent: str, followed: bool, server: Server
) -> None:
    expected = {"trace_id": TRACE, "parent_id": PARENT} if followed else {}
    for rows in (1, 300):
        request_id = server.forecast(many(rows), traceparent=traceparent).headers["x-request-id"]
        line = server.logged(request_id)
        assert line["rows"] == rows
        assert {name: line[name] for name in line if name in ("trace_id", "parent_id")} == expected


def test_a_request_id_of_several_lines_is_refused(server: Server) -> None:
    head = request("GET", "/healthz").replace(b"\r\n\r\n", b"\r\nx-request-id: a\n b\x00c\r\n\r\n")
    assert_refused(server.raw(head), 400)


def test_the_metrics_count_requests_and_forecasts(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained) as server:
        before = server.metrics()
        assert not any(name.startswith(("raincast_errors", "raincast_request_seconds")) and value
                       for (name, labels), value in before.items() if dict(labels).get("path") != "/readyz"
                       and dict(labels).get("path") != "/metrics")  # fmt: skip
        probabilities = []
        for _ in range(3):
            probabilities += server.forecast([ROW]).probabilities()
        probabilities += server.ask("POST", "/forecast", as_csv([ROW, ROW]), content_type=CSV).probabilities()
        probabilities += server.forecast(many(300)).probabilities()
        predictions = server.ask("POST", "/invocations", json.dumps({"instances": [ROW] * 2}).encode()).json()
        probabilities += [line[1] for line in predictions["predictions"]]
        for body, content_type, status in (
            (b"{", JSON, 400),
            (b'{"observations":[{}]}', JSON, 422),
            (body_of([ROW | {"Rainfall": -1}]), JSON, 422),
            (b"x", "text/plain", 415),
            (b"Location,Rainfall\n" + b"Sydney,1\n" * 10_001, CSV, 413),
        ):
            assert server.ask("POST", "/forecast", body, content_type=content_type).status == status
        assert server.ask("GET", "/nowhere").status == 404
        assert server.ask("GET", "/elsewhere").status == 404
        assert server.ask("GET", "/forecast").status == 405

        counted = server.metrics()
        requests = {
            (labels["method"], labels["path"], int(labels["status"])): value
            for (name, items), value in counted.items()
            if name == "raincast_requests_total"
            and (labels := dict(items))["path"] not in ("/readyz", "/metrics")
            and value
        }
        assert requests == {
            ("POST", "/forecast", 200): 5,
            ("POST", "/forecast", 400): 1,
            ("POST", "/forecast", 413): 1,
            ("POST", "/forecast", 415): 1,
            ("POST", "/forecast", 422): 2,
            ("POST", "/invocations", 200): 1,
            ("GET", "other", 404): 2,
            ("GET", "/forecast", 405): 1,
        }
        errors = {
            dict(items)["kind"]: v for (name, items), v in counted.items() if name == "raincast_errors_total" and v
        }
        assert errors == {
            "format": 1, "observations": 2, "media_type": 1, "too_large": 1, "not_found": 2, "method": 1
        }  # fmt: skip
        assert server.metric("raincast_rows_total") == len(probabilities) == 307
        missing = {dict(i)["column"]: v for (name, i), v in counted.items() if name == "raincast_missing_values_total"}
        assert missing == {name: 0 if name in ROW else 307 for name in MEASUREMENTS}
        assert server.metric("raincast_probability_of_rain_count") == 307
        assert server.metric("raincast_probability_of_rain_sum") == pytest.approx(sum(probabilities))
        below = sum(p <= 0.2 for p in probabilities)
        assert server.metric("raincast_probability_of_rain_bucket", le="0.2") == below
        assert server.metric("raincast_probability_of_rain_bucket", le="+Inf") == 307
        assert server.metric("raincast_request_seconds_count", path="/forecast") == 11
        assert server.metric("raincast_ready") == 1
        assert server.metric("raincast_model_trained_timestamp_seconds") == model.load(trained).trained
        assert server.metric("raincast_request_log_lost_lines_total") == 0
        description = model.describe(trained)
        info = {name: str(description[name]) for name in ("name", "version", "commit", "data_sha256")}
        assert server.metric("raincast_model_info", **info) == 1
        assert server.metric("process_open_fds") > 0
        assert eventually(lambda: len(server.log()) >= 17)
