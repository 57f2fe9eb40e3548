"""The forecast table and its formats."""

from __future__ import annotations

import copy
import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

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


def test_a_forecast_has_the_models_probability_and_yes_from_the_threshold_on(trained: Path) -> None:
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
    in_order = forecast.forecast(loaded, table)
    for name in forecast.FORECAST_COLUMNS:
        np.testing.assert_array_equal(shuffled[name], in_order[name][order])


def test_a_single_row_is_forecast_like_a_table_of_that_row(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    for row in range(rows_of(table)):
        single = take(table, slice(row, row + 1))
        features = row_features({name: values.item() for name, values in single.items()})
        fcst = loaded.single_row_probabilities(features)[0]
        assert isinstance(fcst, float)
        assert fcst == pytest.approx(loaded.probability_of_rain(build_features(single))[0], abs=1e-12)


def test_forecasts_have_13_decimals(trained: Path) -> None:
    loaded, table = model.load(trained), reading.read(SAMPLE)
    fcst = loaded.probability_of_rain(build_features(table))
    assert fcst.tolist() == [round(value, 13) for value in fcst.tolist()]
    row = loaded.single_row_probabilities(build_features(take(table, slice(0, 1)))[:, : own_feature_count()].copy())[0]
    assert row == round(row, 13)


def test_the_trained_model_repeats_the_forecasts_of_its_training(trained: Path) -> None:
    forecast.check_parity(model.load(trained))


@pytest.mark.parametrize("name", ["together", "alone"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("difference", [1e-6, -1e-6, 1.1e-9, float("nan")])
def test_a_model_that_differs_from_the_forecasts_of_its_training_is_refused(
    name: str, row: int, difference: float, trained: Path
) -> None:
    loaded = model.load(trained)
    parity = copy.deepcopy(loaded.description["parity"])
    parity[name][row] += difference
    other = replace(loaded, description=loaded.description | {"parity": parity})
    with pytest.raises(ModelError, match="forecasts differ by .* from those of the training, at most 1e-09 is allowed"):
        forecast.check_parity(other)
    parity[name][row] = loaded.description["parity"][name][row] + 0.9e-9
    forecast.check_parity(other)


def test_a_model_whose_parity_rows_differ_is_refused(trained: Path) -> None:
    loaded = model.load(trained)
    zero = np.zeros((2, len(feature_names())))
    assert loaded.probability_of_rain(zero).shape == (2,)
    parity = copy.deepcopy(loaded.description["parity"])
    parity["observations"][0]["Humidity3pm"] = 5
    other = replace(loaded, description=loaded.description | {"parity": parity})
    with pytest.raises(ModelError, match="forecasts differ"):
        forecast.check_parity(other)


@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
@pytest.mark.parametrize("sizes", [[5], [1, 4], [2, 2, 1], [1] * 5])
def test_consecutive_blocks_are_written_as_one_table(output_format: writing.OutputFormat, sizes: list[int]) -> None:
    many = {name: np.concatenate([values, values, values])[:5] for name, values in FORECASTS.items()}
    start, content = 0, io.BytesIO()
    with writing.forecast_writer(content, output_format, 6) as write:
        for size in sizes:
            write(take(many, slice(start, start + size)))
            start += size
    assert content.getvalue() == writing.render(many, output_format)


def test_json_without_a_forecast_is_an_empty_list() -> None:
    assert json.loads(writing.render(take(FORECASTS, slice(0, 0)), "json")) == []


def test_the_columns_of_the_table_are_aligned_for_the_longest_name() -> None:
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
    assert rows is not None
    assert tuple(rows.columns) == forecast.FORECAST_COLUMNS
    assert str(rows.types[0]) == "DATE"
    assert rows.fetchall() == [
        (np.datetime64("2017-01-02").item(), "Perth", 0.1, "No"),
        (None, "Albury", 1 / 3, "Yes"),
    ]


def test_the_table_shows_station_yes_or_no_and_percentage() -> None:
    header, first, second = writing.render(FORECASTS, "table").decode().splitlines()
    assert header.split() == ["Date", "Location", "rain", "tomorrow", "probability"]
    assert first.split()[:4] == ["2017-01-02", "Perth", "No", "10.0%"]
    assert second.split()[:4] == ["-", "Albury", "Yes", "33.3%"]
