"""The base image: in its registry or, if that cannot be reached, in an engine on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from ci import registry
from ci.registry import CommandError, run

PYTHON = "docker.io/library/python:3.11-slim"


@dataclass(frozen=True)
class Base:
    """A base image: its public name and its digest, and the reference by which buildah finds exactly this image."""

    name: str
    digest: str
    reference: str


def find() -> Base:
    """Return the image that BASE_IMAGE names. Raises CommandError."""
    name = os.environ.get("BASE_IMAGE") or PYTHON
    try:
        digest = registry.digest(name)
    except CommandError as unreachable:
        found = _stored(name) or _of_engine(name)
        if found is None:
            reason = str(unreachable).rpartition(": ")[2]
            raise CommandError(
                f"{name}: the registry cannot be asked, and no engine on this machine has this image: {reason};"
                " set BASE_IMAGE to a mirror of it"
            ) from unreachable
        where, base = found
        print(f"{name}: the registry cannot be asked; using the image of {where}, {base.digest}", file=sys.stderr)
        return base
    if digest is None:
        raise CommandError(f"{name}: the registry has no such image; set BASE_IMAGE to another")
    return Base(name, digest, f"{_repository(name)}@{digest}")


def _repository(name: str) -> str:
    """Return an image's name without tag and digest."""
    host, slash, path = name.partition("@")[0].rpartition("/")
    return f"{host}{slash}{path.partition(':')[0]}"


def _stored(name: str) -> tuple[str, Base] | None:
    """Return the image in the storage that buildah and podman of this user share, or None if it is not there."""
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"containers-storage:{registry.without_tag(name)}"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return None
    return "buildah and podman", Base(name, registry.sha256(done.stdout), registry.without_tag(name))


def _of_engine(name: str) -> tuple[str, Base] | None:
    """Copy the image of Docker's engine to buildah, and return it, or None if there is no engine or no such image."""
    if shutil.which("docker") is None:
        return None
    call = ["docker", "image", "inspect", "--format", "{{json .}}", name]
    done = subprocess.run(call, capture_output=True, check=False)
    if done.returncode:
        return None
    about = json.loads(done.stdout)
    reference = f"localhost/raincast/base:{about['Id'].rpartition(':')[2][:24]}"
    copied = run("skopeo", "copy", "--quiet", f"docker-daemon:{about['Id']}", f"containers-storage:{reference}")
    assert not copied
    # The digest in the registry, if the engine has pulled the image; one that was built or loaded has none.
    known = [pulled.partition("@") for pulled in about["RepoDigests"] or []]
    official = _repository(name).removeprefix("docker.io/").removeprefix("library/")
    digests = [digest for repository, _, digest in known if repository == official]
    digest = digests[0] if digests else registry.sha256(
        registry.printed("skopeo", "inspect", "--raw", f"containers-storage:{reference}")
    )  # fmt: skip
    return "Docker's engine", Base(name, digest, reference)
