"""The commands that only jobs run: release notes, signing, preparing a job; and the image's health check."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raincast import __version__
from raincast.serving import healthcheck
from tests.conftest import ROOT


def run(*call: str, checkout: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CI_", "SIGSTORE_"))}
    return subprocess.run(call, cwd=checkout, capture_output=True, text=True, env=clean | env, check=False)


def module(name: str, checkout: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a module of a checkout's ci/ without installed packages, as jobs in Alpine do."""
    return run(sys.executable, "-S", "-m", f"ci.{name}", checkout=checkout, **env)


def test_release_notes_are_the_changelogs_section() -> None:
    done = module("release_notes", CI_COMMIT_TAG=f"v{__version__}")
    assert done.returncode == 0, done.stderr
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = changelog.partition(f"## {__version__}")[2].partition("\n")[2].partition("\n## ")[0]
    assert (ROOT / "reports" / "release-notes.md").read_text(encoding="utf-8").strip() == section.strip() != ""


def test_a_release_without_notes_fails() -> None:
    for version in ("9.9.9", __version__[:-1]):
        done = module("release_notes", CI_COMMIT_TAG=f"v{version}")
        assert (done.returncode, done.stderr) == (1, f"CHANGELOG.md has no section for {version}\n")
    done = module("release_notes")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set CI_COMMIT_TAG" in done.stderr


def test_without_a_token_nothing_is_signed() -> None:
    assert module("sign").stdout == "not signed: this pipeline has no SIGSTORE_ID_TOKEN\n"


def test_an_image_is_signed_by_its_digest_and_no_secret_is_shown(tmp_path: Path) -> None:
    # The real cosign needs servers on the internet; this program records how it was called.
    cosign = tmp_path / "cosign"
    cosign.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" != login ] || cat > {tmp_path}/password\n')
    cosign.chmod(0o755)
    digest = f"registry.example.org/rain/raincast@sha256:{'1' * 64}"
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "ci", checkout / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "image.env").write_text(f"IMAGE={digest}\n", encoding="utf-8")
    registry = {"CI_REGISTRY": "registry.example.org", "CI_REGISTRY_USER": "robot", "CI_REGISTRY_PASSWORD": "s3cret"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = module("sign", checkout=checkout, PATH=path, SIGSTORE_ID_TOKEN="a-token", **registry)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"signed {digest}\n", "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        "login registry.example.org --username robot --password-stdin",
        f"sign {digest}",
    ]
    assert (tmp_path / "password").read_text() == "s3cret\n"
    cosign.write_text("#!/bin/sh\nexit 3\n")
    done = module("sign", checkout=checkout, PATH=path, SIGSTORE_ID_TOKEN="a-token", **registry)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ci.sign: cosign login: exit code 3\n")


@pytest.mark.parametrize(
    ("lacking", "message"), [("image.env", "no image.env"), ("CI_REGISTRY_USER", "set CI_REGISTRY_USER")]
)
def test_signing_needs_an_image_and_an_account(lacking: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ci", tmp_path / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    if lacking != "image.env":
        (tmp_path / "image.env").write_text("IMAGE=registry.example.org/raincast@sha256:1\n", encoding="utf-8")
    account = {"CI_REGISTRY": "registry.example.org", "CI_REGISTRY_USER": "robot", "CI_REGISTRY_PASSWORD": "s3cret"}
    account.pop(lacking, None)
    done = module("sign", checkout=tmp_path, SIGSTORE_ID_TOKEN="a-token", **account)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_an_installed_program_is_not_installed_again() -> None:
    done = run("ci/prepare", "make", "git")
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
def test_the_health_check_asks_the_port_of_the_service(command: str, port: int | None) -> None:
    assert healthcheck.served_port(command.split(), "8080") == port


def test_the_documentation_says_of_each_variable_if_it_is_protected_and_masked() -> None:
    text = (
        (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8").partition("## Variables")[2].partition("\n## ")[0]
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    assert rows
    for row in rows:
        assert re.match(r"(no|protected)\b", row[1]) and re.match(r"(no|masked)\b", row[2]), row
    settings = {name: row[1:3] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert settings["KUBECONFIG"] == ["protected", "no: type File, of several lines"]
    for name in ("MLFLOW_TRACKING_TOKEN", "DOCKER_AUTH_CONFIG", "PIP_INDEX_URL", "RAINCAST_DATA"):
        assert settings[name][1].startswith("masked and hidden")
    assert "RAINCAST_CHAMPION_UNRUNNABLE" in settings
