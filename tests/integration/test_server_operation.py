"""Operation of the service: models, logs, settings, and a comparison with MLflow's own server."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from raincast.forecasting import forecast, model
from raincast.observations import reading
from raincast.serving.openapi import EXAMPLE
from tests.conftest import ROOT, Command, small_disk
from tests.integration.serving import (
    CSV,
    JSON,
    ROW,
    Client,
    Reply,
    Server,
    body_of,
    environment,
    eventually,
    many,
    refused,
    spawned,
    started,
)

LOST = "raincast_forecast_log_lost_lines_total"
Small = tuple[Path, str, list[dict[str, Any]]]


@pytest.fixture(name="small", scope="module")
def fixture_small(slice_csv: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Train a small model that uses context; return its directory, its pipeline in MLflow, and rows to forecast."""
    folder = tmp_path_factory.mktemp("small")
    rows = list(csv.DictReader(io.StringIO(slice_csv.read_text())))
    for i, row in enumerate(rows):
        row["Date"] = str(np.datetime64("2010-01-01") + i % 600)
    with (folder / "dated.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    store = f"sqlite:///{folder}/runs.db"
    call = (
        "--data",
        folder / "dated.csv",
        "--iterations",
        30,
        "--out",
        folder / "model",
        "--verify-from",
        "2011-06-01",
    )
    run = command("train.py", *call, MLFLOW_TRACKING_URI=store)
    assert run.returncode == 0, run.stderr.decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(store)
        experiment = client.get_experiment_by_name("raincast")
        assert experiment is not None
        (pipeline,) = [m for m in client.search_logged_models([experiment.experiment_id]) if m.name == "pipeline"]
    late = [row for row in rows if "2011-08-10" <= row["Date"] <= "2011-08-15"]
    return folder / "model", pipeline.artifact_location.removeprefix("file://"), [as_sent(row) for row in late]


def as_sent(row: dict[str, str]) -> dict[str, Any]:
    """Return a row of text as JSON values, without the target."""

    def value(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return None if text in ("", "NA") else text

    return {name: value(text) for name, text in row.items() if name != "RainTomorrow"}


@contextmanager
def mlflow_server(directory: str, folder: Path) -> Iterator[int]:
    """Run `mlflow models serve` with a logged model; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = ["models", "serve", "--env-manager", "local", "-m", directory, "-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        (folder / "mlflow.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "mlflow", *call],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment(PATH=path, MLFLOW_DISABLE_TELEMETRY="true"),
            start_new_session=True,
        ) as process,
    ):

        def is_up() -> bool:
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            try:
                with closing(Client(port)) as client:
                    return client.ask("GET", "/ping").status == 200
            except ConnectionError:
                return False

        try:
            eventually(is_up)
            yield port
        finally:
            # The server and its worker.
            os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(name="both", scope="module")
def fixture_both(
    small: Small, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., tuple[Reply, Reply]]]:
    """Send the same request to the service and to MLflow's server, with the same model."""
    folder = tmp_path_factory.mktemp("both")
    with mlflow_server(small[1], folder) as port, started(folder / "ours", "--model", small[0]) as server:

        def ask(*arguments: Any, **headers: str) -> tuple[Reply, Reply]:
            with closing(Client(port)) as client:
                return server.ask(*arguments, **headers), client.ask(*arguments, **headers)

        yield ask


def split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as columns and data."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as a list of values for each column."""
    table = split(rows)
    return dict(zip(table["columns"], map(list, zip(*table["data"], strict=True)), strict=True))


FORMATS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "dataframe_split": split,
    "dataframe_records": list,
    "inputs": columns_of,
    "instances": list,
}


@pytest.mark.parametrize("key", FORMATS)
def test_the_service_responds_like_mlflow(key: str, both: Callable[..., tuple[Reply, Reply]], small: Small) -> None:
    _, _, rows = small
    partly = [{name: value for name, value in row.items() if name != "Sunshine"} for row in rows[:7]]
    null = [row | {"Rainfall": None, "WindDir9am": None, "RainToday": None} for row in rows[:7]]
    nan = [row | {"Humidity3pm": float("nan"), "Date": None} for row in rows[:7]]
    predictions = {}
    for name, sent in {"one": rows[:1], "many": rows, "partly": partly, "null": null, "nan": nan}.items():
        ours, theirs = both("POST", "/invocations", json.dumps({key: FORMATS[key](sent)}).encode())
        assert (ours.status, theirs.status) == (200, 200), (name, ours.body[:500], theirs.body[:500])
        assert ours.headers["content-type"] == theirs.headers["content-type"] == JSON
        assert ours.json().keys() == theirs.json().keys() == {"predictions"}
        predictions[name] = np.array(ours.json()["predictions"])
        assert predictions[name].shape == (len(sent), 2)
        np.testing.assert_allclose(predictions[name], theirs.json()["predictions"], rtol=0, atol=1e-9)
    # Context was used: the single row has another forecast.
    assert abs(predictions["one"][0, 1] - predictions["many"][0, 1]) > 1e-6


def test_csv_is_forecast_like_the_same_rows_in_json(both: Callable[..., tuple[Reply, Reply]], small: Small) -> None:
    # MLflow's server cannot read CSV for a model whose columns accept any type, like this one.
    _, _, rows = small
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    ours, _ = both("POST", "/invocations", text.getvalue().encode(), content_type=CSV)
    _, theirs = both("POST", "/invocations", json.dumps({"dataframe_split": split(rows)}).encode())
    np.testing.assert_allclose(ours.json()["predictions"], theirs.json()["predictions"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"dataframe_records":', JSON),
        (b'{"dataframe_record": [{"Location": "Sydney", "Rainfall": 1}]}', JSON),
        (b'{"dataframe_records": [{"Rainfall": 1}]}', JSON),
        (b'{"dataframe_records": [{"Location": "Sydney", "Rainfall": -1}]}', JSON),
        (b'{"dataframe_records": [{"Location": "Sydney", "WindDir9am": "NWN"}]}', JSON),
        (b'{"dataframe_split": {"columns": ["Location"], "data": [["Sydney", 1]]}}', JSON),
        (b"[]", JSON),
        (b"<a/>", "application/xml"),
        (b"", JSON),
    ],
)
def test_requests_that_mlflow_refuses_are_refused(
    body: bytes, content_type: str, both: Callable[..., tuple[Reply, Reply]]
) -> None:
    ours, theirs = both("POST", "/invocations", body, content_type=content_type)
    assert (ours.status // 100, theirs.status // 100) == (4, 4), theirs.body[:500]
    assert "error_code" in ours.json()
    assert "message" in ours.json()


def test_ping_responds_like_mlflow(both: Callable[..., tuple[Reply, Reply]]) -> None:
    ours, theirs = both("GET", "/ping")
    assert (ours.status, ours.body) == (theirs.status, theirs.body) == (200, b"\n")
    ours, _ = both("HEAD", "/ping")
    assert ours.status == 200


def responses(server: Server) -> tuple[Any, ...]:
    """Return the version and forecasts of every kind of a service."""
    protocol = json.dumps({"instances": list(EXAMPLE)}).encode()
    return (
        server.ask("GET", "/version").json(),
        server.forecast([ROW]).json(),
        server.forecast(many(300)).json(),
        server.ask("POST", "/invocations", protocol).json(),
    )


def test_a_running_service_keeps_its_model_and_a_new_one_loads_the_new(
    trained: Path, small: Small, tmp_path: Path
) -> None:
    served = Path(shutil.copytree(trained, tmp_path / "model"))
    with started(tmp_path / "old", "--model", served) as old:
        before = responses(old)
        assert before[0]["model"] == before[1]["model"]["version"] == model.describe(trained)["version"]
        served.rename(tmp_path / "earlier")
        shutil.copytree(small[0], tmp_path / "new")
        (tmp_path / "new").rename(served)
        assert responses(old) == before
        with started(tmp_path / "start", "--model", served) as new:
            after = responses(new)
        assert after[0]["model"] == model.describe(small[0])["version"] != before[0]["model"]
        expected = forecast.forecast(model.load(small[0]), reading.read(io.BytesIO(body_of(many(300))), name="rows"))
        np.testing.assert_allclose(
            [line["probability_of_rain"] for line in after[2]["forecasts"]], expected["probability_of_rain"], atol=1e-12
        )
        shutil.rmtree(served)
        shutil.rmtree(tmp_path / "earlier")
        assert responses(old) == before
        assert old.stop() == 0


def rewritten(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change model.json and make it agree with its SHA-256 again."""
    path = directory / "model.json"
    description = json.loads(path.read_text())
    del description["sha256"]
    change(description)
    content = json.dumps(description, sort_keys=True, indent=1).encode()
    path.write_text(json.dumps(description | {"sha256": hashlib.sha256(content).hexdigest()}, sort_keys=True, indent=1))


def flip(path: Path) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lower_single_row(description: dict[str, Any]) -> None:
    """Change the single-row forecast of the first parity row by a millionth."""
    description["parity"]["alone"][0] -= 1e-6


def raise_with_context(description: dict[str, Any]) -> None:
    """Change the forecast with context of the last parity row by a millionth."""
    description["parity"]["together"][-1] += 1e-6


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "changed graph": (lambda path: flip(path / "model.onnx"), "model.onnx: SHA-256 differs"),
    "changed row graph": (lambda path: flip(path / "model-row.onnx"), "model-row.onnx: SHA-256 differs"),
    "changed description": (lambda path: flip(path / "model.json"), "model.json: "),
    "missing graph": (lambda path: (path / "model-row.onnx").unlink(), "model-row.onnx: there is no such file"),
    "missing description": (lambda path: (path / "model.json").unlink(), "model.json: there is no such file"),
    "other parity of a single row": (
        lambda path: rewritten(path, lower_single_row),
        "forecasts differ by 1e-06 from those of the",
    ),
    "other parity with context": (
        lambda path: rewritten(path, raise_with_context),
        "forecasts differ by 1e-06 from those of the",
    ),
    "no parity": (lambda path: rewritten(path, lambda d: d.pop("parity")), "parity"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_does_not_start(case: str, trained: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(trained, tmp_path / "model"))
    damage, message = BROKEN[case]
    damage(broken)
    code, lines = refused(tmp_path / "run", "--port", 0, "--model", broken)
    assert (code, len(lines)) == (1, 1), "\n".join(lines)
    assert lines[0].startswith("prediction.py: ")
    assert message in lines[0]


def test_a_port_in_use_gives_one_line(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path / "first", "--model", trained) as server:
        code, lines = refused(tmp_path / "second", "--port", server.port, "--model", trained)
    assert code == 1
    assert lines == [f"prediction.py: cannot listen on 127.0.0.1:{server.port}: Address already in use"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--port", "abc"], 2, "argument --port: "),
        (["--port", "-1"], 2, "argument --port: -1 is not a port, 0 to 65535"),
        (["--port", "65536"], 2, "argument --port: 65536 is not a port, 0 to 65535"),
        (["--drain-seconds", "soon"], 2, "argument --drain-seconds: "),
        (["--drain-seconds", "-1"], 2, "argument --drain-seconds: -1 is not a number of seconds, 0 to 3600"),
        (["--drain-seconds", "nan"], 2, "argument --drain-seconds: nan is not a number of seconds, 0 to 3600"),
        (["--drain-seconds", "inf"], 2, "argument --drain-seconds: inf is not a number of seconds, 0 to 3600"),
        (["--model", "/nowhere"], 1, "/nowhere/model.json: there is no such file"),
        (["--model", "/dev/null"], 1, "/dev/null/model.json: cannot be read: Not a directory"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:"),
        (["--host", "a host"], 1, "cannot listen on a host:"),
        (["--host", "é..au"], 1, "cannot listen on é..au:"),
        (["--workers", "4"], 2, "unrecognized arguments: --workers 4"),
        (["model"], 2, "unrecognized arguments: model"),
    ],
)
def test_an_invalid_setting_gives_one_line(flags: list[str], code: int, message: str, tmp_path: Path) -> None:
    returned, lines = refused(tmp_path, *([] if "--port" in flags else ["--port", 0]), *flags)
    # argparse prints the usage first.
    (line,) = [line for line in lines if not line.startswith(("usage: ", " "))]
    assert returned == code, line
    assert line.startswith("prediction.py")
    assert message in line


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("PORT", "abc", "argument --port: "), ("DRAIN_SECONDS", "-1", "argument --drain-seconds: -1 is not a number")],
)
def test_settings_come_from_the_environment(name: str, value: str, message: str, tmp_path: Path) -> None:
    code, lines = refused(tmp_path, env={f"RAINCAST_{name}": value})
    assert code == 2
    assert message in lines[-1]


def test_every_setting_comes_from_the_environment(trained: Path, tmp_path: Path) -> None:
    log = tmp_path / "forecasts.jsonl"
    env = {"HOST": "127.0.0.1", "PORT": "0", "DRAIN_SECONDS": "0", "FORECAST_LOG": str(log), "MODEL": str(trained)}
    with spawned(tmp_path / "run", env={f"RAINCAST_{name}": value for name, value in env.items()}) as process:
        text = eventually((tmp_path / "run" / "stderr").read_text)
        server = Server(process, int(text.strip().rsplit(":", 1)[1]), tmp_path / "run")
        assert text == f"serving raincast {model.describe(trained)['version']} on http://127.0.0.1:{server.port}\n"
        assert server.forecast([ROW]).status == 200
        assert server.stop() == 0
    assert log.read_text().count("\n") == 1


def test_each_forecast_is_logged_with_its_observation_as_sent(trained: Path, tmp_path: Path) -> None:
    log = tmp_path / "forecasts.jsonl"
    sent = {
        "one": [dict(EXAMPLE[0])],
        "two": [dict(EXAMPLE[0]), dict(EXAMPLE[1]) | {"RainToday": "No"}],
        "many": many(300),
        "missing": [ROW | {"Date": None, "Sunshine": None, "WindGustDir": None}],
    }
    with started(tmp_path / "run", "--model", trained, "--forecast-log", log) as server:
        replies = {name: server.forecast(rows, x_request_id=name) for name, rows in sent.items()}
        body = b"Location,Rainfall,RISK_MM,RainTomorrow,Other\nSydney,1.50,3,Yes,x\n"
        replies["csv"] = server.ask("POST", "/forecast", body, content_type=CSV, x_request_id="csv")
        sent["csv"] = [{"Location": "Sydney", "Rainfall": 1.5}]
        protocol = json.dumps({"instances": [ROW | {"RainTomorrow": "Yes"}]}).encode()
        assert server.ask("POST", "/invocations", protocol, x_request_id="protocol").status == 200
        assert server.forecast([ROW | {"Rainfall": -1}], x_request_id="refused").status == 422
        version = server.ask("GET", "/version").json()["model"]
        assert server.metric(LOST) == 0
        # The log is written completely before the process ends.
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(
        list(line) == ["time", "request_id", "model", "probability_of_rain", "rain_tomorrow", "observation"]
        for line in lines
    )
    assert [line.pop("request_id") for line in lines] == [name for name, rows in sent.items() for _ in rows] + [
        "protocol"
    ]
    assert {line["model"] for line in lines} == {version}
    assert all(line["time"].endswith("Z") and "T" in line["time"] for line in lines)
    assert lines.pop()["observation"] == ROW
    rows = [row for observations in sent.values() for row in observations]
    forecasts = [line for name in sent for line in replies[name].json()["forecasts"]]
    for line, row, response in zip(lines, rows, forecasts, strict=True):
        assert line["observation"] == {name: value for name, value in row.items() if value is not None}
        assert line["probability_of_rain"] == response["probability_of_rain"]
        assert line["rain_tomorrow"] == response["rain_tomorrow"]


def test_a_rotated_forecast_log_is_created_again(trained: Path, tmp_path: Path) -> None:
    log = tmp_path / "forecasts.jsonl"
    with started(tmp_path / "run", "--model", trained, "--forecast-log", log) as server:
        for name in ("first", "second"):
            server.forecast([ROW], x_request_id=name)
            eventually(lambda: log.exists() and log.read_text().endswith("\n"))
            log.rename(tmp_path / name)
        assert server.stop() == 0
    for name in ("first", "second"):
        assert json.loads((tmp_path / name).read_text())["request_id"] == name


@pytest.fixture(name="full_disk")
def fixture_full_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 KB that a file `filler` mostly fills."""
    with small_disk(tmp_path / "full", "64k") as folder:
        (folder / "filler").write_bytes(bytes(49_152))
        yield folder


@pytest.mark.parametrize("freed", ["filler", "forecasts.jsonl"])
def test_a_full_disk_costs_lines_of_the_forecast_log_but_no_request(
    freed: str, full_disk: Path, trained: Path, tmp_path: Path
) -> None:
    log = full_disk / "forecasts.jsonl"
    sent = 0

    def lost() -> float:
        nonlocal sent
        for _ in range(20):
            assert len(server.forecast(list(EXAMPLE)).probabilities()) == 2
            sent += 2
        return server.metric(LOST)

    with started(tmp_path / "run", "--model", trained, "--forecast-log", log) as server:
        eventually(lost)
        # The disk stays full for a while.
        before = lost()
        eventually(lambda: lost() > before + 50)
        eventually(lambda: log.read_bytes().count(b"\n") + server.metric(LOST) >= sent)
        full = log.read_bytes()
        (full_disk / freed).unlink()
        server.forecast([ROW], x_request_id="last")
        sent += 1
        eventually(lambda: log.exists() and b'"last"' in log.read_bytes())
        count = server.metric(LOST)
        assert server.stop() == 0
    content = log.read_bytes()
    if freed == "filler":
        assert content.startswith(full)
        # The last line on the full disk may be incomplete.
        kept = full[: full.rindex(b"\n") + 1]
        new = content[len(full) :].removeprefix(b"\n" if full != kept else b"").splitlines()
        written = kept.splitlines() + new
    else:
        written = content.splitlines()
    lines = [json.loads(line) for line in written]
    assert lines[-1]["request_id"] == "last"
    assert lines[-1]["observation"] == ROW
    if freed == "filler":
        assert len(lines) + count == sent


def test_a_request_log_that_cannot_be_written_is_counted(trained: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, started(tmp_path, "--model", trained, stdout=full) as server:
        for _ in range(20):
            assert server.forecast([ROW]).status == 200
        eventually(lambda: server.metric("raincast_request_log_lost_lines_total") >= 20)
        assert server.stop() == 0
        assert server.stderr().count("\n") == 1


def test_without_standard_output_the_service_serves_or_gives_the_reason(trained: Path, tmp_path: Path) -> None:
    call = f"exec '{sys.executable}' '{ROOT / 'prediction.py'}' serve --port 0 --model '{trained}' >&-"
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(["bash", "-c", call], stderr=stderr, cwd=tmp_path, env=environment()) as process,
    ):
        try:
            text = eventually((tmp_path / "stderr").read_text)
            if text.startswith("serving"):
                server = Server(process, int(text.strip().rsplit(":", 1)[1]), tmp_path)
                assert server.forecast([ROW]).status == 200
                assert server.stop(signal.SIGINT) == 0
            else:
                assert process.wait(60) in (1, 2)
            assert (tmp_path / "stderr").read_text().count("\n") == 1
        finally:
            process.kill()
