"""The pipeline of the last commit, run on this machine with a registry, and the image that it publishes."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ci import pipeline, registry, sbom
from ci.pipeline import Outcome
from raincast.forecasting import forecast, model, writing
from raincast.observations import reading
from tests.conftest import REGISTRY, ROOT
from tests.container.engine import address, asked, running
from tests.integration.serving import CSV, eventually
from tests.pipeline import faults
from tests.pipeline.test_contexts import CONTEXTS

SECRET = "a-password-nobody-may-see"
AUTHOR = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]


@dataclass(frozen=True)
class Project:
    """A project on this machine: its image path in the registry and the base of its images."""

    image: str
    base: str

    def run(self, folder: Path, *jobs: str, **variables: str) -> Outcome:
        """Run jobs of a clone, or all jobs if none is named."""
        account = {"CI_REGISTRY": REGISTRY, "CI_REGISTRY_USER": "robot", "CI_REGISTRY_PASSWORD": SECRET}
        return pipeline.run(
            folder, jobs, {"BASE_IMAGE": self.base, "CI_REGISTRY_IMAGE": self.image} | account | variables
        )


@pytest.fixture(name="project", scope="module")
def fixture_project(runner: None, base_image: str) -> Project:
    """A new project with an empty repository of images."""
    assert runner is None
    return Project(f"{REGISTRY}/raincast/{uuid.uuid4().hex[:12]}", base_image)


@pytest.fixture(name="clone", scope="module")
def fixture_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    pipeline.clone(ROOT, folder)
    return folder


@pytest.fixture(name="master", scope="module")
def fixture_master(project: Project, clone: Path) -> Outcome:
    """The outcome of the whole pipeline for master."""
    outcome = project.run(clone)
    print(outcome)
    assert outcome.exit_code == 0, outcome.output[-5000:]
    return outcome


@pytest.fixture(name="published", scope="module")
def fixture_published(master: Outcome, clone: Path) -> str:
    """The published image, by its digest."""
    assert not master.failed
    name, _, image = (clone / "image.env").read_text(encoding="utf-8").strip().partition("=")
    assert name == "IMAGE"
    return image


def test_every_job_of_master_runs_and_passes(master: Outcome) -> None:
    assert set(master.jobs) == CONTEXTS["master"][1]
    assert not master.failed
    assert "not signed: this pipeline has no SIGSTORE_ID_TOKEN" in master.output
    assert "no image yet, so no champion" in master.output


def test_no_secret_is_in_the_log_or_in_the_image(master: Outcome, published: str, tmp_path: Path) -> None:
    assert SECRET not in master.output
    registry.fetch(published, tmp_path / "image")
    for path in (tmp_path / "image").iterdir():
        assert SECRET.encode() not in path.read_bytes()


def test_the_reports_that_gitlab_shows_are_there(master: Outcome, clone: Path) -> None:
    assert not master.failed
    artifacts = clone / ".gitlab-ci-local" / "artifacts"
    assert (artifacts / "train" / "model" / "report" / "model-card.html").is_file()
    assert "roc_auc{forecast=" in (artifacts / "train" / "model" / "report" / "metrics.txt").read_text()
    assert json.loads((artifacts / "lint" / "reports" / "codequality.json").read_text()) == []
    assert (artifacts / "unit" / "reports" / "coverage.xml").is_file()
    for job in ("unit", "test-accuracy", "test-performance"):
        assert 'failures="0"' in (artifacts / job / "reports" / "junit.xml").read_text()
    assert (clone / "public" / "index.html").is_file()
    assert (clone / "public" / "report" / "model-card.html").is_file()


def test_the_pulled_image_forecasts_in_its_four_ways(published: str, clone: Path, tmp_path: Path) -> None:
    subprocess.run(["docker", "pull", "--quiet", published], check=True, capture_output=True)
    sample = (ROOT / "data" / "sample.csv").read_bytes()
    tmp_path.chmod(0o777)
    (tmp_path / "in.csv").write_bytes(sample)
    expected = forecast.forecast(model.load(clone / "model"), reading.read(tmp_path / "in.csv"))

    def ran(*arguments: str) -> bytes:
        call = ["docker", "run", "--rm", "--interactive", f"--volume={tmp_path}:/data", published, *arguments]
        done = subprocess.run(call, input=sample, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    assert ran() == writing.render(expected, "table")
    assert ran("-") == writing.render(expected, "csv")
    ran("/data/in.csv", "-o", "/data/out.parquet")
    with duckdb.connect() as database:
        query = "SELECT probability_of_rain FROM read_parquet(?)"
        rows = database.execute(query, [str(tmp_path / "out.parquet")]).fetchall()
    assert [probability for (probability,) in rows] == expected["probability_of_rain"].tolist()
    with running(published, "--publish=127.0.0.1::8080") as name:
        url = f"{address(name)}/forecast"
        assert eventually(lambda: asked(url, sample, CSV)) == writing.render(expected, "csv")


def test_the_image_is_the_trained_model_and_this_commit(published: str, project: Project, clone: Path) -> None:
    raw = registry.run("skopeo", "inspect", *registry.tls(published), "--config", f"docker://{published}")
    labels = json.loads(raw)["config"]["Labels"]
    about = model.describe(clone / "model")
    assert labels["raincast.model.sha256"] == about["files"]["model.onnx"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True)
    assert labels["org.opencontainers.image.revision"] == commit.stdout.strip()
    digest = published.partition("@")[2]
    for tag in (commit.stdout.strip(), "latest"):
        assert registry.digest(f"{project.image}:{tag}") == digest


def test_bill_of_materials_and_provenance_are_attached_to_the_image(published: str, clone: Path) -> None:
    repository, _, digest = published.partition("@")

    def inspected(reference: str) -> Any:
        return json.loads(registry.run("skopeo", "inspect", *registry.tls(reference), "--raw", f"docker://{reference}"))

    artifacts = [
        inspected(f"{repository}@{artifact['digest']}")
        for artifact in inspected(f"{repository}:{digest.replace(':', '-')}")["manifests"]
    ]
    assert {artifact["artifactType"] for artifact in artifacts} == {sbom.CYCLONEDX, sbom.IN_TOTO}
    documents = {sbom.CYCLONEDX: "sbom.cdx.json", sbom.IN_TOTO: "provenance.json"}
    for artifact in artifacts:
        assert artifact["subject"]["digest"] == digest
        written = (clone / "image" / documents[artifact["artifactType"]]).read_bytes()
        assert artifact["layers"][0]["digest"] == registry.sha256(written)
    statement = json.loads((clone / "image" / "provenance.json").read_bytes())
    assert statement["subject"][0]["digest"] == {"sha256": digest.removeprefix("sha256:")}
    known = [part["digest"] for part in statement["predicate"]["buildDefinition"]["resolvedDependencies"]]
    about = model.describe(clone / "model")
    assert {"sha256": about["data_sha256"]} in known and {"sha256": about["files"]["model.onnx"]} in known
    (accuracy,) = statement["predicate"]["runDetails"]["byproducts"]
    assert accuracy["annotations"] == {"model_sha256": about["files"]["model.onnx"], "outcome": "no champion"}


def committed(fault: Callable[[Path], dict[str, str]], folder: Path) -> dict[str, str]:
    """Clone with a fault in the last commit, and return the variables for the pipeline."""
    pipeline.clone(ROOT, folder)
    variables = fault(folder)
    for arguments in (["add", "--all"], ["commit", "--quiet", "--message", "A fault"]):
        subprocess.run(["git", *AUTHOR, *arguments], cwd=folder, check=True)
    return variables


def large_file(checkout: Path) -> dict[str, str]:
    """Put a large file of observations into the image."""
    with (checkout / "data" / "history.csv").open("wb") as file:
        file.truncate(300_000_000)
    ignored, recipe = checkout / ".dockerignore", checkout / "Dockerfile"
    ignored.write_text(ignored.read_text(encoding="utf-8") + "!data/history.csv\n", encoding="utf-8")
    before, after = "COPY data/sample.csv ", "COPY data/history.csv data/sample.csv "
    assert before in recipe.read_text(encoding="utf-8")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    return {}


# Most faults show with few trees as well.
FEW_TREES = {"RAINCAST_ITERATIONS": "60"}
TRAIN, ACCURACY, IMAGE = ("train",), ("train", "test-accuracy"), ("train", "build-image")
# A fault, the jobs up to the one that must fail, variables of the pipeline, and the message of the failing job.
FAULTS: list[tuple[Callable[[Path], dict[str, str]], tuple[str, ...], dict[str, str], str]] = [
    (faults.value_out_of_limits, TRAIN, FEW_TREES, "row 1001, Humidity3pm: '171' is not a number, 0 to 100 %"),
    (faults.missing_target, TRAIN, FEW_TREES, "there is no column RainTomorrow to learn from"),
    (faults.outcome_as_column, ACCURACY, FEW_TREES, "tomorrow's rain leaks into forecasts of a file"),
    (faults.label_leak, ACCURACY, FEW_TREES, "too good to be true: 'single row' has a ROC AUC of "),
    (faults.shuffled_target, ACCURACY, FEW_TREES, "below the floor: 'single row' has a roc_auc of "),
    (faults.noise, ACCURACY, FEW_TREES, "below the floor: 'single row' has a roc_auc of "),
    (faults.simpler_model, ACCURACY, {}, "FAILED: worse than the champion, beyond chance"),
    (faults.slow_model, ("train", "test-performance"), {}, "times as long as a route that does nothing"),
    (large_file, IMAGE, FEW_TREES, "MB above its base, 230 MB are allowed: /app/data/history.csv 300 MB"),
]


@pytest.mark.parametrize(("fault", "jobs", "variables", "reason"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_fault_fails_the_pipeline_at_its_job(
    fault: Callable[[Path], dict[str, str]],
    jobs: tuple[str, ...],
    variables: dict[str, str],
    reason: str,
    project: Project,
    published: str,
    tmp_path: Path,
) -> None:
    variables = variables | committed(fault, tmp_path / "clone")
    outcome = project.run(tmp_path / "clone", *jobs, **variables)
    print(outcome)
    assert outcome.failed == [jobs[-1]], outcome.output[-3000:]
    assert outcome.exit_code != 0
    assert reason in outcome.output
    assert registry.digest(f"{project.image}:latest") == published.partition("@")[2]
