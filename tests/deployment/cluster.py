"""The tools of deployment, what they render, and a service with the settings of the manifests."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.conftest import ROOT

K8S = ROOT / "k8s"
# Where make puts checkov and kubernetes-validate.
SEARCH = os.pathsep.join([str(Path(sys.prefix) / "manifests" / "bin"), os.environ["PATH"]])
Object = dict[str, Any]


def script(name: str) -> ModuleType:
    """A script of ci/ as a module."""
    loader = importlib.machinery.SourceFileLoader(f"ci_{name}", str(ROOT / "ci" / name))
    specification = importlib.util.spec_from_loader(loader.name, loader)
    assert specification
    module = importlib.util.module_from_spec(specification)
    # No byte code beside the script.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def of_kind(objects: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    (found,) = [o for o in objects if o["kind"] == kind]
    return found


def pod(workload: Object) -> Object:
    """The pod of a Deployment or a Job."""
    return dict(workload["spec"]["template"]["spec"])


def container(workload: Object) -> Object:
    """Its only container."""
    (found,) = pod(workload)["containers"]
    return dict(found)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The paths at which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif one != other:
        yield path
