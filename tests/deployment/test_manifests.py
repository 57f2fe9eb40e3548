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
from urllib.parse import urljoin

import pytest
import yaml
from starlette.routing import Route

from ci.manifests import ManifestError, check_rules, validate
from raincast.forecasting.model import load
from raincast.serving import http_protocol
from raincast.serving.app import FORECAST_PATHS, MAX_LARGE
from raincast.serving.limits import HELD_BYTES
from raincast.serving.metrics import Metrics
from raincast.serving.routes import routes
from raincast.serving.server import UNACKNOWLEDGED_BYTES, UNREAD_BYTES
from tests.attacks.test_container import LARGEST_RESIDENT, POD
from tests.conftest import ROOT, Command, needs
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
        "staging", "staging-all", "production", "production-all", "jobs"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("periodSeconds: 1\n", "periodSecond: 1\n"),
        ("containerPort: 8080", "containerPort: http"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
        ("type: PathPrefix", "type: Prefix"),
        ("request: 40s", "request: 40"),
        ("sectionName: https", "section: https"),
        ("interval: 15s", "interval: 15"),
    ],
)
def test_a_fault_in_a_manifest_is_found(
    old: str, new: str, checked: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "---\n".join((checked[1] / name).read_text() for name in ("staging.yaml", "staging-all.yaml"))
    assert old in content
    (tmp_path / "staging.yaml").write_text(content.replace(old, new))
    monkeypatch.setenv("PATH", SEARCH)
    with pytest.raises((ManifestError, subprocess.CalledProcessError)):
        validate(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("[15m])) > 0", "[15m)) > 0"), ("14.4 * 0.001", "144 * 0.001")],
)
def test_a_fault_in_a_rule_is_found(
    old: str, new: str, checked: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (checked[1] / "production-all.yaml").read_text()
    assert old in content
    (tmp_path / "production-all.yaml").write_text(content.replace(old, new))
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
        env = name.partition("-")[0]
        content = yaml.safe_dump_all(manifests[name]).replace(f"raincast-{env}", "raincast-ENV")
        return {o["kind"]: o for o in yaml.safe_load_all(content)}

    assert set(differences(keyed("staging"), keyed("production"))) == {
        ".Deployment.spec.template.spec.containers[0].resources.requests.cpu",
        ".HorizontalPodAutoscaler.spec.maxReplicas",
        ".HorizontalPodAutoscaler.spec.minReplicas",
        ".HTTPRoute.spec.hostnames[0]",
    }
    assert set(differences(keyed("staging-all"), keyed("production-all"))) == {
        ".Deployment.spec.template.spec.containers[0].resources.requests.cpu",
        ".HorizontalPodAutoscaler.spec.maxReplicas",
        ".HorizontalPodAutoscaler.spec.minReplicas",
        ".Ingress.spec.rules[0].host",
        ".Ingress.spec.tls[0].hosts[0]",
    }
    for name in ("staging", "production"):
        plain = {o["kind"]: o for o in manifests[name]}
        every = [o for o in manifests[f"{name}-all"] if o not in manifests[name]]
        added = sorted(o["kind"] for o in every if o["kind"] not in plain or o["kind"] == "ConfigMap")
        assert added == ["ConfigMap", "Ingress", "PrometheusRule", "ServiceMonitor"]
        changed = {o["kind"] for o in every} - set(added)
        assert changed == {"Deployment", "HorizontalPodAutoscaler", "ServiceAccount"}
        assert plain.keys() - {o["kind"] for o in manifests[f"{name}-all"]} == {"HTTPRoute"}


def test_everything_is_labelled_and_in_its_namespace(manifests: Manifests) -> None:
    for name, objects in manifests.items():
        namespace = f"raincast-{name.partition('-')[0]}" if name != "jobs" else "raincast-production"
        for o in objects:
            assert o["metadata"]["labels"].keys() >= STANDARD - {"app.kubernetes.io/component"}
            assert o["metadata"].get("namespace", o["metadata"]["name"]) == namespace
        for workload in workloads({name: objects}):
            assert workload["spec"]["template"]["metadata"]["labels"].keys() >= STANDARD


def test_selectors_find_the_service_and_not_the_jobs(manifests: Manifests) -> None:
    objects = manifests["production-all"]
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


def test_ports_lead_from_the_route_to_the_service(manifests: Manifests) -> None:
    objects = manifests["production-all"]
    settings = of_kind(manifests["production"], "ConfigMap")["data"]
    (port,) = container(of_kind(objects, "Deployment"))["ports"]
    assert str(port["containerPort"]) == settings["RAINCAST_PORT"]
    (exposed,) = of_kind(objects, "Service")["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    name = of_kind(objects, "Service")["metadata"]["name"]
    for rule in of_kind(objects, "Ingress")["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"] == {"name": name, "port": {"name": exposed["name"]}}
    for rule in of_kind(manifests["production"], "HTTPRoute")["spec"]["rules"]:
        assert rule["backendRefs"] == [{"name": name, "port": exposed["port"]}]
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
    (endpoint,) = of_kind(manifests["production-all"], "ServiceMonitor")["spec"]["endpoints"]
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


# Paths of the service that only the cluster requests, and those that it will have.
PRIVATE = {"/metrics", "/healthz", "/readyz"}
RESERVED = {"/model", "/explain", "/v2", "/v2/models/raincast/infer", "/static/style.css"}


def routed(objects: list[Object], path: str) -> bool:
    """Return True if the HTTPRoute or the Ingress among the objects leads this path to the service."""
    matches = []
    for o in objects:
        if o["kind"] == "HTTPRoute":
            matches += [(m["path"]["type"], m["path"]["value"]) for r in o["spec"]["rules"] for m in r["matches"]]
        if o["kind"] == "Ingress":
            matches += [(p["pathType"], p["path"]) for r in o["spec"]["rules"] for p in r["http"]["paths"]]
    assert {kind for kind, _ in matches} <= {"Exact", "Prefix", "PathPrefix"}
    # A prefix is one of whole path segments.
    return any(path == value or kind != "Exact" and path.startswith(value.rstrip("/") + "/") for kind, value in matches)


@pytest.mark.parametrize("rendered", ["staging", "staging-all", "production", "production-all"])
def test_the_public_gets_every_path_but_those_for_the_cluster(
    rendered: str, manifests: Manifests, trained: Path, service: Server
) -> None:
    objects = manifests[rendered]
    model = load(trained)
    existing = {
        route.path for route in routes(model, Metrics({}, {}), lambda: False).routes if isinstance(route, Route)
    }
    existing |= FORECAST_PATHS
    assert existing >= PRIVATE
    for path in existing:
        assert routed(objects, path) == (path not in PRIVATE), path
    assert all(routed(objects, path) for path in RESERVED)
    others = (
        "/forecasts",
        "/docs/x",
        "/v2x",
        "/staticx",
        "/nowhere",
        *(f"{path}{end}" for path in PRIVATE for end in "/x"),
    )
    assert not [path for path in others if routed(objects, path)]
    for page in ("/", "/docs"):
        for link in re.findall(r'href="([^"]+)"', service.ask("GET", page).body.decode()):
            assert routed(objects, urljoin(page, link)), link


@pytest.mark.parametrize("env", ["staging", "production"])
def test_the_route_has_a_gateway_its_host_and_time_for_the_slowest_request(env: str, manifests: Manifests) -> None:
    route = of_kind(manifests[env], "HTTPRoute")["spec"]
    assert route["parentRefs"]
    assert route["hostnames"] == ["raincast.example.org" if env == "production" else "staging.raincast.example.org"]
    for rule in route["rules"]:
        assert int(rule["timeouts"]["request"].removesuffix("s")) > http_protocol.REQUEST_SECONDS
    ingress = of_kind(manifests[f"{env}-all"], "Ingress")
    assert ingress["spec"]["ingressClassName"]
    assert "annotations" not in ingress["metadata"]
    assert (
        [rule["host"] for rule in ingress["spec"]["rules"]] == ingress["spec"]["tls"][0]["hosts"] == route["hostnames"]
    )


def test_nothing_depends_on_a_retired_ingress_controller() -> None:
    texts = [*K8S.rglob("*.yaml"), *K8S.rglob("*.json"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    assert not [path for path in texts if "nginx" in path.read_text().lower()]


def quantity(text: str | int) -> float:
    """Return a quantity of Kubernetes in cores or bytes."""
    number, unit = re.fullmatch(r"([\d.]+)(m|k|M|G|Ki|Mi|Gi|)", str(text)).groups()  # type: ignore[union-attr]
    units = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(number) * units[unit]


# The autoscaler leaves the pods as they are if their CPU differs from the target by less.
TOLERANCE = 1.1


@pytest.mark.parametrize("rendered", ["base", "staging", "staging-all", "production", "production-all"])
def test_a_pod_that_gets_no_more_than_its_request_is_above_the_target(rendered: str, manifests: Manifests) -> None:
    if rendered == "base":
        shown = subprocess.run(["kubectl", "kustomize", K8S / "base"], check=True, capture_output=True)
        objects = list(yaml.safe_load_all(shown.stdout))
    else:
        objects = manifests[rendered]
    request = quantity(container(of_kind(objects, "Deployment"))["resources"]["requests"]["cpu"])
    autoscaler = of_kind(objects, "HorizontalPodAutoscaler")["spec"]
    (target,) = [m["resource"]["target"] for m in autoscaler["metrics"] if m["type"] == "Resource"]
    if target["type"] == "Utilization":
        cores = target["averageUtilization"] / 100 * request
    else:
        cores = quantity(target["averageValue"])
    assert request / 2 <= cores * TOLERANCE < request
    assert autoscaler["minReplicas"] < autoscaler["maxReplicas"]


@pytest.mark.parametrize("env", ["staging", "production"])
def test_the_autoscaler_sees_load_that_uses_no_cpu(env: str, manifests: Manifests, tmp_path: Path) -> None:
    objects = manifests[f"{env}-all"]
    scaled = {
        m["pods"]["metric"]["name"]: quantity(m["pods"]["target"]["averageValue"])
        for m in of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
        if m["type"] == "Pods"
    }
    (rule,) = yaml.safe_load((K8S / "components" / "load-autoscaling" / "adapter-rules.yaml").read_text())
    pattern = re.search(r'__name__=~"([^"]*)"', rule["seriesQuery"])
    assert pattern
    groups = of_kind(objects, "PrometheusRule")["spec"]["groups"]
    recorded = [one["record"] for group in groups for one in group["rules"] if "record" in one]
    series = [name for name in recorded if re.fullmatch(pattern[1], name)]
    named = {
        re.sub(rule["name"]["matches"], re.sub(r"\$\{(\d)\}", r"\\\1", rule["name"]["as"]), name) for name in series
    }
    assert named == scaled.keys() == {"raincast_waiting_requests_avg1m", "raincast_refused_requests_rate1m"}
    assert scaled["raincast_waiting_requests_avg1m"] < MAX_LARGE
    assert scaled["raincast_refused_requests_rate1m"] < 1
    # prometheus-adapter replaces what is between << and >>.
    query = rule["metricsQuery"]
    for part, value in ((".GroupBy", "pod"), (".Series", series[0]), (".LabelMatchers", 'namespace="a",pod=~"1|2"')):
        query = query.replace(f"<<{part}>>", value)
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "a", "rules": [{"record": "a:b:c", "expr": query}]}]})
    )
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], check=True)


def test_pods_spread_by_host_and_by_zone_only_if_nodes_have_zones(manifests: Manifests) -> None:
    def keys(name: str) -> list[str]:
        return [c["topologyKey"] for c in pod(of_kind(manifests[name], "Deployment"))["topologySpreadConstraints"]]

    for env in ("staging", "production"):
        assert keys(env) == ["kubernetes.io/hostname"]
        assert keys(f"{env}-all") == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_pods_run_only_on_nodes_of_the_architecture_of_the_image(manifests: Manifests) -> None:
    for workload in workloads(manifests):
        assert pod(workload).get("nodeSelector") == {"kubernetes.io/arch": "amd64"}


def test_only_a_private_registry_needs_a_pull_secret(manifests: Manifests) -> None:
    for env in ("staging", "production"):
        assert "imagePullSecrets" not in of_kind(manifests[env], "ServiceAccount")
        assert of_kind(manifests[f"{env}-all"], "ServiceAccount")["imagePullSecrets"] == [{"name": "raincast-registry"}]
    for workload in workloads(manifests):
        assert pod(workload)["serviceAccountName"] == "raincast"
        assert "imagePullSecrets" not in pod(workload)


@pytest.mark.parametrize("component", sorted(path.name for path in (K8S / "components").iterdir()))
def test_a_component_works_without_the_others(component: str, tmp_path: Path) -> None:
    needs("kubectl")
    copied = tmp_path / "k8s"
    shutil.copytree(K8S, copied)
    file = copied / "overlays" / "staging" / "kustomization.yaml"
    file.write_text(file.read_text() + f"components: [../../components/{component}]\n")
    shown = subprocess.run(["kubectl", "kustomize", file.parent], check=True, capture_output=True)
    kinds = [o["kind"] for o in yaml.safe_load_all(shown.stdout)]
    assert ("Ingress" in kinds) == (component == "ingress")
    assert kinds.count("HTTPRoute") == (component != "ingress")


# The kernel keeps twice the bytes that SO_RCVBUF and SO_SNDBUF ask for, in the memory of the pod.
CONNECTION_BYTES = 2 * (UNREAD_BYTES + UNACKNOWLEDGED_BYTES)


def measured(page: str, heading: str, column: int) -> dict[str, float]:
    """Return the megabytes in a column of the tables below a heading of the documentation, by row."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: float(row[column].split(",")[0]) for row in rows if re.match(r"\d+(,|$)", row[column])}


def test_memory_covers_what_was_measured(manifests: Manifests) -> None:
    loads = measured("operations.md", "Resources, measured", 1)
    attacks = measured("benchmarks.md", "The service under attack", 2)
    assert len(loads) > 5 and len(attacks) > 15
    for workload in (w for w in workloads(manifests) if w["kind"] == "Deployment"):
        resources = container(workload)["resources"]
        request, limit = (quantity(resources[kind]["memory"]) for kind in ("requests", "limits"))
        # 64 clients, the most of the table, with full buffers.
        assert max(loads.values()) * 1e6 + 64 * CONNECTION_BYTES <= request
        assert max(attacks.values()) * 1e6 <= LARGEST_RESIDENT
        # Clients of the largest attacks, with full buffers.
        assert LARGEST_RESIDENT + 1_000 * CONNECTION_BYTES <= limit
        assert loads["idle"] * 1e6 + HELD_BYTES + 1_000 * CONNECTION_BYTES <= limit
        # The attacks run in a container that has no more.
        (memory,) = [option for option in POD if option.startswith("--memory=")]
        assert int(memory.removeprefix("--memory=").removesuffix("m")) * 2**20 <= limit


def test_memory_of_the_job_covers_what_was_measured(manifests: Manifests) -> None:
    rows = measured("benchmarks.md", "Files of any size", 2)
    assert rows
    resources = container(of_kind(manifests["jobs"], "Job"))["resources"]
    assert (
        max(rows.values()) * 1e6 <= quantity(resources["requests"]["memory"]) < quantity(resources["limits"]["memory"])
    )


def test_every_manifest_is_in_a_kustomization() -> None:
    kustomizations = set(K8S.rglob("kustomization.yaml"))
    # For promtool and for prometheus-adapter.
    others = {path for path in K8S.rglob("*.yaml") if path.name.endswith(("-test.yaml", "adapter-rules.yaml"))}
    manifests = set(K8S.rglob("*.yaml")) - kustomizations - others
    named = {
        path.parent / name for path in kustomizations for name in yaml.safe_load(path.read_text()).get("resources", [])
    }
    assert manifests == {path for path in named if path.suffix}
