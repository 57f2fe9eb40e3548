"""The jobs of a pipeline, by its cause."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cimulator.workflow import evaluate_workflow

from ci import image, pipeline, registry
from tests.conftest import ROOT

Variables = dict[str, str | None]
CHECKS = {"lint", "manifests", "train", "unit", "integration", "test-accuracy", "test-performance"}
PUBLISHED = CHECKS | {"build-image", "sign"}
PUSHED = PUBLISHED - {"integration"}
BRANCH: Variables = {"CI_COMMIT_BRANCH": "topic", "CI_PIPELINE_SOURCE": "push"}
MASTER: Variables = {"CI_COMMIT_BRANCH": "master", "CI_PIPELINE_SOURCE": "push"}
MERGE_REQUEST: Variables = {
    "CI_COMMIT_BRANCH": None,
    "CI_PIPELINE_SOURCE": "merge_request_event",
    "CI_MERGE_REQUEST_IID": "7",
}
TAG: Variables = {"CI_COMMIT_BRANCH": None, "CI_COMMIT_TAG": "v1.2.3", "CI_PIPELINE_SOURCE": "push"}
CLUSTER: Variables = {"KUBE_CONTEXT": "raincast/agents:cluster"}
# The variables and the jobs of each context. A context without jobs has no pipeline.
CONTEXTS: dict[str, tuple[Variables, set[str]]] = {
    "branch": (BRANCH, CHECKS),
    "branch with an open merge request": (BRANCH | {"CI_OPEN_MERGE_REQUESTS": "raincast/raincast!7"}, set()),
    "merge request": (MERGE_REQUEST, CHECKS),
    "master": (MASTER, PUSHED | {"pages"}),
    "master with a cluster": (MASTER | CLUSTER, PUSHED | {"pages", "staging", "production"}),
    "schedule with a cluster": (MASTER | CLUSTER | {"CI_PIPELINE_SOURCE": "schedule"}, CHECKS),
    "schedule": (MASTER | {"CI_PIPELINE_SOURCE": "schedule"}, CHECKS),
    "tag": (TAG, PUBLISHED | {"release"}),
    "tag of a prerelease": (TAG | {"CI_COMMIT_TAG": "v1.2.3-rc.1"}, PUBLISHED | {"release"}),
    "tag that no image can have": (TAG | {"CI_COMMIT_TAG": "v1.0.0+build.5"}, set()),
    "tag that is no version": (TAG | {"CI_COMMIT_TAG": "nightly"}, set()),
}


@pytest.fixture(name="document", scope="module")
def fixture_document() -> dict[str, Any]:
    """The pipeline's file, its jobs merged with the jobs that they extend."""
    document = dict(yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")))
    return {
        name: document.get(_extended(part), {}) | part for name, part in document.items() if isinstance(part, dict)
    } | {name: part for name, part in document.items() if not isinstance(part, dict)}


def _extended(part: dict[str, Any]) -> str:
    return str(part.get("extends", ""))


@pytest.fixture(name="clone", scope="module")
def fixture_clone(runner: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit."""
    assert runner is None
    folder = tmp_path_factory.mktemp("contexts") / "clone"
    pipeline.clone(ROOT, folder)
    return folder


def runs(document: dict[str, Any], variables: Variables) -> bool:
    """Tell if workflow:rules create a pipeline, which gitlab-ci-local does not evaluate."""
    known = {name: value for name, value in variables.items() if value is not None}
    return bool(evaluate_workflow(document["workflow"], known)[0])


def listed(clone: Path, variables: Variables) -> dict[str, str]:
    """Return the jobs that gitlab-ci-local would run, and when."""
    call = [str(pipeline.GITLAB_CI_LOCAL), "--list-csv", "--no-color"]
    for name, value in variables.items():
        call += ["--unset-variable", name] if value is None else ["--variable", f"{name}={value}"]
    done = subprocess.run(call, cwd=clone, capture_output=True, text=True, check=True)
    lines = done.stdout[done.stdout.index("name;") :].splitlines()
    return {row["name"]: row["when"] for row in csv.DictReader(lines, delimiter=";") if row["when"] != "never"}


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_context_has_its_jobs(context: str, document: dict[str, Any], clone: Path) -> None:
    variables, jobs = CONTEXTS[context]
    assert runs(document, variables) == bool(jobs)
    if jobs:
        assert set(listed(clone, variables)) == jobs


@pytest.mark.parametrize(
    ("tag", "permitted"),
    [
        ("v1.2.3", True),
        ("v1.2.3-rc.1", True),
        (f"v{'1' * 9}.{'2' * 9}.{'3' * 9}-{'x' * 90}", True),
        ("v1.0.0+build.5", False),
        ("v1.0.0/hotfix", False),
        ("v1.0.0-rc/1", False),
        ("v1.0.0-rc+1", False),
        ("v1.0.0-", False),
        ("v1.0.0.1", False),
        ("v1.0.0 ", False),
        ("v1.0.0-ü", False),
        ("1.0.0", False),
        ("xv1.0.0", False),
        ("latest", False),
        (f"v1.0.0-{'x' * 122}", False),
    ],
)
def test_only_a_tag_that_an_image_can_have_makes_a_pipeline(
    tag: str, permitted: bool, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_REGISTRY_IMAGE", "registry.example.org/rain")
    monkeypatch.setenv("CI_COMMIT_TAG", tag)
    assert runs(document, TAG | {"CI_COMMIT_TAG": tag}) == permitted
    if permitted:
        assert image.names()[2] == tag
        assert registry.TAG.fullmatch(tag)
    else:
        with pytest.raises(image.CallError, match="cannot be the tag of an image"):
            image.names()


@pytest.mark.parametrize(("mode", "when"), [(None, "manual"), ("auto", "on_success"), ("other", "manual")])
def test_production_waits_for_a_person_unless_told_otherwise(mode: str | None, when: str, clone: Path) -> None:
    jobs = listed(clone, MASTER | CLUSTER | {"DEPLOY_MODE": mode})
    assert (jobs["staging"], jobs["production"]) == ("on_success", when)


# What GitLab's templates have of the jobs that ci/security.yml changes. The templates themselves are only in GitLab.
TEMPLATES = {
    "SAST": """
sast: {stage: test, script: [exit 1], rules: [{when: never}]}
.sast-analyzer: {extends: sast, script: [/analyzer run]}
semgrep-sast: {extends: .sast-analyzer, image: {name: scanner}, rules: [{if: $CI_COMMIT_BRANCH}]}
""",
    "Secret-Detection": """
.secret-analyzer: {stage: test, image: scanner, script: [/analyzer run]}
secret_detection: {extends: .secret-analyzer, rules: [{if: $CI_COMMIT_BRANCH}]}
""",
    "Container-Scanning": """
container_scanning:
  image: scanner
  stage: test
  dependencies: []
  variables: {GIT_STRATEGY: none}
  script: [gtcs scan]
  rules: [{if: $CI_COMMIT_BRANCH}]
""",
}


def test_gitlabs_scanners_and_the_signature_keep_their_own_settings(clone: Path) -> None:
    raw = "gitlab.com/gitlab-org/gitlab/-/raw/HEAD/lib/gitlab/ci/templates/Jobs"
    templates = clone / ".gitlab-ci-local" / "includes" / raw
    templates.mkdir(parents=True)
    for name, content in TEMPLATES.items():
        (templates / f"{name}.gitlab-ci.yml").write_text(content, encoding="utf-8")
    on_gitlab = MASTER | {"GITLAB_CI": "true", "CI_SERVER_HOST": "gitlab.com"}
    scanners = {"semgrep-sast", "secret_detection", "container_scanning"}
    assert set(listed(clone, on_gitlab)) == CONTEXTS["master"][1] | scanners
    call = [str(pipeline.GITLAB_CI_LOCAL), "--preview", "--no-color", "--variable", "GITLAB_CI=true"]
    call += ["--variable", "CI_SERVER_HOST=gitlab.com"]
    done = subprocess.run(call, cwd=clone, capture_output=True, text=True, check=True)
    expanded = yaml.safe_load(done.stdout[done.stdout.index("---\n") :])
    for scanner in scanners:
        job = expanded[scanner]
        assert (job["image"], job["before_script"], job["cache"]) == ({"name": "scanner"}, [], [])
    scan = expanded["container_scanning"]
    assert scan["variables"] == {"GIT_STRATEGY": "none", "CS_IMAGE": "$IMAGE"}
    assert (scan["dependencies"], [need["job"] for need in scan["needs"]]) == (["build-image"], ["build-image"])
    sign = expanded["sign"]
    assert sign["id_tokens"] == {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}}
    assert (sign["script"], sign["image"], sign["stage"]) == (["make sign"], {"name": "$ALPINE_IMAGE"}, "image")


def test_nothing_is_published_before_every_check_has_passed(document: dict[str, Any]) -> None:
    stages = document["stages"]
    build = document["build-image"]
    # A job without `needs` waits for all stages before its own.
    assert "needs" not in build
    assert all(stages.index(document[job]["stage"]) < stages.index(build["stage"]) for job in CHECKS)
    assert stages == ["lint", "train", "test", "image", "deploy"]


def test_accuracy_and_performance_are_tested_side_by_side_on_the_trained_model(document: dict[str, Any]) -> None:
    assert document["test-accuracy"]["needs"] == document["test-performance"]["needs"] == ["train"]
    assert document["train"]["artifacts"]["paths"] == ["model/"]


def test_what_needs_no_other_job_starts_at_once(document: dict[str, Any]) -> None:
    # Jobs of the first stage wait for nothing without saying so.
    at_once = {job for job in CHECKS if document[job].get("needs") == [] or document[job]["stage"] == "lint"}
    assert at_once == {"lint", "manifests", "train"}


def test_each_job_is_one_make_target_that_people_have_too(document: dict[str, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = {name: job for name, job in document.items() if isinstance(job, dict) and "script" in job}
    assert set(jobs) == set().union(*(jobs for _, jobs in CONTEXTS.values()))
    for job in jobs.values():
        (line,) = job["script"]
        program, target = line.split()[:2]
        assert program == "make"
        assert f"\n{target}:" in makefile or f" {target}:" in makefile or f"\n{target} " in makefile


def test_the_file_is_short_and_nothing_in_it_is_deprecated(document: dict[str, Any]) -> None:
    assert len((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8").splitlines()) <= 200
    assert not {"image", "services", "cache", "before_script", "after_script"} & set(document)
    for job in document.values():
        assert not {"only", "except"} & set(job if isinstance(job, dict) else ())


@pytest.mark.parametrize("name", [".gitlab-ci.yml", "ci/security.yml", "ci/signing.yml"])
def test_the_files_are_as_gitlabs_schema_says(name: str) -> None:
    call = [
        ROOT / ".venv/bin/check-jsonschema",
        "--builtin-schema",
        "vendor.gitlab-ci",
        "--data-transform",
        "gitlab-ci",
    ]
    done = subprocess.run([*map(str, call), str(ROOT / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
