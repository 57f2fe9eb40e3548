"""What publishing the image does to a repository's tags."""

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
    """What publishing to a repository says, and the digest of its `latest` then."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CI_")}
    call = [sys.executable, "-m", "ci.image", "publish"]
    env = ours | {"BASE_IMAGE": base, "CI_REGISTRY_IMAGE": repository, "CI_COMMIT_SHA": "of-this-commit"}
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, registry.digest(f"{repository}:latest")


def test_latest_is_the_image_of_the_latest_commit_whichever_is_published_last(base_image: str) -> None:
    repository = f"{REGISTRY}/raincast/{uuid.uuid4().hex[:12]}"
    said, latest = published_as(repository, base_image)
    assert f"{repository}:latest is that now" in said
    assert latest is not None
    assert latest == registry.digest(f"{repository}:of-this-commit")
    # As if a later commit had been published meanwhile: what Docker commits is made now.
    container = docker("create", "raincast:local").stdout.decode().strip()
    later = f"{repository}:latest"
    assert docker("commit", container, later).returncode == docker("push", "--quiet", later).returncode == 0
    docker("rm", container)
    docker("rmi", later)
    moved = registry.digest(later)
    assert moved != latest
    said, still = published_as(repository, base_image)
    assert "latest stays what it is, the image of a later commit" in said
    assert (still, registry.digest(f"{repository}:of-this-commit")) == (moved, latest)
