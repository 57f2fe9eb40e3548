"""A missing program gets one line that says how to install it, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import programs
from tests.conftest import ROOT

# The programs of the Makefile itself.
BASIC = ("sh", "head", "sed", "sha256sum", "cat", "expand")
IMAGE = {"IMAGE": f"registry.example.org/raincast@sha256:{'1' * 64}"}


@pytest.fixture(name="model")
def fixture_model(tmp_path: Path) -> Path:
    """A model directory that is enough for a call of ci.deploy."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(json.dumps({}), encoding="utf-8")
    return tmp_path / "model"


@pytest.fixture(name="run")
def fixture_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with a PATH that has nothing but the given programs."""

    def run(*call: str, has: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in has:
            (folder / name).symlink_to(str(shutil.which(name)))
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "MAKE", "IMAGE"))}
        settings = clean | {"PATH": str(folder)} | env
        return subprocess.run(call, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)

    return run


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_line_names_programs_and_packages() -> None:
    assert programs.advice(["skopeo"]) == "skopeo is not installed; on Debian: apt-get install skopeo"
    assert programs.advice(["kubectl", "promtool"]) == (
        "kubectl, promtool are not installed; on Debian: apt-get install kubernetes-client prometheus"
    )
    assert programs.advice(["checkov"]) == "checkov is not installed; `make manifests` installs it"
    assert programs.advice(["git", "cosign"]).startswith(
        "git, cosign are not installed; on Debian: apt-get install git; cosign: see https://"
    )


@pytest.mark.parametrize(
    ("module", "arguments", "env", "missing"),
    [
        ("image", ["build"], {}, "buildah, git, skopeo are"),
        ("image", ["publish"], {"CI_REGISTRY_IMAGE": "registry.example.org/raincast"}, "buildah, git, skopeo are"),
        ("image", ["champion", "DIR"], {"CI_REGISTRY_IMAGE": "registry.example.org/raincast"}, "skopeo is"),
        ("pipeline", [], {}, "git, npm, rsync, buildah, skopeo, kubectl, promtool are"),
        ("manifests", [], {}, "kubectl, promtool, kubernetes-validate, checkov are"),
        ("deploy", ["staging", "--model", "MODEL"], IMAGE, "kubectl is"),
        ("programs", ["docker"], {}, "docker is"),
    ],
)
def test_a_command_names_what_is_missing(
    module: str, arguments: list[str], env: dict[str, str], missing: str, run: Run, model: Path, tmp_path: Path
) -> None:
    places = {"MODEL": str(model), "DIR": str(tmp_path / "champion")}
    done = run(sys.executable, "-m", f"ci.{module}", *(places.get(word, word) for word in arguments), **env)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith(f"{missing} not installed; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("image", "git is"),
        ("pipeline", "git is"),
        ("load", "docker is"),
        ("manifests", "kubectl is"),
        (".cache/npm/node_modules/.bin/gitlab-ci-local", "npm is"),
    ],
)
def test_a_target_names_what_is_missing_before_it_installs_anything(target: str, missing: str, run: Run) -> None:
    done = run(str(shutil.which("make")), "--silent", target, has=BASIC)
    assert (done.returncode, done.stdout) == (2, "")
    first, last = done.stderr.splitlines()
    assert first.startswith(f"{missing} not installed; on Debian: apt-get install ")
    assert last.startswith("make: *** ")


@pytest.mark.parametrize("target", ["forecast", "need-git"])
def test_without_python_a_target_says_how_to_get_it(target: str, run: Run, tmp_path: Path) -> None:
    settings = (f"VENV={tmp_path / 'environment'}", "PYTHON=python3.11")
    done = run(str(shutil.which("make")), "--silent", target, *settings, has=BASIC)
    assert (done.returncode, done.stdout) == (2, "")
    first, last = done.stderr.splitlines()
    assert first.startswith(
        "Python 3.11 is not installed as python3.11; on Debian 12: apt-get install python3.11-venv;"
    )
    assert last.startswith("make: *** ")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("image", ["publish"], "set CI_REGISTRY_IMAGE to the repository to publish to"),
        ("pipeline", ["--variable", "NAME"], "--variable NAME: has to be NAME=VALUE"),
        ("deploy", [], "the following arguments are required: env"),
    ],
)
def test_a_wrong_call_is_reported_with_exit_code_2(module: str, arguments: list[str], message: str, run: Run) -> None:
    done = run(sys.executable, "-m", f"ci.{module}", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_every_target_in_its_group(run: Run) -> None:
    done = run(str(shutil.which("make")), "help", has=BASIC)
    assert (done.returncode, done.stderr) == (0, "")
    groups = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert groups == ["Start", "Develop", "Model", "Image", "Deploy", "Benchmark"]
    assert "$" not in done.stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = makefile.partition(".PHONY: ")[2].partition("\n\n")[0].replace("\\\n", " ").split()
    assert sorted(line.split()[0] for line in done.stdout.splitlines() if line.startswith(" ")) == sorted(phony)
