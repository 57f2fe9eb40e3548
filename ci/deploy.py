"""Deploy an image: apply the manifests, wait for the rollout, test the service, and go back if a step fails.

    IMAGE=REPOSITORY@sha256:DIGEST python3 -m ci.deploy staging|production
    python3 -m ci.deploy staging|production --keep-image

The second applies changed manifests with the image that runs. What passed its test is kept in the cluster; going back
restores all of it and tests it again, also if this is ended by SIGTERM or Ctrl-C. One deployment at a time runs in a
namespace.

Needs kubectl, a kubeconfig and the model directory that the image was built with, and no package of Python: the job
runs in Alpine with nothing else. KUBE_CONTEXT selects a context of the kubeconfig other than the current one; GitLab's
agent has a context for each project. Exit code: 0 deployed; 1 failed; 2 wrong call; 130 or 143 ended by a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import last_good, lease, programs
from ci.cluster import NAME, Cluster, Failure, Object, documents, kubectl, require_kubeconfig, say, stream, without
from ci.smoke import expectation, smoke_test
from ci.unready import explain

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / "k8s" / "overlays"
IMAGE = re.compile(r"\S+@sha256:[0-9a-f]{64}")


class Interrupted(Exception):
    """The process was told to end, for example because the job was cancelled."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@dataclass
class Interruption:
    """Raises Interrupted at the first SIGTERM or SIGINT, as long as it is armed."""

    armed: bool = True

    def __call__(self, number: int, _: object) -> None:
        """Handle a signal."""
        if not self.armed:
            say(f"{signal.Signals(number).name}: wait, this is about to end")
            return
        self.armed = False
        raise Interrupted(number)


def main(argv: list[str] | None = None) -> int:
    """Deploy and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m ci.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("env", choices=sorted(path.name for path in OVERLAYS.iterdir()), help="the overlay in k8s/overlays")
    add("--keep-image", action="store_true", help="apply the manifests with the image that runs")
    add("--model", type=Path, default=ROOT / "model", help="the model directory in the image (default: model/)")
    add("--rollout-seconds", type=int, default=600, help="limit of the rollout (default: %(default)s)")
    add("--smoke-seconds", type=int, default=60, help="limit until the new model responds (default: %(default)s)")
    add("--wait-seconds", type=int, default=300, help="limit until another deployment ends (default: %(default)s)")
    given = parser.parse_args(argv)
    image = os.environ.get("IMAGE", "")
    if given.keep_image:
        if image:
            parser.error("IMAGE is set, and --keep-image keeps the image that runs")
    elif not IMAGE.fullmatch(image):
        parser.error(f"IMAGE must be REPOSITORY@sha256:DIGEST, not {image!r}")
    try:
        description = json.loads((given.model / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if not given.keep_image:
            parser.error(f"no model to compare with: {error}")
        description = None
    programs.require("kubectl")
    served = image or "the manifests"
    try:
        deploy(given, image, description)
    except (Failure, lease.Lost) as failure:
        print(f"ci.deploy: {given.env} does not serve {served}: {failure}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"ci.deploy: {given.env} does not serve {served}: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    return 0


def deploy(given: argparse.Namespace, image: str, description: dict[str, Any] | None) -> None:
    """Deploy while no other deployment does. Raises Failure, Interrupted or Lost."""
    require_kubeconfig()
    manifests = render(given.env)
    (namespace,) = [item for item in manifests if item["kind"] == "Namespace"]
    for item in manifests:
        if item["kind"] == "Secret":
            # The record of the manifests is a ConfigMap.
            raise Failure(f"the overlay has the Secret {item['metadata']['name']}; create it in the cluster instead")
    cluster = Cluster(namespace["metadata"]["name"])

    def create_namespace() -> None:
        if given.keep_image:
            raise Failure(f"there is no namespace {cluster.namespace}, and no image to keep; set IMAGE")
        say(cluster.apply([namespace]))

    with interruption() as interrupt:
        cluster.require_kinds(manifests)
        with lease.held(cluster, given.wait_seconds, create_namespace):
            before = last_good.read(cluster)
            expected = expectation(image, description) if image and description else kept(cluster, before, description)
            put_image(manifests, expected)
            attempt(cluster, manifests, expected, before, given, interrupt)


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Raise Interrupted for SIGTERM and SIGINT within."""
    handler = Interruption()
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield handler
    finally:
        for number, handle in previous.items():
            signal.signal(number, handle)


def attempt(
    cluster: Cluster,
    manifests: list[Object],
    expected: dict[str, Any],
    before: last_good.LastGood,
    given: argparse.Namespace,
    interrupt: Interruption,
) -> None:
    """Apply, wait and test; go back if a step fails. Raises Failure or Interrupted."""
    say(f"deploying {expected['image']} to {cluster.namespace}, which is at revision {cluster.revision() or '-'}")
    present = cluster.get("-f", "-", stdin=stream(manifests))
    trial = before.attempt(without(manifests, present))
    # Recorded first: if this process is killed, the next one knows what to remove.
    last_good.write(cluster, trial)
    try:
        say(cluster.apply(manifests))
        cluster.wait_until_complete(manifests, given.rollout_seconds)
        in_use = trial.of_earlier_revisions(cluster)
        cluster.delete(trial.obsolete(manifests, in_use))
        with cluster.service() as url:
            smoke_test(url, expected, given.smoke_seconds)
        interrupt.armed = False
        last_good.write(cluster, trial.passed(manifests, expected, in_use))
    except (Failure, Interrupted) as failure:
        interrupt.armed = False
        say(f"failed: {failure}")
        reason = explain(cluster) if isinstance(failure, Failure) else ""
        try:
            last_good.go_back(cluster, trial, given.rollout_seconds, given.smoke_seconds)
        except Failure as second:
            print(f"ci.deploy: {given.env} DID NOT GO BACK and may be down: {second}", file=sys.stderr, flush=True)
        if reason:
            raise Failure(f"{failure}: {reason}") from failure
        raise
    say(f"{cluster.namespace} serves model {expected['model']} of commit {expected['commit']}")


def render(env: str) -> list[Object]:
    """Return the objects of an overlay. Raises Failure."""
    manifests = kubectl(["kubectl"], "kustomize", str(OVERLAYS / env))
    # An empty patch converts YAML, which Python's standard library does not read, to JSON, and needs no cluster.
    convert = ("patch", "--local", "--type=merge", "--patch={}", "--filename=-", "--output=json")
    return documents(kubectl(["kubectl"], *convert, stdin=manifests))


def put_image(manifests: list[Object], expected: dict[str, Any]) -> None:
    """Set the image of the Deployment, and a change cause for the rollout history."""
    (deployment,) = [item for item in manifests if (item["kind"], item["metadata"]["name"]) == ("Deployment", NAME)]
    digest = expected["image"].rpartition("@")[2]
    cause = f"commit {expected['commit']}, model {expected['model']}, image {digest}"
    deployment["metadata"].setdefault("annotations", {})["kubernetes.io/change-cause"] = cause
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == NAME:
            container["image"] = expected["image"]


def kept(cluster: Cluster, before: last_good.LastGood, description: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the image that runs has to respond. Raises Failure."""
    image = cluster.image()
    if not IMAGE.fullmatch(image) or image.endswith("0" * 64):
        raise Failure(f"{cluster.namespace} runs no image to keep ({image or 'no Deployment'}); set IMAGE")
    if not before.expected:
        if description is None:
            raise Failure(f"it is not recorded which model {image} has: --model has to name its directory")
        return expectation(image, description)
    if before.expected["image"] != image:
        raise Failure(
            f"{cluster.namespace} runs {image}, which never passed: set IMAGE, e.g. {before.expected['image']}"
        )
    return before.expected


if __name__ == "__main__":
    sys.exit(main())
