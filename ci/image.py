"""The image of this commit: python -m ci.image build | publish | champion FOLDER.

build     from this commit and model/: image/ holds its files, bill of materials and provenance; where Docker's engine
          runs, it knows the image as raincast:local
publish   push what `build` made to $CI_REGISTRY_IMAGE, with its tags and attachments; image.env names it by its digest
champion  put the application of the image in use, which is the one last published as `latest`, into FOLDER

BASE_IMAGE names another base (default: python:3.11-slim). Exit code 1 where the image is not as it has to be.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ci import registry, sbom
from ci.registry import CommandError, run
from raincast import __version__, model

ROOT = Path(__file__).resolve().parent.parent
BUILT, FILES = ROOT / "image", ROOT / "image" / "files"
BASE = "docker.io/library/python:3.11-slim"
LOCAL = "raincast:local"
# What is above the base, uncompressed.
LARGEST = 230_000_000
TRAINS = {"joblib", "matplotlib", "mlflow", "mlflow-skinny", "onnx", "pandas", "pytest", "scikit-learn", "scipy"}
# The layer of dependencies depends on no commit, and so is the same in all images with the same lock file.
DEPENDENCIES_TIME = 315_532_800
APPLICATION = ("prediction.py", "raincast/", "data/", "model/")


class ImageError(RuntimeError):
    """The image is not as it has to be."""


def revision() -> str:
    """The commit. Its time, in seconds since 1970, is the time of all files that come from it."""
    return run("git", "-C", ROOT, "rev-parse", "HEAD")


def base() -> dict[str, str]:
    """Name and digest of the base image."""
    name = os.environ.get("BASE_IMAGE") or BASE
    found = registry.digest(name)
    if found is None:
        raise CommandError(f"{name}: there is no such image")
    return {"name": name, "digest": found}


def build() -> None:
    """Build, normalise, check, describe."""
    about, origin = model.describe(), base()
    image = f"localhost/{LOCAL}"
    labels = {
        "SOURCE": os.environ.get("CI_PROJECT_URL", ""),
        "REVISION": revision(),
        "VERSION": os.environ.get("CI_COMMIT_TAG") or __version__,
        "BASE_NAME": origin["name"],
        "BASE_DIGEST": origin["digest"],
        "MODEL_VERSION": about["version"],
        "MODEL_SHA256": about["files"][model.GRAPH],
        "DATA_SHA256": about["data_sha256"],
    }
    _buildah(
        *("--tag", image, "--timestamp", run("git", "-C", ROOT, "log", "-1", "--format=%ct")),
        *("--build-context", f"dependencies=docker-image://{_dependencies(origin)}"),
        *(word for name, value in labels.items() for word in ("--build-arg", f"{name}={value}")),
    )
    shutil.rmtree(BUILT, ignore_errors=True)
    BUILT.mkdir()
    run("skopeo", "copy", "--quiet", f"containers-storage:{image}", f"dir:{FILES}")
    registry.without_builder(FILES)
    found = sbom.distributions(FILES)
    check(found)
    (BUILT / "sbom.cdx.json").write_bytes(sbom.bill(found, about, labels["REVISION"]))
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        run("skopeo", "copy", "--quiet", f"dir:{FILES}", f"docker-daemon:{LOCAL}")
        print(f"{LOCAL} is in Docker's engine")


def _buildah(*arguments: str) -> None:
    """Build a stage of the Dockerfile, without privileges and without an engine."""
    name = os.environ.get("BASE_IMAGE") or BASE
    # Docker's format, since the OCI's has no HEALTHCHECK.
    run("buildah", "build", "--quiet", "--format", "docker", "--isolation", "chroot", *registry.tls(name),
        "--build-arg", f"BASE_IMAGE={name}", *arguments, ROOT)  # fmt: skip


def _dependencies(origin: dict[str, str]) -> str:
    """The image with all dependencies, built where it is not there yet: in the registry, or else on this machine."""
    content = f"{origin['digest']} {platform.machine()}".encode()
    for name in ("Dockerfile", "requirements-serve.txt", "ci/slim.py"):
        content += (ROOT / name).read_bytes()
    key = hashlib.sha256(content).hexdigest()[:24]
    repository = os.environ.get("CI_REGISTRY_IMAGE")
    image = f"{repository or 'localhost/raincast'}/dependencies:{key}"
    if repository and registry.digest(image):
        run("buildah", "pull", "--quiet", *registry.tls(image), image)
    elif subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True, check=False).returncode:
        _buildah("--target", "dependencies", "--timestamp", str(DEPENDENCIES_TIME), "--tag", image)
    if repository and not registry.digest(image):
        run("buildah", "push", "--quiet", *registry.tls(image), image, f"docker://{image}")
    return image


def check(found: list[sbom.Distribution]) -> None:
    """ImageError where the image is larger than it may be, or holds what trains."""
    above = registry.layers(FILES)[_base_layers() :]
    size = sum(layer.stat().st_size for layer in above)
    print(f"{size / 1e6:.1f} MB above the base, {LARGEST / 1e6:.0f} MB are allowed")
    if size > LARGEST:
        large = sorted(((member.size, member.name) for member, _ in registry.files(above)), reverse=True)[:3]
        shown = ", ".join(f"/{name} {bytes_ / 1e6:.0f} MB" for bytes_, name in large)
        raise ImageError(
            f"the image has {size / 1e6:.0f} MB above its base, {LARGEST / 1e6:.0f} MB are allowed: {shown}"
        )
    trains = sorted({distribution.name for distribution in found} & TRAINS)
    if trains:
        raise ImageError(f"the image holds what only training needs: {', '.join(trains)}")


def _base_layers() -> int:
    name = os.environ.get("BASE_IMAGE") or BASE
    return int(run("skopeo", "inspect", *registry.tls(name), "--format", "{{len .Layers}}",
                   f"docker://{registry.without_tag(name)}"))  # fmt: skip


def publish() -> None:
    """Try the image, push it, attach its papers, and move `latest` last."""
    repository = os.environ["CI_REGISTRY_IMAGE"]
    registry.log_in()
    _try()
    pushed = registry.push(FILES, f"{repository}:{os.environ.get('CI_COMMIT_SHA') or revision()}")
    about = {"name": repository, "digest": pushed, "revision": revision()}
    (BUILT / "provenance.json").write_bytes(sbom.provenance(about, model.describe(), base()))
    papers = {sbom.CYCLONEDX: "sbom.cdx.json", sbom.IN_TOTO: "provenance.json"}
    registry.attach(repository, pushed, {kind: (BUILT / name).read_bytes() for kind, name in papers.items()})
    (ROOT / "image.env").write_text(f"IMAGE={repository}@{pushed}\n", encoding="utf-8")
    print(f"pushed {repository}@{pushed}")
    name = os.environ.get("CI_COMMIT_TAG") or "latest"
    if name == "latest" and _is_later(f"{repository}:latest", f"{repository}@{pushed}"):
        print(f"{repository}:latest stays what it is, the image of a later commit")
    else:
        registry.tag(repository, pushed, name)
        print(f"{repository}:{name} is that now")


def _is_later(image: str, other: str) -> bool:
    """Whether an image, if it is there, is of a later commit: an old pipeline's job may be run once more."""
    made, other_made = registry.created(image), registry.created(other)
    return bool(made and other_made and made > other_made)


def _try() -> None:
    """Forecast the bundled sample in the image. ImageError where it is not what the model forecasts here."""
    expected = run(sys.executable, ROOT / "prediction.py", "--format", "csv")
    container = run("buildah", "from", "--pull-never", f"localhost/{LOCAL}")
    try:
        command = ["python", "/app/prediction.py", "--format", "csv"]
        # As root: in a namespace of its own buildah lets no other user to its files.
        given = run("buildah", "run", "--isolation", "chroot", "--user", "0", container, "--", *command)
    finally:
        run("buildah", "rm", container)
    if given.split() != expected.split():
        raise ImageError("the image forecasts otherwise than the model")


def champion(folder: Path) -> None:
    """Fetch the application of the image in use; without a registry, or before the first image, there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    repository = os.environ.get("CI_REGISTRY_IMAGE")
    if not repository:
        print("no registry, so no model in use")
        return
    registry.log_in()
    image = f"{repository}:latest"
    if registry.digest(image) is None:
        print(f"{image}: no image yet, so no model in use")
        return
    with tempfile.TemporaryDirectory(prefix="champion-") as files:
        registry.fetch(image, Path(files) / "image")
        for layer in registry.layers(Path(files) / "image"):
            with tarfile.open(layer) as archive:
                wanted = [m for m in archive if m.name.removeprefix("app/").startswith(APPLICATION)]
                for member in wanted:
                    member.name = member.name.removeprefix("app/")
                archive.extractall(folder, wanted, filter="data")
    print(f"{folder}: {model.describe(folder / 'model')['version']}, the model of {image}")


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    commands.add_parser("publish")
    commands.add_parser("champion").add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        if given.command == "champion":
            champion(given.folder)
        else:
            {"build": build, "publish": publish}[given.command]()
    except (CommandError, ImageError, model.ModelError) as error:
        print(f"ci.image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
