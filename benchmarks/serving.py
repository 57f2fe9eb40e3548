#!/usr/bin/env python3
"""The service compared with its peers: same machine, same model, same requests, in turns.

    python -m benchmarks.serving --model MODEL --mlflow-model URI --data weatherAUS.csv.gz

Peers: `mlflow models serve` of the logged model, and FastAPI with pydantic, pandas and scikit-learn, each in its own
environment (benchmarks/peers/). A Starlette route that only reads the body runs in the service's environment. With
--before, the service of an earlier commit runs in the same environment.

All servers run at the same time on one core; wrk and this script run on another. Nothing is measured until all servers
give the same probabilities. A ratio divides two measurements of the same round, each in requests per second of CPU time
of the server; bars apply to the median over the rounds. Standard output of the servers goes to /dev/null, their
standard error to *.log in the --work folder.

--mlflow-model is an MLflow URI (models:/m-..., with MLFLOW_TRACKING_URI) or the path of a logged model.
Needs Linux and wrk.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import http.client
import json
import os
import random
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    BAR_COLUMNS,
    PEERS,
    RAINCAST_PINS,
    ROOT,
    bar_row,
    commit,
    environment,
    machine,
    main,
    note,
    parser,
    pins,
    ratios,
    spread,
    table,
    variables,
)
from raincast.observations.columns import COLUMNS

HOST = "127.0.0.1"
RECORDS, TABLE_ROWS, LARGE_ROWS = 500, 1_000, 10_000
POLL, HEALTH_POLL = 0.005, 0.003
TICKS = os.sysconf("SC_CLK_TCK")
SAME, TURNS, TABLE = "one record, the same", f"one record, {RECORDS} in turn", f"{TABLE_ROWS:,} records"
LARGE = f"{LARGE_ROWS:,} records"
RAINCAST, RAINCAST_MLFLOW, MLFLOW = "raincast /forecast", "raincast /invocations", "mlflow models serve"
BEFORE, BEFORE_MLFLOW = "raincast before /forecast", "raincast before /invocations"
IMAGE = "docker run of the image"
FASTAPI, NOOP = "FastAPI + pydantic + pandas", "no-op Starlette"
# The same protocol, before and after.
EARLIER = {RAINCAST: BEFORE, RAINCAST_MLFLOW: BEFORE_MLFLOW}
# Least ratio per second of CPU time.
PEER_BARS = {MLFLOW: ">= 80", FASTAPI: ">= 40", NOOP: ">= 0.55"}
TABLE_BAR, MEMORY_BAR = ">= 3.5", "<= 0.3333"
START_BARS = {RAINCAST_MLFLOW: "<= 0.0667", IMAGE: "<= 0.1"}

Record = dict[str, Any]


@dataclass
class Server:
    """A server process: its command, where it runs and where it listens."""

    name: str
    call: list[str]
    folder: Path
    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, without waiting until the server is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with  # `stop` ends it
                self.call,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, path: str, body: bytes) -> None:
        """Wait until a forecast succeeds."""
        end = time.monotonic() + 120
        while True:
            try:
                self.post(path, body)
                return
            except (OSError, http.client.HTTPException):
                assert self.process
                if self.process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"{self.name} does not serve, see {self.log}")
                time.sleep(POLL)

    def post(self, path: str, body: bytes) -> Any:
        """Send a request and return the JSON of the response."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            sys.exit(f"{self.name}: {response.status} {content[:500]!r}")
        return json.loads(content)

    def processes(self) -> Iterator[tuple[int, float]]:
        """Yield the processes of the server's session with their CPU seconds."""
        assert self.process
        for folder in Path("/proc").iterdir():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split() if folder.name.isdigit() else []
            except OSError:
                continue
            if fields and int(fields[3]) == self.process.pid and fields[0] != "Z":
                yield int(folder.name), (int(fields[11]) + int(fields[12])) / TICKS

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes."""
        return sum(seconds for _, seconds in self.processes())

    def memory(self) -> tuple[float, float]:
        """Return resident and proportional memory of all processes in MB."""
        kilobytes = {"Rss": 0, "Pss": 0}
        for pid, _ in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                name, _, rest = line.partition(":")
                if name in kilobytes:
                    kilobytes[name] += int(rest.split()[0])
        return kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6

    def settle(self) -> None:
        """Wait until the server is idle."""
        before = -1.0
        while (now := self.cpu_seconds()) > before + 0.02:
            before = now
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop the server and its child processes."""
        if self.process and self.process.poll() is None:
            pids = [pid for pid, _ in self.processes()]
            for sign in (signal.SIGTERM, signal.SIGKILL):
                for pid in pids:
                    _kill(pid, sign)
                end = time.monotonic() + 10
                while pids and time.monotonic() < end:
                    self.process.poll()
                    pids = [pid for pid, _ in self.processes()]
                    time.sleep(0.02)
            self.process.wait()


def _kill(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        pass


@dataclass(frozen=True)
class Run:
    """One measurement by wrk: requests per second, milliseconds, MB, and shares of a core."""

    rate: float
    p50: float
    p99: float
    resident: float
    proportional: float
    busy: float
    others_busy: float

    @property
    def per_core_second(self) -> float:
        """Requests per second of CPU time: the rate of a server that always has its core to itself."""
        return self.rate / max(self.busy, 1 / TICKS)


@dataclass(frozen=True)
class Target:
    """A load: request bodies in a file, sent to a path of a server on some connections."""

    server: Server
    path: str
    bodies: Path
    connections: int

    def wrk(self, options: argparse.Namespace, seconds: int) -> list[str]:
        """Return the command that measures the load."""
        load = ["-t", str(options.threads), "-c", str(self.connections), "-d", f"{seconds}s", "--timeout", "60s"]
        url = f"http://{HOST}:{self.server.port}{self.path}"
        return ["wrk", *load, "-s", str(ROOT / "benchmarks" / "rotate.lua"), url, "--", str(self.bodies)]


@contextmanager
def loading(call: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run wrk."""
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def results(process: subprocess.Popen[str], name: str) -> dict[str, float]:
    """Return the results of wrk. Errors end the script: failed requests must not count."""
    output = process.communicate()[0].strip()
    numbers: dict[str, float] = json.loads(output.splitlines()[-1]) if process.returncode == 0 else {"errors": -1}
    if numbers["errors"]:
        sys.exit(f"{name}: errors under load\n{output}")
    return numbers


def health(target: Target, options: argparse.Namespace) -> tuple[list[float], float]:
    """Return the milliseconds of GET /healthz during back-to-back large requests, and the rate of these."""
    latencies = []
    connection = http.client.HTTPConnection(HOST, target.server.port, timeout=60)
    with loading(target.wrk(options, options.seconds)) as process:
        time.sleep(0.1)
        while process.poll() is None:
            start = time.perf_counter()
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            response.read()
            latencies.append((time.perf_counter() - start) * 1000)
            assert response.status == 200
            time.sleep(HEALTH_POLL)
        numbers = results(process, target.server.name)
    connection.close()
    return latencies, numbers["requests"] / numbers["seconds"]


def seconds_to_forecast(server: Server, path: str, body: bytes) -> float:
    """Return the time from the start of the process to its first forecast."""
    start = time.perf_counter()
    server.start()
    try:
        server.wait(path, body)
        return time.perf_counter() - start
    finally:
        server.stop()


def records_of(path: Path) -> list[Record]:
    """Return the observations of a CSV file as in a request, sorted by day."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["Date"], row["Location"]))
    return [{column.name: _value(column.kind, row[column.name]) for column in COLUMNS} for row in rows]


def _value(kind: str, text: str) -> Any:
    if text in ("", "NA"):
        return None
    return json.loads(text) if kind == "number" else text


def forecast_body(records: Sequence[Record]) -> bytes:
    """Encode a request for POST /forecast."""
    return json.dumps({"observations": records}).encode()


def mlflow_body(records: Sequence[Record]) -> bytes:
    """Encode a request of the MLflow protocol like pandas."""
    split = {"columns": list(records[0]), "data": [list(record.values()) for record in records]}
    return json.dumps({"dataframe_split": split}).encode()


BODIES = {"/forecast": forecast_body, "/invocations": mlflow_body}


def probabilities(response: Any) -> list[float]:
    """Return the probabilities of rain in a response of either protocol."""
    if "predictions" in response:
        return [p for _, p in response["predictions"]]
    return [forecast["probability_of_rain"] for forecast in response["forecasts"]]


def check(targets: Sequence[tuple[Server, str]], samples: Sequence[Sequence[Record]]) -> float:
    """Return the largest difference between any two servers' probabilities; exit above 1e-9."""
    differences: list[float] = []
    for sample in samples:
        by_server = [probabilities(server.post(path, BODIES[path](sample))) for server, path in targets]
        if {len(probability) for probability in by_server} != {len(sample)}:
            sys.exit(f"not every server gives {len(sample)} forecasts for {len(sample)} records")
        differences += [max(p) - min(p) for p in zip(*by_server, strict=True)]
    # Also fails on NaN.
    if not all(difference <= 1e-9 for difference in differences):
        sys.exit(f"the servers' probabilities differ by {max(differences):.2g}: nothing is measured")
    return max(differences)


def make_servers(options: argparse.Namespace, work: Path) -> dict[str, Server]:
    """Return the servers by name, not started. The response of the no-op is not written yet."""
    ours = environment(options.uv, work, RAINCAST_PINS)
    mlflow, fastapi = (environment(options.uv, work, PEERS / f"{name}.txt") for name in ("mlflow", "fastapi"))
    model = str(options.model.resolve())
    logged = download(mlflow, options.mlflow_model, work)
    # The settings of uvicorn in the service.
    bare = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    same = [*bare, "--lifespan", "off", "--ws", "none", "--no-server-header"]
    one_thread = {"OMP_NUM_THREADS": "1"}

    def server(name: str, call: list[str], settings: dict[str, str], folder: Path = work) -> Server:
        port = free_port()
        log = work / f"{name.replace(' ', '-').lower()}.log"
        log.unlink(missing_ok=True)
        pinned = ["taskset", "-c", str(options.core), *call, "--host", HOST, "--port", str(port)]
        return Server(name, pinned, folder, variables(**settings), port, log)

    def raincast(name: str, checkout: Path, model: str) -> Server:
        serve = [str(ours / "python"), "prediction.py", "serve", "--model", model, "--drain-seconds", "0"]
        return server(name, serve, {}, checkout)

    def uvicorn(folder: Path, app: str) -> list[str]:
        return [str(folder / "python"), "-m", "uvicorn", app, "--app-dir", str(PEERS)]

    serve_logged = [str(mlflow / "mlflow"), "models", "serve", "-m", str(logged), "--env-manager", "local"]
    settings = {"PYTHONPATH": str(ROOT), "FASTAPI_MODEL": model, **one_thread}
    servers = [raincast("raincast", ROOT, model)]
    if options.before:
        before_model = str((options.before_model or options.model).resolve())
        servers.append(raincast("raincast before", options.before.resolve(), before_model))
    servers += [
        server(MLFLOW, serve_logged, {"PATH": f"{mlflow}:{os.environ['PATH']}", **one_thread}),
        server(FASTAPI, [*uvicorn(fastapi, "fastapi_app:app"), *bare], settings),
        server(NOOP, [*uvicorn(ours, "noop:app"), *same], {"NOOP_RESPONSE": str(work / "response.json")}),
    ]
    if options.image:
        # On the host's network: Docker's proxy accepts connections before the container listens, and repeats its first
        # attempt to connect to the container only after a second.
        run_image = ["docker", "run", "--rm", "--network", "host", "--cpuset-cpus", str(options.core), options.image]
        servers.append(server(IMAGE, [*run_image, "serve", "--drain-seconds", "0"], {}))
    return {server.name: server for server in servers}


def download(mlflow: Path, uri: str, work: Path) -> Path:
    """Download a model logged to MLflow into the work folder."""
    logged = work / "logged-model"
    shutil.rmtree(logged, ignore_errors=True)
    call = [str(mlflow / "mlflow"), "artifacts", "download", "-u", uri, "-d", str(logged)]
    quiet = variables(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    subprocess.run(call, env=quiet, check=True, stdout=subprocess.DEVNULL)
    return next(logged.rglob("MLmodel")).parent


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


class Comparison:
    """The servers, their loads and the measurements."""

    # pylint: disable=too-many-instance-attributes  # the tables need all of them

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        records = records_of(options.data)
        sample = random.Random(0).sample(records, RECORDS)
        self.requests = {
            SAME: [sample[:1]],
            TURNS: [[record] for record in sample],
            TABLE: [records[-TABLE_ROWS:]],
            LARGE: [records[-LARGE_ROWS:]],
        }
        self.first = sample[:1]
        servers = make_servers(options, work)
        container = servers.pop(IMAGE, None)
        self.servers = servers
        self.endpoints = {
            RAINCAST: (servers["raincast"], "/forecast"),
            RAINCAST_MLFLOW: (servers["raincast"], "/invocations"),
        }
        if "raincast before" in servers:
            before = servers["raincast before"]
            self.endpoints |= {BEFORE: (before, "/forecast"), BEFORE_MLFLOW: (before, "/invocations")}
        self.endpoints |= {
            MLFLOW: (servers[MLFLOW], "/invocations"),
            FASTAPI: (servers[FASTAPI], "/forecast"),
            NOOP: (servers[NOOP], "/forecast"),
        }
        self.targets = {(load, name): self.target(load, name) for load in (SAME, TURNS) for name in self.endpoints}
        self.started = {
            name: self.endpoints[name] for name in (RAINCAST_MLFLOW, BEFORE_MLFLOW, MLFLOW) if name in self.endpoints
        }
        self.targets |= {(TABLE, name): self.target(TABLE, name) for name in self.started}
        if container:
            self.started[IMAGE] = (container, "/invocations")
        self.difference = 0.0
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        self.starts: dict[str, list[float]] = defaultdict(list)
        self.health_latencies: list[list[float]] = []
        self.large_rates: list[float] = []

    def target(self, load: str, name: str) -> Target:
        """Write the requests of a load for a server into a file."""
        server, path = self.endpoints[name]
        file = self.work / f"{load.replace(' ', '-').replace(',', '')}{path.replace('/', '-')}.jsonl"
        file.write_bytes(b"".join(BODIES[path](request) + b"\n" for request in self.requests[load]))
        connections = {TABLE: self.options.table_connections, LARGE: 1}.get(load, self.options.connections)
        return Target(server, path, file, connections)

    def start(self) -> None:
        """Start all servers, check their responses, warm them up."""
        ours, file = self.servers["raincast"], self.work / "response.json"
        body = forecast_body(self.first)
        ours.start()
        ours.wait("/forecast", body)
        file.write_text(json.dumps(ours.post("/forecast", body), separators=(",", ":")), encoding="utf-8")
        for server in self.servers.values():
            if server is not ours:
                server.start()
        for server, path in self.endpoints.values():
            server.wait(path, BODIES[path](self.first))
        forecasting = [endpoint for name, endpoint in self.endpoints.items() if name != NOOP]
        together = [record for (record,) in self.requests[TURNS]]
        self.difference = check(forecasting, [*self.requests[TURNS], together, *self.requests[TABLE]])
        note(f"all servers give the same probabilities, to {self.difference:.1g}")
        for target in self.targets.values():
            self.measure(target, self.options.warm_up)

    def measure(self, target: Target, seconds: int) -> Run:
        """Load a server; read its memory in the middle, and the CPU time of the other servers."""
        server = target.server
        others = [other for other in self.servers.values() if other is not server]
        for each in self.servers.values():
            each.settle()
        before, others_before = server.cpu_seconds(), sum(other.cpu_seconds() for other in others)
        with loading(target.wrk(self.options, seconds)) as process:
            time.sleep(seconds / 2)
            resident, proportional = server.memory()
            numbers = results(process, server.name)
        busy = (server.cpu_seconds() - before) / numbers["seconds"]
        others_busy = (sum(other.cpu_seconds() for other in others) - others_before) / numbers["seconds"]
        rate = numbers["requests"] / numbers["seconds"]
        return Run(rate, numbers["p50"], numbers["p99"], resident, proportional, busy, others_busy)

    def measure_round(self, number: int) -> None:
        """Measure every load on every server once; every second round in reverse order."""
        for (load, name), target in list(self.targets.items())[:: -1 if number % 2 else 1]:
            result = self.measure(target, self.options.seconds)
            self.runs[load, name].append(result)
            note(f"{load}: {name}: {result.rate:,.1f} a second, {result.per_core_second:,.1f} per core second")
        for server in self.servers.values():
            server.settle()
        latencies, rate = health(self.target(LARGE, RAINCAST), self.options)
        self.health_latencies.append(latencies)
        self.large_rates.append(rate)

    def measure_starts(self) -> None:
        """Measure the time to the first forecast, in turns; the first round only fills the caches."""
        for number in range(self.options.rounds + 1):
            for name, (server, path) in self.started.items():
                seconds = seconds_to_forecast(server, path, BODIES[path](self.first))
                note(f"start to first forecast: {name}: {seconds:.3f} s")
                self.starts[name] += [seconds] if number else []


def run(options: argparse.Namespace, work: Path) -> None:
    """Prepare, check, measure, print."""
    os.sched_setaffinity(0, {options.client_core})
    comparison = Comparison(options, work)
    if options.starts:
        comparison.measure_starts()
        show_starts(comparison)
        show_setting(comparison)
        return
    with ExitStack() as stack:
        for server in comparison.servers.values():
            stack.callback(server.stop)
        comparison.start()
        for number in range(options.rounds):
            note(f"round {number + 1} of {options.rounds}")
            comparison.measure_round(number)
    comparison.measure_starts()
    show_bars(comparison)
    show_before(comparison)
    show_runs(comparison)
    show_starts(comparison)
    show_health(comparison)
    show_setting(comparison)


def ratio(comparison: Comparison, load: str, names: tuple[str, str], quantity: str = "per_core_second") -> list[float]:
    """Divide a quantity of two servers under the same load, round by round."""
    values = ([getattr(run, quantity) for run in comparison.runs[load, name]] for name in names)
    return ratios(*values)


def show_bars(comparison: Comparison) -> None:
    """Print the ratios to the peers with their bars; ratios of the earlier commit have none."""
    rows = []
    for load in (SAME, TURNS):
        for name in (RAINCAST, RAINCAST_MLFLOW, BEFORE, BEFORE_MLFLOW):
            if name in comparison.endpoints:
                for peer, limit in PEER_BARS.items():
                    values = ratio(comparison, load, (name, peer))
                    digits = 2 if peer == NOOP else 1
                    rows.append(bar_row(f"{load}: {name} / {peer}", limit if name in EARLIER else "", values, digits))
    for name, limit in ((RAINCAST_MLFLOW, TABLE_BAR), (BEFORE_MLFLOW, "")):
        if name in comparison.endpoints:
            rows.append(bar_row(f"{TABLE}: {name} / {MLFLOW}", limit, ratio(comparison, TABLE, (name, MLFLOW)), 2))
    print("Requests per core second:\n")
    print(table(BAR_COLUMNS, rows))
    rows = []
    for load in (TURNS, TABLE):
        values = ratio(comparison, load, (RAINCAST_MLFLOW, MLFLOW), "resident")
        rows.append(bar_row(f"resident memory, {load}: raincast / {MLFLOW}", MEMORY_BAR, values, 4))
    print(table(BAR_COLUMNS, rows))


def show_before(comparison: Comparison) -> None:
    """Print the ratios of this commit to the earlier one, per core second."""
    rows = [
        [f"{load}: {after} / {before}", spread(ratio(comparison, load, (after, before)), 3)]
        for load in (SAME, TURNS, TABLE)
        for after, before in EARLIER.items()
        if (load, before) in comparison.targets
    ]
    if rows:
        print(table(("after / before, requests per core second", "median (least to most)"), rows))


def show_runs(comparison: Comparison) -> None:
    """Print the measurements as medians with least and largest."""
    measures = ("requests/s", "p50 ms", "p99 ms", "resident MB", "proportional MB", "of its core", "per core second")
    for load in (SAME, TURNS, TABLE):
        rows = []
        for name in (name for other, name in comparison.runs if other == load):
            runs = comparison.runs[load, name]
            shown = [spread([run.rate for run in runs], 1)]
            shown += [spread([run.p50 for run in runs], 2), spread([run.p99 for run in runs], 2)]
            shown += [spread([run.resident for run in runs]), spread([run.proportional for run in runs])]
            shown.append(f"{statistics.median(run.busy for run in runs):.0%}")
            shown.append(spread([run.per_core_second for run in runs], 1))
            rows.append([name, *shown])
        print(table((load, *measures), rows))


def show_starts(comparison: Comparison) -> None:
    """Print the times to the first forecast with their bars."""
    starts = comparison.starts
    pairs = [(name, MLFLOW, START_BARS.get(name, "")) for name in starts if name != MLFLOW]
    if BEFORE_MLFLOW in starts:
        pairs.append((RAINCAST_MLFLOW, BEFORE_MLFLOW, ""))
    rows = [
        bar_row(f"start to first forecast: {name} / {other}", limit, ratios(starts[name], starts[other]), 4)
        for name, other, limit in pairs
    ]
    print(table(BAR_COLUMNS, rows))
    for name, times in starts.items():
        print(f"- Start to first forecast, {name}: {spread(times, 3)} s.")


def show_health(comparison: Comparison) -> None:
    """Print the latency of /healthz under load, and the checks of the measurement."""
    p99 = [statistics.quantiles(latencies, n=100)[98] for latencies in comparison.health_latencies]
    together = [latency for latencies in comparison.health_latencies for latency in latencies]
    print(
        f"- /healthz during back-to-back requests of {LARGE} ({spread(comparison.large_rates, 1)} a second):"
        f" p50 {statistics.median(together):.2f} ms, p99 {spread(p99, 2)} ms,"
        f" longest {max(together):.1f} ms of {len(together):,}."
    )
    busy = max(run.others_busy for runs in comparison.runs.values() for run in runs)
    print("- If a server used much less than its core, the machine was not idle and requests/s are not reliable.")
    print(f"- The servers not being measured used at most {busy:.1%} of a core.")
    print(f"- Largest difference between any two servers' probabilities: {comparison.difference:.2g}.")


def show_setting(comparison: Comparison) -> None:
    """Print machine, versions and commands."""
    options = comparison.options
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0]
    length = "" if options.starts else f" of {options.seconds} s"
    print(f"\n{options.rounds} rounds{length}. {machine()}. {wrk.strip()}.\n")
    ours = ("numpy", "onnxruntime", "msgspec", "starlette", "uvicorn", "uvloop", "httptools")
    theirs = ("numpy", "pandas", "scikit-learn")
    print(f"- raincast, commit {commit(ROOT)}, and no-op:", pins(RAINCAST_PINS, *ours))
    if options.before:
        print(f"- raincast before: commit {commit(options.before)}")
    print("- mlflow:", pins(PEERS / "mlflow.txt", "mlflow", *theirs, "uvicorn", "fastapi"))
    print("- FastAPI:", pins(PEERS / "fastapi.txt", "fastapi", "pydantic", *theirs, "uvicorn", "uvloop", "httptools"))
    print("\n    " + shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]))
    containers = [server for name, (server, _) in comparison.started.items() if name == IMAGE]
    for server in [*comparison.servers.values(), *containers]:
        names = ("OMP_NUM_THREADS", "FASTAPI_MODEL", "PYTHONPATH", "NOOP_RESPONSE")
        settings = [f"{name}={server.environment[name]}" for name in names if name in server.environment]
        print(f"    cd {server.folder}; " + shlex.join([*settings, *server.call]))
    call = comparison.targets[TURNS, RAINCAST].wrk(options, options.seconds)
    print(f"    taskset -c {options.client_core} {shlex.join(call)}")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    command_line = parser(__doc__)
    add = command_line.add_argument
    add("--mlflow-model", required=True, help="the same model as logged to MLflow: URI or path")
    add("--image", help="an image of Docker's engine with raincast, whose start is measured as well")
    add("--starts", action="store_true", help="measure only the time to the first forecast")
    add("--seconds", type=int, default=10, help="of each measurement (default: %(default)s)")
    add("--warm-up", type=int, default=3, help="seconds of each warm-up (default: %(default)s)")
    add("--connections", type=int, default=16, help="of wrk (default: %(default)s)")
    add("--table-connections", type=int, default=2, help=f"of wrk with {TABLE} (default: %(default)s)")
    add("--threads", type=int, default=1, help="of wrk (default: %(default)s)")
    add("--core", type=int, default=0, help="the servers' core (default: %(default)s)")
    add("--client-core", type=int, default=1, help="wrk's core (default: %(default)s)")
    return command_line.parse_args()


if __name__ == "__main__":
    main(run, arguments())
