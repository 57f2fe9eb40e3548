"""Code that is confined in containers of kernels with and without Landlock, as root and as another user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.container.engine import docker

SECRET = "a-secret-of-the-job"
LANDLOCK = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
# The container's first process has the secret in its environment and starts the confined code without it.
JOB = 'exec 2>&1; env -i $PYTHON -I /job/confined.py /tmp -- $PYTHON -c "$CODE"; exit $?'
# Reads the environment of every process, and a file that everybody may read.
CODE = """
import glob
for path in ['/proc/1/environ', '/srv/secret']:
    try:
        print(path, SECRET in open(path).read())
    except OSError as error:
        print(path, type(error).__name__)
"""


def profile(folder: Path, *refused: str) -> Path:
    """Write a seccomp profile that permits all system calls but some, which then do not exist."""
    path = folder / "seccomp.json"
    rule = {"names": list(refused), "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}), encoding="utf-8")
    return path


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize(
    ("refused", "file"),
    [(["swapon"], "PermissionError"), (LANDLOCK, "True"), ([*LANDLOCK, "unshare"], "True")],
    ids=["landlock", "user namespace", "neither"],
)
def test_confined_code_cannot_read_the_environment_that_started_it(
    refused: list[str], file: str, user: str, base_image: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    code = f"SECRET = {SECRET!r}\n{CODE}"
    done = docker(
        *("run", "--rm", f"--user={user}", f"--security-opt=seccomp={profile(tmp_path, *refused)}"),
        *(f"--env=JOB_SECRET={SECRET}", f"--env=CODE={code}", "--env=PYTHON=/usr/local/bin/python"),
        *(f"--volume={tmp_path / 'secret'}:/srv/secret:ro", f"--volume={ROOT / 'ci'}:/job:ro"),
        *(base_image, "sh", "-c", JOB),
    )
    said = done.stdout.decode().splitlines()
    if "unshare" in refused and user != "0":
        assert (done.returncode, len(said)) == (2, 1)
        assert "neither Landlock nor user namespaces keep this job's secrets from the program" in said[0]
    else:
        assert said == ["/proc/1/environ PermissionError", f"/srv/secret {file}"], done.stderr
