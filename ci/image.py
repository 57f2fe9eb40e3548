"""Build and publish the image of this commit, or fetch the champion.

    python -m ci.image names | build | publish | champion FOLDER

names     print the names under which `publish` would push the image, or say why there are none
build     build from this commit and model/ into image/: the image's files and bill of materials; if Docker's engine
          runs, the image is also there as raincast:local
publish   build the image and push it to CI_REGISTRY_IMAGE, with its tags, bill of materials and provenance; image.env
          names it by its digest. For CI_COMMIT_TAG the image of the commit gets that tag, and is built if there is none
champion  put the application of the image with the tag `latest` into FOLDER, and the image's digest; its model is the
          champion

BASE_IMAGE sets another base (default: python:3.11-slim), PIP_INDEX_URL another package index. Exit code: 0 done; 1
failed, or the image breaks a rule; 2 wrong call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ci import base, oci, package_index, programs, registry, sbom
from ci.base import Base
from ci.registry import CommandError, run
from raincast import __version__
from raincast.forecasting import model

ROOT = Path(__file__).resolve().parent.parent
BUILT, FILES = ROOT / "image", ROOT / "image" / "files"
LOCAL = "raincast:local"
# The tags for which workflow:rules of .gitlab-ci.yml make a pipeline.
VERSION = re.compile(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
# The limit of the layers above the base, uncompressed.
LARGEST_BYTES = 230_000_000
TRAINING_ONLY = {"joblib", "matplotlib", "mlflow", "mlflow-skinny", "onnx", "pandas", "pytest", "scikit-learn", "scipy"}
# A fixed time, because the layer of dependencies must be the same in all images with the same lock file.
DEPENDENCIES_TIME = 315_532_800
DOCUMENTS = {sbom.CYCLONEDX: "sbom.cdx.json", sbom.IN_TOTO: "provenance.json"}
DEPENDENCIES_LABEL, UNRUNNABLE_LABEL = "raincast.dependencies.digest", "raincast.champion.unrunnable"
APPLICATION = ("prediction.py", "raincast/", "data/", "model/")


class CallError(RuntimeError):
    """A variable does not say under which names to publish."""


class ImageError(RuntimeError):
    """The image breaks a rule: it is too large, holds training packages, or forecasts differently."""


def revision() -> str:
    """Return the hash of the commit."""
    return run("git", "-C", ROOT, "rev-parse", "HEAD")


def build() -> None:
    """Build the image, make it reproducible, check it and list its content."""
    programs.require("buildah", "git", "skopeo")
    registry.log_in()
    about, origin = model.describe(), base.find()
    image = f"localhost/{LOCAL}"
    labels = {
        "SOURCE": os.environ.get("CI_PROJECT_URL", ""),
        "REVISION": revision(),
        "VERSION": os.environ.get("CI_COMMIT_TAG") or __version__,
        "BASE_NAME": origin.name,
        "BASE_DIGEST": origin.digest,
        "MODEL_VERSION": about["version"],
        "MODEL_SHA256": about["files"][model.GRAPH],
        "DATA_SHA256": about["data_sha256"],
    }
    dependencies = _dependencies(origin)
    optional = {
        DEPENDENCIES_LABEL: dependencies.partition("@")[2],
        UNRUNNABLE_LABEL: accuracy(about).get("reason", ""),
    }
    _buildah(
        origin,
        *("--tag", image, "--timestamp", run("git", "-C", ROOT, "log", "-1", "--format=%ct")),
        *("--build-context", f"dependencies=docker-image://{dependencies}"),
        *(word for name, value in optional.items() if value for word in ("--label", f"{name}={value}")),
        *(word for name, value in labels.items() for word in ("--build-arg", f"{name}={value}")),
    )
    shutil.rmtree(BUILT, ignore_errors=True)
    BUILT.mkdir()
    run("skopeo", "copy", "--quiet", f"containers-storage:{image}", f"dir:{FILES}")
    oci.remove_builder(FILES)
    installed = sbom.distributions(FILES)
    # buildah stores an image once, under the name by which it came first; skopeo would not find another name of it.
    call = ("buildah", "inspect", "--type", "image", "--format", "{{len .OCIv1.RootFS.DiffIDs}}")
    stored = run(*call, origin.reference)
    check(installed, int(stored))
    (BUILT / "sbom.cdx.json").write_bytes(sbom.bill(installed, about, labels["REVISION"]))
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        run("skopeo", "copy", "--quiet", f"dir:{FILES}", f"docker-daemon:{LOCAL}")
        print(f"Docker's engine has it as {LOCAL}")


def _buildah(origin: Base, *arguments: str) -> None:
    """Build the Dockerfile or one of its stages, without privileges and without an engine."""
    with tempfile.TemporaryDirectory(prefix="package-index-") as folder:
        # Docker's format, because the OCI format has no HEALTHCHECK.
        run("buildah", "build", "--quiet", "--format", "docker", "--isolation", "chroot",
            *registry.tls(origin.reference), *package_index.mount(Path(folder)),
            "--build-arg", f"BASE_IMAGE={origin.reference}", *arguments, ROOT)  # fmt: skip


def _dependencies(origin: Base) -> str:
    """Return the image with all dependencies, from the registry or this machine; build it if neither has it.

    It is returned by its digest or, without a registry, by its id: a tag that moves meanwhile changes nothing.
    """
    content = f"{origin.digest} {platform.machine()}".encode()
    for name in ("Dockerfile", "requirements-serve.txt", "ci/slim.py"):
        content += (ROOT / name).read_bytes()
    key = hashlib.sha256(content).hexdigest()[:24]
    repository = os.environ.get("CI_REGISTRY_IMAGE")
    image = f"{repository or 'localhost/raincast'}/dependencies:{key}"
    digest = registry.digest(image) if repository else None
    if digest is None:
        stored = subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True, check=False)
        if stored.returncode:
            _buildah(origin, "--target", "dependencies", "--timestamp", str(DEPENDENCIES_TIME), "--tag", image)
        if not repository:
            return run("buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image)
        with tempfile.TemporaryDirectory(prefix="dependencies-") as files:
            run("skopeo", "copy", "--quiet", f"containers-storage:{image}", f"dir:{files}")
            oci.remove_builder(Path(files))
            digest = registry.push(Path(files), image)
    exact = f"{repository}/dependencies@{digest}"
    run("buildah", "pull", "--quiet", *registry.tls(exact), exact)
    return exact


def check(installed: list[sbom.Distribution], base_layers: int) -> None:
    """Check the size of the image and that no training package is in it. Raises ImageError."""
    above = oci.layers(FILES)[base_layers:]
    size = sum(layer.stat().st_size for layer in above)
    allowed = f"{LARGEST_BYTES / 1e6:.0f} MB are allowed"
    print(f"{size / 1e6:.1f} MB above the base, {allowed}")
    if size > LARGEST_BYTES:
        largest = sorted(((member.size, member.name) for member, _ in oci.files(above)), reverse=True)[:3]
        shown = ", ".join(f"/{name} {length / 1e6:.0f} MB" for length, name in largest)
        raise ImageError(f"the image has {size / 1e6:.0f} MB above its base, {allowed}: {shown}")
    training = sorted({distribution.name for distribution in installed} & TRAINING_ONLY)
    if training:
        raise ImageError(f"the image holds packages that only training needs: {', '.join(training)}")


def names() -> tuple[str, str, str]:
    """Return the repository to publish to, the tag of this commit, and the tag to move. Raises CallError."""
    repository = os.environ.get("CI_REGISTRY_IMAGE")
    if not repository:
        raise CallError(
            "set CI_REGISTRY_IMAGE to the repository to publish to, such as registry.example.org/team/raincast;"
            " GitLab sets it if the project's container registry is enabled (Settings > General > Visibility)"
        )
    tag = os.environ.get("CI_COMMIT_TAG")
    if tag and not (VERSION.fullmatch(tag) and registry.TAG.fullmatch(tag)):
        raise CallError(
            f"the tag {tag[:200]} cannot be the tag of an image: use vMAJOR.MINOR.PATCH or"
            " vMAJOR.MINOR.PATCH-PRERELEASE, with letters, digits, dots and hyphens, at most 128 characters"
        )
    programs.require("buildah", "git", "skopeo")
    return repository, os.environ.get("CI_COMMIT_SHA") or revision(), tag or "latest"


def publish(repository: str, commit: str, name: str) -> None:
    """Test the built image, push it, attach its documents, and move the tag `latest` last."""
    registry.log_in()
    check_forecasts()
    pushed = registry.push(FILES, f"{repository}:{commit}")
    about, described = {"name": repository, "digest": pushed, "revision": revision()}, model.describe()
    provenance = sbom.provenance(about, described, recorded_images(repository), accuracy(described))
    (BUILT / DOCUMENTS[sbom.IN_TOTO]).write_bytes(provenance)
    oci.attach(repository, pushed, {kind: (BUILT / document).read_bytes() for kind, document in DOCUMENTS.items()})
    print(f"pushed {repository}@{pushed}")
    if name == "latest" and _is_later(f"{repository}:latest", f"{repository}@{pushed}"):
        _record(repository, pushed)
        print(f"{repository}:latest stays: it is the image of a later commit")
    else:
        _point(repository, name, pushed)


def reuse(repository: str, commit: str, name: str) -> bool:
    """Give the published image of this commit the version `name`. Return False for `latest` or without an image.

    Neither the commit's tag nor `latest` moves: a version is the image that the branch's pipeline tested and deployed.
    """
    if name == "latest":
        return False
    registry.log_in()
    published = registry.digest(f"{repository}:{commit}")
    if published is None:
        return False
    BUILT.mkdir(exist_ok=True)
    for kind, content in oci.attached(repository, published).items():
        (BUILT / DOCUMENTS[kind]).write_bytes(content)
    _point(repository, name, published)
    return True


def _point(repository: str, name: str, digest: str) -> None:
    """Make a tag point to an image, and name the image in image.env."""
    registry.tag(repository, digest, name)
    _record(repository, digest)
    print(f"{repository}:{name} is this image now: {repository}@{digest}")


def _record(repository: str, digest: str) -> None:
    (ROOT / "image.env").write_text(f"IMAGE={repository}@{digest}\n", encoding="utf-8")


def accuracy(about: dict[str, Any]) -> dict[str, Any]:
    """Return what `make accuracy` reported on a model; empty if it has not compared this one."""
    path = ROOT / "reports" / "accuracy.json"
    report: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return report if report.get("model_sha256") == about["files"][model.GRAPH] else {}


def recorded_images(repository: str) -> list[dict[str, str]]:
    """Return name and digest of the images that the built image was made from, as its labels have them."""
    labels = oci.configuration(FILES)["config"]["Labels"]
    images = [{name: labels[f"org.opencontainers.image.base.{name}"] for name in ("name", "digest")}]
    if DEPENDENCIES_LABEL in labels:
        images.append({"name": f"{repository}/dependencies", "digest": labels[DEPENDENCIES_LABEL]})
    return images


def _is_later(image: str, other: str) -> bool:
    """Tell if an image exists and is of a later commit, as when a job of an old pipeline is run again."""
    created, other_created = registry.created(image), registry.created(other)
    return bool(created and other_created and created > other_created)


def check_forecasts() -> None:
    """Forecast the bundled sample in the image and here. Raises ImageError if the forecasts differ."""
    expected = run(sys.executable, ROOT / "prediction.py", "--format", "csv")
    container = run("buildah", "from", "--pull-never", f"localhost/{LOCAL}")
    try:
        command = ["python", "/app/prediction.py", "--format", "csv"]
        # As root: in a user namespace buildah gives no other user access to the files.
        actual = run("buildah", "run", "--isolation", "chroot", "--user", "0", container, "--", *command)
    finally:
        run("buildah", "rm", container)
    if actual.split() != expected.split():
        raise ImageError("the image's forecasts differ from those of the model")


def champion(folder: Path, repository: str | None) -> None:
    """Fetch the application with the champion. There is none without a registry or before the first image."""
    shutil.rmtree(folder, ignore_errors=True)
    if not repository:
        print("no registry, so no champion")
        return
    programs.require("skopeo")
    registry.log_in()
    latest = f"{repository}:latest"
    digest = registry.digest(latest)
    if digest is None:
        print(f"{latest}: no image yet, so no champion")
        return
    image = f"{repository}@{digest}"
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="champion-") as files:
        registry.fetch(image, Path(files) / "image")
        for layer in oci.layers(Path(files) / "image"):
            with tarfile.open(layer) as archive:
                wanted = [m for m in archive if m.name.removeprefix("app/").startswith(APPLICATION)]
                for member in wanted:
                    member.name = member.name.removeprefix("app/")
                archive.extractall(folder, wanted, filter="data")
    (folder / "image.txt").write_text(f"{image}\n", encoding="utf-8")
    print(f"{folder}: the application of {image}, {latest} now")


def main() -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("names", "build", "publish"):
        commands.add_parser(name)
    commands.add_parser("champion").add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        if given.command == "build":
            build()
        elif given.command == "champion":
            champion(given.folder, os.environ.get("CI_REGISTRY_IMAGE"))
        elif given.command == "publish":
            named = names()
            if not reuse(*named):
                build()
                publish(*named)
        else:
            repository, *tags = names()
            print("\n".join(f"{repository}:{tag}" for tag in tags))
    except CallError as error:
        parser.error(str(error))
    except (CommandError, ImageError, model.ModelError) as error:
        print(f"ci.image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
