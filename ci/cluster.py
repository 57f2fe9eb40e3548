"""A namespace of a Kubernetes cluster, through kubectl 1.26 or later, and no package of Python."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NAME = "raincast"
DEPLOYMENT = f"deployment/{NAME}"
PODS = ("-l", f"app.kubernetes.io/name={NAME},app.kubernetes.io/component=server")
# Fields that this manager set once and no longer sets are removed by the API server.
FIELD_MANAGER = "raincast"
Object = dict[str, Any]
Key = tuple[str, str, str]

KUBECONFIG_ADVICE = "set the CI variable KUBECONFIG (type File), or KUBE_CONTEXT of GitLab's agent: docs/operations.md"
# What to do if the cluster lacks an API group that is not part of Kubernetes.
REMEDIES = {
    "gateway.networking.k8s.io": "install the Gateway API (standard channel), or turn on the component ingress",
    "monitoring.coreos.com": "install the Prometheus Operator, or turn off the component monitoring",
}


class Failure(RuntimeError):
    """A step of the deployment failed, or the service is not the model that was built."""


class Cluster:
    """A namespace of the cluster, through kubectl."""

    def __init__(self, namespace: str) -> None:
        context = os.environ.get("KUBE_CONTEXT")
        self.namespace = namespace
        self.kubectl = ["kubectl", *(["--context", context] if context else []), "--namespace", namespace]

    def run(self, *arguments: str, stdin: str | None = None, limit: str = "30s") -> str:
        """Run a kubectl command, each of its requests within a limit, and return what it prints. Raises Failure."""
        return kubectl([*self.kubectl, f"--request-timeout={limit}"], *arguments, stdin=stdin)

    def get(self, *arguments: str, stdin: str | None = None) -> list[Object]:
        """Return the objects that exist of those asked for. Raises Failure."""
        text = self.run("get", *arguments, "--ignore-not-found", "-o", "json", stdin=stdin)
        (found,) = documents(text) or [{"items": []}]
        return list(found["items"]) if "items" in found else [found]

    def image(self) -> str:
        """Return the image of the Deployment, or "" if there is no Deployment."""
        path = f'jsonpath={{.spec.template.spec.containers[?(@.name=="{NAME}")].image}}'
        return self.run("get", DEPLOYMENT, "--ignore-not-found", "-o", path)

    def revision(self) -> str:
        """Return the number of the current rollout, or "" if nothing was deployed yet."""
        path = r"jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}"
        return self.run("get", DEPLOYMENT, "--ignore-not-found", "-o", path)

    def require_kinds(self, manifests: Iterable[Object]) -> None:
        """Check that the API server knows the kinds of all manifests. Raises Failure, which names the others."""
        lacking = []
        for version in sorted({o["apiVersion"] for o in manifests}):
            try:
                served = json.loads(self.run("get", "--raw", f"/{'apis' if '/' in version else 'api'}/{version}"))
            except Failure as failure:
                if "NotFound" not in str(failure) and "could not find the requested resource" not in str(failure):
                    raise
                served = {"resources": []}
            known = {resource["kind"] for resource in served["resources"]}
            remedy = REMEDIES.get(version.partition("/")[0], "install what provides it, or take it out")
            wanted = sorted({o["kind"] for o in manifests if o["apiVersion"] == version} - known)
            lacking += [f"the cluster has no {kind} ({version}): {remedy} in the overlay" for kind in wanted]
        if lacking:
            raise Failure(f"{'; '.join(lacking)}; nothing was applied")

    def apply(self, manifests: list[Object], manager: str = FIELD_MANAGER) -> str:
        """Apply objects on the server, also over what others changed, and return what kubectl says. Raises Failure."""
        options = ("--server-side", f"--field-manager={manager}", "--force-conflicts")
        return self.run("apply", *options, "-f", "-", stdin=stream(manifests))

    def delete(self, objects: list[Object]) -> None:
        """Delete objects, as far as they exist, and wait until they are gone. Raises Failure."""
        if objects:
            options = ("--ignore-not-found", "--timeout=60s")
            say(self.run("delete", *options, "-f", "-", stdin=stream(objects), limit="0"))

    def wait_until_complete(self, manifests: list[Object], seconds: int, stale_seconds: int = 0) -> None:
        """Wait for the rollout, and then for the pods that the autoscaler keeps at least. Raises Failure.

        For `stale_seconds` the Deployment may still have the condition of the rollout before, which was stuck.
        """
        start = time.monotonic()
        end = start + seconds
        while True:
            try:
                say(self.run("rollout", "status", DEPLOYMENT, f"--timeout={seconds}s", limit="0"))
                break
            except Failure as failure:
                if "progress deadline" not in str(failure) or time.monotonic() >= start + stale_seconds:
                    raise
                time.sleep(1)
        least = minimum(manifests)
        while (ready := int(self.run("get", DEPLOYMENT, "-o", "jsonpath={.status.readyReplicas}") or 0)) < least:
            if time.monotonic() > end:
                raise Failure(f"{ready} of at least {least} pods are ready after {seconds} s")
            time.sleep(1)

    @contextlib.contextmanager
    def service(self) -> Iterator[str]:
        """Yield a URL of the service through the API server, which is reachable from wherever kubectl works."""
        call = [*self.kubectl, "proxy", "--port=0"]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                assert process.stdout is not None
                address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
                if not address:
                    raise Failure("kubectl proxy does not start")
                yield f"http://{address[0]}/api/v1/namespaces/{self.namespace}/services/{NAME}:http/proxy"
            finally:
                process.terminate()


def kubectl(program: list[str], *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it prints. Raises Failure."""
    # A session of its own: Ctrl-C reaches this process only, which then goes back with kubectl's help.
    done = subprocess.run(
        [*program, *arguments], input=stdin, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise Failure(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def require_kubeconfig() -> None:
    """Check that kubectl knows a cluster; without one it would try localhost:8080. Raises Failure."""
    value = os.environ.get("KUBECONFIG", "")
    if "\n" in value or value.lstrip().startswith(("{", "apiVersion:")):
        raise Failure(f"KUBECONFIG has the content of a kubeconfig instead of its path; {KUBECONFIG_ADVICE}")
    paths = [Path(path) for path in value.split(os.pathsep) if path] or [Path.home() / ".kube" / "config"]
    if not any(path.exists() for path in paths):
        # A pod with a service account needs no kubeconfig.
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not value:
            return
        raise Failure(f"there is no kubeconfig ({os.pathsep.join(map(str, paths))}); {KUBECONFIG_ADVICE}")
    contexts = kubectl(["kubectl"], "config", "get-contexts", "-o", "name").split()
    chosen = os.environ.get("KUBE_CONTEXT")
    if not chosen:
        with contextlib.suppress(Failure):
            chosen = kubectl(["kubectl"], "config", "current-context")
    if chosen not in contexts:
        problem = f"has no context {chosen}" if chosen else "has no current context"
        raise Failure(
            f"the kubeconfig {problem}; set KUBE_CONTEXT to one of its contexts: {', '.join(contexts) or '-'}"
        )


def documents(text: str) -> list[Object]:
    """Return the objects in JSON documents that follow one another."""
    decoder = json.JSONDecoder()
    found = []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def stream(objects: list[Object]) -> str:
    """Return objects as documents for kubectl's standard input."""
    return "\n".join(map(json.dumps, objects))


def key(item: Object) -> Key:
    """Return what identifies an object of the namespace: its group, not the version of it, its kind and name."""
    group = item["apiVersion"].rpartition("/")[0]
    return group, item["kind"], item["metadata"]["name"]


def references(objects: Iterable[Object]) -> list[Object]:
    """Return the objects without their content; never the Namespace, which may hold what is not ours."""
    fields = ("name", "namespace")
    return [
        {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "metadata": {name: item["metadata"][name] for name in fields if name in item["metadata"]},
        }
        for item in objects
        if item["kind"] != "Namespace"
    ]


def without(objects: Iterable[Object], *others: Iterable[Object]) -> list[Object]:
    """Return the objects that are not among the others."""
    known = {key(item) for some in others for item in some}
    return [item for item in objects if key(item) not in known]


def minimum(manifests: Iterable[Object]) -> int:
    """Return how many pods the Deployment has at least, by its own number or by its autoscaler's."""
    numbers = [1]
    for item in manifests:
        spec = item.get("spec", {})
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", NAME):
            numbers.append(spec.get("replicas", 1))
        elif spec.get("scaleTargetRef", {}).get("name") == NAME:
            numbers.append(spec.get("minReplicas", spec.get("minReplicaCount", 1)))
    return max(numbers)


def say(text: str) -> None:
    """Print a line, flushed so that it keeps its place among the lines of the programs called."""
    print(text, flush=True)
