"""The forecast table and its formats."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from raincast.atomic import replace_file
from raincast.features.build import build_features, feature_names, own_feature_count, row_features
from raincast.forecasting import forecast, model, writing
from raincast.forecasting.model import ModelError
from raincast.observations import reading
from raincast.observations.table import Table, rows_of, take

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
    assert tuple(result) == forecast.FORECAST_COLUMNS
    np.testing.assert_array_equal(result["probability_of_rain"], loaded.probability_of_rain(build_features(table)))
    np.testing.assert_array_equal(result["rain_tomorrow"] == "Yes", result["probability_of_rain"] >= loaded.threshold)
    assert result["Location"].tolist() == table["Location"].tolist()
    assert set(result["rain_tomorrow"]) == {"Yes", "No"}


def test_forecasts_follow_the_order_of_the_input(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    order = np.random.default_rng(1).permutation(len(table["Location"]))
    shuffled = forecast.forecast(loaded, take(table, order))
    whole = forecast.forecast(loaded, table)
    for name in forecast.FORECAST_COLUMNS:
        np.testing.assert_array_equal(shuffled[name], whole[name][order])


def test_a_row_alone_is_forecast_like_a_table_of_that_row(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    for row in range(rows_of(table)):
        alone = take(table, slice(row, row + 1))
        fcst = loaded.single_row_probabilities(row_features({name: values.item() for name, values in alone.items()}))[0]
        assert isinstance(fcst, float)
        assert fcst == pytest.approx(loaded.probability_of_rain(build_features(alone))[0], abs=1e-12)


def test_forecasts_have_13_decimals(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    fcst = loaded.probability_of_rain(build_features(table))
    assert fcst.tolist() == [round(value, 13) for value in fcst.tolist()]
    row = loaded.single_row_probabilities(build_features(take(table, slice(0, 1)))[:, : own_feature_count()].copy())[0]
    assert row == round(row, 13)


def test_the_trained_model_forecasts_what_it_did_at_its_training(trained: Path) -> None:
    forecast.check_parity(model.load(trained))


@pytest.mark.parametrize("name", ["together", "alone"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("difference", [1e-6, -1e-6, 1.1e-9, float("nan")])
def test_a_model_that_forecasts_otherwise_than_at_its_training_is_refused(
    name: str, row: int, difference: float, trained: Path
) -> None:
    loaded = model.load(trained)
    parity = copy.deepcopy(loaded.description["parity"])
    parity[name][row] += difference
    other = replace(loaded, description=loaded.description | {"parity": parity})
    with pytest.raises(ModelError, match="forecasts differ by .* from those of the training, allowed is 1e-09"):
        forecast.check_parity(other)
    parity[name][row] = loaded.description["parity"][name][row] + 0.9e-9
    forecast.check_parity(other)


def test_a_model_whose_graph_is_another_is_refused(trained: Path) -> None:
    loaded = model.load(trained)
    zero = np.zeros((2, len(feature_names())))
    assert loaded.probability_of_rain(zero).shape == (2,)
    parity = copy.deepcopy(loaded.description["parity"])
    parity["observations"][0]["Humidity3pm"] = 5
    other = replace(loaded, description=loaded.description | {"parity": parity})
    with pytest.raises(ModelError, match="forecasts differ"):
        forecast.check_parity(other)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize("sizes", [[5], [1, 4], [2, 2, 1], [1] * 5])
def test_blocks_one_after_the_other_read_as_one_table(form: writing.OutputFormat, sizes: list[int]) -> None:
    many = {name: np.concatenate([values, values, values])[:5] for name, values in FORECASTS.items()}
    start, content = 0, io.BytesIO()
    with writing.forecast_writer(content, form, 6) as write:
        for size in sizes:
            write(take(many, slice(start, start + size)))
            start += size
    assert content.getvalue() == writing.render(many, form)


def test_json_without_a_forecast_is_an_empty_list() -> None:
    assert json.loads(writing.render(take(FORECASTS, slice(0, 0)), "json")) == []


def test_the_table_keeps_its_columns_under_their_header_for_the_longest_name() -> None:
    named = FORECASTS | {"Location": np.array(["A station with a long name", "B"])}
    header, first, second = writing.render(named, "table").decode().splitlines()
    assert header.index("rain tomorrow") == first.index("No") == second.index("Yes")


def test_csv_keeps_every_digit_and_an_empty_date() -> None:
    rows = list(csv.DictReader(io.StringIO(writing.render(FORECASTS, "csv").decode())))
    assert [row["Date"] for row in rows] == ["2017-01-02", ""]
    assert [float(row["probability_of_rain"]) for row in rows] == [0.1, 1 / 3]


def test_json_is_a_list_of_records_with_null_for_no_date() -> None:
    records = json.loads(writing.render(FORECASTS, "json"))
    assert records == [
        {"Date": "2017-01-02", "Location": "Perth", "probability_of_rain": 0.1, "rain_tomorrow": "No"},
        {"Date": None, "Location": "Albury", "probability_of_rain": 1 / 3, "rain_tomorrow": "Yes"},
    ]


def test_parquet_has_the_same_rows_and_real_dates(tmp_path: Path) -> None:
    path = tmp_path / "forecasts.parquet"
    path.write_bytes(writing.render(FORECASTS, "parquet"))
    rows = duckdb.sql(f"SELECT * FROM '{path}'")
    assert tuple(rows.columns) == forecast.FORECAST_COLUMNS
    assert str(rows.types[0]) == "DATE"
    assert rows.fetchall() == [
        (np.datetime64("2017-01-02").item(), "Perth", 0.1, "No"),
        (None, "Albury", 1 / 3, "Yes"),
    ]


def test_the_table_names_station_answer_and_percentage() -> None:
    header, first, second = writing.render(FORECASTS, "table").decode().splitlines()
    assert header.split() == ["Date", "Location", "rain", "tomorrow", "probability"]
    assert first.split()[:4] == ["2017-01-02", "Perth", "No", "10.0%"]
    assert second.split()[:4] == ["-", "Albury", "Yes", "33.3%"]


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with replace_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, replace_file(path) as file:
        file.write(b"new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="^no$"), replace_file(path) as file:
        file.write(b"new")
        raise ValueError("no")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_link_stays_a_link_to_the_new_content(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    with replace_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replace_file(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
