"""Render every manifest and check it: Kubernetes' schemas, checkov's policies, promtool's checks and rule tests.

    python -m ci.manifests [K8S] [--out FOLDER]

Needs kubectl, kubernetes-validate, checkov and promtool, which print why a manifest fails. Exit code: 0 all pass; 1 one
fails or a program is missing; 2 wrong call.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from ci import programs

K8S = Path(__file__).resolve().parent.parent / "k8s"
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# Kubernetes has no schemas for the kinds of the Prometheus Operator.
CUSTOM = "monitoring.coreos.com/v1"
# The lines of an overlay that turn on monitoring once they are no comment.
MONITORING = "# components:\n#   - ../../components/monitoring\n"


class OverlayError(RuntimeError):
    """An overlay lacks lines that operators are told to edit."""


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
        except (OverlayError, subprocess.CalledProcessError) as error:
            print(f"ci.manifests: {error}", file=sys.stderr)
            return 1
    print("all manifests pass")
    return 0


def render(k8s: Path, copy: Path, out: Path) -> None:
    """Render each overlay with and without monitoring, and the jobs, into one file each in `out`."""
    shutil.copytree(k8s, copy)
    for overlay in sorted((copy / "overlays").iterdir()):
        kustomize(overlay, out / f"{overlay.name}.yaml")
        file = overlay / "kustomization.yaml"
        content = file.read_text(encoding="utf-8")
        monitored = content.replace(MONITORING, MONITORING.replace("# ", ""))
        if monitored == content:
            raise OverlayError(f"{file}: there are no lines to turn on monitoring: {MONITORING!r}")
        file.write_text(monitored, encoding="utf-8")
        kustomize(overlay, out / f"{overlay.name}-monitored.yaml")
    kustomize(copy / "jobs", out / "jobs.yaml")


def kustomize(folder: Path, target: Path) -> None:
    """Render a kustomization into a file."""
    with target.open("wb") as file:
        subprocess.run(["kubectl", "kustomize", folder], stdout=file, check=True)


def validate(out: Path) -> None:
    """Check rendered manifests: the schemas of every version, and policies. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(out.glob("*.yaml")):
            objects = [o for o in yaml.safe_load_all(path.read_text(encoding="utf-8")) if o["apiVersion"] != CUSTOM]
            (Path(folder) / path.name).write_text(yaml.safe_dump_all(objects), encoding="utf-8")
        files = sorted(Path(folder).iterdir())
        for version in VERSIONS:
            subprocess.run(["kubernetes-validate", "--strict", "--quiet", "-k", version, *files], check=True)
            print(f"{len(files)} files pass the schemas of Kubernetes {version}", flush=True)
    checkov = ["checkov", "--skip-download", "--quiet", "--compact", "--framework", "kubernetes", "--directory"]
    subprocess.run([*checkov, str(out)], check=True)


def check_rules(component: Path, out: Path) -> None:
    """Check the rules as Prometheus gets them, and run their unit tests. Raises CalledProcessError."""
    (rules,) = [
        document["spec"]
        for document in yaml.safe_load_all((out / "production-monitored.yaml").read_text(encoding="utf-8"))
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
