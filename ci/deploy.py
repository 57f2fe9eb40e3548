"""Deploy an image: apply the manifests, wait for the rollout, test the service, and roll back if a step fails.

    IMAGE=REPOSITORY@sha256:DIGEST python3 -m ci.deploy staging|production

Needs kubectl, a kubeconfig and the model directory that the image was built with, and no package of Python: the job
runs in Alpine with nothing else. KUBE_CONTEXT selects a context of the kubeconfig other than the current one; GitLab's
agent has a context for each project. Exit code: 0 deployed; 1 failed and rolled back; 2 wrong call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ci import programs

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / "k8s" / "overlays"
NAME = "raincast"
DEPLOYMENT = f"deployment/{NAME}"
IMAGE = re.compile(r"\S+@sha256:[0-9a-f]{64}")
# The same model and libraries reproduce the parity rows within this difference of probability.
TOLERANCE = 1e-9


class Failure(RuntimeError):
    """A step of the deployment failed, or the service is not the model that was built."""


class Cluster:
    """A namespace of the cluster, through kubectl."""

    def __init__(self, namespace: str) -> None:
        context = os.environ.get("KUBE_CONTEXT")
        self.namespace = namespace
        self.kubectl = ["kubectl", *(["--context", context] if context else []), "--namespace", namespace]

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a kubectl command and return what it prints. Raises Failure."""
        call = [*self.kubectl, *arguments]
        done = subprocess.run(call, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def revision(self) -> str:
        """Return the number of the current rollout, or "" if nothing was deployed yet."""
        path = r"jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}"
        return self.run("get", DEPLOYMENT, "--ignore-not-found", "--request-timeout=30s", "-o", path)

    @contextlib.contextmanager
    def service(self) -> Iterator[str]:
        """Yield a URL of the service through the API server, which is reachable from wherever kubectl works."""
        with subprocess.Popen([*self.kubectl, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
                if not address:
                    raise Failure("kubectl proxy does not start")
                yield f"http://{address[0]}/api/v1/namespaces/{self.namespace}/services/{NAME}:http/proxy"
            finally:
                process.terminate()


def main(argv: list[str] | None = None) -> int:
    """Deploy and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m ci.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("env", choices=sorted(path.name for path in OVERLAYS.iterdir()), help="the overlay in k8s/overlays")
    add("--model", type=Path, default=ROOT / "model", help="the model directory in the image (default: model/)")
    add("--rollout-seconds", type=int, default=600, help="limit of the rollout (default: %(default)s)")
    add("--smoke-seconds", type=int, default=60, help="limit until the new model responds (default: %(default)s)")
    given = parser.parse_args(argv)
    image = os.environ.get("IMAGE", "")
    if not IMAGE.fullmatch(image):
        parser.error(f"IMAGE must be REPOSITORY@sha256:DIGEST, not {image!r}")
    try:
        description = json.loads((given.model / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"no model to compare with: {error}")
    programs.require("kubectl")
    try:
        deploy(given, image, description)
    except Failure as failure:
        print(f"ci.deploy: {given.env} does not serve {image}: {failure}", file=sys.stderr)
        return 1
    return 0


def deploy(given: argparse.Namespace, image: str, description: dict[str, Any]) -> None:
    """Apply, wait and test; roll back if a step fails. Raises Failure."""
    manifests = render(given.env, image, description)
    (namespace,) = re.findall(r"^namespace: (\S+)$", (OVERLAYS / given.env / "kustomization.yaml").read_text(), re.M)
    cluster = Cluster(namespace)
    before = cluster.revision()
    say(f"deploying {image} to {namespace}, which is at revision {before or '-'}")
    try:
        say(cluster.run("apply", "-f", "-", stdin=manifests))
        say(cluster.run("rollout", "status", DEPLOYMENT, f"--timeout={given.rollout_seconds}s"))
        with cluster.service() as url:
            smoke_test(url, description, given.smoke_seconds)
    except Failure as failure:
        say(f"failed: {failure}")
        explain(cluster)
        undo(cluster, before, given.rollout_seconds)
        raise
    say(f"{namespace} serves model {description['version']} of commit {description['commit']}")


def render(env: str, image: str, description: dict[str, Any]) -> str:
    """Render an overlay with this image and with a change cause for the rollout history. Raises Failure."""
    cause = f"commit {description['commit']}, model {description['version']}, image {image.rpartition('@')[2]}"
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "annotations": {"kubernetes.io/change-cause": cause}},
        "spec": {"template": {"spec": {"containers": [{"name": NAME, "image": image}]}}},
    }
    with tempfile.TemporaryDirectory() as folder:
        above = {"resources": [os.path.relpath(OVERLAYS / env, Path(folder).resolve())]}
        # A JSON document is valid YAML.
        content = json.dumps(above | {"patches": [{"patch": json.dumps(patch)}]})
        (Path(folder) / "kustomization.yaml").write_text(content, encoding="utf-8")
        return Cluster("default").run("kustomize", folder)


def smoke_test(url: str, description: dict[str, Any], seconds: int) -> None:
    """Check that the service names the model that was built and reproduces its forecasts. Raises Failure."""
    built = {
        "model": description["version"],
        "commit": description["commit"],
        "data_sha256": description["data_sha256"],
        "model_sha256": description["files"]["model.onnx"],
    }
    end = time.monotonic() + seconds
    while True:
        try:
            compare(url, built, description["parity"])
            return
        except Failure:
            # For some seconds after the rollout a draining pod may still get requests.
            if time.monotonic() > end:
                raise
            time.sleep(2)


def compare(url: str, built: dict[str, Any], parity: dict[str, Any]) -> None:
    """Compare the service with the model that was built. Raises Failure."""
    try:
        version = fetch(f"{url}/version")
        for name, value in built.items():
            if version[name] != value:
                raise Failure(f"/version has {name} {version[name]}, expected {value}")
        response = fetch(f"{url}/forecast", {"observations": parity["observations"]})
        probabilities = [float(line["probability_of_rain"]) for line in response["forecasts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"the service returns an unexpected document: {error!r}") from error
    expected = parity["together"]
    if len(probabilities) != len(expected) or not all(
        abs(a - b) <= TOLERANCE for a, b in zip(probabilities, expected, strict=True)
    ):
        raise Failure(f"/forecast returns {probabilities}, expected {expected}")


def fetch(url: str, body: Any = None) -> Any:
    """Return the JSON response to a GET, or to a POST if there is a body. Raises Failure."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # Bypass the runner's proxy for the internet: kubectl proxy listens on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    path = url.rpartition("/proxy")[2]
    try:
        with opener.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Failure(f"{path}: {error.code} {error.reason}: {error.read()[:500].decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {error}") from error


def explain(cluster: Cluster) -> None:
    """Print the pods, the last lines of their logs, and the last events."""
    pods = ("-l", f"app.kubernetes.io/name={NAME}")
    for call in (
        ("get", "pods", *pods, "-o", "wide"),
        ("logs", *pods, "--tail=5", "--prefix", "--ignore-errors"),
        ("get", "events", "--sort-by=.metadata.creationTimestamp"),
    ):
        try:
            say("\n".join(cluster.run(*call, "--request-timeout=30s").splitlines()[-20:]))
        except Failure as failure:
            say(str(failure))


def undo(cluster: Cluster, revision: str, seconds: int) -> None:
    """Roll back to the revision before this deployment."""
    if not revision:
        say("no rollback: this was the first deployment")
        return
    try:
        say(cluster.run("rollout", "undo", DEPLOYMENT, f"--to-revision={revision}"))
        say(cluster.run("rollout", "status", DEPLOYMENT, f"--timeout={seconds}s"))
    except Failure as failure:
        say(f"the rollback to revision {revision} failed: {failure}")


def say(text: str) -> None:
    """Print a line, flushed so that it keeps its place among the lines of the programs called."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
