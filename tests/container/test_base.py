"""The base of the image on machines that cannot reach its registry, and jobs in a base that installs from a mirror."""

from __future__ import annotations

import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from ci import base, registry
from tests.conftest import ROOT
from tests.container.engine import docker

pytestmark = pytest.mark.usefixtures("base_image")

# A registry that nobody reaches.
UNREACHABLE = "127.0.0.1:1"


@pytest.fixture(name="only_here")
def fixture_only_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A base that Docker's engine has under a name whose registry cannot be reached."""
    name = f"{UNREACHABLE}/raincast/{uuid.uuid4().hex[:12]}:3.11-slim"
    assert docker("tag", base.PYTHON, name).returncode == 0
    monkeypatch.setenv("BASE_IMAGE", name)
    yield name
    docker("rmi", name)


def layers(reference: str) -> list[str]:
    """Return the layers of an image in buildah's storage."""
    config = json.loads(registry.printed("skopeo", "inspect", "--config", f"containers-storage:{reference}"))
    return list(config["rootfs"]["diff_ids"])


def test_without_its_registry_the_base_is_the_image_of_an_engine(
    only_here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = base.find()
    assert found.name == only_here
    assert capsys.readouterr().err == (
        f"{only_here}: the registry cannot be asked; using the image of Docker's engine, {found.digest}\n"
    )
    done = docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", only_here)
    assert layers(found.reference) == json.loads(done.stdout) != []
    # The same each time, because the image records it.
    assert base.find() == found


def test_the_image_in_the_storage_of_buildah_comes_first(only_here: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry.run("skopeo", "copy", "--quiet", f"docker-daemon:{only_here}", f"containers-storage:{only_here}")
    try:
        found = base.find()
        assert found.reference == only_here
        raw = registry.printed("skopeo", "inspect", "--raw", f"containers-storage:{only_here}")
        assert found.digest == registry.sha256(raw)
        assert "using the image of buildah and podman" in capsys.readouterr().err
    finally:
        registry.run("buildah", "rmi", only_here)


def test_a_base_that_is_nowhere_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", f"{UNREACHABLE}/raincast/nowhere:1")
    with pytest.raises(registry.CommandError) as caught:
        base.find()
    message = str(caught.value)
    assert message.startswith(f"{UNREACHABLE}/raincast/nowhere:1: the registry cannot be asked, and no engine on this")
    assert "connection refused" in message and "set BASE_IMAGE to a mirror" in message
    assert "\n" not in message


def test_the_base_of_a_registry_is_used_by_the_digest_that_is_recorded(base_image: str) -> None:
    found = base.Base(base_image, registry.digest(base_image) or "", "")
    repository = base_image.rpartition(":")[0]
    assert found.digest.startswith("sha256:")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_IMAGE", base_image)
        assert base.find() == base.Base(base_image, found.digest, f"{repository}@{found.digest}")
        patch.setenv("BASE_IMAGE", f"{repository}:3.11-slim@{found.digest}")
        assert base.find().reference == f"{repository}@{found.digest}"
        patch.setenv("BASE_IMAGE", f"{repository}:no-such-tag")
        with pytest.raises(registry.CommandError, match="the registry has no such image; set BASE_IMAGE"):
            base.find()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Notes the paths that it is asked for, and has none of them."""

    paths: list[str] = []

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Respond with 404."""
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Log nothing."""


def test_a_job_asks_the_mirror_for_programs_and_says_what_to_do_if_it_has_none(base_image: str) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = docker(
            "run", "--rm", "--network=host", f"--volume={ROOT / 'ci'}:/job/ci:ro", "--workdir=/job",
            f"--env=DEBIAN_MIRROR=http://127.0.0.1:{server.server_address[1]}", "--entrypoint=ci/prepare",
            base_image, "skopeo", "python3",
        )  # fmt: skip
        server.shutdown()
    assert {path.partition("/dists/")[0] for path in Mirror.paths} >= {"/debian"}
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert "this job's image lacks skopeo, and they could not be installed, for the reason above" in last


# Alpine's images are not on this machine: what a job would find in one, with an apk that installs nothing.
ALPINE = """
mkdir /etc/apk && echo https://packages.example.org/alpine/v3.22/main >/etc/apk/repositories
printf '#!/bin/sh\\necho "$*"\\n' >/usr/bin/apk && chmod +x /usr/bin/apk
ci/prepare python3 kubectl skopeo && cat /etc/apk/repositories
"""


@pytest.mark.parametrize("mirror", ["", "https://mirror.example.org/pub"])
def test_a_job_in_alpine_asks_the_mirror_for_programs(mirror: str, base_image: str) -> None:
    done = docker(
        "run", "--rm", f"--volume={ROOT / 'ci'}:/job/ci:ro", "--workdir=/job", f"--env=ALPINE_MIRROR={mirror}",
        "--entrypoint=sh", base_image, "-euc", ALPINE,
    )  # fmt: skip
    host = mirror or "https://packages.example.org"
    expected = f"add --quiet --no-cache kubectl skopeo\n{host}/alpine/v3.22/main\n"
    assert (done.returncode, done.stdout.decode()) == (0, expected), done.stderr
