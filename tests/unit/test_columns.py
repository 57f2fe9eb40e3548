"""The JSON Schema that follows from the declaration of the columns."""

from __future__ import annotations

import csv
from pathlib import Path

import jsonschema

from raincast.observations.columns import NUMBERS
from raincast.serving import openapi

ROOT = Path(__file__).resolve().parents[2]


def test_the_json_schema_accepts_the_sample_and_refuses_what_reading_refuses() -> None:
    schema = openapi.document("")["components"]["schemas"]["Observation"]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    numbers = set(NUMBERS)
    with (ROOT / "data" / "sample.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            record = {
                name: None if text in ("", "NA") else float(text) if name in numbers else text
                for name, text in row.items()
            }
            validator.validate(record)
    valid = {"Location": "Albury", "Humidity3pm": 45.0}
    assert validator.is_valid(valid)
    for invalid in ({"Humidity3pm": 150}, {"WindDir9am": "NWN"}, {"Location": None}, {"RainToday": 1}, {"Date": 3}):
        assert not validator.is_valid(valid | invalid)
