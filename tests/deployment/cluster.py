"""Rendered manifests: paths, and the parts of their objects."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

K8S = ROOT / "k8s"
# make installs checkov and kubernetes-validate there.
SEARCH = os.pathsep.join([str(Path(sys.prefix) / "manifests" / "bin"), os.environ["PATH"]])
Object = dict[str, Any]


def of_kind(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (only,) = [o for o in objects if o["kind"] == kind]
    return only


def pod(workload: Object) -> Object:
    """Return the pod's specification of a Deployment or a Job."""
    return dict(workload["spec"]["template"]["spec"])


def container(workload: Object) -> Object:
    """Return the only container of a Deployment or a Job."""
    (only,) = pod(workload)["containers"]
    return dict(only)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif one != other:
        yield path
