"""ci.deploy with the real kubectl, a small API server, and the real service."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.cluster import Cluster, key, without
from ci.unready import explain
from raincast.forecasting.model import canonical_json, sha256
from tests.conftest import needs
from tests.deployment.api_server import ApiServer, Key
from tests.deployment.cluster import SEARCH, Object
from tests.deployment.controllers import Controllers
from tests.deployment.world import FIRST, LEASE, NAMESPACE, RECORD, SECOND, World, ended, kubeconfig
from tests.integration.serving import Server, eventually, started

EXTRA = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"a": "b"}}
MONITOR = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "raincast"}}
# The rollout waits for pods, and nothing happens until the test does something.
WAITING = f"/namespaces/{NAMESPACE}/deployments?allowWatchBookmarks"


@pytest.fixture(name="models", scope="module")
def fixture_models(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model directories of the two images; they differ in commit and version."""
    second = tmp_path_factory.mktemp("second")
    for path in trained.iterdir():
        if path.is_file():
            (second / path.name).write_bytes(path.read_bytes())
    description = json.loads((trained / "model.json").read_text())
    description |= {"commit": "b" * 40, "version": "0.2.0+bbbbbbbb"}
    del description["sha256"]
    (second / "model.json").write_text(json.dumps(description | {"sha256": sha256(canonical_json(description))}))
    return {FIRST: trained, SECOND: second}


@pytest.fixture(name="backends", scope="module")
def fixture_backends(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of a service of each image."""
    folders = [tmp_path_factory.mktemp("service") for _ in models]
    flags = ("--host", "127.0.0.1", "--model")
    with (
        started(folders[0], *flags, models[FIRST]) as first,
        started(folders[1], *flags, models[SECOND]) as second,
    ):
        servers: list[Server] = [first, second]
        yield {image: server.port for image, server in zip(models, servers, strict=True)}


@contextlib.contextmanager
def cluster(models: dict[str, Path], backends: dict[str, int], folder: Path) -> Iterator[World]:
    """Run a cluster to which nothing was deployed."""
    needs("kubectl", path=SEARCH)
    with ApiServer() as api:
        api.backends |= backends
        controllers = Controllers(api)
        threads = [threading.Thread(target=run, daemon=True) for run in (api.serve_forever, controllers.run)]
        for thread in threads:
            thread.start()
        world = World(api, controllers, folder, models)
        try:
            yield world
        finally:
            world.end()
        controllers.ended.set()
        threads[1].join()
        api.shutdown()
    assert not controllers.failed


@pytest.fixture(name="empty")
def fixture_empty(models: dict[str, Path], backends: dict[str, int], tmp_path: Path) -> Iterator[World]:
    """A cluster to which nothing was deployed."""
    with cluster(models, backends, tmp_path) as world:
        yield world


@pytest.fixture(name="deployed_once", scope="module")
def fixture_deployed_once(
    models: dict[str, Path], backends: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> dict[Key, Object]:
    """The objects of a cluster after the first image was deployed."""
    with cluster(models, backends, tmp_path_factory.mktemp("first")) as world:
        done = world.deploy(FIRST)
        assert done.code == 0, done
        eventually(lambda: world.ready() == 2 or None)
    return world.api.store.objects


@pytest.fixture(name="world")
def fixture_world(empty: World, deployed_once: dict[Key, Object]) -> World:
    """A cluster that serves the first image."""
    store = empty.api.store
    with store.changed:
        store.objects |= copy.deepcopy(deployed_once)
    return empty


@pytest.fixture(name="other")
def fixture_other(models: dict[str, Path], tmp_path: Path) -> Callable[..., str]:
    """A model directory whose model.json differs from the model of the second service."""

    def changed(**changes: Any) -> str:
        description = json.loads((models[SECOND] / "model.json").read_text())
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "model.json").write_text(json.dumps(description | changes))
        return str(tmp_path / "other")

    return changed


def serves(world: World, image: str) -> bool:
    """Return True if the Service leads to the service of an image."""
    return world.api.backend(NAMESPACE, "raincast:http") == world.api.backends[image]


def went_back(done: Any, world: World, before: dict[Key, Any]) -> None:
    """Assert that all is as before a deployment, and that this was tested."""
    description = json.loads((world.models[FIRST] / "model.json").read_text())
    assert done.code != 0, done
    assert done.stdout.splitlines()[-1] == (
        f"went back: {NAMESPACE} serves model {description['version']} of commit {description['commit']} again"
    ), done
    assert world.applied() == before
    assert serves(world, FIRST) and LEASE not in world.api.store.objects
    record = json.loads(world.api.store.objects[RECORD]["data"]["record"])
    assert (record["expected"]["image"], record["added"]) == (FIRST, [])
    assert [line for line in world.api.store.requests if "/proxy/" in line][-1].endswith("/proxy/forecast")


def wait_for_rollout(world: World) -> None:
    """Wait until ci.deploy waits for the pods of its Deployment."""
    eventually(lambda: any(WAITING in line for line in world.api.store.requests) or None)


def test_success_applies_the_digest_waits_and_tests_the_service(empty: World, models: dict[str, Path]) -> None:
    done = empty.deploy(FIRST)
    assert (done.code, done.stderr) == (0, "")
    description = json.loads((models[FIRST] / "model.json").read_text())
    assert done.stdout.splitlines()[-1] == (
        f"{NAMESPACE} serves model {description['version']} of commit {description['commit']}"
    )
    assert empty.image() == FIRST
    cause = empty.deployment()["metadata"]["annotations"]["kubernetes.io/change-cause"]
    assert f"commit {description['commit']}, model {description['version']}, image sha256:5a5a" in cause
    assert "0" * 64 not in json.dumps(list(empty.applied().values()))
    assert all(f"/api/v1/namespaces/{NAMESPACE}" in line or "/apis/" in line for line in empty.changes())
    assert {where[1] for where in empty.api.store.objects if where[0] != "namespaces"} == {NAMESPACE}
    assert LEASE not in empty.api.store.objects
    fetched = [line.rpartition("/proxy")[2] for line in empty.api.store.requests if "/proxy/" in line]
    assert fetched == ["/version", "/forecast"]


def test_the_context_is_the_one_that_is_named(empty: World) -> None:
    config = kubeconfig(empty.api.url) | {"current-context": "nowhere"}
    (empty.folder / "config").write_text(json.dumps(config))
    assert empty.deploy(FIRST, KUBE_CONTEXT="here").code == 0


def test_a_first_deployment_is_complete_with_the_least_number_of_pods(empty: World) -> None:
    empty.patch("HorizontalPodAutoscaler", "/spec/minReplicas", 3)
    done = empty.deploy(FIRST)
    assert (done.code, empty.ready()) == (0, 3)


def test_a_deployment_with_too_few_pods_fails(empty: World) -> None:
    empty.controllers.autoscaling = False
    done = empty.deploy(FIRST, "--rollout-seconds", "3")
    assert done.code == 1
    assert "1 of at least 2 pods are ready after 3 s" in done.stderr
    assert "no rollback: this was the first deployment" in done.stdout


@pytest.mark.parametrize(("kind", "reason"), [
    ("stuck", "exceeded its progress deadline"),
    ("forbidden", 'deployments "raincast" is forbidden'),
])  # fmt: skip
def test_a_rollout_that_fails_is_undone_and_explained(kind: str, reason: str, world: World) -> None:
    before = world.applied()
    if kind == "stuck":
        world.controllers.crashing[SECOND] = "a line\nprediction.py: model.onnx: SHA-256 differs\n"
    else:
        world.patch("Service", "/spec/ports/0/targetPort", "wrong")
        world.api.forbidden.append(("PATCH", "deployments", SECOND))
    done = world.deploy(SECOND)
    assert done.code == 1
    assert reason in done.stderr
    assert done.stderr.startswith(f"ci.deploy: staging does not serve {SECOND}: kubectl ")
    went_back(done, world, before)


def test_the_reason_is_the_last_line_and_healthy_pods_do_not_hide_it(world: World) -> None:
    world.patch("HorizontalPodAutoscaler", "/spec/maxReplicas", 9)
    world.patch("HorizontalPodAutoscaler", "/spec/minReplicas", 5)
    assert world.deploy(FIRST).code == 0 and world.ready() == 5
    world.controllers.crashing[SECOND] = "a line\nprediction.py: model.onnx: SHA-256 differs\n"
    done = world.deploy(SECOND)
    assert done.code == 1
    assert re.search(
        r": pod raincast-\S+: CrashLoopBackOff: .*; prediction.py: model.onnx: SHA-256 differs\n$", done.stderr
    )
    assert "log of the previous container: prediction.py: model.onnx: SHA-256 differs" in done.stdout
    assert "Warning BackOff: Back-off restarting failed container" in done.stdout
    assert "a healthy line" not in done.stdout
    asked = [line for line in world.api.store.requests if "/log" in line]
    (failing,) = [
        item["metadata"]["name"]
        for item in world.api.store.of("replicasets")
        if item["spec"]["template"]["spec"]["containers"][0]["image"] == SECOND
    ]
    assert asked and all(failing in line for line in asked)


def status_of(state: Object | None = None, last: Object | None = None, **more: Any) -> Object:
    """Return the status of a pod that is not ready."""
    container = {"name": "raincast", "restartCount": 3 if last else 0, "state": state or {}, "lastState": last or {}}
    return {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]} | more


SCHEDULED = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: insufficient cpu."}
OUT_OF_MEMORY = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
REASONS = {
    "pod raincast-x: OOMKilled with exit code 137; the last words": status_of({"running": {}}, OUT_OF_MEMORY),
    "pod raincast-x: ImagePullBackOff: not found; an event": status_of(
        {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    ),
    "pod raincast-x: 0/2 nodes are available: insufficient cpu.; an event": {"conditions": [SCHEDULED]},
    "pod raincast-x: an event": status_of({"running": {}}),
    "exceeded quota": None,
}


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_that_of_pods_that_are_not_ready(
    reason: str, empty: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(empty.folder / "config"))
    store, status = empty.api.store, REASONS[reason]
    labels = {"app.kubernetes.io/name": "raincast", "app.kubernetes.io/component": "server"}
    empty.api.logs = {"raincast-x previous": "a line\nthe last words\n", "raincast-good": "a healthy line"}

    def put(plural: str, kind: str, name: str, **more: Any) -> None:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        store.put(plural, {"kind": kind, "metadata": metadata, "apiVersion": "v1"} | more)

    def event(kind: str, name: str, message: str) -> None:
        about = {"kind": kind, "name": name, "namespace": NAMESPACE}
        put("events", "Event", f"{name}.1", involvedObject=about, type="Warning", reason="Failed", message=message)

    store.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    spec = {"containers": [{"name": "raincast"}]}
    put("pods", "Pod", "raincast-good", spec=spec, status={"conditions": [{"type": "Ready", "status": "True"}]})
    event("Pod", "raincast-good", "an event of a healthy pod")
    if status:
        put("pods", "Pod", "raincast-x", spec=spec, status=status)
        event("Pod", "raincast-x", "an event")
    else:
        put("replicasets", "ReplicaSet", "raincast-set", apiVersion="apps/v1", spec={"replicas": 2}, status={})
        event("ReplicaSet", "raincast-set", "exceeded quota")
    assert explain(Cluster(NAMESPACE)) == reason
    assert "healthy" not in capsys.readouterr().out


def test_a_first_rollout_that_fails_is_not_undone(empty: World) -> None:
    empty.controllers.crashing[FIRST] = "prediction.py: model.onnx: SHA-256 differs"
    done = empty.deploy(FIRST)
    assert done.code == 1
    assert "no rollback: this was the first deployment" in done.stdout
    assert empty.image() == FIRST


def test_a_failed_return_is_reported(world: World) -> None:
    world.controllers.crashing = {FIRST: "no memory", SECOND: "SHA-256 differs"}
    done = world.deploy(SECOND)
    assert done.code == 1
    back, failed = done.stderr.splitlines()
    assert back.startswith("ci.deploy: staging DID NOT GO BACK and may be down: kubectl rollout status")
    assert "exceeded its progress deadline" in back and failed.endswith("SHA-256 differs")
    assert "went back" not in done.stdout


@pytest.mark.parametrize("changes", [
    {"commit": "0" * 40},
    {"version": "0.1.0+00000000"},
    {"data_sha256": "0" * 64},
    {"files": {"model.onnx": "0" * 64}},
])  # fmt: skip
def test_a_service_with_another_model_is_undone(
    changes: dict[str, Any], world: World, other: Callable[..., str]
) -> None:
    before = world.applied()
    done = world.deploy(SECOND, "--model", other(**changes))
    assert re.search(r"/version has \w+ \S+, expected \S*0{8}\n", done.stderr)
    went_back(done, world, before)


def test_a_service_with_other_forecasts_is_undone(
    world: World, other: Callable[..., str], models: dict[str, Path]
) -> None:
    parity = json.loads((models[SECOND] / "model.json").read_text())["parity"]
    before = world.applied()
    changed = copy.deepcopy(parity)
    changed["together"][1] += 1e-6
    done = world.deploy(SECOND, "--model", other(parity=changed))
    assert "/forecast returns [" in done.stderr
    went_back(done, world, before)
    parity["observations"][0]["Rainfall"] = -1
    done = world.deploy(SECOND, "--model", other(parity=parity))
    assert "/forecast: 422 " in done.stderr
    went_back(done, world, before)


BROKEN = {
    "Service": ("/spec/ports/0/targetPort", "wrong", "/version: 503 "),
    "NetworkPolicy": ("/spec/ingress/0/ports/0/port", 9999, "/version: 503 "),
    "HorizontalPodAutoscaler": ("/spec/maxReplicas", 1, "spec.maxReplicas: must be at least minReplicas"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_commit_breaks_is_restored_and_serves_again(kind: str, world: World) -> None:
    before = world.applied()
    path, value, reason = BROKEN[kind]
    world.patch(kind, path, value)
    world.patch("PodDisruptionBudget", "/spec/maxUnavailable", 2)
    done = world.deploy(SECOND)
    assert reason in done.stderr
    went_back(done, world, before)


def test_wrong_settings_are_restored(world: World) -> None:
    before = world.applied()
    world.overlay(configMapGenerator=[{"name": "raincast", "behavior": "merge", "literals": ["RAINCAST_PORT=9090"]}])
    done = world.deploy(SECOND)
    assert done.stderr.endswith("the service listens on 9090\n")
    went_back(done, world, before)


def test_new_objects_are_removed_again_and_missing_ones_restored(world: World) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": NAMESPACE}}
    world.api.store.put("configmaps", copy.deepcopy(theirs))
    before = world.applied()
    world.add("extra", EXTRA)
    world.overlay(patches=[{"patch": json.dumps({"$patch": "delete"} | budget())}])
    world.controllers.crashing[SECOND] = "SHA-256 differs"
    went_back(world.deploy(SECOND), world, before)
    del world.controllers.crashing[SECOND]
    assert world.deploy(SECOND).code == 0
    found = world.applied()
    assert ("configmaps", NAMESPACE, "extra") in found and ("configmaps", NAMESPACE, "theirs") in found
    assert ("poddisruptionbudgets", NAMESPACE, "raincast") not in found


def budget() -> Object:
    """Return the name of the disruption budget."""
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "raincast"}}


def test_what_a_later_commit_no_longer_has_is_removed_but_the_settings_of_the_history(world: World) -> None:
    world.add("extra", EXTRA)
    assert world.deploy(SECOND).code == 0
    world.overlay(configMapGenerator=[{"name": "raincast", "behavior": "merge", "literals": ["RAINCAST_LIMIT=1"]}])
    world.overlay(patches=[{"patch": json.dumps({"$patch": "delete"} | EXTRA)}])
    assert world.deploy(SECOND).code == 0
    names = [where[2] for where in world.applied() if where[0] == "configmaps"]
    assert len(names) == 2 and all(name.startswith("raincast-") for name in names)


def test_another_version_of_a_group_is_the_same_object() -> None:
    old = {"apiVersion": "autoscaling/v2beta2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "raincast"}}
    assert key(old) == key(old | {"apiVersion": "autoscaling/v2"}) != key(old | {"apiVersion": "v1"})
    assert without([old], [old | {"apiVersion": "autoscaling/v2"}]) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_cancelled_deployment_is_undone(number: signal.Signals, code: int, world: World) -> None:
    before = world.applied()
    world.add("extra", EXTRA)
    world.patch("Service", "/spec/ports/0/targetPort", "wrong")
    world.controllers.slow.add(SECOND)
    process = world.start(SECOND)
    wait_for_rollout(world)
    assert world.image() == SECOND
    changes = len(world.changes())
    process.send_signal(number)
    eventually(lambda: any("/deployments/" in line for line in world.changes()[changes:]) or None)
    # A second signal does not end the way back.
    process.send_signal(number)
    done = ended(process)
    assert f"{number.name}: wait, this is about to end" in done.stdout
    assert done.code == code
    assert done.stderr == f"ci.deploy: staging does not serve {SECOND}: ended by {number.name}\n"
    went_back(done, world, before)


def test_make_passes_the_signal_on(world: World) -> None:
    before = world.applied()
    (world.folder / "model").symlink_to(world.models[SECOND])
    world.controllers.slow.add(SECOND)
    process = world.spawn(["make", "deploy", "ENV=staging"], IMAGE=SECOND)
    wait_for_rollout(world)
    process.terminate()
    done = ended(process)
    assert f"ci.deploy: staging does not serve {SECOND}: ended by SIGTERM\n" in done.stderr
    went_back(done, world, before)


def test_make_apply_keeps_the_image(world: World) -> None:
    world.patch("PodDisruptionBudget", "/spec/maxUnavailable", 2)
    done = ended(world.spawn(["make", "apply", "ENV=staging"], IMAGE="unused"))
    assert (done.code, world.image()) == (0, FIRST), done


def test_after_a_kill_a_failure_goes_back_to_what_last_passed(world: World) -> None:
    before = world.applied()
    world.add("extra", EXTRA)
    world.controllers.slow.add(SECOND)
    # Limited, since kubectl outlives the killed process.
    process = world.start(SECOND, "--rollout-seconds", "20")
    wait_for_rollout(world)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    assert world.image() == SECOND
    # The Lease of the killed process expires after a minute; here after one second.
    lease = copy.deepcopy(world.api.store.objects[LEASE])
    lease["spec"]["leaseDurationSeconds"] = 1
    world.api.store.put("leases", lease)
    world.overlay(patches=[{"patch": json.dumps({"$patch": "delete"} | EXTRA)}])
    world.controllers.slow.clear()
    world.controllers.crashing[SECOND] = "SHA-256 differs"
    done = world.deploy(SECOND)
    assert "waiting for " in done.stdout
    went_back(done, world, before)


def test_a_second_deployment_fails_clearly_or_waits(world: World) -> None:
    world.controllers.slow.add(SECOND)
    first = world.start(SECOND, CI_JOB_URL="https://gitlab.example.org/jobs/7")
    wait_for_rollout(world)
    changes = world.changes()
    done = world.deploy(FIRST, "--wait-seconds", "0")
    assert done.code == 1
    assert f"another deployment to {NAMESPACE} is running: https://gitlab.example.org/jobs/7 " in done.stderr
    assert "nothing was changed" in done.stderr
    assert [line for line in world.changes()[len(changes) :] if "/leases" not in line] == []
    waiting = world.start(FIRST)
    eventually(lambda: sum("POST" in line and "/leases" in line for line in world.api.store.requests) > 3 or None)
    world.controllers.slow.clear()
    assert ended(first).code == 0
    assert ended(waiting).code == 0
    assert serves(world, FIRST) and LEASE not in world.api.store.objects


def test_a_deployment_that_has_lost_its_lease_changes_nothing_more(world: World) -> None:
    world.controllers.slow.add(SECOND)
    process = world.start(SECOND, setup="from ci import lease\nlease.SECONDS = 2")
    wait_for_rollout(world)
    lease = copy.deepcopy(world.api.store.objects[LEASE])
    lease["spec"]["holderIdentity"] = "another"
    world.api.store.put("leases", lease)
    changes = len(world.changes())
    done = ended(process)
    assert (done.code, done.stderr) == (
        1,
        f"ci.deploy: staging does not serve {SECOND}: the Lease raincast-deploy in {NAMESPACE} was lost\n",
    )
    assert {line.split("?")[0] for line in world.changes()[changes:]} <= {f"PUT {lease_path()}"}
    assert world.api.store.objects[LEASE]["spec"]["holderIdentity"] == "another"


def lease_path() -> str:
    """Return the path of the Lease."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/raincast-deploy"


def test_a_lease_is_renewed_while_it_is_needed(world: World) -> None:
    world.controllers.slow.add(SECOND)
    process = world.start(SECOND, setup="from ci import lease\nlease.SECONDS = 1")
    eventually(lambda: sum(line.startswith(f"PUT {lease_path()}") for line in world.changes()) > 3 or None)
    world.controllers.slow.clear()
    assert ended(process).code == 0


def test_kinds_that_the_cluster_lacks_are_named_before_anything_is_applied(empty: World) -> None:
    del empty.api.kinds["apis/monitoring.coreos.com/v1"]
    empty.add("monitor", MONITOR)
    done = empty.deploy(FIRST)
    assert done.code == 1
    assert (
        "the cluster has no ServiceMonitor (monitoring.coreos.com/v1): install the Prometheus Operator, or turn off "
        "the component monitoring in the overlay; nothing was applied"
    ) in done.stderr
    assert empty.changes() == []


def test_a_secret_in_the_overlay_is_refused_since_its_content_would_be_recorded(empty: World) -> None:
    empty.add("secret", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}})
    done = empty.deploy(FIRST)
    assert (done.code, empty.api.store.requests) == (1, [])
    assert "the overlay has the Secret token; create it in the cluster instead" in done.stderr


@pytest.mark.parametrize(("config", "env", "message"), [
    (None, {}, "there is no kubeconfig ("),
    ("{}", {}, "the kubeconfig has no current context; set KUBE_CONTEXT to one of its contexts: -"),
    (None, {"KUBECONFIG": "apiVersion: v1\nkind: Config"}, "KUBECONFIG has the content of a kubeconfig"),
    ("ours", {"KUBE_CONTEXT": "x"}, "has no context x; set KUBE_CONTEXT to one of its contexts: here, nowhere"),
])  # fmt: skip
def test_a_missing_kubeconfig_is_named(config: str | None, env: dict[str, str], message: str, empty: World) -> None:
    if config is None:
        (empty.folder / "config").unlink()
    elif config != "ours":
        (empty.folder / "config").write_text(config)
    done = empty.deploy(FIRST, **env)
    assert (done.code, empty.api.store.requests) == (1, [])
    assert message in done.stderr and "localhost:8080" not in done.stderr


def test_an_unreachable_cluster_is_reported_and_nothing_is_done(empty: World) -> None:
    done = empty.deploy(FIRST, KUBE_CONTEXT="nowhere")
    assert (done.code, done.stdout) == (1, "")
    assert "connection refused" in done.stderr or "was refused" in done.stderr


def test_changed_manifests_keep_the_image_that_runs(world: World) -> None:
    world.patch("PodDisruptionBudget", "/spec/maxUnavailable", 2)
    done = world.deploy("", "--keep-image", "--model", "absent")
    assert (done.code, world.image()) == (0, FIRST), done
    assert world.applied()["poddisruptionbudgets", NAMESPACE, "raincast"][0]["spec"]["maxUnavailable"] == 2
    deployment = copy.deepcopy(world.deployment())
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = SECOND
    world.api.store.put("deployments", deployment)
    done = world.deploy("", "--keep-image")
    assert done.code == 1
    assert f"runs {SECOND}, which never passed: set IMAGE, e.g. {FIRST}" in done.stderr


def test_without_a_deployment_there_is_no_image_to_keep(empty: World) -> None:
    done = empty.deploy("", "--keep-image")
    assert (done.code, list(empty.api.store.objects)) == (1, [])
    assert f"there is no namespace {NAMESPACE}, and no image to keep; set IMAGE" in done.stderr
    empty.api.store.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    done = empty.deploy("", "--keep-image")
    assert (done.code, list(empty.api.store.objects)) == (1, [("namespaces", "", NAMESPACE)])
    assert "runs no image to keep (no Deployment); set IMAGE" in done.stderr


@pytest.mark.parametrize("good", [True, False])
def test_what_kubectl_apply_deployed_before_is_taken_over(good: bool, empty: World) -> None:
    overlay = empty.folder / "k8s" / "overlays" / "staging"
    committed = (overlay / "kustomization.yaml").read_text()
    name, _, digest = FIRST.partition("@")
    empty.overlay(images=[{"name": "registry.gitlab.example.org/you/raincast", "newName": name, "digest": digest}])
    empty.kubectl("apply", "-k", str(overlay))
    assert empty.image() == FIRST
    eventually(lambda: serves(empty, FIRST) if empty.ready() else None)
    (overlay / "kustomization.yaml").write_text(committed)
    empty.add("extra", EXTRA)
    if not good:
        empty.controllers.crashing[SECOND] = "SHA-256 differs"
    done = empty.deploy(SECOND)
    assert done.code == (0 if good else 1), done
    assert serves(empty, SECOND if good else FIRST)
    assert (("configmaps", NAMESPACE, "extra") in empty.applied()) == good
    assert ("rolled the Deployment back to revision 1" in done.stdout) != good
    if not good:
        assert empty.deploy(SECOND).code == 1
        assert serves(empty, FIRST)


def test_a_record_that_was_changed_by_hand_is_reported(world: World) -> None:
    record = copy.deepcopy(world.api.store.objects[RECORD])
    record["data"]["record"] = "{"
    world.api.store.put("configmaps", record)
    done = world.deploy(SECOND)
    assert (done.code, world.image(), LEASE in world.api.store.objects) == (1, FIRST, False)
    assert "the ConfigMap raincast-last-good is not readable (" in done.stderr


def test_a_namespace_made_beforehand_is_taken_over_without_a_warning(empty: World) -> None:
    made = empty.folder / "namespace.json"
    made.write_text(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    empty.kubectl("create", "-f", str(made))
    overlay = str(empty.folder / "k8s" / "overlays" / "staging")
    said = empty.kubectl("apply", "--server-side", "--field-manager=raincast", "-k", overlay)
    assert "Warning" not in said
    assert empty.deploy(FIRST).code == 0


@pytest.mark.parametrize(("arguments", "settings", "message"), [
    ([], {"overlay": "nowhere"}, "invalid choice: 'nowhere' (choose from 'production', 'staging')"),
    ([], {"IMAGE": "registry.example.org/raincast:latest"}, "IMAGE must be REPOSITORY@sha256:DIGEST"),
    ([], {"IMAGE": ""}, "IMAGE must be REPOSITORY@sha256:DIGEST"),
    (["--keep-image"], {}, "IMAGE is set, and --keep-image keeps the image that runs"),
    (["--model", "absent"], {}, "no model to compare with"),
])  # fmt: skip
def test_a_wrong_call_is_reported_before_anything_is_done(
    arguments: list[str], settings: dict[str, str], message: str, empty: World
) -> None:
    done = empty.deploy(FIRST, *arguments, **settings)
    assert (done.code, empty.api.store.requests) == (2, [])
    assert message in done.stderr
