"""The forecast table and its formats."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pytest

from raincast import features, forecast, model, reading
from raincast.observations import Table, take

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample.csv"
FORECASTS: Table = {
    "Date": np.array(["2017-01-02", "NaT"], "datetime64[D]"),
    "Location": np.array(["Perth", "Albury"]),
    "probability_of_rain": np.array([0.1, 1 / 3]),
    "rain_tomorrow": np.array(["No", "Yes"]),
}


def test_the_forecast_is_the_models_probability_and_the_thresholds_word(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    result = forecast.forecast(loaded, table)
    assert tuple(result) == forecast.COLUMNS
    np.testing.assert_array_equal(result["probability_of_rain"], loaded.probability_of_rain(features.build(table)))
    np.testing.assert_array_equal(result["rain_tomorrow"] == "Yes", result["probability_of_rain"] >= loaded.threshold)
    assert result["Location"].tolist() == table["Location"].tolist()
    assert set(result["rain_tomorrow"]) == {"Yes", "No"}


def test_forecasts_follow_the_order_of_the_input(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    order = np.random.default_rng(1).permutation(len(table["Location"]))
    shuffled = forecast.forecast(loaded, take(table, order))
    whole = forecast.forecast(loaded, table)
    for name in forecast.COLUMNS:
        np.testing.assert_array_equal(shuffled[name], whole[name][order])


def test_csv_keeps_every_digit_and_an_empty_date() -> None:
    rows = list(csv.DictReader(io.StringIO(forecast.rendered(FORECASTS, "csv").decode())))
    assert [row["Date"] for row in rows] == ["2017-01-02", ""]
    assert [float(row["probability_of_rain"]) for row in rows] == [0.1, 1 / 3]


def test_json_is_a_list_of_records_with_null_for_no_date() -> None:
    records = json.loads(forecast.rendered(FORECASTS, "json"))
    assert records == [
        {"Date": "2017-01-02", "Location": "Perth", "probability_of_rain": 0.1, "rain_tomorrow": "No"},
        {"Date": None, "Location": "Albury", "probability_of_rain": 1 / 3, "rain_tomorrow": "Yes"},
    ]


def test_parquet_has_the_same_rows_and_real_dates(tmp_path: Path) -> None:
    path = tmp_path / "forecasts.parquet"
    path.write_bytes(forecast.rendered(FORECASTS, "parquet"))
    rows = duckdb.sql(f"SELECT * FROM '{path}'")
    assert tuple(rows.columns) == forecast.COLUMNS
    assert str(rows.types[0]) == "DATE"
    assert rows.fetchall() == [
        (np.datetime64("2017-01-02").item(), "Perth", 0.1, "No"),
        (None, "Albury", 1 / 3, "Yes"),
    ]


def test_the_table_names_station_answer_and_percentage() -> None:
    header, first, second = forecast.rendered(FORECASTS, "table").decode().splitlines()
    assert header.split() == ["Date", "Location", "rain", "tomorrow", "probability"]
    assert first.split()[:4] == ["2017-01-02", "Perth", "No", "10.0%"]
    assert second.split()[:4] == ["-", "Albury", "Yes", "33.3%"]


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    forecast.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        forecast.write_whole(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_link_stays_a_link_to_the_new_content(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    forecast.write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    forecast.write_whole(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
