"""Image files on disk: read them, make them reproducible, and refer to an image from other documents.

An image is a folder in skopeo's `dir:` layout.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ci.registry import printed, run, sha256, tls

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an image."""
    return dict(json.loads((folder / "manifest.json").read_bytes()))


def configuration(folder: Path) -> dict[str, Any]:
    """Return the configuration of an image."""
    name = manifest(folder)["config"]["digest"].partition(":")[2]
    return dict(json.loads((folder / name).read_bytes()))


def layers(folder: Path) -> list[Path]:
    """Return the layers of an image, the base's first."""
    return [folder / layer["digest"].partition(":")[2] for layer in manifest(folder)["layers"]]


def files(paths: list[Path]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield each member of layers, with its content if it is a regular file."""
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                yield member, archive.extractfile(member) if member.isreg() else None


def remove_builder(folder: Path) -> None:
    """Remove from an image's configuration what differs in each build: the builder's host, container and parent.

    Written by hand because buildah of Debian 12 records them in Docker's format and has no option against it.
    """
    content = manifest(folder)
    path = folder / content["config"]["digest"].partition(":")[2]
    config = json.loads(path.read_bytes())
    for name in ("container", "container_config", "parent"):
        config.pop(name, None)
    config["config"].pop("Hostname", None)
    for step in config["history"]:
        # The name under which this machine came to know the image below.
        if step.get("comment", "").startswith("FROM "):
            del step["comment"]
    for layer in content["layers"]:
        # buildah names the type of the same bytes differently, depending on where it found the layer.
        layer["mediaType"] = layer["mediaType"].removesuffix(".gzip")
    path.unlink()
    written = json.dumps(config, sort_keys=True).encode()
    content["config"] |= {"digest": sha256(written), "size": len(written)}
    (folder / hashlib.sha256(written).hexdigest()).write_bytes(written)
    (folder / "manifest.json").write_text(json.dumps(content, sort_keys=True), encoding="utf-8")


def attach(repository: str, subject: str, documents: dict[str, bytes]) -> None:
    """Attach documents, by their media types, to the image with the digest `subject`.

    Uses the referrers tag schema of the OCI distribution specification 1.1, which works in every registry: an index
    with the tag `sha256-<digest>` lists one artifact for each document. Written by hand because no tool does this:
    skopeo and buildah of Debian 12 cannot attach, and `oras` of PyPI (0.2.43) sets the subject without that tag.
    """
    raw = printed("skopeo", "inspect", *tls(repository), "--raw", f"docker://{repository}@{subject}")
    described = {"mediaType": json.loads(raw)["mediaType"], "digest": subject, "size": len(raw)}
    with tempfile.TemporaryDirectory(prefix="attach-") as temporary:
        layout = Path(temporary)
        (layout / "blobs" / "sha256").mkdir(parents=True)
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")

        def blob(media_type: str, content: bytes) -> dict[str, Any]:
            name = sha256(content)
            (layout / "blobs" / "sha256" / name.partition(":")[2]).write_bytes(content)
            return {"mediaType": media_type, "digest": name, "size": len(content)}

        artifacts = []
        for media_type, content in documents.items():
            artifact = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": media_type,
                "config": blob("application/vnd.oci.empty.v1+json", EMPTY),
                "layers": [blob(media_type, content)],
                "subject": described,
            }
            artifacts.append(blob(MANIFEST, json.dumps(artifact).encode()) | {"artifactType": media_type})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": artifacts}
        listed = blob(INDEX, json.dumps(index).encode()) | {"annotations": {"org.opencontainers.image.ref.name": "all"}}
        top = {"schemaVersion": 2, "manifests": [listed]}
        (layout / "index.json").write_text(json.dumps(top), encoding="utf-8")
        run("skopeo", "copy", "--quiet", "--all", *tls(repository, flag="--dest-tls-verify"),
            f"oci:{layout}:all", f"docker://{repository}:{subject.replace(':', '-')}")  # fmt: skip


def attached(repository: str, subject: str) -> dict[str, bytes]:
    """Return the documents that `attach` has attached to an image, by their media types. Raises CommandError."""
    source = f"docker://{repository}"
    flags = ("--quiet", *tls(repository, flag="--src-tls-verify"))
    listed = printed("skopeo", "inspect", *tls(repository), "--raw", f"{source}:{subject.replace(':', '-')}")
    documents = {}
    for artifact in json.loads(listed)["manifests"]:
        with tempfile.TemporaryDirectory(prefix="attached-") as folder:
            run("skopeo", "copy", *flags, f"{source}@{artifact['digest']}", f"dir:{folder}")
            (document,) = layers(Path(folder))
            documents[manifest(Path(folder))["artifactType"]] = document.read_bytes()
    return documents
