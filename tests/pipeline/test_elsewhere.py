"""Jobs on other people's machines: their package index, their certificates, their images, their rights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ci import pipeline
from tests.conftest import ROOT, needs
from tests.container.package_index import PASSWORD, required, running_index

NOBODY = 65534


def pinned(name: str) -> str:
    """Return the lines of requirements.txt that pin a package."""
    found = re.search(
        rf"^{name}==(?:.*\\\n)*.*\n", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    return found[0]


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "UV_INDEX_URL"])
def test_pip_and_uv_install_from_the_index_of_either(variable: str, tmp_path: Path) -> None:
    needs("openssl", "make", "python3.11")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "ci", checkout / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", checkout)
    (checkout / "requirements.txt").write_text(pinned("iniconfig") + pinned("uv"), encoding="utf-8")
    (stamp,) = subprocess.run(
        ["make", "--print-data-base", "--dry-run", "lock"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.partition("\nINSTALLED := ")[2].splitlines()[:1]  # fmt: skip
    (tmp_path / "tls").mkdir()
    with running_index(tmp_path / "tls") as index:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MAKE"))}
        # pip's files of settings would be read as well.
        env = ours | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
        env |= {variable: index.url, "CI_SERVER_TLS_CA_FILE": str(index.authority)}
        target = stamp.replace("$(VENV)", ".venv")
        done = subprocess.run(["make", target], cwd=checkout, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert index.packages("pip") == {"uv"}
        assert index.packages("uv") == required(checkout / "requirements.txt")
    assert PASSWORD not in done.stdout + done.stderr
    leaked = [path for path in checkout.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert not leaked


def test_certificates_are_added_to_those_of_the_system(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ci", tmp_path / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("system", "gitlab", "own"):
        # Without an end of the last line.
        (tmp_path / name).write_text(f"certificate of {name}", encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if name not in ("CA_FILE", "CI_SERVER_TLS_CA_FILE")}
    env = clean | {"SSL_CERT_FILE": str(tmp_path / "system")}

    def certificates(**variables: str) -> str:
        done = subprocess.run(
            ["ci/certificates"], cwd=tmp_path, env=env | variables, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert certificates() == ""
    path = certificates(CI_SERVER_TLS_CA_FILE=str(tmp_path / "gitlab"), CA_FILE=str(tmp_path / "own"))
    expected = "certificate of system\ncertificate of gitlab\ncertificate of own\n"
    assert Path(path).read_text(encoding="utf-8") == expected
    # A make that another make calls.
    assert certificates(CA_FILE=str(tmp_path / "own"), SSL_CERT_FILE=path) == path
    assert Path(path).read_text(encoding="utf-8") == expected


def test_an_image_without_a_package_manager_is_told_what_it_lacks(tmp_path: Path) -> None:
    for name in ("sh", "sed", "id", "grep"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["ci/prepare", "make", "sed", "kubectl:kubernetes-client"],
        cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "ci/prepare: this job's image lacks make kubectl, and it has neither apt-get nor apk to install them; set the"
        " variable of its image, such as PYTHON_IMAGE (docs/pipeline.md lists them), to an image that has make sed"
        " kubectl\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_rights_needs_the_programs_in_the_image() -> None:
    needs("apt-get")
    with (ROOT / "ci" / "prepare").open("rb") as script:

        def prepare(*programs: str) -> subprocess.CompletedProcess[str]:
            script.seek(0)
            return subprocess.run(
                ["sh", "-s", "--", *programs], stdin=script, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[],
                env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
            )  # fmt: skip

        done = prepare("sed", "a-program-nobody-has")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "lacks a-program-nobody-has, and only root can install them; set the variable" in done.stderr
        done = prepare("sed", "grep")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_image_of_a_job_has_a_variable_and_each_variable_is_documented() -> None:
    document = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    variables = {name for name in document["variables"] if name.endswith("_IMAGE")}
    images = {
        part["image"].removeprefix("$") for part in document.values() if isinstance(part, dict) and "image" in part
    }
    assert images | {"BASE_IMAGE"} == variables
    table = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    others = {"CA_FILE", "CI_SERVER_TLS_CA_FILE", "DEBIAN_MIRROR", "ALPINE_MIRROR", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"}
    for name in variables | others | {"DOCKER_AUTH_CONFIG", "SECURE_ANALYZERS_PREFIX", "CS_ANALYZER_IMAGE"}:
        assert f"| `{name}`" in table or f", `{name}`" in table, name


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "set CI_REGISTRY_IMAGE to the repository to publish to"),
        (
            {"CI_REGISTRY_IMAGE": "r.example.org/rain", "CI_COMMIT_TAG": "v1.0.0+build.5"},
            "the tag v1.0.0+build.5 cannot",
        ),
        ({"CI_REGISTRY_IMAGE": "r.example.org/rain", "CI_COMMIT_TAG": "v1.0.0/hotfix"}, "the tag v1.0.0/hotfix cannot"),
    ],
)
def test_what_cannot_be_published_is_refused_before_it_is_built(variables: dict[str, str], message: str) -> None:
    # The only command of `make publish`, which builds as well.
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\npublish:")[2].split("\n\n")[0].splitlines()
    assert [line.split()[-1] for line in recipe[1:]] == ["publish"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CI_")}
    for command in ("names", "publish"):
        done = subprocess.run(
            [sys.executable, "-m", "ci.image", command],
            cwd=ROOT, env=clean | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_pipeline_on_this_machine_has_its_package_index_but_not_the_settings_of_the_shell(
    runner: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner is None
    source = tmp_path / "source"
    source.mkdir()
    shown = "UV_DEFAULT_INDEX PIP_INDEX_URL CA_FILE UV_PYTHON RAINCAST_DATA"
    show = f"for name in {shown}; do printf '%s=%s\\n' $name \"$(printenv $name)\"; done"
    (source / ".gitlab-ci.yml").write_text(json.dumps({"show": {"script": [show]}}), encoding="utf-8")
    author = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for call in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "A job"]):
        subprocess.run(["git", *author, *call], cwd=source, check=True)
    pipeline.clone(source, tmp_path / "clone")
    for name in shown.split():
        monkeypatch.setenv(name, f"value-of-{name}")
    lines = {word for word in pipeline.run(tmp_path / "clone").output.split() if "=" in word}
    assert {"UV_DEFAULT_INDEX=value-of-UV_DEFAULT_INDEX", "PIP_INDEX_URL=value-of-PIP_INDEX_URL"} <= lines
    assert {"CA_FILE=value-of-CA_FILE", "UV_PYTHON=", "RAINCAST_DATA="} <= lines
