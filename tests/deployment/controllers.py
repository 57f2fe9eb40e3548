"""Controllers for the small API server: they make pods of a Deployment, and its least number by the autoscaler."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from dataclasses import dataclass, field

from tests.deployment.api_server import ApiServer, Refused, is_ready
from tests.deployment.cluster import Object

TICK_SECONDS = 0.02
# After so many ticks a rollout whose pods are not ready has exceeded its deadline.
DEADLINE_TICKS = 25
REVISION = "deployment.kubernetes.io/revision"


@dataclass
class Controllers:
    """Bring every Deployment of an API server to what it specifies, one step per tick.

    Pods of an image in `slow` never become ready; those of one in `crashing` end with its last words.
    """

    api: ApiServer
    slow: set[str] = field(default_factory=set)
    crashing: dict[str, str] = field(default_factory=dict)
    autoscaling: bool = True
    ticks: dict[str, int] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    failed: list[Exception] = field(default_factory=list)

    def run(self) -> None:
        """Work until the end."""
        while not self.ended.wait(TICK_SECONDS):
            store = self.api.store
            with store.changed:
                try:
                    for deployment in store.of("deployments"):
                        self.settle(copy.deepcopy(deployment))
                except (Refused, KeyError, ValueError) as error:
                    self.failed.append(error)

    def settle(self, deployment: Object) -> None:
        """Do the next step for a Deployment."""
        store, namespace = self.api.store, deployment["metadata"]["namespace"]
        current = self.current(deployment)
        if self.is_stale(deployment):
            return
        name, hashed = current["metadata"]["name"], current["metadata"]["labels"]["pod-template-hash"]
        pods = [
            p
            for p in store.of("pods", namespace)
            if p["metadata"]["labels"].get("app.kubernetes.io/name") == "raincast"
        ]
        new = [pod for pod in pods if pod["metadata"]["labels"]["pod-template-hash"] == hashed]
        old = [pod for pod in pods if pod not in new]
        wanted = deployment["spec"]["replicas"]
        # As maxSurge does: one pod more than there were.
        if len(new) < wanted and (not old or all(map(is_ready, new))):
            self.start(deployment, f"{name}-{len(new)}", hashed)
        for pod in new[wanted:]:
            store.delete("pods", namespace, pod["metadata"]["name"])
        for pod in new:
            self.judge(copy.deepcopy(pod))
        ready = [pod for pod in new if is_ready(store.get("pods", namespace, pod["metadata"]["name"]))]
        complete = len(ready) == wanted
        if complete:
            for pod in old:
                store.delete("pods", namespace, pod["metadata"]["name"])
            old = []
        waits = not complete and self.image(deployment) not in self.slow
        rollout = f"{name} {current['metadata']['annotations'][REVISION]}"
        self.ticks[rollout] = self.ticks.get(rollout, 0) + 1 if waits else 0
        late = self.ticks[rollout] > DEADLINE_TICKS
        progress = {"type": "Progressing", "status": "False" if late else "True"}
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(new) + len(old),
            "updatedReplicas": len(new),
            "readyReplicas": len(ready) + len(old),
            "availableReplicas": len(ready) + len(old),
            "conditions": [progress | {"reason": "ProgressDeadlineExceeded" if late else "Complete"}],
        }
        store.put("deployments", deployment)
        if complete and self.autoscaling:
            self.scale(copy.deepcopy(deployment))

    def is_stale(self, deployment: Object) -> bool:
        """Return True while the conditions are still those of the rollout before: until somebody has seen them."""
        store = self.api.store
        status, generation = deployment.get("status", {}), deployment["metadata"]["generation"]
        if self.ticks.get("stale") or (status and status["observedGeneration"] != generation and stuck(status)):
            watches = sum("&watch=true" in line for line in store.requests)
            status["observedGeneration"] = generation
            store.put("deployments", deployment)
            self.ticks["stale"] = self.ticks.get("stale") or watches + 1
            if watches < self.ticks["stale"]:
                return True
            self.ticks["stale"] = 0
        return False

    def scale(self, deployment: Object) -> None:
        """Raise the replicas to the autoscaler's minimum."""
        for scaler in self.api.store.of("horizontalpodautoscalers", deployment["metadata"]["namespace"]):
            if scaler["spec"]["minReplicas"] > deployment["spec"]["replicas"]:
                deployment["spec"]["replicas"] = scaler["spec"]["minReplicas"]
                self.api.store.put("deployments", deployment)

    def current(self, deployment: Object) -> Object:
        """Return the ReplicaSet of the Deployment's template, and number it as its revision if it is new or back."""
        store, meta = self.api.store, deployment["metadata"]
        template = deployment["spec"]["template"]
        hashed = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        sets = store.of("replicasets", meta["namespace"])
        last = max((int(item["metadata"]["annotations"][REVISION]) for item in sets), default=0)
        annotations = meta.setdefault("annotations", {})
        for item in sets:
            if item["metadata"]["labels"]["pod-template-hash"] == hashed:
                found = copy.deepcopy(item)
                if item["metadata"]["annotations"][REVISION] != annotations.get(REVISION):
                    found["metadata"]["annotations"][REVISION] = str(last + 1)
                break
        else:
            labels = template["metadata"]["labels"] | {"pod-template-hash": hashed}
            inner = copy.deepcopy(template)
            inner["metadata"]["labels"] = labels
            owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"], "uid": meta["uid"]}
            found = {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{meta['name']}-{hashed}",
                    "namespace": meta["namespace"],
                    "labels": labels,
                    "annotations": {REVISION: str(last + 1)},
                    "ownerReferences": [owner | {"controller": True}],
                },
                "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": inner},
                "status": {"replicas": 1},
            }
        annotations[REVISION] = found["metadata"]["annotations"][REVISION]
        return store.put("replicasets", found)

    def start(self, deployment: Object, name: str, hashed: str) -> None:
        """Create a pod that is not ready yet."""
        template = deployment["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": deployment["metadata"]["namespace"],
                "labels": template["metadata"]["labels"] | {"pod-template-hash": hashed},
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
        }
        self.api.store.put("pods", pod)

    def judge(self, pod: Object) -> None:
        """Let a pod become ready, or say in its status, log and events why it does not."""
        meta, (container,) = pod["metadata"], pod["spec"]["containers"]
        image, state = container["image"], "waiting"
        status: Object = {"name": container["name"], "restartCount": 0, "ready": False}
        reason = self.misconfigured(meta["namespace"], container)
        if image in self.slow:
            return
        if image in self.crashing:
            words = self.crashing[image]
            self.api.logs |= {f"{meta['name']} previous": words, meta["name"]: ""}
            status |= {"restartCount": 4, "lastState": {"terminated": {"reason": "Error", "exitCode": 1}}}
            status["state"] = {state: {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}}
            self.warn(pod, "BackOff", "Back-off restarting failed container")
        elif reason:
            status["state"] = {state: {"reason": "CreateContainerConfigError", "message": reason}}
            self.warn(pod, "Failed", f"Error: {reason}")
        else:
            status |= {"ready": True, "state": {"running": {}}}
            self.api.logs.setdefault(meta["name"], "a healthy line\n" * 20)
        good = "True" if status["ready"] else "False"
        conditions = [{"type": "Ready", "status": good}]
        self.api.store.put("pods", pod | {"status": {"conditions": conditions, "containerStatuses": [status]}})

    def misconfigured(self, namespace: str, container: Object) -> str:
        """Return what is wrong with the settings of a container, or ""."""
        (source,) = [entry["configMapRef"]["name"] for entry in container["envFrom"]]
        settings = self.api.store.objects.get(("configmaps", namespace, source))
        if settings is None:
            return f'configmap "{source}" not found'
        ports = [str(port["containerPort"]) for port in container["ports"]]
        port = settings["data"]["RAINCAST_PORT"]
        return "" if port in ports else f"the service listens on {port}"

    def warn(self, pod: Object, reason: str, message: str) -> None:
        """Record an event of a pod."""
        meta = pod["metadata"]
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{reason.lower()}", "namespace": meta["namespace"]},
            "involvedObject": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"]},
            "type": "Warning",
            "reason": reason,
            "message": message,
        }
        if ("events", meta["namespace"], event["metadata"]["name"]) not in self.api.store.objects:
            self.api.store.put("events", event)

    @staticmethod
    def image(deployment: Object) -> str:
        """Return the image of a Deployment."""
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return str(container["image"])


def stuck(status: Object) -> bool:
    """Return True if a rollout has exceeded its deadline."""
    return any(condition["reason"] == "ProgressDeadlineExceeded" for condition in status["conditions"])
