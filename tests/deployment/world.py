"""A cluster for ci.deploy: the small API server, its controllers, and a copy of the manifests."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.deployment.api_server import ApiServer, Key, is_ready
from tests.deployment.cluster import Object
from tests.deployment.controllers import Controllers
from tests.integration.serving import environment

NAMESPACE = "raincast-staging"
FIRST = "registry.example.org/someone/raincast@sha256:" + "5a" * 32
SECOND = "registry.example.org/someone/raincast@sha256:" + "6b" * 32
# Kinds that the project applies, and not what controllers make of them or ci.deploy keeps for itself.
APPLIED = (
    "configmaps",
    "services",
    "serviceaccounts",
    "deployments",
    "poddisruptionbudgets",
    "horizontalpodautoscalers",
    "ingresses",
    "httproutes",
    "networkpolicies",
    "servicemonitors",
)
RECORD = ("configmaps", NAMESPACE, "raincast-last-good")
LEASE = ("leases", NAMESPACE, "raincast-deploy")


@dataclass
class Deployed:
    """The outcome of a call of ci.deploy."""

    code: int
    stdout: str
    stderr: str


@dataclass
class World:
    """The cluster, and the checkout from which the models of FIRST and SECOND are deployed."""

    api: ApiServer
    controllers: Controllers
    folder: Path
    models: dict[str, Path]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("ci", "k8s"):
            shutil.copytree(ROOT / name, self.folder / name)
        for name in ("Makefile", "requirements.txt"):
            shutil.copy(ROOT / name, self.folder)
        (self.folder / "config").write_text(json.dumps(kubeconfig(self.api.url)))

    def start(
        self, image: str, *arguments: str, setup: str = "", overlay: str = "staging", **env: str
    ) -> subprocess.Popen[str]:
        """Start ci.deploy without packages, as the job in Alpine does; `setup` is run before it."""
        module = ["-c", f"import sys\nfrom ci import deploy\n{setup}\nsys.exit(deploy.main())"]
        call = [sys.executable, "-S", *(module if setup else ["-m", "ci.deploy"]), overlay, "--smoke-seconds", "0"]
        if image and "--model" not in arguments:
            call += ["--model", str(self.models[image])]
        return self.spawn([*call, *arguments], **({"IMAGE": image} | env))

    def spawn(self, call: list[str], **env: str) -> subprocess.Popen[str]:
        """Start a program in the checkout, with the cluster's kubeconfig."""
        settings = {"KUBECONFIG": str(self.folder / "config"), "HOME": str(self.folder)} | env
        pipe = subprocess.PIPE
        # `ended` and `end` close it.
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            call, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, env=environment(**settings)
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill what a failed test has left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def deploy(self, image: str, *arguments: str, **settings: str) -> Deployed:
        """Call ci.deploy and wait for its end."""
        return ended(self.start(image, *arguments, **settings))

    def kubectl(self, *arguments: str) -> str:
        """Call kubectl and return what it prints."""
        settings = os.environ | {"KUBECONFIG": str(self.folder / "config"), "HOME": str(self.folder)}
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, env=settings, check=True)
        return done.stdout + done.stderr

    def overlay(self, **additions: list[Any]) -> None:
        """Change the overlay: add to its lists."""
        path = self.folder / "k8s" / "overlays" / "staging" / "kustomization.yaml"
        content = yaml.safe_load(path.read_text())
        for name, added in additions.items():
            content[name] = content.get(name, []) + added
        path.write_text(yaml.safe_dump(content))

    def patch(self, kind: str, path: str, value: Any, operation: str = "replace") -> None:
        """Change an object of the overlay."""
        patch = [{"op": operation, "path": path} | ({} if value is None else {"value": value})]
        self.overlay(patches=[{"target": {"kind": kind, "name": "raincast"}, "patch": json.dumps(patch)}])

    def add(self, name: str, item: Object) -> None:
        """Add an object to the overlay."""
        (self.folder / "k8s" / "overlays" / "staging" / f"{name}.yaml").write_text(yaml.safe_dump(item))
        self.overlay(resources=[f"{name}.yaml"])

    def applied(self) -> dict[Key, Any]:
        """Return what the project's objects specify, without what the server and controllers set."""
        found = {}
        for where, item in copy.deepcopy(self.api.store.objects).items():
            if where[0] in APPLIED and where != RECORD:
                item.get("spec", {}).pop("replicas", None)
                annotations = item["metadata"].get("annotations", {})
                annotations.pop("deployment.kubernetes.io/revision", None)
                labels = item["metadata"].get("labels")
                rest = {k: v for k, v in item.items() if k not in ("metadata", "status", "apiVersion", "kind")}
                found[where] = (rest, annotations, labels)
        return found

    def deployment(self) -> Object:
        """Return the Deployment."""
        return self.api.store.get("deployments", NAMESPACE, "raincast")

    def image(self) -> str:
        """Return the image of the Deployment."""
        return str(self.deployment()["spec"]["template"]["spec"]["containers"][0]["image"])

    def ready(self) -> int:
        """Return the number of ready pods."""
        return sum(map(is_ready, self.api.store.of("pods", NAMESPACE)))

    def changes(self) -> list[str]:
        """Return the requests that change something."""
        return [line for line in self.api.store.requests if not line.startswith("GET") and "/proxy/" not in line]


def kubeconfig(url: str) -> Object:
    """Return a kubeconfig with the contexts `here`, which is current, and `nowhere`."""
    clusters = {"here": url, "nowhere": "http://127.0.0.1:1"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server}} for name, server in clusters.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": ""}} for name in clusters],
        "current-context": "here",
    }


def ended(process: subprocess.Popen[str]) -> Deployed:
    """Wait for the end of a call."""
    with process:
        stdout, stderr = process.communicate(timeout=120)
    return Deployed(process.returncode, stdout, stderr)
