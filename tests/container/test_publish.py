"""The tags of a repository after publishing the image."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from ci import registry
from tests.conftest import REGISTRY, ROOT
from tests.container.engine import docker

pytestmark = pytest.mark.usefixtures("image_folder")


def published_as(repository: str, base: str) -> tuple[str, str | None]:
    """Publish to a repository; return the output, and the digest of `latest` after it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CI_")}
    call = [sys.executable, "-m", "ci.image", "publish"]
    env = ours | {"BASE_IMAGE": base, "CI_REGISTRY_IMAGE": repository, "CI_COMMIT_SHA": "of-this-commit"}
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, registry.digest(f"{repository}:latest")


def test_latest_is_the_image_of_the_latest_commit_whichever_is_published_last(base_image: str) -> None:
    repository = f"{REGISTRY}/raincast/{uuid.uuid4().hex[:12]}"
    output, latest = published_as(repository, base_image)
    assert f"{repository}:latest is this image now" in output
    assert latest is not None
    assert latest == registry.digest(f"{repository}:of-this-commit")
    # Stands for a later commit that was published meanwhile: Docker creates this image now.
    container = docker("create", "raincast:local").stdout.decode().strip()
    later = f"{repository}:latest"
    assert docker("commit", container, later).returncode == docker("push", "--quiet", later).returncode == 0
    docker("rm", container)
    docker("rmi", later)
    moved = registry.digest(later)
    assert moved != latest
    output, still = published_as(repository, base_image)
    assert "latest stays: it is the image of a later commit" in output
    assert (still, registry.digest(f"{repository}:of-this-commit")) == (moved, latest)
