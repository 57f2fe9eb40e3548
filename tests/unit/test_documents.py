"""The documents describe what the code does."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from raincast import __version__
from raincast.observations.columns import COLUMNS
from raincast.serving import openapi

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, DATA, DECISIONS = (DOCUMENTS[name] for name in ("README.md", "data/README.md", "docs/decisions.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_table_of_columns_is_the_declaration() -> None:
    lines = DATA.partition("<!-- columns")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [column.name for column in COLUMNS]
    for row, column in zip(rows, COLUMNS, strict=True):
        assert (row[1], row[3]) == (column.unit, column.meaning)
        if column.kind == "number":
            assert row[2] == f"{column.low:g} to {column.high:g}"


@pytest.mark.parametrize("name", ["observations.csv.gz", "sample.csv", "stations.csv"])
def test_the_checksums_are_those_of_the_files(name: str) -> None:
    content = (ROOT / "data" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() in DATA
    if name.endswith(".gz"):
        assert hashlib.sha256(gzip.decompress(content)).hexdigest() in DATA


def test_the_sample_has_one_bundled_row_of_each_station(bundled_rows: list[dict[str, str]]) -> None:
    with (ROOT / "data" / "sample.csv").open(encoding="utf-8") as file:
        sample = list(csv.DictReader(file))
    bundled = {tuple(row[name] for name in sample[0]) for row in bundled_rows}
    assert len(bundled_rows) == 99_516
    assert sorted(row["Location"] for row in sample) == sorted({row["Location"] for row in bundled_rows})
    assert all(tuple(row.values()) in bundled for row in sample)


def test_the_bundled_rows_have_an_answer_but_no_date_and_no_number(bundled_rows: list[dict[str, str]]) -> None:
    assert {row["RainTomorrow"] for row in bundled_rows} == {"Yes", "No"}
    assert not {"Date", "RISK_MM", "row ID"} & set(bundled_rows[0])


def test_every_dependency_has_its_reason_and_its_pin() -> None:
    serving, everything = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements-serve.txt", "requirements.txt")
    )
    for name in PROJECT["dependencies"]:
        assert f"\n{name}==" in serving
        assert name in DECISIONS
    for dependency in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        name = re.split("[<>=]", dependency, maxsplit=1)[0]
        assert f"\n{name.lower()}==" in everything
        assert name in DECISIONS
    pins = dict(re.findall(r"^([a-z][\w.-]*)==(\S+)", everything, re.MULTILINE))
    assert dict(re.findall(r"^([a-z][\w.-]*)==(\S+)", serving, re.MULTILINE)).items() <= pins.items()


def test_every_pin_has_a_hash_and_no_file_names_an_index() -> None:
    for name in ("requirements.txt", "requirements-serve.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for block in re.split(r"\n(?=[a-z])", text)[1:]:
            assert "--hash=sha256:" in block, block.split("\n", 1)[0]
        assert "://" not in text


def test_there_is_one_version() -> None:
    assert PROJECT["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__}" in changelog


def test_every_setting_is_documented_and_exists() -> None:
    def settings(*names: str) -> set[str]:
        code = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
        return {f"RAINCAST_{name}" for name in re.findall(r'\bsetting\("(\w+)"', code)}

    used = settings("train.py", "prediction.py")
    assert used
    assert used == set(re.findall(r"^\| `(RAINCAST_\w+)`", DOCUMENTS["docs/forecasting.md"], re.MULTILINE))
    for name, text in DOCUMENTS.items():
        assert set(re.findall(r"RAINCAST_[A-Z]\w+", text)) <= used | settings("ci/accuracy.py"), name


def test_every_make_target_in_a_document_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", makefile, re.MULTILINE))
    names = {name for target in targets for name in target.split()}
    for document, text in DOCUMENTS.items():
        assert set(re.findall(r"(?:^ {4}(?:\$ )?|`|&& )make ([a-z-]+)", text, re.MULTILINE)) <= names, document


def test_every_file_that_a_document_links_to_exists() -> None:
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_every_room_is_in_the_diagram_of_the_architecture() -> None:
    rooms = {path.parent.name for path in (ROOT / "raincast").glob("*/*.py")}
    assert rooms
    for room in rooms:
        assert f"\n| `{room}/` |" in DOCUMENTS["docs/architecture.md"], room


def test_every_endpoint_is_documented() -> None:
    for path in openapi.document("")["paths"]:
        assert f"`{path}`" in DOCUMENTS["docs/service.md"] or f" {path}`" in DOCUMENTS["docs/service.md"], path


def test_the_site_has_no_broken_link_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.glob("*.html"))
    assert {path.stem for path in pages} >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    for path in pages:
        assert not re.search(
            r"<(?:link|script|img)\b[^>]*\b(?:href|src)=\"(?:https?:)?//", path.read_text(encoding="utf-8")
        )


def test_the_readme_can_be_skimmed() -> None:
    assert len(README.splitlines()) <= 120
