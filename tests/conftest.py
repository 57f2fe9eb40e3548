"""Shared fixtures: the commands as a user calls them, the trained model, real observations."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ci import pipeline
from raincast.forecasting import model

# A runner that starts pytest in the background may ignore SIGINT, which the processes of tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The pipeline of a push passes --hypothesis-profile=quick: under coverage each example takes three times as long.
settings.register_profile("quick", max_examples=12)
settings.register_profile("thorough", max_examples=80)
# `make fuzz` repeats it for as long as asked.
settings.register_profile("fuzz", max_examples=500, deadline=None, print_blob=True)
settings.load_profile("thorough")

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = "127.0.0.1:5000"
Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def lacking(what: str) -> None:
    """Skip a test whose machine lacks something; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"this machine has no {what}")
    pytest.skip(f"this machine has no {what}")


def needs(*programs: str, path: str | None = None) -> None:
    """Skip a test, or fail it in CI, if one of these programs is not on PATH or another `path`."""
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        lacking(", ".join(missing))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size, such as 64k, on a new folder."""
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", f"size={size}", "raincast-test", str(folder)]
    if subprocess.run(call, capture_output=True, check=False).returncode:
        if os.environ.get("GITLAB_CI") == "true":
            # Containers of a runner usually may not mount.
            pytest.skip("mounting is not permitted in this job")
        lacking("permission to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def engine() -> None:
    """Require Docker's engine, a local registry, and the programs that build and copy images."""
    needs("docker", "buildah", "skopeo")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        lacking("Docker engine that runs")
    try:
        with urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=10):
            pass
    except OSError:
        lacking(f"registry on {REGISTRY}")


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:  # pylint: disable=unused-argument,redefined-outer-name
    """Return the image's base, as builds on this machine find it."""
    return pipeline.base_image()


def build_image(base: str, **variables: str) -> Path:
    """Build the image of this checkout as raincast:local; return the folder with its files and documents."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CI_")} | {"BASE_IMAGE": base}
    call = [sys.executable, "-m", "ci.image", "build"]
    done = subprocess.run(call, cwd=ROOT, env=env | variables, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    return ROOT / "image"


@pytest.fixture(name="image_folder", scope="session")
def fixture_image_folder(base_image: str, trained: Path) -> Path:  # pylint: disable=redefined-outer-name
    """Return the folder of this checkout's image, which Docker's engine knows as raincast:local."""
    assert trained
    return build_image(base_image)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Return a function that runs `prediction.py` or `train.py` in an empty folder, without RAINCAST_* settings."""
    folder = tmp_path_factory.mktemp("cwd")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "MLFLOW_"))}

    def run(script: str, *arguments: Any, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
        call = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(call, input=stdin, capture_output=True, cwd=folder, env=clean | env, check=False)

    return run


@pytest.fixture(scope="session")
def trained() -> Path:
    """Return the model directory that `make` trained on the bundled observations."""
    assert (model.DIRECTORY / model.DESCRIPTION).is_file(), "no model: run `make test`, which trains it"
    return model.DIRECTORY


@pytest.fixture(name="bundled_rows", scope="session")
def fixture_bundled_rows() -> list[dict[str, str]]:
    """Return the bundled observations as text."""
    with gzip.open(ROOT / "data" / "observations.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def slice_csv(bundled_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a slice that trains in seconds: the first 600 real rows of ten stations."""
    path = tmp_path_factory.mktemp("slice") / "slice.csv"
    names = sorted({row["Location"] for row in bundled_rows})[:10]
    kept: list[dict[str, str]] = []
    for name in names:
        kept += [row for row in bundled_rows if row["Location"] == name][:600]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return path
