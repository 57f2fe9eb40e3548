"""Alerts and dashboard: they use metrics that the service exports, and the alerts are tested and documented."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, needs
from tests.deployment.cluster import K8S, SEARCH, Object, of_kind
from tests.integration.serving import ROW, Server, many

Manifests = dict[str, list[Object]]
Labels = dict[str, dict[str, set[str]]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
MONITORING = K8S / "components" / "monitoring"
# The labels that Prometheus and kube-state-metrics add to each series of a pod.
TARGET = {"namespace", "pod", "uid", "job", "service", "instance"}
METRIC = re.compile(r"\b(?<!:)((?:raincast|process|kube)_\w+)(?:\{([^}]*)\})?")
# Metrics of kube-state-metrics, with the values of labels that rules may name.
CONTAINER = {"namespace": set[str](), "pod": set[str](), "uid": set[str](), "container": {"raincast", "another"}}
DEPLOYMENT = {"namespace": set[str](), "deployment": {"raincast", "another"}}
CLUSTER: Labels = {
    "kube_pod_container_status_restarts_total": CONTAINER,
    "kube_pod_container_status_last_terminated_reason": CONTAINER | {"reason": {"OOMKilled", "Error", "Completed"}},
    "kube_deployment_status_replicas_unavailable": DEPLOYMENT,
    "kube_deployment_status_condition": DEPLOYMENT
    | {"condition": {"Available", "Progressing", "ReplicaFailure"}, "status": {"true", "false", "unknown"}},
}
MATCHER = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')


@pytest.fixture(scope="module", name="exported")
def fixture_exported(samples: Samples) -> Labels:
    """The values of each label of each metric that the service or kube-state-metrics exports."""
    metrics: Labels = dict(CLUSTER)
    for name, labels in samples:
        known = metrics.setdefault(name, {})
        for label, value in labels:
            known.setdefault(label, set()).add(value)
    return metrics


@pytest.fixture(scope="module", name="samples")
def fixture_samples(service: Server) -> Samples:
    """What the service exports after forecasts and rejected requests, and without an error of its own."""
    assert service.forecast([ROW]).status == 200
    assert service.forecast(many(300)).status == 200
    assert service.forecast([{}]).status == 422
    assert service.ask("POST", "/invocations", b"{").status == 400
    assert service.ask("GET", "/nowhere").status == 404
    return service.metrics()


def queries(manifests: Manifests) -> list[str]:
    """Return every expression of the rules and the dashboard."""
    objects = manifests["production-all"]
    rules = of_kind(objects, "PrometheusRule")["spec"]["groups"]
    return [rule["expr"] for group in rules for rule in group["rules"]] + dashboard_queries(manifests)


def dashboard_queries(manifests: Manifests) -> list[str]:
    """Return every expression of the dashboard in its ConfigMap."""
    (content,) = [
        o["data"]["dashboard.json"]
        for o in manifests["production-all"]
        if o["kind"] == "ConfigMap" and o["metadata"]["labels"].get("grafana_dashboard") == "1"
    ]
    return [target["expr"] for panel in json.loads(content)["panels"] for target in panel["targets"]]


def unknown(query: str, exported: Labels) -> list[str]:
    """Return the metrics and labels of a query that neither the service nor kube-state-metrics exports."""
    missing = []
    for metric, selector in METRIC.findall(query):
        if metric not in exported:
            missing.append(metric)
            continue
        for label, operator, value in MATCHER.findall(selector):
            if label in TARGET:
                continue
            values = value.split("|") if operator == "=~" else [value]
            known = exported[metric].get(label, set())
            missing += [f"{metric}{{{label}={v}}}" for v in values if not any(re.fullmatch(v, one) for one in known)]
    return missing


def test_rules_and_dashboard_use_metrics_that_the_service_exports(manifests: Manifests, exported: Labels) -> None:
    asked = queries(manifests)
    assert len(asked) > 30
    assert not [missing for query in asked for missing in unknown(query, exported)]
    grouped = {
        label
        for query in asked
        for names in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", query)
        for label in names.split(", ")
    }
    labels = set().union(*exported.values()) | TARGET
    assert grouped <= labels
    assert unknown('kube_deployment_status_condition{condition="Stopped"}', exported)
    assert unknown('rate(raincast_request_total{path="/x"}[5m])', exported) == ["raincast_request_total"]
    assert unknown('raincast_requests_total{route="/forecast"}', exported) == [
        "raincast_requests_total{route=/forecast}"
    ]
    assert unknown('raincast_request_seconds_bucket{le="0.3"}', exported) == ["raincast_request_seconds_bucket{le=0.3}"]


def test_rules_are_tested_with_series_that_the_service_exports(exported: Labels) -> None:
    series = {
        one["series"]
        for path in MONITORING.glob("rules*-test.yaml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for one in test["input_series"]
    }
    assert len(series) > 10
    for one in series:
        assert not unknown(one, exported)
        (metric, selector), *_ = METRIC.findall(one)
        labels = {label for label, _, _ in MATCHER.findall(selector)}
        assert exported[metric].keys() <= labels <= exported[metric].keys() | TARGET, one


def test_the_kinds_of_errors_that_rules_name_are_those_of_the_code(manifests: Manifests) -> None:
    code = "".join(path.read_text() for path in (ROOT / "raincast").rglob("*.py"))
    kinds = {kind for query in queries(manifests) for kind in re.findall(r'kind="(\w+)"', query)}
    assert kinds == {"internal", "busy"}
    for kind in kinds:
        assert re.search(rf'(?:Problem|cls)\(\d+, "{kind}"', code)


def test_every_query_of_the_dashboard_is_valid(manifests: Manifests, tmp_path: Path) -> None:
    needs("promtool", path=SEARCH)
    asked = [q.replace("$namespace", "a").replace("$__rate_interval", "5m") for q in dashboard_queries(manifests)]
    rules = [{"record": f"a:b:c{i}", "expr": query} for i, query in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], check=True, env={"PATH": SEARCH})
    recorded = {name for query in asked for name in re.findall(r"raincast:\w+:\w+", query)}
    groups = of_kind(manifests["production-all"], "PrometheusRule")["spec"]["groups"]
    assert recorded <= {rule.get("record") for group in groups for rule in group["rules"]}


def test_no_panel_is_empty_on_a_healthy_service(manifests: Manifests, samples: Samples, tmp_path: Path) -> None:
    needs("promtool", path=SEARCH)
    target = 'namespace="a",pod="1",job="raincast"'
    series = []
    for (name, labels), value in samples.items():
        selector = ",".join([target, *(f'{label}="{text}"' for label, text in sorted(labels))])
        counts = name.endswith(("_total", "_bucket", "_count", "_sum"))
        series.append({"series": f"{name}{{{selector}}}", "values": f"{'0+' if counts else ''}{value!r}x90"})
    expected = [{"labels": "{}", "value": 1}]
    tests = []
    for query in dashboard_queries(manifests):
        asked = query.replace("$namespace", "a").replace("$__rate_interval", "5m")
        # Values that are no number differ from themselves.
        expr = f"count(({asked}) == ({asked})) > bool 0"
        tests.append({"expr": expr, "eval_time": "80m", "exp_samples": expected})
    rules = of_kind(manifests["production-all"], "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    test = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": SEARCH},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_explained(manifests: Manifests) -> None:
    groups = of_kind(manifests["production-all"], "PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    fired = set()
    for path in MONITORING.glob("rules*-test.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            expected: list[dict[str, Any]] = test.get("alert_rule_test", [])
            fired |= {one["alertname"] for one in expected if one.get("exp_alerts")}
    assert fired == alerts
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert alerts == set(re.findall(r"^\| `(Raincast\w+)`", operations, re.M))
