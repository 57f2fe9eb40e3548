"""What jobs run besides make's targets for people."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from raincast import __version__, health
from tests.conftest import ROOT


def run(script: str, *arguments: str, checkout: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """A script of a checkout's ci/."""
    call = [str(checkout / "ci" / script), *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CI_", "SIGSTORE_"))}
    return subprocess.run(call, capture_output=True, text=True, env=clean | env, check=False)


def test_release_notes_are_the_changelogs_section() -> None:
    done = run("release-notes", CI_COMMIT_TAG=f"v{__version__}")
    assert done.returncode == 0, done.stderr
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = changelog.partition(f"## {__version__}")[2].partition("\n")[2].partition("\n## ")[0]
    assert (ROOT / "reports" / "release-notes.md").read_text(encoding="utf-8").strip() == section.strip() != ""


def test_a_release_without_notes_fails() -> None:
    for version in ("9.9.9", __version__[:-1]):
        done = run("release-notes", CI_COMMIT_TAG=f"v{version}")
        assert (done.returncode, done.stderr) == (1, f"CHANGELOG.md has no section for {version}\n")


def test_what_is_not_signed_is_said() -> None:
    assert run("sign").stdout == "not signed: this pipeline has no SIGSTORE_ID_TOKEN\n"


def test_an_image_is_signed_by_its_digest_and_no_secret_is_shown(tmp_path: Path) -> None:
    # cosign asks servers outside for a certificate: here stands a program that notes how it was called.
    cosign = tmp_path / "cosign"
    cosign.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" != login ] || cat > {tmp_path}/password\n')
    cosign.chmod(0o755)
    digest = f"registry.example.org/rain/raincast@sha256:{'1' * 64}"
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "ci", checkout / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "image.env").write_text(f"IMAGE={digest}\n", encoding="utf-8")
    registry = {"CI_REGISTRY": "registry.example.org", "CI_REGISTRY_USER": "robot", "CI_REGISTRY_PASSWORD": "s3cret"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run("sign", checkout=checkout, PATH=path, SIGSTORE_ID_TOKEN="a-token", **registry)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"signed {digest}\n", "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        "login registry.example.org --username robot --password-stdin",
        f"sign {digest}",
        f"attest --type cyclonedx --predicate image/sbom.cdx.json {digest}",
    ]
    assert (tmp_path / "password").read_text() == "s3cret\n"


def test_a_program_that_is_there_is_not_installed() -> None:
    done = run("prepare", "make", "git")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("command", "port"),
    [
        ("python /app/prediction.py", None),
        ("python /app/prediction.py /data/in.csv -o /data/serve.csv", None),
        ("python /app/prediction.py serve", 8080),
        ("/sbin/docker-init -- python /app/prediction.py serve --port 9000 --host ::", 9000),
        ("python /app/prediction.py serve --host 0.0.0.0 --port=81", 81),
    ],
)
def test_health_asks_the_port_that_is_served(command: str, port: int | None) -> None:
    assert health.served_port(command.split(), "8080") == port
