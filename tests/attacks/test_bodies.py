"""Bodies of at most 10 MB that become much more, or much slower, than they look."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raincast.forecasting import model
from raincast.observations.errors import ObservationError
from raincast.serving import decoding, mlflow_protocol
from raincast.serving.forecaster import FORECAST, INVOCATIONS, Forecaster, SingleRow
from raincast.serving.openapi import EXAMPLE
from raincast.serving.problems import Problem
from tests.unit.bodies import as_table, assert_same

ROOT = Path(__file__).resolve().parents[2]
UNTIMED = settings(deadline=None, derandomize=True)
SIZE = 10_000_000
# The pod has 512 MiB, its idle process takes 85 MB, and 64 MB of bodies may wait. Measured: at most 89 MB.
MEMORY = 100_000_000
FULL = {name: value for name, value in EXAMPLE[0].items() if name not in ("Date", "RISK_MM", "RainTomorrow")} | {
    "Mood": "good",
    "Source": "a diary",
}
CSV_START, JSON_START = "Location,Rainfall", '{"Location":"Sydney","Rainfall":1'


def _records(count: int, extra: Callable[[int], str] = lambda _: "") -> str:
    return ",".join(f"{JSON_START}{extra(number)}}}" for number in range(count))


def _filled(start: str, part: str, end: str = "", size: int = SIZE) -> str:
    return start + part * ((size - len((start + end).encode())) // len(part.encode())) + end


def _unknown_columns(number: int) -> str:
    return "".join(f',"u{number}_{part}":0' for part in range(28))


def _invalid(count: int, start: str, end: str) -> str:
    """Return observations whose numbers are all different and all invalid."""
    numbers = [name for name in FULL if name not in ("Location", "Mood", "Source")]
    rows = [{"Location": "Sydney"} | {name: f"x{row}-{name[:6]}" for name in numbers} for row in range(count)]
    return start + json.dumps(rows, separators=(",", ":")) + end


BODIES: dict[str, tuple[str, Callable[[], str]]] = {
    "CSV: a wide header and short rows": ("csv", lambda: CSV_START + "," * 22_000 + "\n" + "Sydney,1\n" * 3_000),
    "CSV: the widest header and short rows": ("csv", lambda: CSV_START + "," * 900 + "\n" + "Sydney,1\n" * 9_000),
    "CSV: 10 MB of commas": ("csv", lambda: _filled(CSV_START + "\n", ",")),
    "CSV: few wide rows": ("csv", lambda: _filled(CSV_START + "\n", "," * 60_000 + "\n")),
    "CSV: one record of many lines": ("csv", lambda: _filled(CSV_START + "\n", '"\n",' + "," * 40)),
    "CSV: one field": ("csv", lambda: _filled(CSV_START + '\n"', "x", '",1\n')),
    "CSV: one field of many lines": ("csv", lambda: _filled(CSV_START + '\n"', "x" * 60_000 + "\n", '",1\n')),
    "CSV: long fields": ("csv", lambda: _filled(CSV_START + "\n", "x" * 65_000 + ",1\n")),
    "CSV: long fields of wide characters": ("csv", lambda: _filled(CSV_START + "\n", "🌧" * 16_000 + ",1\n")),
    "CSV: empty lines": ("csv", lambda: _filled(CSV_START + "\n", "\n")),
    "CSV: the header repeated": ("csv", lambda: _filled("", CSV_START + "\n")),
    "CSV: spaces": ("csv", lambda: _filled("", " ")),
    "lists in each other": ("json", lambda: _filled("[", "[" * 450 + "]" * 450 + ",", "1]")),
    "open lists": ("json", lambda: _filled("", "[")),
    "empty lists": ("json", lambda: _filled("[", "[],", "1]")),
    "empty objects": ("json", lambda: _filled("[", "{},", "1]")),
    "objects in each other": ("json", lambda: _filled("[", '{"a":' * 450 + "1" + "}" * 450 + ",", "1]")),
    "numbers": ("json", lambda: _filled("[", "1,", "1]")),
    "as many numbers as are decoded": ("json", lambda: _filled("[", "1" * 31 + ",", "1]")),
    "numbers in lines": ("json", lambda: _filled("", "1\n")),
    "numbers in a line": ("json", lambda: _filled("", "1 ")),
    "texts in a line": ("json", lambda: _filled("", '"1"')),
    "a list as a known value": ("json", lambda: _filled('[{"Location":"Sydney","Rainfall":[', "1,", "1]}]")),
    "a list as an unknown value": ("json", lambda: _filled('[{"Location":"Sydney","Rainfall":1,"u":[', "1,", "1]}]")),
    "a list as a skipped value": (
        "json",
        lambda: _filled('{"observations":[{"Location":"Sydney","Rainfall":1,"RISK_MM":[', "1,", "1]}]}"),
    ),
    "the shortest observations": ("json", lambda: _filled('{"observations":[', '{"Location":"a"},', "{}]}")),
    "as many observations as are decoded": (
        "json",
        lambda: '{"observations":[' + ",".join(['{"Location":"a"}'] * 39_000) + "]}",
    ),
    "unknown columns, others in each record": (
        "json",
        lambda: '{"observations":[' + _records(10_000, _unknown_columns) + "]}",
    ),
    "many columns in one record": (
        "json",
        lambda: "[" + JSON_START + "".join(f',"u{part}":0' for part in range(310_000)) + "}]",
    ),
    "a long text": ("json", lambda: _filled('[{"Rainfall":1,"Location":"', "x", '"}]')),
    "a long text of wide characters": ("json", lambda: _filled('[{"Rainfall":1,"Location":"🌧', "x", '"}]')),
    "a long text of letters that grow": ("json", lambda: _filled('[{"Rainfall":1,"RainToday":"', "ŉ", '"}]')),
    "a long name": ("json", lambda: _filled('[{"Rainfall":1,"🌧', "x", '":1}]')),
    "escapes": ("json", lambda: _filled('[{"Rainfall":1,"Location":"', "\\u4e00", '"}]')),
    "a long number": ("json", lambda: _filled('[{"Location":"Sydney","Rainfall":', "9", "}]")),
    "long numbers": ("json", lambda: _filled('[{"Location":"Sydney","Rainfall":[', "9" * 4_299 + ",", "1]}]")),
    "JSON Lines of lists": ("json", lambda: _filled("", JSON_START + ',"u":[' + "[]," * 1_000 + "1]}\n")),
    "JSON Lines of numbers": ("json", lambda: _filled("", JSON_START + ',"u":[' + "1," * 9_000 + "1]}\n")),
    "JSON Lines: empty lines": ("json", lambda: _filled(JSON_START + "}\n", "\n")),
    "invalid values": ("json", lambda: _invalid(10_000, '{"observations":', "}")),
    "dataframe_split: short rows": (
        "mlflow",
        lambda: _filled('{"dataframe_split":{"columns":["Location","Rainfall"],"data":[', '["a",1],', '["a",1]]}}'),
    ),
    "dataframe_split: empty rows": (
        "mlflow",
        lambda: _filled('{"dataframe_split":{"columns":["Location","Rainfall"],"data":[', "[],", "[]]}}"),
    ),
    "dataframe_split: many columns": (
        "mlflow",
        lambda: json.dumps({"dataframe_split": {"columns": [f"u{part}" for part in range(310_000)], "data": []}}),
    ),
    "dataframe_split: many columns in few rows": (
        "mlflow",
        lambda: json.dumps({"dataframe_split": {"columns": [f"u{n}" for n in range(9)], "data": [[0] * 150_000] * 2}}),
    ),
    "dataframe_records": ("mlflow", lambda: _filled('{"dataframe_records":[', '{"Location":"a"},', "{}]}")),
    "instances: unknown columns": (
        "mlflow",
        lambda: '{"instances":[' + _records(10_000, _unknown_columns) + "]}",
    ),
    "inputs: long columns": ("mlflow", lambda: _filled('{"inputs":{"Location":[', '"a",', '"a"]}}')),
    "inputs: many columns": (
        "mlflow",
        lambda: json.dumps({"inputs": {f"u{part}": [] for part in range(39_000)}}),
    ),
    "a long text of wide characters with NaN": (
        "mlflow",
        lambda: _filled('{"instances":[{"Rainfall":NaN,"Location":"🌧', "x", '"}]}'),
    ),
    "long numbers with NaN": ("mlflow", lambda: _filled('{"instances":[NaN,', "9" * 4_299 + ",", "1]}")),
    "MLflow: invalid values": ("mlflow", lambda: _invalid(10_000, '{"instances":', "}")),
}  # fmt: skip
LARGEST: dict[str, tuple[str, Callable[[], str]]] = {
    "JSON": ("json", lambda: json.dumps({"observations": [FULL] * 10_000})),
    "JSON Lines": ("json", lambda: "\n".join([json.dumps(FULL)] * 10_000)),
    "dataframe_split": (
        "mlflow",
        lambda: json.dumps({"dataframe_split": {"columns": [*FULL], "data": [[*FULL.values()]] * 10_000}}),
    ),
    "dataframe_records": ("mlflow", lambda: json.dumps({"dataframe_records": [FULL] * 10_000})),
    "inputs": ("mlflow", lambda: json.dumps({"inputs": {name: [value] * 10_000 for name, value in FULL.items()}})),
    "CSV": ("csv", lambda: "\n".join([",".join(FULL), *[",".join(str(v or "") for v in FULL.values())] * 10_000])),
}
DECODERS = {"csv": decoding.decode_csv, "json": decoding.decode, "mlflow": mlflow_protocol.decode}
MEASURE = """
import resource, sys, threading, time
from raincast.observations.errors import ObservationError, TooMany
from raincast.serving import decoding, mlflow_protocol
decode = {"csv": decoding.decode_csv, "json": decoding.decode, "mlflow": mlflow_protocol.decode}[sys.argv[1]]
body = sys.stdin.buffer.read()
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before, start = peak(), time.process_time()
try:
    observed, _ = decode(body)
    said = f"{len(observed['Location'])} rows"
except TooMany:
    said = "413"
except ObservationError as error:
    said = f"refused {len(str(error))}"
print(peak() - before, round(time.process_time() - start, 2), said)
"""


def _measured(kind: str, body: bytes) -> tuple[int, str]:
    """Return the bytes by which decoding a body raises the peak of a process, and the outcome."""
    done = subprocess.run([sys.executable, "-c", MEASURE, kind], cwd=ROOT, input=body, capture_output=True, check=True)
    memory, _, said = done.stdout.decode().split(" ", 2)
    return int(memory), said.strip()


@pytest.mark.parametrize("name", BODIES)
def test_decoding_takes_bounded_memory(name: str) -> None:
    kind, body = BODIES[name]
    memory, said = _measured(kind, body().encode())
    assert memory <= MEMORY, said
    assert said.startswith(("413", "refused")) or name.startswith(("a list as an unknown", "CSV: the widest"))


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_request_is_decoded_in_bounded_memory(name: str) -> None:
    kind, body = LARGEST[name]
    memory, said = _measured(kind, body().encode())
    assert said == "10000 rows"
    assert memory <= MEMORY


JSON_HEADERS = {b"content-type": b"application/json"}
REGULAR = json.dumps({"observations": [EXAMPLE[0] | {"RISK_MM": "dry", "RainTomorrow": "No"}]}).encode()
SPLIT = json.dumps(
    {"dataframe_split": {"columns": [*EXAMPLE[0]], "data": [[*EXAMPLE[0].values()]], "index": ["a"]}, "params": "dry"}
).encode()


def _outcome(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except ObservationError as error:
        return type(error), str(error)


def _assert_one_meaning(module: Any, body: bytes) -> None:
    """Assert that the regular decoder leaves a body to the full one, or does the same."""
    regular = _outcome(module.decode_regular, body)
    if regular is None:
        return
    # The text parser alone, without the regular decoder that `decode` tries first.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode_regular", lambda _: None)
        patch.setattr(decoding, "decode_regular_records", lambda _: None)
        patch.setattr(mlflow_protocol, "_decode_regular_split", lambda _: None)
        full = _outcome(module.decode, body)
    if isinstance(regular[0], dict):
        assert isinstance(full[0], dict), full
        assert_same(as_table(regular[0]), as_table(full[0]))
        assert regular[1] == full[1]
    else:
        assert regular == full


@pytest.mark.parametrize("decoder", ["decoding", "mlflow_protocol"])
@UNTIMED
@given(data=st.data())
def test_a_regular_body_means_what_the_full_decoder_reads(decoder: str, data: st.DataObject) -> None:
    module, body = {"decoding": (decoding, REGULAR), "mlflow_protocol": (mlflow_protocol, SPLIT)}[decoder]
    start = data.draw(st.integers(0, len(body)))
    end = start + data.draw(st.integers(0, 3))
    _assert_one_meaning(module, body[:start] + data.draw(st.binary(max_size=3)) + body[end:])


@UNTIMED
@given(st.binary(max_size=100))
@example(b"\xff")
@example(b"\xed\xa0\x80")
def test_bytes_in_a_value_that_nobody_reads_mean_the_same_everywhere(inserted: bytes) -> None:
    _assert_one_meaning(decoding, REGULAR.replace(b"dry", inserted))
    _assert_one_meaning(mlflow_protocol, SPLIT.replace(b"dry", inserted))


@pytest.fixture(name="forecaster", scope="module")
def fixture_forecaster(trained: Path) -> Forecaster:
    """Return the responder of the test model."""
    return Forecaster(model.load(trained))


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("irregular", [b"", b'"Mood":1,'], ids=["regular", "irregular"])
@pytest.mark.parametrize("path", [FORECAST, INVOCATIONS])
def test_a_body_that_is_not_utf_8_is_refused_wherever_the_byte_is(
    forecaster: Forecaster, path: str, irregular: bytes, before: bytes, wrong: bytes
) -> None:
    key = b"observations" if path == FORECAST else b"instances"
    body = before + REGULAR.replace(b"dry", wrong).replace(b'"RISK_MM"', irregular + b'"RISK_MM"')
    with pytest.raises(Problem, match="the JSON is not UTF-8 at byte ") as caught:
        forecaster.respond(path, JSON_HEADERS, body.replace(b"observations", key))
    assert caught.value.status == 400
    assert forecaster.single_row(path, JSON_HEADERS, body.replace(b"observations", key)) is None


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), 413), (RecursionError(), 400)], ids=["memory", "recursion"]
)
def test_a_body_that_exhausts_memory_or_stack_is_refused(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(decoding, "json_blocks", fail)
    with pytest.raises(Problem) as caught:
        forecaster.respond(FORECAST, JSON_HEADERS, b"[]")
    assert caught.value.status == status


def test_bodies_that_are_not_regular_are_left_to_the_thread(forecaster: Forecaster) -> None:
    csv = {b"content-type": b"text/csv"}
    assert forecaster.single_row(FORECAST, csv, b"Location,Rainfall\nSydney,1\n") is None
    assert forecaster.single_row(FORECAST, JSON_HEADERS, b"[" * 16_000) is None
    assert forecaster.single_row(INVOCATIONS, JSON_HEADERS, b'{"instances":' + b"[" * 16_000) is None


def test_only_single_regular_rows_are_not_left_to_the_thread(forecaster: Forecaster) -> None:
    row = {"Location": "Sydney", "Rainfall": 1, "RISK_MM": "x" * 500}
    for rows, kind in (([row], SingleRow), ([row, row | {"Rainfall": 2}], type(None))):
        body = json.dumps({"observations": rows}).encode()
        assert isinstance(forecaster.single_row(FORECAST, JSON_HEADERS, body), kind)
        assert forecaster.respond(FORECAST, JSON_HEADERS, body).rows == len(rows)
    # Decoding it takes too long for the event loop.
    body = json.dumps({"observations": [row | {"RISK_MM": "x" * 2_000}]}).encode()
    assert forecaster.single_row(FORECAST, JSON_HEADERS, body) is None
    assert forecaster.respond(FORECAST, JSON_HEADERS, body).rows == 1
