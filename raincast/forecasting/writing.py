"""Forecast tables as text, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Literal

import numpy as np

from raincast import temporary
from raincast.forecasting.forecast import FORECAST_COLUMNS
from raincast.observations.database import connect
from raincast.observations.table import Table

OutputFormat = Literal["table", "csv", "json", "parquet"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("table", "csv", "json", "parquet")
WriteTable = Callable[[Table], None]


def render(forecasts: Table, output_format: OutputFormat) -> bytes:
    """Return a forecast table in an output format. Missing dates are empty, in JSON and Parquet null."""
    out = io.BytesIO()
    with forecast_writer(out, output_format, max(map(len, forecasts["Location"].tolist()), default=0)) as write:
        write(forecasts)
    return out.getvalue()


@contextmanager
def forecast_writer(
    out: IO[bytes], output_format: OutputFormat, width: int, database: Any = None
) -> Iterator[WriteTable]:
    """Yield a function that appends forecast tables to one file in an output format.

    `width` is the length of the longest station name. Rows of a Parquet file are kept in a duckdb `database`, in memory
    by default.
    """
    if output_format == "parquet":
        with _parquet_writer(out, database) as write:
            yield write
    elif output_format == "csv":
        out.write(",".join(FORECAST_COLUMNS).encode() + b"\n")
        yield lambda forecasts: _append(out, _csv_lines(forecasts))
    elif output_format == "json":
        out.write(b"[")
        separators = iter([b"\n"])
        yield lambda forecasts: _append(out, next(separators, b",\n") + _json_lines(forecasts))
        out.write(b"\n]\n")
    else:
        width = max(8, width)
        out.write(f"{'Date':10}  {'Location':{width}}  rain tomorrow  probability\n".encode())
        yield lambda forecasts: _append(out, _text_lines(forecasts, width))


def _append(out: IO[bytes], content: bytes) -> None:
    out.write(content)


def _rows(forecasts: Table) -> Iterator[tuple[str, str, float, str]]:
    dates = np.where(np.isnat(forecasts["Date"]), "", forecasts["Date"].astype(str)).tolist()
    return zip(dates, *(forecasts[name].tolist() for name in FORECAST_COLUMNS[1:]), strict=True)


def _csv_lines(forecasts: Table) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(forecasts))
    return text.getvalue().encode()


def _json_lines(forecasts: Table) -> bytes:
    return ",\n".join(
        json.dumps(dict(zip(FORECAST_COLUMNS, (date or None, *rest), strict=True))) for date, *rest in _rows(forecasts)
    ).encode()


def _text_lines(forecasts: Table, width: int) -> bytes:
    lines = []
    for date, location, probability, rain in _rows(forecasts):
        chart = "#" * round(probability * 20)
        lines.append(f"{date or '-':10}  {location:{width}}  {rain:13}  {probability:10.1%}  {chart}".rstrip() + "\n")
    return "".join(lines).encode()


@contextmanager
def _parquet_writer(out: IO[bytes], database: Any) -> Iterator[WriteTable]:
    date, location, probability, rain = FORECAST_COLUMNS
    with ExitStack() as stack:
        folder = stack.enter_context(temporary.folder())
        if database is None:
            database = stack.enter_context(connect())
        database.execute(
            f"CREATE TABLE parquet ({date} DATE, {location} VARCHAR, {probability} DOUBLE, {rain} VARCHAR)"
        )

        def write(forecasts: Table) -> None:
            # duckdb does not accept datetime64[D]: pass dates as days since 1970-01-01.
            days = forecasts[date].astype(np.int64)
            database.register("block", {**forecasts, date: days, "dated": ~np.isnat(forecasts[date])})
            database.execute(
                f"INSERT INTO parquet SELECT CASE WHEN dated THEN DATE '1970-01-01' + {date}::INTEGER END,"
                f" {location}, {probability}, {rain} FROM block"
            )
            database.unregister("block")

        yield write
        path = folder / "forecasts.parquet"
        database.execute(f"COPY parquet TO '{path}' (FORMAT parquet)")
        with path.open("rb") as file:
            shutil.copyfileobj(file, out)
