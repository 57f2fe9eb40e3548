"""The rendered manifests: valid, restricted, and consistent with the service."""

from __future__ import annotations

import copy
import csv
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.manifests import check_rules, validate
from raincast.serving import http_protocol
from tests.conftest import Command
from tests.deployment.cluster import K8S, SEARCH, Object, container, differences, of_kind, pod
from tests.integration.serving import Server

Manifests = dict[str, list[Object]]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
STANDARD = {f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of", "managed-by")}


def workloads(manifests: Manifests) -> list[Object]:
    """Return all objects that have pods."""
    return [o for objects in manifests.values() for o in objects if o["kind"] in ("Deployment", "Job")]


def test_all_checks_pass_for_every_version(checked: tuple[str, Path]) -> None:
    for minor in range(30, 38):
        assert f"5 files pass the schemas of Kubernetes 1.{minor}\n" in checked[0]
    assert "Failed checks: 0" in checked[0]
    assert {path.stem for path in checked[1].iterdir()} == {
        "staging", "staging-monitored", "production", "production-monitored", "jobs"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("periodSeconds: 1\n", "periodSecond: 1\n"),
        ("containerPort: 8080", "containerPort: http"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    ],
)
def test_a_fault_in_a_manifest_is_found(
    old: str, new: str, checked: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (checked[1] / "staging.yaml").read_text()
    assert old in content
    (tmp_path / "staging.yaml").write_text(content.replace(old, new))
    monkeypatch.setenv("PATH", SEARCH)
    with pytest.raises(subprocess.CalledProcessError):
        validate(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("[15m])) > 0", "[15m)) > 0"), ("14.4 * 0.001", "144 * 0.001")],
)
def test_a_fault_in_a_rule_is_found(
    old: str, new: str, checked: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (checked[1] / "production-monitored.yaml").read_text()
    assert old in content
    (tmp_path / "production-monitored.yaml").write_text(content.replace(old, new))
    component = tmp_path / "component"
    component.mkdir()
    shutil.copy(K8S / "components" / "monitoring" / "rules-test.yaml", component)
    monkeypatch.setenv("PATH", SEARCH)
    with pytest.raises(subprocess.CalledProcessError):
        check_rules(component, tmp_path)


def violations(spec: Object) -> list[str]:
    """Return the parts of a pod that Pod Security's level `restricted` forbids."""
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    secured = spec.get("securityContext", {})
    broken_rules = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    broken_rules += [f"volume {v['name']}" for v in spec.get("volumes", []) if not (v.keys() - {"name"}) <= VOLUMES]
    broken_rules += ["sysctls"] if secured.get("sysctls") else []
    for one in [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]:
        settings = secured | one.get("securityContext", {})
        capabilities = settings.get("capabilities", {})
        rules = {
            "runs as root": settings.get("runAsNonRoot") is not True or not settings.get("runAsUser", 0),
            "seccomp": settings.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "privilege": settings.get("allowPrivilegeEscalation") is not False or settings.get("privileged", False),
            "capabilities": "ALL" not in capabilities.get("drop", [])
            or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "host port": any(port.get("hostPort") for port in one.get("ports", [])),
            "procMount": settings.get("procMount", "Default") != "Default",
            "root file system": settings.get("readOnlyRootFilesystem") is not True,
        }
        broken_rules += [f"{one['name']}: {rule}" for rule, broken in rules.items() if broken]
    return broken_rules


def test_every_pod_is_restricted_and_its_namespace_says_so(manifests: Manifests) -> None:
    assert len(workloads(manifests)) == 5
    for workload in workloads(manifests):
        assert not violations(pod(workload))
        assert pod(workload)["automountServiceAccountToken"] is False
        # Otherwise the Service with the name raincast sets RAINCAST_PORT=tcp://...
        assert pod(workload)["enableServiceLinks"] is False
        assert re.fullmatch(r"\S+/raincast@sha256:[0-9a-f]{64}", container(workload)["image"])
    for name in ("staging", "production"):
        labels = of_kind(manifests[name], "Namespace")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


FAULTS: dict[str, Callable[[Object, Object], Any]] = {
    "hostNetwork": lambda spec, one: spec.update(hostNetwork=True),
    "volume": lambda spec, one: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "runs as root": lambda spec, one: one["securityContext"].update(runAsUser=0),
    "seccomp": lambda spec, one: spec["securityContext"].pop("seccompProfile"),
    "privilege": lambda spec, one: one["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities": lambda spec, one: one["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    "host port": lambda spec, one: one["ports"][0].update(hostPort=80),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pod_that_is_not_restricted_is_found(fault: str, manifests: Manifests) -> None:
    spec = copy.deepcopy(pod(of_kind(manifests["production"], "Deployment")))
    FAULTS[fault](spec, spec["containers"][0])
    (violation,) = violations(spec)
    assert fault in violation


def test_production_differs_from_staging_only_where_intended(manifests: Manifests) -> None:
    def keyed(name: str) -> dict[str, Object]:
        content = yaml.safe_dump_all(manifests[name]).replace(f"raincast-{name}", "raincast-ENV")
        return {o["kind"]: o for o in yaml.safe_load_all(content)}

    assert set(differences(keyed("staging"), keyed("production"))) == {
        ".Deployment.spec.template.spec.containers[0].resources.requests.cpu",
        ".HorizontalPodAutoscaler.spec.maxReplicas",
        ".HorizontalPodAutoscaler.spec.minReplicas",
        ".Ingress.spec.rules[0].host",
        ".Ingress.spec.tls[0].hosts[0]",
    }
    for name in ("staging", "production"):
        more = [o["kind"] for o in manifests[f"{name}-monitored"] if o not in manifests[name]]
        assert sorted(more) == ["ConfigMap", "PrometheusRule", "ServiceMonitor"]


def test_everything_is_labelled_and_in_its_namespace(manifests: Manifests) -> None:
    for name, objects in manifests.items():
        namespace = f"raincast-{name.partition('-')[0]}" if name != "jobs" else "raincast-production"
        for o in objects:
            assert o["metadata"]["labels"].keys() >= STANDARD - {"app.kubernetes.io/component"}
            assert o["metadata"].get("namespace", o["metadata"]["name"]) == namespace
        for workload in workloads({name: objects}):
            assert workload["spec"]["template"]["metadata"]["labels"].keys() >= STANDARD


def test_selectors_find_the_service_and_not_the_jobs(manifests: Manifests) -> None:
    objects = manifests["production-monitored"]
    deployment, service = of_kind(objects, "Deployment"), of_kind(objects, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    others = of_kind(manifests["jobs"], "Job")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in pod(deployment)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()
    assert of_kind(manifests["jobs"], "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= others.items()
    monitor = of_kind(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= service["metadata"]["labels"].items()
    target = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])


def test_ports_lead_from_the_ingress_to_the_service(manifests: Manifests) -> None:
    objects = manifests["production-monitored"]
    settings = of_kind(manifests["production"], "ConfigMap")["data"]
    (port,) = container(of_kind(objects, "Deployment"))["ports"]
    assert str(port["containerPort"]) == settings["RAINCAST_PORT"]
    (exposed,) = of_kind(objects, "Service")["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    for rule in of_kind(objects, "Ingress")["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        backend = path["backend"]["service"]
        assert backend == {"name": of_kind(objects, "Service")["metadata"]["name"], "port": {"name": exposed["name"]}}
    policy = of_kind(objects, "NetworkPolicy")["spec"]
    assert [p["port"] for p in policy["ingress"][0]["ports"]] == [port["containerPort"]]
    assert {p["port"] for rule in policy["egress"] for p in rule["ports"]} == {53}
    (endpoint,) = of_kind(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] == exposed["name"]


def test_probes_and_prometheus_use_paths_of_the_service(manifests: Manifests, service: Server) -> None:
    one = container(of_kind(manifests["production"], "Deployment"))
    (port,) = one["ports"]
    probes = {name: one[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert all(probe["port"] == port["name"] for probe in probes.values())
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"
    }  # fmt: skip
    (endpoint,) = of_kind(manifests["production-monitored"], "ServiceMonitor")["spec"]["endpoints"]
    for path in (*(probe["path"] for probe in probes.values()), endpoint["path"]):
        assert service.ask("GET", path).status == 200


def test_every_setting_is_one_of_the_service(manifests: Manifests, command: Command) -> None:
    described = command("prediction.py", "serve", "--help").stdout.decode()
    settings = of_kind(manifests["production"], "ConfigMap")
    assert settings["data"]
    for name in settings["data"]:
        assert re.search(rf"\b{name}\b", described)
    for workload in workloads(manifests):
        one = container(workload)
        assert "env" not in one
        if workload["kind"] == "Deployment":
            assert one["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]


def test_the_pod_has_the_time_that_its_shutdown_may_take(manifests: Manifests) -> None:
    drain = int(of_kind(manifests["production"], "ConfigMap")["data"]["RAINCAST_DRAIN_SECONDS"])
    # Requests in flight at the end of the drain get their time and 5 s, each of two logs 5 s.
    end = drain + http_protocol.REQUEST_SECONDS + 5 + 2 * 5
    assert end < pod(of_kind(manifests["production"], "Deployment"))["terminationGracePeriodSeconds"]
    strategy = of_kind(manifests["production"], "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0


def dated(rows: list[dict[str, str]], folder: Path) -> int:
    """Write some of the rows, with a date each, into two files of a folder, and return their number."""
    days: Counter[str] = Counter()
    kept = []
    for row in rows[::100]:
        days[row["Location"]] += 1
        kept.append({"Date": f"2017-01-{days[row['Location']]:02d}", **row})
    folder.mkdir()
    for half in (0, 1):
        with (folder / f"{half}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept[half::2])
    return len(kept)


def test_the_job_has_as_many_shards_as_pods_and_they_make_the_whole(
    manifests: Manifests, command: Command, bundled_rows: list[dict[str, str]], trained: Path, tmp_path: Path
) -> None:
    job = of_kind(manifests["jobs"], "Job")
    arguments, pods = container(job)["args"], job["spec"]["completions"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert arguments[-2:] == ["--shard", str(pods)]
    (mount,) = [m["mountPath"] for m in container(job)["volumeMounts"] if m["name"] == "files"]
    count = dated(bundled_rows, tmp_path / "observations")
    here = [argument.replace(mount, str(tmp_path)).replace(".parquet", ".csv") for argument in arguments]
    made = []
    for index in range(pods):
        done = command("prediction.py", *here, JOB_COMPLETION_INDEX=str(index), RAINCAST_MODEL=str(trained))
        assert done.returncode == 0, done.stderr.decode()
        header, *lines = (tmp_path / f"forecasts-{index}-of-{pods}.csv").read_text().splitlines()
        assert lines
        made += lines
    whole = command("prediction.py", here[0], "--format", "csv", RAINCAST_MODEL=str(trained)).stdout.decode()
    assert [header, *sorted(made)] == [whole.splitlines()[0], *sorted(whole.splitlines()[1:])]
    assert len(made) == count


def test_the_job_ends_if_the_input_is_wrong(
    manifests: Manifests, command: Command, trained: Path, tmp_path: Path
) -> None:
    rules = of_kind(manifests["jobs"], "Job")["spec"]["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    (tmp_path / "wrong.csv").write_text("Location,Rainfall\nSydney,-1\n")
    assert [command("prediction.py", tmp_path / "wrong.csv", RAINCAST_MODEL=str(trained)).returncode] == codes


def test_every_manifest_is_in_a_kustomization() -> None:
    kustomizations = set(K8S.rglob("kustomization.yaml"))
    manifests = {path for path in K8S.rglob("*.yaml") if not path.name.endswith("-test.yaml")} - kustomizations
    named = {path.parent / name for path in kustomizations for name in yaml.safe_load(path.read_text())["resources"]}
    assert manifests == {path for path in named if path.suffix}
