"""Let one deployment at a time change a namespace: a Lease, which lasts a minute and is renewed while it is needed.

A deployment that was killed leaves its Lease, which the next takes over when it has not changed for its duration. That
is measured by the waiting process, so clocks may differ. kubectl create fails if the Lease exists, and kubectl replace
if its resourceVersion has changed, so two cannot take it at once.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from ci.cluster import Cluster, Failure, Object, say

LEASE = "raincast-deploy"
SECONDS = 60


class Lost(Exception):
    """Another deployment has taken the Lease over, because this one could not renew it in time."""


@contextlib.contextmanager
def held(cluster: Cluster, seconds: int, create_namespace: Callable[[], None]) -> Iterator[None]:
    """Hold the Lease, for which this waits so many seconds. Raises Failure; Lost within, if it is lost."""
    try:
        lease = take(cluster, seconds)
    except Failure as failure:
        if f'namespaces "{cluster.namespace}" not found' not in str(failure):
            raise
        create_namespace()
        lease = take(cluster, seconds)
    ended = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def renew() -> None:
        """Renew the Lease until the end; if another has it, interrupt the main thread."""
        current, renewed = lease, time.monotonic()
        while not ended.wait(SECONDS / 4):
            try:
                current = written(cluster, "replace", current["spec"], current["metadata"]["resourceVersion"])
                renewed = time.monotonic()
            except Failure as failure:
                gone = "(Conflict)" in str(failure) or "(NotFound)" in str(failure)
                if gone or time.monotonic() > renewed + SECONDS * 3 / 4:
                    signal.pthread_kill(main, signal.SIGUSR1)
                    return

    def lost(*_: object) -> None:
        raise Lost(f"the Lease {LEASE} in {cluster.namespace} was lost")

    previous = signal.signal(signal.SIGUSR1, lost)
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    released = True
    try:
        yield
    except Lost:
        released = False
        raise
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
        if released:
            release(cluster)


def take(cluster: Cluster, seconds: int) -> Object:
    """Create the Lease, or take it over once it has expired, and return it. Raises Failure."""
    holder = f"{os.environ.get('CI_JOB_URL') or socket.gethostname()} {uuid.uuid4().hex[:8]}"
    end = time.monotonic() + seconds
    version, since = "", 0.0
    while True:
        spec = {"holderIdentity": holder, "leaseDurationSeconds": SECONDS, "acquireTime": now()}
        with tolerated("(AlreadyExists)"):
            return written(cluster, "create", spec)
        for other in cluster.get("lease", LEASE):
            if other["metadata"]["resourceVersion"] != version:
                version, since = other["metadata"]["resourceVersion"], time.monotonic()
                say(f"waiting for {other['spec']['holderIdentity']}, which deploys to {cluster.namespace}")
            elif time.monotonic() > since + other["spec"]["leaseDurationSeconds"]:
                with tolerated("(Conflict)", "(NotFound)"):
                    return written(cluster, "replace", spec, version)
            if time.monotonic() > end:
                raise Failure(
                    f"another deployment to {cluster.namespace} is running: {other['spec']['holderIdentity']}, since "
                    f"{other['spec']['acquireTime']}; nothing was changed"
                )
        time.sleep(1)


def written(cluster: Cluster, verb: str, spec: Object, version: str = "") -> Object:
    """Create the Lease, or replace its known version, and return it. Raises Failure."""
    metadata = {"name": LEASE, "namespace": cluster.namespace} | ({"resourceVersion": version} if version else {})
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    lease["spec"] = spec | {"renewTime": now()}
    return dict(json.loads(cluster.run(verb, "-f", "-", "-o", "json", stdin=json.dumps(lease), limit="10s")))


def release(cluster: Cluster) -> None:
    """Delete the Lease; if that fails, it expires."""
    try:
        cluster.run("delete", "lease", LEASE, "--ignore-not-found", "--wait=false")
    except Failure as failure:
        say(str(failure))


@contextlib.contextmanager
def tolerated(*reasons: str) -> Iterator[None]:
    """Go on after a Failure for one of these reasons."""
    try:
        yield
    except Failure as failure:
        if not any(reason in str(failure) for reason in reasons):
            raise


def now() -> str:
    """Return the time as the API's MicroTime."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
