#!/usr/bin/env python3
"""The service beside its peers: the same machine, the same model, the same requests, in turns.

    python benchmarks/serving.py --model MODEL --mlflow-model URI --data weatherAUS.csv.gz

Peers, each in an environment of its own (benchmarks/peers/): `mlflow models serve` of the logged model; FastAPI with
pydantic, pandas and scikit-learn; and, in the service's own environment, a Starlette route that only reads the body.
All servers run at once, on one core; wrk, and this script, run on the other. Before anything is measured, all have to
give the same probabilities. A ratio is that of two measurements in the same round; the median over the rounds counts.
What the servers write to standard output goes to /dev/null, their standard error to *.log in the --work folder.

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

from side_by_side import BARS, OURS, PEERS, ROOT, environment, held, machine, main, note, parser, pins, ratios, spread
from side_by_side import table, variables

sys.path.insert(0, str(ROOT))

from raincast.observations import COLUMNS  # pylint: disable=wrong-import-position

HOST = "127.0.0.1"
RECORDS, TABLE_ROWS, LARGE_ROWS = 500, 1_000, 10_000
POLL, HEALTH_POLL = 0.005, 0.003
TICKS = os.sysconf("SC_CLK_TCK")
SAME, TURNS, TABLE = "one record, the same", f"one record, {RECORDS} in turn", f"{TABLE_ROWS:,} records"
LARGE = f"{LARGE_ROWS:,} records"
RAINCAST, RAINCAST_MLFLOW, MLFLOW = "raincast /forecast", "raincast /invocations", "mlflow models serve"
IMAGE = "docker run of the image"
FASTAPI, NOOP = "FastAPI + pydantic + pandas", "no-op Starlette"

Record = dict[str, Any]


@dataclass
class Server:
    """A server as a process: how it is called, and what it costs."""

    name: str
    call: list[str]
    environment: dict[str, str]
    core: int
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; the server is not ready yet."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with  # `stop` ends it
                ["taskset", "-c", str(self.core), *self.call],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, path: str, body: bytes) -> None:
        """Until a forecast succeeds."""
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
        """The JSON answer to a request."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            sys.exit(f"{self.name}: {response.status} {answer[:500]!r}")
        return json.loads(answer)

    def processes(self) -> Iterator[tuple[int, float]]:
        """Its processes, all of its own session, with the seconds that each has computed."""
        assert self.process
        for folder in Path("/proc").iterdir():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split() if folder.name.isdigit() else []
            except OSError:
                continue
            if fields and int(fields[3]) == self.process.pid and fields[0] != "Z":
                yield int(folder.name), (int(fields[11]) + int(fields[12])) / TICKS

    def computed(self) -> float:
        """Seconds that all its processes have computed."""
        return sum(seconds for _, seconds in self.processes())

    def memory(self) -> tuple[float, float]:
        """Resident and proportional memory of all its processes in MB."""
        found = {"Rss": 0, "Pss": 0}
        for pid, _ in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] += int(rest.split()[0])
        return found["Rss"] * 1024 / 1e6, found["Pss"] * 1024 / 1e6

    def settle(self) -> None:
        """Until it has finished what a measurement left behind."""
        before = -1.0
        while (now := self.computed()) > before + 0.02:
            before = now
            time.sleep(0.3)

    def stop(self) -> None:
        """End it and what it started."""
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
    """One measurement by wrk."""

    rate: float
    p50: float
    p99: float
    resident: float
    proportional: float
    busy: float
    others_busy: float

    @property
    def per_core_second(self) -> float:
        """Requests in a second of computing: the rate, had neither wrk nor others held the server up."""
        return self.rate / max(self.busy, 1 / TICKS)


@dataclass(frozen=True)
class Target:
    """What is asked: a server, at a path, with the bodies of a file, on so many connections."""

    server: Server
    path: str
    bodies: Path
    connections: int

    def wrk(self, given: argparse.Namespace, seconds: float) -> list[str]:
        """The command that measures it."""
        load = ["-t", str(given.threads), "-c", str(self.connections), "-d", f"{seconds:g}s", "--timeout", "60s"]
        url = f"http://{HOST}:{self.server.port}{self.path}"
        return ["wrk", *load, "-s", str(ROOT / "benchmarks" / "rotate.lua"), url, "--", str(self.bodies)]


@contextmanager
def loading(call: list[str]) -> Iterator[subprocess.Popen[str]]:
    """wrk as it runs."""
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def results(process: subprocess.Popen[str], name: str) -> dict[str, float]:
    """What wrk found. Errors end the script: what is not answered must not count."""
    output = process.communicate()[0].strip()
    found: dict[str, float] = json.loads(output.splitlines()[-1]) if process.returncode == 0 else {"errors": -1}
    if found["errors"]:
        sys.exit(f"{name}: errors under load\n{output}")
    return found


def health(target: Target, given: argparse.Namespace) -> tuple[list[float], float]:
    """Milliseconds that /healthz takes while large requests come back to back, and the rate of these."""
    waited = []
    connection = http.client.HTTPConnection(HOST, target.server.port, timeout=60)
    with loading(target.wrk(given, given.seconds)) as process:
        time.sleep(0.1)
        while process.poll() is None:
            start = time.perf_counter()
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            response.read()
            waited.append((time.perf_counter() - start) * 1000)
            assert response.status == 200
            time.sleep(HEALTH_POLL)
        found = results(process, target.server.name)
    connection.close()
    return waited, found["requests"] / found["seconds"]


def seconds_to_forecast(server: Server, path: str, body: bytes) -> float:
    """From the start of a process to its first forecast."""
    start = time.perf_counter()
    server.start()
    try:
        server.wait(path, body)
        return time.perf_counter() - start
    finally:
        server.stop()


def records_of(path: Path) -> list[Record]:
    """The observations of a CSV file, as a request has them, by day."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["Date"], row["Location"]))
    return [{column.name: _value(column.kind, row[column.name]) for column in COLUMNS} for row in rows]


def _value(kind: str, text: str) -> Any:
    if text in ("", "NA"):
        return None
    return json.loads(text) if kind == "number" else text


def forecast_body(records: Sequence[Record]) -> bytes:
    """A request for POST /forecast."""
    return json.dumps({"observations": records}).encode()


def mlflow_body(records: Sequence[Record]) -> bytes:
    """A request of the MLflow protocol, as pandas' DataFrame makes it."""
    split = {"columns": list(records[0]), "data": [list(record.values()) for record in records]}
    return json.dumps({"dataframe_split": split}).encode()


BODIES = {"/forecast": forecast_body, "/invocations": mlflow_body}


def probabilities(answer: Any) -> list[float]:
    """What rain is given in an answer of either protocol."""
    if "predictions" in answer:
        return [p for _, p in answer["predictions"]]
    return [forecast["probability_of_rain"] for forecast in answer["forecasts"]]


def check(targets: Sequence[tuple[str, Server, str]], samples: Sequence[Sequence[Record]]) -> float:
    """The largest difference between any two servers' probabilities; ends the script above 1e-9."""
    differences: list[float] = []
    for sample in samples:
        found = [probabilities(server.post(path, BODIES[path](sample))) for _, server, path in targets]
        if {len(probability) for probability in found} != {len(sample)}:
            sys.exit(f"not every server gives {len(sample)} forecasts for {len(sample)} records")
        differences += [max(p) - min(p) for p in zip(*found, strict=True)]
    # Not a number is not the same either.
    if not all(difference <= 1e-9 for difference in differences):
        sys.exit(f"the servers' probabilities differ by {max(differences):.2g}: nothing is measured")
    return max(differences)


def servers_of(given: argparse.Namespace, work: Path) -> dict[str, Server]:
    """The servers, none of them started. The no-op's answer is still to be written."""
    bins = {name: environment(given.uv, work, PEERS / f"{name}.txt") for name in ("mlflow", "fastapi")}
    ours, model = environment(given.uv, work, OURS), str(given.model.resolve())
    logged = work / "logged-model"
    shutil.rmtree(logged, ignore_errors=True)
    call = [str(bins["mlflow"] / "mlflow"), "artifacts", "download", "-u", given.mlflow_model, "-d", str(logged)]
    quiet = variables(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    subprocess.run(call, env=quiet, check=True, stdout=subprocess.DEVNULL)
    logged = next(logged.rglob("MLmodel")).parent
    # As uvicorn is set up in raincast/connections.py.
    bare = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    same = [*bare, "--lifespan", "off", "--ws", "none", "--no-server-header"]
    path = {name: f"{folder}:{os.environ['PATH']}" for name, folder in bins.items()}

    def server(name: str, call: list[str], **more: str) -> Server:
        port = free_port()
        log = work / f"{name.split()[0].lower()}.log"
        log.unlink(missing_ok=True)
        return Server(name, [*call, "--host", HOST, "--port", str(port)], variables(**more), given.core, port, log)

    def uvicorn(folder: Path, app: str) -> list[str]:
        return [str(folder / "python"), "-m", "uvicorn", app, "--app-dir", str(PEERS)]

    python = str(ours / "python")
    serve = [python, "prediction.py", "serve", "--model", model, "--drain-seconds", "0"]
    mlflow = [str(bins["mlflow"] / "mlflow"), "models", "serve", "-m", str(logged), "--env-manager", "local"]
    hand_written = [*uvicorn(bins["fastapi"], "fastapi_app:app"), *bare]
    threads = {"OMP_NUM_THREADS": "1"}
    made = (
        server("raincast", serve),
        server(MLFLOW, mlflow, PATH=path["mlflow"], **threads),
        server(FASTAPI, hand_written, PYTHONPATH=str(ROOT), FASTAPI_MODEL=model, **threads),
        server(NOOP, [*uvicorn(ours, "noop:app"), *same], NOOP_ANSWER=str(work / "answer.json")),
    )
    return {server.name: server for server in made}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


class Comparison:
    """The servers, what they are asked, and what was found."""

    # pylint: disable=too-many-instance-attributes  # all that the tables need

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        records = records_of(given.data)
        sample = random.Random(0).sample(records, RECORDS)
        self.requests = {
            SAME: [sample[:1]],
            TURNS: [[record] for record in sample],
            TABLE: [records[-TABLE_ROWS:]],
            LARGE: [records[-LARGE_ROWS:]],
        }
        self.first = sample[:1]
        self.servers = servers_of(given, work)
        self.asked = {
            RAINCAST: (self.servers["raincast"], "/forecast"),
            RAINCAST_MLFLOW: (self.servers["raincast"], "/invocations"),
            MLFLOW: (self.servers[MLFLOW], "/invocations"),
            FASTAPI: (self.servers[FASTAPI], "/forecast"),
            NOOP: (self.servers[NOOP], "/forecast"),
        }
        self.targets = {(load, name): self.target(load, name) for load in (SAME, TURNS) for name in self.asked}
        self.targets |= {(TABLE, name): self.target(TABLE, name) for name in (RAINCAST_MLFLOW, MLFLOW)}
        self.started = [(name, *self.asked[name]) for name in (RAINCAST_MLFLOW, MLFLOW)]
        if given.image:
            port = free_port()
            # On the host's network: before the container listens, Docker's proxy answers for it, and its first attempt
            # to get through is repeated only after a second.
            options = ["--rm", "--network", "host", "--cpuset-cpus", str(given.core)]
            settings = ["--host", HOST, "--port", str(port), "--drain-seconds", "0"]
            call = ["docker", "run", *options, given.image, "serve", *settings]
            container = Server(IMAGE, call, variables(), given.core, port, work / "image.log")
            self.started.append((IMAGE, container, "/invocations"))
        self.difference = 0.0
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        self.starts: dict[str, list[float]] = defaultdict(list)
        self.waited: list[list[float]] = []
        self.large_rates: list[float] = []

    def target(self, load: str, name: str) -> Target:
        """The requests of a load, in a file, for a server."""
        server, path = self.asked[name]
        file = self.work / f"{load.replace(' ', '-').replace(',', '')}{path.replace('/', '-')}.jsonl"
        file.write_bytes(b"".join(BODIES[path](request) + b"\n" for request in self.requests[load]))
        connections = {TABLE: self.given.table_connections, LARGE: 1}.get(load, self.given.connections)
        return Target(server, path, file, connections)

    def start(self) -> None:
        """Start all servers, check their answers, warm them up."""
        ours, answer = self.servers["raincast"], self.work / "answer.json"
        body = forecast_body(self.first)
        ours.start()
        ours.wait("/forecast", body)
        answer.write_text(json.dumps(ours.post("/forecast", body), separators=(",", ":")), encoding="utf-8")
        for server in self.servers.values():
            if server is not ours:
                server.start()
        for server, path in self.asked.values():
            server.wait(path, BODIES[path](self.first))
        forecasting = [(name, server, path) for name, (server, path) in self.asked.items() if name != NOOP]
        together = [record for (record,) in self.requests[TURNS]]
        self.difference = check(forecasting, [*self.requests[TURNS], together, *self.requests[TABLE]])
        note(f"all give the same probabilities, to {self.difference:.1g}")
        for target in self.targets.values():
            self.measure(target, self.given.warm_up)

    def measure(self, target: Target, seconds: float) -> Run:
        """Load a server; its memory is looked at in the middle, and whether others compute meanwhile."""
        server = target.server
        others = [other for other in self.servers.values() if other is not server]
        for each in self.servers.values():
            each.settle()
        before, others_before = server.computed(), sum(other.computed() for other in others)
        with loading(target.wrk(self.given, seconds)) as process:
            time.sleep(seconds / 2)
            resident, proportional = server.memory()
            found = results(process, server.name)
        busy = (server.computed() - before) / found["seconds"]
        others_busy = (sum(other.computed() for other in others) - others_before) / found["seconds"]
        rate = found["requests"] / found["seconds"]
        return Run(rate, found["p50"], found["p99"], resident, proportional, busy, others_busy)

    def measure_round(self) -> None:
        """Every load on every server, once."""
        for key, target in self.targets.items():
            self.runs[key].append(found := self.measure(target, self.given.seconds))
            note(f"{key[0]}: {key[1]}: {found.rate:,.1f} a second")
        for server in self.servers.values():
            server.settle()
        waits, rate = health(self.target(LARGE, RAINCAST), self.given)
        self.waited.append(waits)
        self.large_rates.append(rate)

    def measure_starts(self) -> None:
        """From a process to its first forecast, in turns; the first round only fills the caches."""
        for number in range(self.given.rounds + 1):
            for name, server, path in self.started:
                took = seconds_to_forecast(server, path, BODIES[path](self.first))
                note(f"start to first forecast: {name}: {took:.3f} s")
                self.starts[name] += [took] if number else []


def run(given: argparse.Namespace, work: Path) -> None:
    """Prepare, check, measure, print."""
    os.sched_setaffinity(0, {given.client_core})
    comparison = Comparison(given, work)
    if given.starts:
        comparison.measure_starts()
        show_starts(comparison)
        return
    with ExitStack() as stack:
        for server in comparison.servers.values():
            stack.callback(server.stop)
        comparison.start()
        for number in range(given.rounds):
            note(f"round {number + 1} of {given.rounds}")
            comparison.measure_round()
    comparison.measure_starts()
    show_bars(comparison)
    show_runs(comparison)
    show_setting(comparison)


def show_bars(found: Comparison) -> None:
    """The bars, and what was reached."""

    def ratio(load: str, what: str, ours: str, theirs: str) -> list[float]:
        return ratios(*([getattr(run, what) for run in found.runs[load, name]] for name in (ours, theirs)))

    lines = []
    for load in (SAME, TURNS):
        for ours in (RAINCAST, RAINCAST_MLFLOW):
            lines.append(held(f"{load}: {ours} / mlflow", ">= 100", ratio(load, "rate", ours, MLFLOW)))
            lines.append(held(f"{load}: {ours} / FastAPI", ">= 40", ratio(load, "rate", ours, FASTAPI)))
            lines.append(held(f"{load}: {ours} / no-op", ">= 0.55", ratio(load, "rate", ours, NOOP), 2))
            efficiency = ratio(load, "per_core_second", ours, NOOP)
            lines.append(held(f"{load}: {ours} / no-op, per core second", ">= 0.55", efficiency, 2))
    lines.append(held(f"{TABLE}: raincast / mlflow", ">= 3", ratio(TABLE, "rate", RAINCAST_MLFLOW, MLFLOW)))
    for load in (TURNS, TABLE):
        memory = ratio(load, "resident", RAINCAST_MLFLOW, MLFLOW)
        lines.append(held(f"resident memory, {load}: raincast / mlflow", "<= 0.3333", memory, 4))
    print(table(BARS, lines))


def show_runs(found: Comparison) -> None:
    """What was measured, as medians with least and largest."""
    for load in (SAME, TURNS, TABLE):
        lines = []
        for name in (name for asked, name in found.runs if asked == load):
            runs = found.runs[load, name]
            shown = [spread([run.rate for run in runs], 1)]
            shown += [spread([run.p50 for run in runs], 2), spread([run.p99 for run in runs], 2)]
            shown += [spread([run.resident for run in runs]), spread([run.proportional for run in runs])]
            shown.append(f"{statistics.median(run.busy for run in runs):.0%}")
            shown.append(spread([run.per_core_second for run in runs], 1))
            lines.append([name, *shown])
        measures = (
            "requests/s",
            "p50 ms",
            "p99 ms",
            "resident MB",
            "proportional MB",
            "of its core",
            "per core second",
        )
        print(table((load, *measures), lines))
    show_starts(found)
    p99 = [statistics.quantiles(waits, n=100)[98] for waits in found.waited]
    together = [wait for waits in found.waited for wait in waits]
    print(
        f"- /healthz while {LARGE} come back to back ({spread(found.large_rates, 1)} requests a second):"
        f" p50 {statistics.median(together):.2f} ms, p99 {spread(p99, 2)} ms,"
        f" longest {max(together):.1f} ms of {len(together):,}."
    )
    busy = max(run.others_busy for runs in found.runs.values() for run in runs)
    print("- Where a server had much less than all of its core, the machine was not idle, and requests/s say little.")
    print(f"- The servers that were not measured used at most {busy:.1%} of a core meanwhile.")
    print(f"- Largest difference between any two servers' probabilities: {found.difference:.2g}.")


def show_starts(found: Comparison) -> None:
    """How soon each forecasts, against the bars."""
    bars = {RAINCAST_MLFLOW: "<= 0.0667", IMAGE: "<= 0.1"}
    lines = [
        held(f"start to first forecast: {name} / mlflow", bars[name], ratios(times, found.starts[MLFLOW]), 4)
        for name, times in found.starts.items()
        if name != MLFLOW
    ]
    print(table(BARS, lines))
    for name, times in found.starts.items():
        print(f"- Start to first forecast, {name}: {spread(times, 3)} s.")


def show_setting(found: Comparison) -> None:
    """Where and how it was measured."""
    given = found.given
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0]
    print(f"\n{given.rounds} rounds of {given.seconds:g} s. {machine()}. {wrk.strip()}.\n")
    ours = ("numpy", "onnxruntime", "msgspec", "starlette", "uvicorn", "uvloop", "httptools")
    theirs = ("numpy", "pandas", "scikit-learn")
    print("- raincast, no-op:", pins(OURS, *ours))
    print("- mlflow:", pins(PEERS / "mlflow.txt", "mlflow", *theirs, "uvicorn", "fastapi"))
    print("- FastAPI:", pins(PEERS / "fastapi.txt", "fastapi", "pydantic", *theirs, "uvicorn", "uvloop", "httptools"))
    print("\n    " + shlex.join(["python", *sys.argv]))
    for server in found.servers.values():
        names = ("OMP_NUM_THREADS", "FASTAPI_MODEL", "PYTHONPATH", "NOOP_ANSWER")
        settings = [f"{name}={server.environment[name]}" for name in names if name in server.environment]
        print("    " + shlex.join([*settings, "taskset", "-c", str(server.core), *server.call]))
    call = found.targets[TURNS, RAINCAST].wrk(given, given.seconds)
    print(f"    taskset -c {given.client_core} {shlex.join(call)}")


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--mlflow-model", required=True, help="the same model as logged to MLflow: URI or path")
    made.add_argument("--image", help="an image of Docker's engine with raincast, whose start is measured as well")
    made.add_argument("--starts", action="store_true", help="measure only how soon each forecasts")
    made.add_argument("--seconds", type=float, default=10, help="of each measurement (%(default)s)")
    made.add_argument("--warm-up", type=float, default=3, help="seconds of each warm-up (%(default)s)")
    made.add_argument("--connections", type=int, default=16, help="of wrk (%(default)s)")
    made.add_argument("--table-connections", type=int, default=2, help=f"of wrk with {TABLE} (%(default)s)")
    made.add_argument("--threads", type=int, default=1, help="of wrk (%(default)s)")
    made.add_argument("--core", type=int, default=0, help="the servers' core (%(default)s)")
    made.add_argument("--client-core", type=int, default=1, help="wrk's core (%(default)s)")
    return made.parse_args()


if __name__ == "__main__":
    main(run, arguments())
