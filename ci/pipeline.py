"""Run .gitlab-ci.yml on this machine, as a push of the last commit to master would on GitLab.

    python -m ci.pipeline [JOB ...]

gitlab-ci-local runs each job in a copy of a fresh clone and passes artifacts and variables as GitLab does; the image
goes to a registry on this machine. Uncommitted changes are ignored. Without JOB all jobs run, in the order of their
stages and needs; with JOB only these run, so name the jobs that they need as well: train test-accuracy. Exit code: 0
all pass; 1 a job fails, or something is missing on this machine; 2 wrong call.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import programs

ROOT = Path(__file__).resolve().parent.parent
GITLAB_CI_LOCAL = ROOT / ".cache" / "npm" / "node_modules" / ".bin" / "gitlab-ci-local"
FOLDER = ROOT / ".cache" / "pipeline"
REGISTRY = "127.0.0.1:5000"
IMAGE = "raincast/raincast"
BASE = "python:3.11-slim"
# Jobs get the pipeline's settings, not those of the shell that runs it here.
NOT_PASSED = (
    "CI", "GITLAB_", "MAKE", "MFLAGS", "MLFLOW_", "PYTEST_", "PYTHONDONTWRITEBYTECODE", "RAINCAST_", "BASE_IMAGE",
    "UV_", "VIRTUAL_ENV",
)  # fmt: skip
# The package index is that of this machine.
PASSED = ("UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_INDEX_URL")
# gitlab-ci-local has no structured report. Its line for the whole pipeline has the same form as a job's.
FINISHED = re.compile(r"^(?!pipeline )(\S+) +finished in ([\d.]+) (ms|s|min|h)(?:\s+(FAIL|WARN))?", re.MULTILINE)
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


class SetupError(RuntimeError):
    """A service that the pipeline needs does not run on this machine."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a pipeline: the seconds of each job, the jobs that failed, and everything they printed."""

    jobs: dict[str, float]
    failed: list[str]
    seconds: float
    output: str
    exit_code: int

    def __str__(self) -> str:
        width = max(map(len, [*self.jobs, "in all"]))
        lines = [f"{job:<{width}} {s:>6.1f} s{'  failed' * (job in self.failed)}" for job, s in self.jobs.items()]
        return "\n".join([*lines, f"{'in all':<{width}} {self.seconds:>6.1f} s"])


def clone(source: Path, folder: Path) -> None:
    """Clone the last commit of a checkout as GitLab would have it: on master, the default branch of a project."""
    shutil.rmtree(folder, ignore_errors=True)
    _git(source, "clone", "--quiet", source, folder)
    _git(folder, "checkout", "--quiet", "-B", "master")
    _git(folder, "remote", "set-url", "origin", f"https://gitlab.example.org/{IMAGE}.git")
    _git(folder, "update-ref", "refs/remotes/origin/master", "HEAD")
    _git(folder, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/master")


def _git(folder: Path, *arguments: object) -> None:
    subprocess.run(["git", "-C", folder, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def run(folder: Path, jobs: Sequence[str] = (), variables: dict[str, str] | None = None, echo: bool = False) -> Outcome:
    """Run a clone's pipeline, or some jobs of it, with further variables; `echo` prints the jobs' output at once."""
    # GitLab's runners restore these caches; without them the jobs would take minutes longer.
    caches = {"UV_CACHE_DIR": _uv_cache(), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    given = {"CI_REGISTRY_IMAGE": f"{REGISTRY}/{IMAGE}"} | caches | (variables or {})
    call = [str(GITLAB_CI_LOCAL), "--force-shell-executor", "--shell-isolation", "--no-color", "--quiet=false"]
    call += [word for name, value in given.items() for word in ("--variable", f"{name}={value}")]
    call += jobs
    env = {name: os.environ[name] for name in os.environ if name in PASSED or not name.startswith(NOT_PASSED)}
    start = time.monotonic()
    lines = []
    with subprocess.Popen(
        call, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if echo:
                print(line, end="", flush=True)
    output = "".join(lines)
    jobs_run = {job: (float(n) * SECONDS[unit], status) for job, n, unit, status in FINISHED.findall(output)}
    return Outcome(
        {job: seconds for job, (seconds, _) in jobs_run.items()},
        [job for job, (_, status) in jobs_run.items() if status == "FAIL"],
        time.monotonic() - start,
        output,
        process.returncode,
    )


def _uv_cache() -> str:
    call = [sys.executable, "-m", "uv", "cache", "dir"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def check_setup() -> None:
    """Check that the programs and the registry are there. Raises SetupError; exits with 1 if a program is missing."""
    programs.require("git", "npm", "rsync", "buildah", "skopeo", "kubectl", "promtool")
    if not GITLAB_CI_LOCAL.exists():
        raise SetupError("gitlab-ci-local is not installed; `make pipeline` installs it")
    try:
        with urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=5):
            pass
    except urllib.error.URLError as error:
        raise SetupError(
            f"there is no registry on {REGISTRY}; start one: docker run -d -p {REGISTRY}:5000 registry:2"
        ) from error


def base_image() -> str:
    """Return the base image: Docker's own copy, pushed to the local registry for use offline, or its public name."""
    here = f"{REGISTRY}/{BASE}"
    try:
        for arguments in (["tag", BASE, here], ["push", "--quiet", here]):
            subprocess.run(["docker", *arguments], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"docker.io/library/{BASE}"
    return here


def main() -> int:
    """Run the pipeline of this checkout, print the time of each job, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="run only these jobs")
    parser.add_argument(
        "--variable", action="append", default=[], metavar="NAME=VALUE", help="a variable of the project"
    )
    given = parser.parse_args()
    wrong = [variable for variable in given.variable if "=" not in variable]
    if wrong:
        parser.error(f"--variable {wrong[0]}: has to be NAME=VALUE")
    try:
        check_setup()
    except SetupError as error:
        print(f"ci.pipeline: {error}", file=sys.stderr)
        return 1
    clone(ROOT, FOLDER)
    variables = {"BASE_IMAGE": base_image()} | dict(variable.split("=", 1) for variable in given.variable)
    outcome = run(FOLDER, given.jobs, variables, echo=True)
    print(outcome)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
