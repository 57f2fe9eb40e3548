"""Find out why pods do not become ready."""

from __future__ import annotations

from typing import Any

from ci.cluster import NAME, PODS, Cluster, Failure, Object, say

# Pods of one revision fail for one reason, so that a few of them show it.
PODS_SHOWN = 3
LINES = 10
# A line of a log may be a request with a large body in it.
WIDTH = 500


def explain(cluster: Cluster) -> str:
    """Print the state, events and logs of pods that are not ready, and return the reason of the newest, or ""."""
    try:
        pods = [pod for pod in cluster.get("pods", *PODS) if not ready(pod) and not ended(pod)]
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
        reasons = [explain_pod(cluster, pod) for pod in pods[:PODS_SHOWN]]
        if len(pods) > PODS_SHOWN:
            say(f"{len(pods) - PODS_SHOWN} more pods are not ready")
        return next(filter(None, reasons), "") or explain_rollout(cluster)
    except (Failure, KeyError) as error:
        say(f"the reason cannot be found out: {error}")
        return ""


def explain_pod(cluster: Cluster, pod: Object) -> str:
    """Print state, events and logs of a pod, and return its reason."""
    name = pod["metadata"]["name"]
    states = [text for status in statuses(pod) for text in describe(status)]
    states = states or [
        c["message"] for c in conditions(pod, "PodScheduled") if c["status"] != "True" and "message" in c
    ]
    say(f"pod {name} is not ready: {'; '.join(states) or pod['status'].get('phase', 'Pending')}")
    warnings = show_events(cluster, "Pod", name)
    restarted = any(status.get("restartCount") for status in statuses(pod))
    logs = [show_logs(cluster, name, *options) for options in ([("--previous",)] if restarted else []) + [()]]
    last_lines = [lines[-1] for lines in logs if lines]
    if any(crash(status) for status in statuses(pod)):
        reason = [*states, *last_lines[:1]]
    else:
        reason = [*states, *warnings[-1:]]
    return f"pod {name}: {'; '.join(dict.fromkeys(reason))}" if reason else ""


def explain_rollout(cluster: Cluster) -> str:
    """Print the events of the Deployment and its newest ReplicaSet; return why that has too few pods, or ""."""
    show_events(cluster, "Deployment", NAME)
    sets = cluster.get("replicasets", *PODS)
    if not sets:
        return ""
    newest = max(sets, key=lambda item: str(item["metadata"].get("creationTimestamp")))
    warnings = show_events(cluster, "ReplicaSet", newest["metadata"]["name"])
    short = newest["status"].get("replicas", 0) < newest["spec"].get("replicas", 0)
    return warnings[-1] if short and warnings else ""


def show_events(cluster: Cluster, kind: str, name: str) -> list[str]:
    """Print the last events of an object, and return the messages of its warnings, oldest first. Raises Failure."""
    selector = f"--field-selector=involvedObject.kind={kind},involvedObject.name={name}"
    events = cluster.get("events", selector)
    events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    for event in events[-LINES:]:
        say(f"  {event['type']} {event['reason']}: {shortened(event.get('message', ''))}")
    return [shortened(e.get("message", "")) for e in events if e["type"] == "Warning"]


def show_logs(cluster: Cluster, pod: str, *options: str) -> list[str]:
    """Print and return the last lines of a pod's log."""
    try:
        text = cluster.run("logs", pod, f"--container={NAME}", f"--tail={LINES}", *options)
    except Failure as failure:
        # Of a container that has not started there are none.
        say(f"  {shortened(str(failure))}")
        return []
    lines = [shortened(line) for line in text.splitlines() if line.strip()]
    for line in lines:
        say(f"  log{' of the previous container' if options else ''}: {line}")
    return lines


def ready(pod: Object) -> bool:
    """Return True if the pod takes requests."""
    return any(condition["status"] == "True" for condition in conditions(pod, "Ready"))


def ended(pod: Object) -> bool:
    """Return True if the pod is not meant to run any more."""
    return "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") == "Succeeded"


def conditions(pod: Object, kind: str) -> list[Object]:
    """Return the pod's conditions of a kind."""
    return [condition for condition in pod["status"].get("conditions", []) if condition["type"] == kind]


def statuses(pod: Object) -> list[Object]:
    """Return the status of each container."""
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]


def crash(status: Object) -> Any:
    """Return how the container ended last, or None."""
    return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")


def describe(status: Object) -> list[str]:
    """Return why a container waits, and how it ended last."""
    waiting, terminated = status.get("state", {}).get("waiting"), crash(status)
    found = []
    if waiting:
        found.append(": ".join(filter(None, (waiting.get("reason"), waiting.get("message")))))
    if terminated:
        found.append(f"{terminated.get('reason', 'ended')} with exit code {terminated['exitCode']}")
        found += [terminated["message"]] if "message" in terminated else []
    return [shortened(text) for text in found]


def shortened(text: str) -> str:
    """Return the text in one line that is not too long."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
