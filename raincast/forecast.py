"""Observations + model -> forecast table, and the forecast table as text, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from raincast import features
from raincast.formats import record_blocks
from raincast.model import Model, ModelError
from raincast.observations import Table, parse_blocks, rows_of

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")
TOLERANCE = 1e-9
COLUMNS = ("Date", "Location", "probability_of_rain", "rain_tomorrow")


def forecast(model: Model, table: Table) -> Table:
    """Forecast table in the order of the observations: Date, Location, probability_of_rain and rain_tomorrow.

    The observations of one table are each other's context.
    """
    return forecast_table(model, table["Date"], table["Location"], model.probability_of_rain(features.build(table)))


def forecast_table(
    model: Model, date: NDArray[np.datetime64], location: NDArray[np.str_], probability: NDArray[np.float64]
) -> Table:
    """Forecast table of probabilities that are known, each of these of the shape (rows,)."""
    rain = np.where(probability >= model.threshold, "Yes", "No")
    return dict(zip(COLUMNS, (date, location, probability, rain), strict=True))


def check_parity(model: Model) -> None:
    """ModelError where a loaded model does not forecast, on this machine, what scikit-learn did at its training."""
    parity = model.description.get("parity")
    if parity is None:
        raise ModelError("the model has no parity rows to try it with; train again with this version of Raincast")
    table = parse_blocks("the parity rows", record_blocks("the parity rows", parity["observations"])[1])
    rows = [{name: values[i].item() for name, values in table.items()} for i in range(rows_of(table))]
    fcst = {
        "together": model.probability_of_rain(features.build(table)),
        "alone": np.array([model.probability_alone(features.build_row(row)) for row in rows]),
    }
    difference = np.max([np.abs(found - parity[name]) for name, found in fcst.items()])
    if not difference <= TOLERANCE:
        raise ModelError(f"forecasts differ by {difference:g} from those of the training, allowed is {TOLERANCE:g}")


def rendered(forecasts: Table, form: Format) -> bytes:
    """A forecast table in one of the formats. Missing dates are empty, in JSON and Parquet null."""
    if form == "parquet":
        return _parquet(forecasts)
    text = Text(form, max(map(len, forecasts["Location"].tolist()), default=0))
    return text.start + text.block(forecasts) + text.end


class Text:
    """Forecast tables, one after the other, as one table, CSV or JSON: `start`, a `block` for each, `end`.

    `width` is the length of the longest station's name.
    """

    # pylint: disable=too-few-public-methods  # what comes first, next and last

    def __init__(self, form: Format, width: int) -> None:
        self.form, self.width, self.begun = form, max(8, width), False
        header = f"{'Date':10}  {'Location':{self.width}}  rain tomorrow  probability\n"
        self.start = {"table": header, "csv": ",".join(COLUMNS) + "\n", "json": "["}[form].encode()
        self.end = b"\n]\n" if form == "json" else b""

    def block(self, forecasts: Table) -> bytes:
        """The next rows."""
        dates = np.where(np.isnat(forecasts["Date"]), "", forecasts["Date"].astype(str)).tolist()
        rows = zip(dates, *(forecasts[name].tolist() for name in COLUMNS[1:]), strict=True)
        if self.form == "csv":
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            return text.getvalue().encode()
        if self.form == "json":
            records = (json.dumps(dict(zip(COLUMNS, (date or None, *rest), strict=True))) for date, *rest in rows)
            separator = ",\n" if self.begun else "\n"
            self.begun = True
            return (separator + ",\n".join(records)).encode()
        return "".join(self._line(*row) for row in rows).encode()

    def _line(self, date: str, location: str, probability: float, rain: str) -> str:
        length = "#" * round(probability * 20)
        return f"{date or '-':10}  {location:{self.width}}  {rain:13}  {probability:10.1%}  {length}".rstrip() + "\n"


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


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when all went well: whole or not at all.

    A link's target is replaced; a device or a pipe, such as /dev/stdout, is written to.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _replacing(path.resolve()) as file:
                yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except PermissionError as error:
        # In a container, whose user owns nothing outside, who it is says what to do.
        raise PermissionError(error.errno, f"{error.strerror} for user {os.getuid()}", str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
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
