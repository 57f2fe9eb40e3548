"""The documents attached to an image: its bill of materials (CycloneDX 1.6) and its provenance (SLSA 1.0)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path, PurePosixPath
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ci import oci

CYCLONEDX = "application/vnd.cyclonedx+json"
IN_TOTO = "application/vnd.in-toto+json"
DEBIAN_STATUS = PurePosixPath("var/lib/dpkg/status")


@dataclass(frozen=True, order=True)
class Distribution:
    """An installed distribution, of a kind of package URLs (pypi, deb)."""

    kind: str
    name: str
    version: str
    licence: str = ""

    def component(self) -> Component:
        """Return the distribution as a component of a bill of materials."""
        url = PackageURL(self.kind, "debian" if self.kind == "deb" else None, self.name, self.version)
        return Component(
            type=ComponentType.LIBRARY,
            name=self.name,
            version=self.version,
            purl=url,
            bom_ref=str(url),
            licenses=[DisjunctiveLicense(name=self.licence)] if self.licence else [],
        )


def distributions(image: Path) -> list[Distribution]:
    """Return the Python distributions and Debian packages of an image, sorted."""
    by_path: dict[str, list[Distribution]] = {}
    for member, content in oci.files(oci.layers(image)):
        path = PurePosixPath(member.name)
        if content and path.name == "METADATA" and path.parent.suffix == ".dist-info":
            about = BytesParser().parsebytes(content.read(), headersonly=True)
            licence = about["License-Expression"] or ""
            name = about["Name"].lower().replace("_", "-")
            by_path[str(path)] = [Distribution("pypi", name, about["Version"], licence)]
        elif content and path == DEBIAN_STATUS:
            # The file of an upper layer replaces the one of a lower layer.
            by_path[str(path)] = list(_debian(content.read()))
    return sorted({distribution for several in by_path.values() for distribution in several})


def _debian(status: bytes) -> Iterable[Distribution]:
    for paragraph in status.split(b"\n\n"):
        about = BytesParser().parsebytes(paragraph, headersonly=True)
        if about["Package"] and (about["Status"] or "").endswith(" installed"):
            yield Distribution("deb", about["Package"], about["Version"])


def bill(installed: list[Distribution], model: dict[str, Any], revision: str) -> bytes:
    """Return the bill of materials of an image, with its distributions and its model, as CycloneDX JSON."""
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name="raincast", version=revision, bom_ref="image")
    known = {"data_sha256": model["data_sha256"], "commit": model["commit"], "rows": model["rows"]}
    trees = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=model["name"],
        version=model["version"],
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model["files"]["model.onnx"])],
        properties=[Property(name=f"raincast:{name}", value=str(value)) for name, value in known.items()],
    )
    for component in [trees, *(distribution.component() for distribution in installed)]:
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, [*bom.components])
    return str(JsonV1Dot6(bom).output_as_string(indent=1)).encode()


def provenance(
    image: dict[str, str], model: dict[str, Any], images: list[dict[str, str]], accuracy: dict[str, Any]
) -> bytes:
    """Return an in-toto statement: what an image was built from (commit, data, model, other images), and the pipeline.

    `image` has the name, the digest and the revision of the image, `images` name and digest of each image that it was
    built from. `accuracy` is the report of the comparison with the champion.
    """
    env = os.environ.get

    def digests(about: dict[str, str]) -> dict[str, str]:
        kind, _, value = about["digest"].partition(":")
        return {kind: value}

    source = env("CI_PROJECT_URL") or "file://."
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image["name"], "digest": digests(image)}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://docs.gitlab.com/ci/pipelines/",
                "externalParameters": {"source": source, "ref": env("CI_COMMIT_REF_NAME") or ""},
                "resolvedDependencies": [
                    {"uri": f"git+{source}", "digest": {"gitCommit": image["revision"]}},
                    *({"uri": f"docker://{other['name']}", "digest": digests(other)} for other in images),
                    {"name": "observations", "digest": {"sha256": model["data_sha256"]}},
                    {"name": "model.onnx", "digest": {"sha256": model["files"]["model.onnx"]}},
                ],
            },
            "runDetails": {
                "builder": {"id": env("CI_SERVER_URL") or "local"},
                "metadata": {"invocationId": env("CI_PIPELINE_URL") or "local"},
                "byproducts": [{"name": "accuracy", "annotations": accuracy}] if accuracy else [],
            },
        },
    }
    return json.dumps(statement, indent=1).encode()
