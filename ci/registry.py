"""Images as files and in a registry, through skopeo: copies, digests, attachments (OCI referrers)."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"
ABSENT = ("manifest unknown", "name unknown", "repository name not known")


class CommandError(RuntimeError):
    """A program that builds or copies images failed; the message is what it said last."""


def printed(*call: object, stdin: bytes | None = None) -> bytes:
    """What a program prints on standard output. Raises CommandError."""
    words = [str(word) for word in call]
    done = subprocess.run(words, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-15:]
        raise CommandError(f"{' '.join(words[:3])} ...: exit code {done.returncode}\n" + "\n".join(said))
    return done.stdout


def run(*call: object) -> str:
    """The same as text, without white space around it."""
    return printed(*call).decode().strip()


def without_tag(image: str) -> str:
    """An image's name for skopeo, which takes a tag or a digest, but not both."""
    return re.sub(r":[\w.-]+(?=@sha256:)", "", image)


def tls(*references: str, flag: str = "--tls-verify") -> list[str]:
    """The flag for registries on this machine, which speak plain HTTP; none where all others are."""
    local = [name for name in references if name.split("/")[0].split(":")[0] in ("127.0.0.1", "localhost")]
    return [f"{flag}=false"] if local else []


def log_in() -> None:
    """With GitLab's predefined variables, where there are any; the password never stands on a command line."""
    registry, user, password = (os.environ.get(f"CI_REGISTRY{name}") for name in ("", "_USER", "_PASSWORD"))
    if registry and user and password:
        call = ["skopeo", "login", *tls(registry), "--username", user, "--password-stdin", registry]
        printed(*call, stdin=password.encode())


def digest(reference: str) -> str | None:
    """The digest under which a registry knows an image, None where it knows none. Raises CommandError."""
    try:
        return sha256(printed("skopeo", "inspect", *tls(reference), "--raw", f"docker://{without_tag(reference)}"))
    except CommandError as error:
        if any(word in str(error).lower() for word in ABSENT):
            return None
        raise


def created(reference: str) -> dt.datetime | None:
    """When an image of a registry was made: for ours, the time of its commit. None where there is no such image."""
    if digest(reference) is None:
        return None
    config = json.loads(printed("skopeo", "inspect", *tls(reference), "--config", f"docker://{without_tag(reference)}"))
    return dt.datetime.fromisoformat(config["created"])


def sha256(content: bytes) -> str:
    """A digest as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fetch(reference: str, folder: Path) -> None:
    """An image of a registry as files, its layers unpacked."""
    run("skopeo", "copy", "--quiet", *tls(reference, flag="--src-tls-verify"), "--dest-decompress",
        f"docker://{reference}", f"dir:{folder}")  # fmt: skip


def push(folder: Path, reference: str) -> str:
    """Push an image's files to a registry; returns its digest there."""
    with tempfile.NamedTemporaryFile("r", prefix="digest-") as file:
        run("skopeo", "copy", "--quiet", *tls(reference, flag="--dest-tls-verify"), "--digestfile", file.name,
            f"dir:{folder}", f"docker://{reference}")  # fmt: skip
        return file.read().strip()


def tag(repository: str, from_digest: str, name: str) -> None:
    """Let a tag of a repository mean the image with a digest."""
    flags = tls(repository, flag="--src-tls-verify") + tls(repository, flag="--dest-tls-verify")
    run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", *flags,
        f"docker://{repository}@{from_digest}", f"docker://{repository}:{name}")  # fmt: skip


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an image's files."""
    return dict(json.loads((folder / "manifest.json").read_bytes()))


def layers(folder: Path) -> list[Path]:
    """The layers of an image's files, from the base up."""
    return [folder / layer["digest"].partition(":")[2] for layer in manifest(folder)["layers"]]


def files(paths: list[Path]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """What layers hold: each member, and its content where it is a regular file."""
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                yield member, archive.extractfile(member) if member.isreg() else None


def without_builder(folder: Path) -> None:
    """Take what differs in every build out of an image's configuration: the builder's host, container, parent."""
    content = manifest(folder)
    path = folder / content["config"]["digest"].partition(":")[2]
    config = json.loads(path.read_bytes())
    for name in ("container", "container_config", "parent"):
        config.pop(name, None)
    config["config"].pop("Hostname", None)
    for layer in content["layers"]:
        # Which of two names it gives for the same bytes depends on where buildah found the layer.
        layer["mediaType"] = layer["mediaType"].removesuffix(".gzip")
    path.unlink()
    written = json.dumps(config, sort_keys=True).encode()
    content["config"] |= {"digest": sha256(written), "size": len(written)}
    (folder / hashlib.sha256(written).hexdigest()).write_bytes(written)
    (folder / "manifest.json").write_text(json.dumps(content, sort_keys=True), encoding="utf-8")


def attach(repository: str, subject: str, documents: dict[str, bytes]) -> None:
    """Attach documents, by their media types, to an image by its digest.

    By the referrers tag schema of the OCI distribution specification 1.1, which every registry can keep: an index with
    the tag `sha256-<digest>` lists one artifact for each document.
    """
    raw = printed("skopeo", "inspect", *tls(repository), "--raw", f"docker://{repository}@{subject}")
    about = {"mediaType": json.loads(raw)["mediaType"], "digest": subject, "size": len(raw)}
    with tempfile.TemporaryDirectory(prefix="attach-") as name:
        layout = Path(name)
        (layout / "blobs" / "sha256").mkdir(parents=True)
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")

        def blob(media_type: str, content: bytes) -> dict[str, Any]:
            found = sha256(content)
            (layout / "blobs" / "sha256" / found.partition(":")[2]).write_bytes(content)
            return {"mediaType": media_type, "digest": found, "size": len(content)}

        artifacts = []
        for media_type, content in documents.items():
            artifact = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": media_type,
                "config": blob("application/vnd.oci.empty.v1+json", EMPTY),
                "layers": [blob(media_type, content)],
                "subject": about,
            }
            artifacts.append(blob(MANIFEST, json.dumps(artifact).encode()) | {"artifactType": media_type})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": artifacts}
        listed = blob(INDEX, json.dumps(index).encode()) | {"annotations": {"org.opencontainers.image.ref.name": "all"}}
        top = {"schemaVersion": 2, "manifests": [listed]}
        (layout / "index.json").write_text(json.dumps(top), encoding="utf-8")
        run("skopeo", "copy", "--quiet", "--all", *tls(repository, flag="--dest-tls-verify"),
            f"oci:{layout}:all", f"docker://{repository}:{subject.replace(':', '-')}")  # fmt: skip
