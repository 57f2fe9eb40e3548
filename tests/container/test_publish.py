"""The tags of a repository after publishing the image, and the images that it is built from and compared with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci import image, registry
from raincast.forecasting import model
from tests.conftest import REGISTRY, ROOT, build_image
from tests.container.engine import docker

pytestmark = pytest.mark.usefixtures("image_folder")


# What `ci.image publish` does after its build; all tests share the image of `image_folder`.
PUBLISH = "from ci import image; image.publish(*image.names())"
# Runs the real skopeo. After the first question for an image, its tag points to another image.
MOVING = """#!{python}
import pathlib, subprocess, sys
done = subprocess.run(["{skopeo}", *sys.argv[1:]])
for reference in sys.argv[1:]:
    moved = pathlib.Path("{folder}", reference.rpartition(":")[2])
    if sys.argv[1] == "inspect" and reference.startswith("docker://{repository}") and "@" not in reference:
        if not moved.exists():
            moved.touch()
            flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]
            subprocess.run(["{skopeo}", "copy", "--quiet", *flags, "docker://{other}", reference], check=True)
sys.exit(done.returncode)
"""


def ran(*call: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this checkout, with variables of a job."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CI_")}
    words = [sys.executable, *map(str, call)]
    done = subprocess.run(words, cwd=ROOT, env=ours | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def published_as(repository: str, base: str) -> tuple[str, str | None]:
    """Publish to a repository; return the output, and the digest of `latest` after it."""
    done = ran("-c", PUBLISH, BASE_IMAGE=base, CI_REGISTRY_IMAGE=repository, CI_COMMIT_SHA="of-this-commit")
    return done.stdout, registry.digest(f"{repository}:latest")


def config(reference: str) -> Any:
    """Return the configuration of an image in the registry."""
    return json.loads(registry.run("skopeo", "inspect", *registry.tls(reference), "--config", f"docker://{reference}"))


@pytest.fixture(name="repository")
def fixture_repository() -> str:
    """An empty repository."""
    return f"{REGISTRY}/raincast/{uuid.uuid4().hex[:12]}"


@pytest.fixture(name="other")
def fixture_other(repository: str, base_image: str) -> Iterator[str]:
    """Another image in the repository: the base with a file."""
    name = f"{repository}:other"
    container = docker("run", "--detach", base_image, "touch", "/moved").stdout.decode().strip()
    docker("wait", container)
    assert docker("commit", container, name).returncode == docker("push", "--quiet", name).returncode == 0
    docker("rm", container)
    yield name
    docker("rmi", name)


def test_latest_is_the_image_of_the_latest_commit_whichever_is_published_last(base_image: str, repository: str) -> None:
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


def test_a_tag_of_git_names_the_image_of_its_commit_and_moves_no_other_tag(
    base_image: str, repository: str, other: str, image_folder: Path
) -> None:
    _, latest = published_as(repository, base_image)
    assert latest is not None
    # Stands for a later commit; and the image that this pipeline would build is another one.
    registry.tag(repository, str(registry.digest(other)), "latest")
    env = {"CI_REGISTRY_IMAGE": repository, "CI_COMMIT_SHA": "of-this-commit", "CI_COMMIT_TAG": "v1.2.3"}
    documents = {name: (image_folder / name).read_bytes() for name in image.DOCUMENTS.values()}
    for name in documents:
        (image_folder / name).unlink()
    done = ran("-m", "ci.image", "publish", BASE_IMAGE="127.0.0.1:1/nothing/can/be/built:on-this", **env)
    assert done.stdout == f"{repository}:v1.2.3 is this image now: {repository}@{latest}\n"
    assert registry.digest(f"{repository}:v1.2.3") == registry.digest(f"{repository}:of-this-commit") == latest
    assert registry.digest(f"{repository}:latest") == registry.digest(other)
    assert (ROOT / "image.env").read_text(encoding="utf-8") == f"IMAGE={repository}@{latest}\n"
    assert {name: (image_folder / name).read_bytes() for name in documents} == documents


def test_a_tag_of_a_commit_without_an_image_builds_it(base_image: str, repository: str) -> None:
    env = {"CI_REGISTRY_IMAGE": repository, "CI_COMMIT_SHA": "of-this-commit", "CI_COMMIT_TAG": "v1.2.3"}
    ran("-c", "from ci import image; assert not image.reuse(*image.names())", **env)
    ran("-c", PUBLISH, BASE_IMAGE=base_image, **env)
    version = registry.digest(f"{repository}:v1.2.3")
    assert version is not None
    assert version == registry.digest(f"{repository}:of-this-commit")
    assert registry.digest(f"{repository}:latest") is None


def test_base_and_dependencies_are_those_recorded_although_their_tags_move(
    base_image: str, repository: str, other: str, image_folder: Path, tmp_path: Path
) -> None:
    base = f"{repository}/base:3.11-slim"
    flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    registry.run("skopeo", "copy", "--quiet", *flags, f"docker://{base_image}", f"docker://{base}")
    env = {"BASE_IMAGE": base, "CI_REGISTRY_IMAGE": repository, "CI_COMMIT_SHA": "of-this-commit"}
    try:
        ran("-m", "ci.image", "build", **env)
        first = (image_folder / "files" / "manifest.json").read_bytes()
        expected = registry.digest(base)
        program = tmp_path / "bin" / "skopeo"
        program.parent.mkdir()
        moving = {"python": sys.executable, "skopeo": shutil.which("skopeo"), "folder": tmp_path, "other": other}
        program.write_text(MOVING.format(repository=repository, **moving), encoding="utf-8")
        program.chmod(0o755)
        ran("-m", "ci.image", "build", PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}", **env)
        moved = {path.name for path in tmp_path.iterdir()} - {"bin"}
        assert len(moved) == 2 and all(
            registry.digest(f"{repository}/{name}") == registry.digest(other)
            for name in ("base:3.11-slim", f"dependencies:{(moved - {'3.11-slim'}).pop()}")
        )
        assert (image_folder / "files" / "manifest.json").read_bytes() == first
        ran("-c", PUBLISH, **env)
        about = config(f"{repository}:latest")
        # The digest does not depend on the names that this machine has for the images below.
        assert not [step for step in about["history"] if step.get("comment", "").startswith("FROM ")]
        labels = about["config"]["Labels"]
        recorded = {f"{repository}/dependencies": labels[image.DEPENDENCIES_LABEL], base: expected}
        assert labels["org.opencontainers.image.base.digest"] == expected
        statement = json.loads((image_folder / "provenance.json").read_bytes())
        parts = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        known = {
            part["uri"]: f"sha256:{part['digest']['sha256']}" for part in parts if "docker:" in part.get("uri", "")
        }
        assert known == {f"docker://{name}": digest for name, digest in recorded.items()}
    finally:
        # The image that the other tests use.
        build_image(base_image)


def test_the_champion_is_fetched_by_the_digest_that_is_recorded(
    base_image: str, repository: str, other: str, tmp_path: Path, trained: Path
) -> None:
    _, latest = published_as(repository, base_image)
    program = tmp_path / "bin" / "skopeo"
    program.parent.mkdir()
    moving = {"python": sys.executable, "skopeo": shutil.which("skopeo"), "folder": tmp_path, "other": other}
    program.write_text(MOVING.format(repository=repository, **moving), encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    folder = tmp_path / "champion"
    done = ran("-m", "ci.image", "champion", folder, PATH=path, CI_REGISTRY_IMAGE=repository)
    assert registry.digest(f"{repository}:latest") == registry.digest(other)
    assert (folder / "image.txt").read_text(encoding="utf-8") == f"{repository}@{latest}\n"
    assert f"{repository}@{latest}" in done.stdout
    assert model.describe(folder / "model") == model.describe(trained)


def test_an_image_without_a_comparison_says_so_for_ever(
    base_image: str, repository: str, image_folder: Path, trained: Path
) -> None:
    path = ROOT / "reports" / "accuracy.json"
    before = path.read_bytes() if path.exists() else None
    report = {
        "model_sha256": model.describe(trained)["files"][model.GRAPH],
        "champion": f"{repository}@sha256:{'1' * 64}",
        "outcome": "champion unrunnable",
        "reason": "numpy 3 removed what it calls",
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report), encoding="utf-8")
    try:
        build_image(base_image)
        published_as(repository, base_image)
        labels = config(f"{repository}:latest")["config"]["Labels"]
        assert labels[image.UNRUNNABLE_LABEL] == report["reason"]
        statement = json.loads((image_folder / "provenance.json").read_bytes())
        assert statement["predicate"]["runDetails"]["byproducts"] == [{"name": "accuracy", "annotations": report}]
        # The report of another model is not this image's.
        path.write_text(json.dumps(report | {"model_sha256": "0" * 64}), encoding="utf-8")
        build_image(base_image)
        labels = json.loads((image_folder / "files" / "manifest.json").read_bytes())["config"]["digest"]
        content = json.loads((image_folder / "files" / labels.partition(":")[2]).read_bytes())
        assert image.UNRUNNABLE_LABEL not in content["config"]["Labels"]
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)
