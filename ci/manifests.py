"""Render every manifest and check it: schemas, checkov's policies, promtool's checks and rule tests.

    python -m ci.manifests [K8S] [--out FOLDER]

Needs kubectl, kubernetes-validate, checkov and promtool, which print why a manifest fails. Exit code: 0 all pass; 1 one
fails or a program is missing; 2 wrong call.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from ci import programs

K8S = Path(__file__).resolve().parent.parent / "k8s"
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# Kinds that clusters have by custom resource definitions, of which Kubernetes has no schemas.
CUSTOM = {path.stem: path for path in (Path(__file__).resolve().parent / "schemas").glob("*.yaml")}
# The lines of an overlay that turn on components once they are no comment.
COMMENTED = re.compile(r"^# (components:|  - \.\./\.\./components/(\S+).*)$", re.M)


class ManifestError(RuntimeError):
    """A manifest is wrong, or an overlay lacks lines that operators are told to edit."""


def main() -> int:
    """Check the manifests and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.manifests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("k8s", type=Path, nargs="?", default=K8S, help="the folder of manifests (default: k8s/)")
    parser.add_argument("--out", type=Path, help="keep the rendered manifests in this folder")
    given = parser.parse_args()
    programs.require("kubectl", "promtool", "kubernetes-validate", "checkov")
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "out"
        out.mkdir(parents=True, exist_ok=True)
        try:
            render(given.k8s, Path(folder) / "k8s", out)
            validate(out)
            check_rules(given.k8s / "components" / "monitoring", out)
        except (ManifestError, subprocess.CalledProcessError) as error:
            print(f"ci.manifests: {error}", file=sys.stderr)
            return 1
    print("all manifests pass")
    return 0


def render(k8s: Path, copy: Path, out: Path) -> None:
    """Render each overlay with no component and with all, and the jobs, into one file each in `out`."""
    shutil.copytree(k8s, copy)
    components = {path.name for path in (copy / "components").iterdir()}
    for overlay in sorted((copy / "overlays").iterdir()):
        kustomize(overlay, out / f"{overlay.name}.yaml")
        file = overlay / "kustomization.yaml"
        content = file.read_text(encoding="utf-8")
        commented = {name for _, name in COMMENTED.findall(content)}
        if commented != components | {""}:
            raise ManifestError(f"{file}: there are no lines to turn on each of {', '.join(sorted(components))}")
        file.write_text(COMMENTED.sub(r"\1", content), encoding="utf-8")
        kustomize(overlay, out / f"{overlay.name}-all.yaml")
    kustomize(copy / "jobs", out / "jobs.yaml")


def kustomize(folder: Path, target: Path) -> None:
    """Render a kustomization into a file."""
    with target.open("wb") as file:
        subprocess.run(["kubectl", "kustomize", folder], stdout=file, check=True)


def validate(out: Path) -> None:
    """Check rendered manifests: schemas, and policies. Raises ManifestError or CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(out.glob("*.yaml")):
            objects = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
            check_custom([o for o in objects if o["kind"] in CUSTOM], path.stem)
            known = [o for o in objects if o["kind"] not in CUSTOM]
            (Path(folder) / path.name).write_text(yaml.safe_dump_all(known), encoding="utf-8")
        files = sorted(Path(folder).iterdir())
        for version in VERSIONS:
            subprocess.run(["kubernetes-validate", "--strict", "--quiet", "-k", version, *files], check=True)
            print(f"{len(files)} files pass the schemas of Kubernetes {version}", flush=True)
    checkov = ["checkov", "--skip-download", "--quiet", "--compact", "--framework", "kubernetes", "--directory"]
    subprocess.run([*checkov, str(out)], check=True)


def check_custom(objects: list[dict[str, Any]], name: str) -> None:
    """Check objects of custom kinds against the schemas in this package. Raises ManifestError."""
    for o in objects:
        schema = yaml.safe_load(CUSTOM[o["kind"]].read_text(encoding="utf-8"))
        for error in Draft202012Validator(schema).iter_errors(o):
            raise ManifestError(f"{name}: {o['kind']}: {error.json_path}: {error.message}")


def check_rules(component: Path, out: Path) -> None:
    """Check the rules as Prometheus gets them, and run their unit tests. Raises CalledProcessError."""
    (rules,) = [
        document["spec"]
        for document in yaml.safe_load_all((out / "production-all.yaml").read_text(encoding="utf-8"))
        if document["kind"] == "PrometheusRule"
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        subprocess.run(
            ["promtool", "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"], cwd=folder, check=True
        )
        tests = [shutil.copy(path, folder) for path in sorted(component.glob("rules*-test.yaml"))]
        subprocess.run(["promtool", "test", "rules", *tests], cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
