"""The runner of .gitlab-ci.yml on this machine."""

from __future__ import annotations

import subprocess

import pytest

from ci import pipeline
from tests.conftest import ROOT, needs


@pytest.fixture(scope="session")
def runner() -> None:
    """Install gitlab-ci-local, and check for the programs that it needs."""
    needs("git", "npm", "rsync")
    target = pipeline.GITLAB_CI_LOCAL.relative_to(ROOT)
    subprocess.run(["make", "--silent", str(target)], cwd=ROOT, check=True, capture_output=True)
