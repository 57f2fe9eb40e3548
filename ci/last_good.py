"""Keep in the cluster what last passed its smoke test, and go back to it.

The ConfigMap raincast-last-good survives a deployment that is killed, so that the next failure does not go back to what
never passed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ci.cluster import DEPLOYMENT, PODS, Cluster, Failure, Object, key, references, say, without
from ci.smoke import smoke_test

RECORD = "raincast-last-good"
# A rollout's deadline is longer than this, so a rollout back cannot have exceeded it yet.
STALE_SECONDS = 10


@dataclass(frozen=True)
class LastGood:
    """The manifests that last passed their smoke test, and what has been created since.

    `revision` is the rollout's number when nothing was recorded yet, "" if nothing was deployed then. `added` are
    references of what attempts since then created, `kept` those of what earlier revisions in the history still use.
    """

    revision: str = ""
    expected: dict[str, Any] = field(default_factory=dict)
    manifests: list[Object] = field(default_factory=list)
    added: list[Object] = field(default_factory=list)
    kept: list[Object] = field(default_factory=list)

    def attempt(self, created: list[Object]) -> LastGood:
        """Return the record of an attempt that is about to create objects."""
        return dataclasses.replace(self, added=self.added + without(references(created), self.added))

    def obsolete(self, manifests: list[Object], in_use: list[Object]) -> list[Object]:
        """Return the references of what was applied once and is neither in these manifests nor in use."""
        return without(references(self.manifests) + self.added + self.kept, manifests, in_use)

    def passed(self, manifests: list[Object], expected: dict[str, Any], in_use: list[Object]) -> LastGood:
        """Return the record of manifests that have passed."""
        return LastGood(self.revision, expected, manifests, [], without(in_use, manifests))

    def of_earlier_revisions(self, cluster: Cluster) -> list[Object]:
        """Return the references of ConfigMaps that `kubectl rollout undo` would need. Raises Failure."""
        templates = json.dumps([item["spec"] for item in cluster.get("replicasets", *PODS)])
        known = references(self.manifests) + self.added + self.kept
        return [
            reference
            for reference in {key(item): item for item in known}.values()
            if reference["kind"] == "ConfigMap" and json.dumps(reference["metadata"]["name"]) in templates
        ]


def read(cluster: Cluster) -> LastGood:
    """Return the record; before the first, that of the current revision. Raises Failure."""
    for item in cluster.get("configmap", RECORD):
        try:
            return LastGood(**json.loads(item["data"]["record"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Failure(
                f"the ConfigMap {RECORD} is not readable ({error}): delete it; nothing was changed"
            ) from error
    return LastGood(revision=cluster.revision())


def write(cluster: Cluster, record: LastGood) -> None:
    """Record in the cluster. Raises Failure."""
    item = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": RECORD,
            "namespace": cluster.namespace,
            "labels": {"app.kubernetes.io/part-of": "raincast", "app.kubernetes.io/managed-by": "ci.deploy"},
        },
        "data": {"record": json.dumps(dataclasses.asdict(record), separators=(",", ":"))},
    }
    cluster.apply([item], manager="raincast-last-good")


def go_back(cluster: Cluster, record: LastGood, rollout_seconds: int, smoke_seconds: int) -> None:
    """Restore what last passed, remove what was added since, and test the service again. Raises Failure."""
    if record.manifests:
        say(cluster.apply(record.manifests))
        cluster.delete(without(record.added, record.manifests, record.kept))
        cluster.wait_until_complete(record.manifests, rollout_seconds, STALE_SECONDS)
        with cluster.service() as url:
            smoke_test(url, record.expected, smoke_seconds)
        write(cluster, dataclasses.replace(record, added=[]))
        expected = record.expected
        say(f"went back: {cluster.namespace} serves model {expected['model']} of commit {expected['commit']} again")
    elif record.revision:
        say(cluster.run("rollout", "undo", DEPLOYMENT, f"--to-revision={record.revision}"))
        cluster.delete(record.added)
        cluster.wait_until_complete([], rollout_seconds, STALE_SECONDS)
        # Kubernetes numbers the revision anew when it comes back.
        write(cluster, LastGood(cluster.revision()))
        say(
            f"rolled the Deployment back to revision {record.revision}, untested, and nothing else: it was deployed "
            f"before {RECORD} was kept"
        )
    else:
        say("no rollback: this was the first deployment")
