"""ci.deploy with a fake kubectl and the real service."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, needs
from tests.deployment.cluster import SEARCH, of_kind
from tests.integration.serving import Server, environment

IMAGE = "registry.example.org/someone/raincast@sha256:" + "5a" * 32
PROXY = re.compile(r"/api/v1/namespaces/raincast-staging/services/raincast:http/proxy(/.*)")


@dataclass
class Deployed:
    """The outcome of a call of ci.deploy: its exit code, its output, and its calls of kubectl."""

    code: int
    stdout: str
    stderr: str
    calls: list[dict[str, Any]]

    def verbs(self) -> list[str]:
        """Return the calls without their options and without rendering."""
        shown = [" ".join(call["arguments"]) for call in self.calls]
        verbs = re.compile(r"(kustomize|apply|rollout \w+|proxy|get \S+|logs)( .*--to-revision=\d+)?")
        matches = [re.search(verbs, line) for line in shown]
        return [f"{m[1]}{m[2] or ''}" for m in matches if m and m[1] != "kustomize"]


Deploy = Callable[..., Deployed]


@pytest.fixture(name="api", scope="module")
def fixture_api(service: Server) -> Iterator[str]:
    """An API server that only proxies requests to the service in the namespace raincast-staging."""

    class Api(http.server.BaseHTTPRequestHandler):
        """Passes requests to the service, as the API server's proxy of services does."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            """Pass the request to the service."""
            match = PROXY.fullmatch(self.path)
            if not match:
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
            passed = {name: value for name, value in self.headers.items() if name.lower() == "content-type"}
            url = f"http://127.0.0.1:{service.port}{match[1]}"
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, passed)) as response:
                    status, content = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(name="deploy")
def fixture_deploy(api: str, trained: Path, tmp_path: Path) -> Deploy:
    """Call ci.deploy with the fake kubectl on PATH, without packages, as the job in Alpine does."""
    needs("kubectl", path=SEARCH)
    real = shutil.which("kubectl")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "kubectl"
    fake.write_text(f"#!{sys.executable}\n" + (ROOT / "tests" / "deployment" / "fake_kubectl.py").read_text())
    fake.chmod(0o755)
    record = tmp_path / "calls"

    def run(cluster: str, *arguments: str, directory: Path = trained, **env: str) -> Deployed:
        call = [sys.executable, "-S", "-m", "ci.deploy", *(arguments or ("staging",)), "--smoke-seconds", "0"]
        cluster_settings = {
            "CLUSTER": cluster,
            "RECORD": str(record),
            "REAL_KUBECTL": str(real),
            "API": api,
            "IMAGE": IMAGE,
        }
        path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
        settings = environment(**(cluster_settings | {"PATH": path} | env))
        call += ["--model", str(directory)]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, env=settings, check=False)
        calls = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        return Deployed(done.returncode, done.stdout, done.stderr, calls)

    return run


@pytest.fixture(name="other")
def fixture_other(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """A model directory whose model.json differs from the model of the service."""

    def changed(**changes: Any) -> Path:
        description = json.loads((trained / "model.json").read_text())
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "model.json").write_text(json.dumps(description | changes))
        return tmp_path / "other"

    return changed


APPLIED = ["get deployment/raincast", "apply", "rollout status"]
EXPLAINED = ["get pods", "logs", "get events"]
UNDONE = ["rollout undo deployment/raincast --to-revision=7", "rollout status"]


def test_success_applies_the_digest_waits_and_tests_the_service(deploy: Deploy, trained: Path) -> None:
    done = deploy("success")
    assert (done.code, done.stderr) == (0, "")
    assert done.verbs() == [*APPLIED, "proxy"]
    description = json.loads((trained / "model.json").read_text())
    assert done.stdout.splitlines()[-1] == (
        f"raincast-staging serves model {description['version']} of commit {description['commit']}"
    )
    (applied,) = [call["stdin"] for call in done.calls if call["stdin"]]
    deployment = of_kind(list(yaml.safe_load_all(applied)), "Deployment")
    assert [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]] == [IMAGE]
    cause = deployment["metadata"]["annotations"]["kubernetes.io/change-cause"]
    assert f"commit {description['commit']}, model {description['version']}, image sha256:5a5a" in cause
    assert "0" * 64 not in applied
    for call in done.calls[1:]:
        assert call["arguments"][:2] == ["--namespace", "raincast-staging"]


def test_the_context_is_the_one_that_is_named(deploy: Deploy) -> None:
    done = deploy("success", KUBE_CONTEXT="someone/agents:production")
    assert done.code == 0
    assert all(call["arguments"][:2] == ["--context", "someone/agents:production"] for call in done.calls)


@pytest.mark.parametrize(("cluster", "reason"), [
    ("stuck", "exceeded its progress deadline"),
    ("forbidden", 'deployments.apps "raincast" is forbidden'),
])  # fmt: skip
def test_a_rollout_that_fails_is_undone_and_explained(cluster: str, reason: str, deploy: Deploy) -> None:
    done = deploy(cluster)
    assert done.code == 1
    tried = APPLIED if cluster == "stuck" else APPLIED[:2]
    assert done.verbs() == [*tried, *EXPLAINED, *UNDONE]
    assert reason in done.stderr
    assert done.stderr.startswith(f"ci.deploy: staging does not serve {IMAGE}: kubectl ")
    for shown in ("CrashLoopBackOff", "SHA-256 differs", "event 30\n", "event 49\n", "rolled back"):
        assert shown in done.stdout
    assert "event 29" not in done.stdout


def test_a_first_rollout_that_fails_is_not_undone(deploy: Deploy) -> None:
    done = deploy("first")
    assert done.code == 1
    assert done.verbs() == [*APPLIED, *EXPLAINED]
    assert "no rollback: this was the first deployment" in done.stdout


def test_a_failed_rollback_is_reported(deploy: Deploy) -> None:
    done = deploy("cannot undo")
    assert done.code == 1
    assert "exceeded its progress deadline" in done.stderr
    assert "the rollback to revision 7 failed: kubectl rollout undo" in done.stdout


@pytest.mark.parametrize("changes", [
    {"commit": "0" * 40},
    {"version": "0.1.0+00000000"},
    {"data_sha256": "0" * 64},
    {"files": {"model.onnx": "0" * 64}},
])  # fmt: skip
def test_a_service_with_another_model_is_undone(
    changes: dict[str, Any], deploy: Deploy, other: Callable[..., Path]
) -> None:
    done = deploy("success", directory=other(**changes))
    assert done.code == 1
    assert done.verbs() == [*APPLIED, "proxy", *EXPLAINED, *UNDONE]
    assert re.search(r"/version has \w+ \S+, expected \S*0{8}\n", done.stderr)


def test_a_service_with_other_forecasts_is_undone(deploy: Deploy, other: Callable[..., Path], trained: Path) -> None:
    parity = json.loads((trained / "model.json").read_text())["parity"]
    parity["together"][1] += 1e-6
    done = deploy("success", directory=other(parity=parity))
    assert done.code == 1
    assert done.verbs() == [*APPLIED, "proxy", *EXPLAINED, *UNDONE]
    assert "/forecast returns [" in done.stderr


def test_a_service_that_rejects_or_does_not_respond_is_undone(
    deploy: Deploy, other: Callable[..., Path], trained: Path
) -> None:
    parity = json.loads((trained / "model.json").read_text())["parity"]
    parity["observations"][0]["Rainfall"] = -1
    done = deploy("success", directory=other(parity=parity))
    assert (done.code, done.verbs()[-2:]) == (1, UNDONE)
    assert "/forecast: 422 " in done.stderr
    done = deploy("success", API="http://127.0.0.1:1")
    assert (done.code, done.verbs()[-2:]) == (1, UNDONE)
    assert "/version: 500 " in done.stderr and "connection refused" in done.stderr


def test_an_unreachable_cluster_is_reported_and_nothing_is_done(deploy: Deploy) -> None:
    done = deploy("unreachable")
    assert done.code == 1
    assert done.verbs() == ["get deployment/raincast"]
    assert "Unable to connect to the server" in done.stderr


@pytest.mark.parametrize(("arguments", "env", "message"), [
    (["nowhere"], {}, "invalid choice: 'nowhere' (choose from 'production', 'staging')"),
    (["staging"], {"IMAGE": "registry.example.org/raincast:latest"}, "IMAGE must be REPOSITORY@sha256:DIGEST"),
    (["staging"], {"IMAGE": ""}, "IMAGE must be REPOSITORY@sha256:DIGEST"),
])  # fmt: skip
def test_a_wrong_call_is_reported_before_anything_is_done(
    arguments: list[str], env: dict[str, str], message: str, deploy: Deploy
) -> None:
    done = deploy("success", *arguments, **env)
    assert (done.code, done.calls) == (2, [])
    assert message in done.stderr


def test_without_a_model_there_is_nothing_to_compare_with(deploy: Deploy, tmp_path: Path) -> None:
    done = deploy("success", directory=tmp_path)
    assert (done.code, done.calls) == (2, [])
    assert "no model to compare with" in done.stderr
