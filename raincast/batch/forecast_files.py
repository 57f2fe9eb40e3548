"""Forecasts for files of any size, in blocks of whole days.

A block includes the days before it as context, so that its forecasts equal those of the complete table. All data that
grow with the number of rows are on disk, in a folder of TMPDIR that is removed at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

import duckdb
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from raincast import temporary
from raincast.batch.shards import WHOLE, Shard
from raincast.batch.staging import NOT_A_DAY, Staged
from raincast.features.build import feature_matrix, unknown_stations
from raincast.features.history import HISTORY_DAYS
from raincast.forecasting.forecast import forecast_table
from raincast.forecasting.model import Model
from raincast.forecasting.writing import OutputFormat, forecast_writer
from raincast.observations.columns import COLUMNS, DIRECTIONS
from raincast.observations.database import THREADS
from raincast.observations.errors import (
    VIOLATIONS_KEPT,
    Duplicate,
    ObservationError,
    ObservationWarning,
    printable,
    shorten,
    violation_error,
)
from raincast.observations.formats import READ_BLOCK_ROWS
from raincast.observations.table import Table, duplicates, take

# Minimum rows of a block, and minimum size of a block relative to its context, which is computed again.
FORECAST_BLOCK_ROWS, CONTEXT_MULTIPLE = 8_192, 2
# Maximum rows of a block with its context, which are in memory. Some blocks are in memory at the same time if all are
# smaller than LARGE_BLOCK_ROWS, to which their forecasts are reduced if possible.
MOST_BLOCK_ROWS, LARGE_BLOCK_ROWS = 130_000, 40_000
_DIRECTIONS = np.array([*DIRECTIONS, ""])


@dataclass(frozen=True)
class DayBlock:
    """Rows to forecast, `start` to `end` (exclusive) in the order of days; their context begins at `context`."""

    context: int
    start: int
    end: int


def forecast_files(
    model: Model,
    inputs: Sequence[tuple[Any, str]],
    opened: Callable[[], AbstractContextManager[IO[bytes]]],
    output_format: OutputFormat,
    shard: Shard = WHOLE,
) -> None:
    """Forecast the observations of all files as one table and write it in input order.

    `inputs` are files with their names for messages. Only the days of the shard are forecast. `opened` opens the
    output when all forecasts are done. Raises ObservationError; OSError if TMPDIR is full.
    """
    progress = tqdm(unit=" rows", unit_scale=True, disable=None, leave=False, bar_format="{desc}")
    with progress, temporary.folder() as folder, _disk_errors(folder):
        with closing(Staged(folder)) as staged:
            for path, name in inputs:
                progress.set_description_str(printable(f"reading {name} ..."))
                staged.add(path, name)
            progress.set_description_str("sorting ...")
            staged.sort()
            blocks = list(blocks_of(staged, shard))
            progress.bar_format = None
            progress.set_description("forecasting", refresh=False)
            progress.reset(sum(block.end - block.start for block in blocks))
            _forecast(model, staged, blocks, progress)
            progress.set_description("writing")
            with opened() as file:
                _write(model, staged, file, output_format)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException, duckdb.FatalException) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise OSError(f"{folder}: no room to sort the observations, set TMPDIR to another folder: {reason}") from error


def blocks_of(staged: Staged, shard: Shard) -> Iterator[DayBlock]:
    """Yield the blocks of a shard: whole days, then rows without a date."""
    counted = staged.database.execute(
        'SELECT "Date" AS day, count(*) AS rows FROM ordered WHERE "Date" IS NOT NULL GROUP BY 1 ORDER BY 1'
    ).fetchnumpy()
    day, rows = np.asarray(counted["day"]).astype(np.int64), np.asarray(counted["rows"]).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(rows)])
    dated = int(start[-1])
    if rows.size and rows.max() > len(staged.stations):
        _raise_duplicates(staged)
    low, high = shard.share(dated)
    first, last = np.searchsorted(start[:-1], [low, high])
    context = start[np.searchsorted(day, day - HISTORY_DAYS)]
    i = int(first)
    while i < last:
        known = start[i] - context[i]
        least = start[i] + max(FORECAST_BLOCK_ROWS, min(CONTEXT_MULTIPLE * known, LARGE_BLOCK_ROWS - known))
        end = min(int(last), max(i + 1, int(np.searchsorted(start, least))))
        if start[end] - context[i] > MOST_BLOCK_ROWS:
            raise ObservationError(
                f"{staged.files[-1].name}: {start[end] - context[i]} observations in {HISTORY_DAYS} days, at most"
                f" {MOST_BLOCK_ROWS} are forecast"
            )
        yield DayBlock(int(context[i]), int(start[i]), int(start[end]))
        i = end
    low, high = (dated + part for part in shard.share(staged.rows - dated))
    for begin in range(low, high, FORECAST_BLOCK_ROWS):
        yield DayBlock(begin, begin, min(begin + FORECAST_BLOCK_ROWS, high))


def _forecast(model: Model, staged: Staged, blocks: Sequence[DayBlock], progress: Any) -> None:
    """Fill the table `forecasts` with number, day, station and probability of every row of the blocks."""
    staged.database.execute("CREATE TABLE forecasts (number BIGINT, day INTEGER, station INTEGER, probability DOUBLE)")
    names = np.array(staged.stations)
    unknown = unknown_stations(names)
    if unknown:
        warnings.warn(unknown, ObservationWarning, stacklevel=2)

    def forecast_block(block: DayBlock) -> dict[str, NDArray[Any]]:
        with staged.database.cursor() as database:
            rows: dict[str, Any] = database.execute(
                "SELECT * FROM ordered WHERE rowid >= ? AND rowid < ? ORDER BY rowid", [block.context, block.end]
            ).fetchnumpy()
        table = _table(rows, names)
        forecast_rows = slice(block.start - block.context, None)
        number = rows["number"][forecast_rows]
        _refuse_duplicates(staged, take(table, forecast_rows), number)
        probability = model.probability_of_rain(feature_matrix(table, forecast_rows))
        return {
            "number": number,
            "day": _days(table)[forecast_rows],
            "station": rows["Location"][forecast_rows],
            "probability": probability,
        }

    insert = f"INSERT INTO forecasts SELECT number, nullif(day, {NOT_A_DAY}), station, probability FROM block"
    large = any(block.end - block.context > LARGE_BLOCK_ROWS for block in blocks)
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = iter(blocks)
        running = [pool.submit(forecast_block, block) for block in islice(waiting, 1 if large else THREADS + 1)]
        try:
            while running:
                forecasts = running.pop(0).result()
                running += [pool.submit(forecast_block, block) for block in islice(waiting, 1)]
                staged.insert(insert, forecasts)
                progress.update(len(forecasts["number"]))
        finally:
            pool.shutdown(cancel_futures=True)


def _table(rows: dict[str, Any], names: NDArray[np.str_]) -> Table:
    """Return staged rows as a table of observations."""
    table: Table = {}
    for column in COLUMNS:
        values = rows[column.name]
        if column.kind == "date":
            table[column.name] = np.ma.filled(values.astype(np.int64), NOT_A_DAY).astype("datetime64[D]")
        elif column.kind == "station":
            table[column.name] = names[values]
        elif column.kind == "direction":
            table[column.name] = _DIRECTIONS[np.ma.filled(values, -1)]
        else:
            table[column.name] = np.ma.filled(values, np.nan)
    return table


def _days(table: Table) -> NDArray[np.int64]:
    return table["Date"].astype(np.int64)


def _refuse_duplicates(staged: Staged, table: Table, number: NDArray[np.int64]) -> None:
    """Raise ObservationError if a station has two observations on a day, in one file or two."""
    if duplicates(table, number):
        # The first duplicate of all rows may be in another block.
        _raise_duplicates(staged)


def _raise_duplicates(staged: Staged) -> NoReturn:
    """Raise ObservationError with the duplicates of the first file that has any."""
    with staged.database.cursor() as database:
        database.execute(
            'CREATE TEMP TABLE duplicates AS SELECT number, earlier, "Date", "Location" FROM (SELECT number, "Date",'
            ' "Location", lag(number) OVER (PARTITION BY "Date", "Location" ORDER BY number) AS earlier FROM ordered'
            ' WHERE "Date" IS NOT NULL) WHERE earlier IS NOT NULL'
        )
        ((first,),) = database.execute("SELECT min(number) FROM duplicates").fetchall()
        name, _ = staged.place(first)
        end = min((file.first for file in staged.files if file.first > first), default=staged.rows)
        ((count,),) = database.execute("SELECT count(*) FROM duplicates WHERE number < ?", [end]).fetchall()
        rows = database.execute(
            "SELECT * FROM duplicates WHERE number < ? ORDER BY number LIMIT ?", [end, VIOLATIONS_KEPT]
        ).fetchall()
    violations = []
    for later, earlier, day, station in rows:
        other, earlier_row = staged.place(earlier)
        station_day = f"{staged.stations[station]} on {np.datetime64(day, 'D')}"
        before = str(earlier_row) if other == name else f"{earlier_row} of {other}"
        violations.append(Duplicate(staged.place(later)[1], "Date", station_day, before))
    raise violation_error(name, violations, count)


def _write(model: Model, staged: Staged, out: IO[bytes], output_format: OutputFormat) -> None:
    """Write the table `forecasts` in input order."""
    database = staged.database
    database.execute("CREATE TABLE finished AS SELECT * FROM forecasts ORDER BY number; DROP TABLE forecasts")
    names = np.array(staged.stations)
    with forecast_writer(out, output_format, max(map(len, staged.stations)), database) as write:
        for start in range(0, staged.count("finished"), READ_BLOCK_ROWS):
            rows: dict[str, Any] = database.execute(
                "SELECT * FROM finished WHERE rowid >= ? AND rowid < ? ORDER BY rowid", [start, start + READ_BLOCK_ROWS]
            ).fetchnumpy()
            date = np.ma.filled(rows["day"].astype(np.int64), NOT_A_DAY).astype("datetime64[D]")
            write(forecast_table(model, date, names[rows["station"]], rows["probability"]))
