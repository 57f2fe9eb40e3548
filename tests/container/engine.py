"""Containers of Docker's engine, and requests to them."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.serving import JSON, PATIENCE, eventually


def docker(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command of Docker's client."""
    call = ["docker", *map(str, arguments)]
    return subprocess.run(call, input=stdin, capture_output=True, timeout=PATIENCE, check=False)


@contextmanager
def running(image: str, *flags: str, arguments: tuple[str, ...] = ("serve",)) -> Iterator[str]:
    """Run a container in the background and yield its id; remove it at the end."""
    done = docker("run", "--detach", *flags, image, *arguments)
    assert done.returncode == 0, done.stderr
    name = done.stdout.decode().strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def address(name: str) -> str:
    """Return the URL of a container's published port."""
    return "http://" + eventually(lambda: docker("port", name, "8080").stdout.decode().splitlines())[0]


def asked(url: str, body: bytes, media_type: str = JSON) -> bytes | None:
    """Return the response to a POST, in the media type of the body, or None while there is none."""
    request = urllib.request.Request(url, body, {"content-type": media_type, "accept": media_type})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return bytes(response.read())
    except OSError:
        return None
