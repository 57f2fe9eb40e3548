"""The origin of a model in its description."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pytest

from raincast.observations.table import Table
from raincast.training import bundle
from tests.unit.training.conftest import CONFIG


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/somewhere/private/record.csv.gz", "record.csv.gz"),
        ("https://example.org:8443/a/b.csv", "https://example.org:8443/a/b.csv"),
    ],
)
def test_the_description_names_the_data_but_no_folder(data: str, name: str, undated: Table) -> None:
    rows = np.arange(len(undated["Location"])) < 100
    description = bundle.provenance(CONFIG, undated, rows, data, "abc")
    assert description["data"] == name
    assert description["rows"] == 100
    assert description["config"]["iterations"] == 12


def test_the_time_of_the_training_is_now_or_source_date_epoch(undated: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(len(undated["Location"])) < 100
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = int(time.time())
    trained = bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")["trained"]
    assert before <= dt.datetime.fromisoformat(trained).timestamp() <= time.time()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    fixed = bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")
    assert fixed["trained"] == "2026-01-01T00:00:00Z"
    assert fixed == bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")
