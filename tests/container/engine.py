"""Containers of Docker's engine, and what they answer."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.serving import JSON, PATIENCE, eventually


def docker(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """A call of Docker's client."""
    call = ["docker", *map(str, arguments)]
    return subprocess.run(call, input=stdin, capture_output=True, timeout=PATIENCE, check=False)


@contextmanager
def running(image: str, *flags: str, arguments: tuple[str, ...] = ("serve",)) -> Iterator[str]:
    """A container in the background, removed at the end; yields its id."""
    done = docker("run", "--detach", *flags, image, *arguments)
    assert done.returncode == 0, done.stderr
    name = done.stdout.decode().strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def address(name: str) -> str:
    """Where a container's published port answers."""
    return "http://" + eventually(lambda: docker("port", name, "8080").stdout.decode().splitlines())[0]


def asked(url: str, body: bytes, media_type: str = JSON) -> bytes | None:
    """The answer to a POST, in the media type of the body; None while nobody answers."""
    request = urllib.request.Request(url, body, {"content-type": media_type, "accept": media_type})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return bytes(response.read())
    except OSError:
        return None
