"""Observations + model -> forecast table, and the forecast table as text, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from raincast import features
from raincast.model import Model
from raincast.observations import Table

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")
COLUMNS = ("Date", "Location", "probability_of_rain", "rain_tomorrow")


def forecast(model: Model, table: Table) -> Table:
    """Forecast table in the order of the observations: Date, Location, probability_of_rain and rain_tomorrow.

    The observations of one table are each other's context.
    """
    probability = model.probability_of_rain(features.build(table))
    return {
        "Date": table["Date"],
        "Location": table["Location"],
        "probability_of_rain": probability,
        "rain_tomorrow": np.where(probability >= model.threshold, "Yes", "No"),
    }


def rendered(forecasts: Table, form: Format) -> bytes:
    """A forecast table in one of the formats. Missing dates are empty, in JSON and Parquet null."""
    if form == "parquet":
        return _parquet(forecasts)
    dates = np.where(np.isnat(forecasts["Date"]), "", forecasts["Date"].astype(str)).tolist()
    rows = list(zip(dates, *(forecasts[name].tolist() for name in COLUMNS[1:]), strict=True))
    if form == "json":
        records = [dict(zip(COLUMNS, (date or None, *rest), strict=True)) for date, *rest in rows]
        return json.dumps(records, indent=1).encode() + b"\n"
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        return text.getvalue().encode()
    width = max(8, *(len(row[1]) for row in rows))
    lines = [f"{'Date':10}  {'Location':{width}}  rain tomorrow  probability"]
    for date, location, probability, rain in rows:
        length = "#" * round(probability * 20)
        lines.append(f"{date or '-':10}  {location:{width}}  {rain:13}  {probability:10.1%}  {length}".rstrip())
    return "\n".join(lines).encode() + b"\n"


def _parquet(forecasts: Table) -> bytes:
    # As in reading: only Parquet needs duckdb, whose import would double the start of every other forecast.
    import duckdb  # pylint: disable=import-outside-toplevel

    # duckdb takes no datetime64[D]: dates travel as text.
    columns = {**forecasts, "Date": forecasts["Date"].astype(str)}
    with tempfile.TemporaryDirectory(prefix="raincast-") as folder, duckdb.connect() as database:
        path = Path(folder) / "forecasts.parquet"
        database.register("forecasts", columns)
        database.execute(
            "COPY (SELECT TRY_CAST(Date AS DATE) AS Date, Location, probability_of_rain, rain_tomorrow FROM forecasts)"
            f" TO '{path}' (FORMAT parquet)"
        )
        return path.read_bytes()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary neighbour first, then renamed. A link's target is replaced."""
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe, such as /dev/stdout, is written to; to rename over it would destroy it.
            path.write_bytes(content)
        else:
            _replace(path.resolve(), content)
    except OSError as error:
        error.filename = str(path)
        raise


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
