"""The rendered manifests, and a service with the settings of the Deployment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, needs
from tests.deployment.cluster import SEARCH, Object, container, of_kind
from tests.integration.serving import Server, started


@pytest.fixture(scope="session", name="checked")
def fixture_checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output of `make manifests`, and the folder with the rendered manifests."""
    needs("kubectl", "kubernetes-validate", "checkov", "promtool", path=SEARCH)
    out = tmp_path_factory.mktemp("rendered")
    call = [sys.executable, "-m", "ci.manifests", "--out", str(out)]
    environment = os.environ | {"PATH": SEARCH}
    done = subprocess.run(
        call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, out


@pytest.fixture(scope="session", name="manifests")
def fixture_manifests(checked: tuple[str, Path]) -> dict[str, list[Object]]:
    """Every rendered object, by the file it is in."""
    return {path.stem: list(yaml.safe_load_all(path.read_text())) for path in checked[1].glob("*.yaml")}


@pytest.fixture(scope="session", name="service")
def fixture_service(
    manifests: dict[str, list[Object]], trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service with the settings and arguments of the Deployment, on a free port of the loopback interface."""
    settings = of_kind(manifests["production"], "ConfigMap")["data"]
    (verb,) = container(of_kind(manifests["production"], "Deployment"))["args"]
    assert verb == "serve"
    folder = tmp_path_factory.mktemp("service")
    with started(folder, "--model", trained, "--host", "127.0.0.1", env=settings) as server:
        yield server
