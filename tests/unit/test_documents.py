"""The documents say what the code does."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from raincast import __version__
from raincast.observations import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
DECISIONS = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
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
    for name in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
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
    code = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("train.py", "prediction.py"))
    used = {f"RAINCAST_{name}" for name in re.findall(r'command\.setting\("(\w+)"', code)}
    assert used == set(re.findall(r"RAINCAST_\w+", README))


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", makefile, re.MULTILINE))
    names = {name for target in targets for name in target.split()}
    assert set(re.findall(r"(?:^ {4}|`|&& )make ([a-z-]+)", README, re.MULTILINE)) <= names


def test_every_file_that_a_document_links_to_exists() -> None:
    for path in (ROOT / "README.md", ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path}: {target}"
