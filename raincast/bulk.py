"""Forecasts for files of any size, in blocks of whole days.

A block takes the days before it along as context, so that each forecast is the one that the whole table at once would
give. All that grows with the number of rows is on disk, in a folder of TMPDIR that is removed at the end.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from raincast import features
from raincast.forecast import COLUMNS, Format, Text, forecast_table
from raincast.formats import BLOCK_ROWS
from raincast.model import Model
from raincast.observations import COLUMNS as OBSERVED
from raincast.observations import DIRECTIONS, ObservationWarning, Repeat, Table, refuse, repeats, shorten, take
from raincast.shards import WHOLE, Shard
from raincast.staging import NOT_A_DAY, THREADS, Staged, literal

# How many rows are forecast at once, at least, and how many times its context a block is, so that little is done twice.
BLOCK, CONTEXTS = 8_192, 2
_POINTS = np.array([*DIRECTIONS, ""])


@dataclass(frozen=True)
class Block:
    """Rows to forecast, `start` to `end` in the order of days, with those from `context` on to learn from."""

    context: int
    start: int
    end: int


def score(
    model: Model,
    sources: Sequence[tuple[Any, str]],
    opened: Callable[[], AbstractContextManager[IO[bytes]]],
    form: Format,
    shard: Shard = WHOLE,
) -> None:
    """Forecast the observations of files, each with what messages call it, as one table, and write it in input order.

    Only the days of a shard are forecast. The output is opened when all is forecast. Raises ObservationError; OSError
    where TMPDIR is full.
    """
    progress = tqdm(unit=" rows", unit_scale=True, disable=None, leave=False, bar_format="{desc}")
    with progress, tempfile.TemporaryDirectory(prefix="raincast-") as folder, _disk_errors(folder), _interrupts():
        with closing(Staged(Path(folder))) as staged:
            for path, name in sources:
                progress.set_description_str(f"reading {name} ...")
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
                _write(model, staged, file, form)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C while duckdb works."""
    try:
        yield
    except (RuntimeError, duckdb.InterruptException) as error:
        if "interrupt" not in str(error).lower():
            raise
        raise KeyboardInterrupt from error


@contextmanager
def _disk_errors(folder: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException, duckdb.FatalException) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise OSError(f"{folder}: no room to sort the observations (TMPDIR says where): {reason}") from error


def blocks_of(staged: Staged, shard: Shard) -> Iterator[Block]:
    """The rows of a shard in blocks: whole days, then rows without a date."""
    counted = staged.database.execute(
        'SELECT "Date" AS day, count(*) AS rows FROM ordered WHERE "Date" IS NOT NULL GROUP BY 1 ORDER BY 1'
    ).fetchnumpy()
    day, rows = np.asarray(counted["day"]).astype(np.int64), np.asarray(counted["rows"]).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(rows)])
    dated = int(start[-1])
    low, high = shard.share(dated)
    first, last = np.searchsorted(start[:-1], [low, high])
    context = start[np.searchsorted(day, day - features.HISTORY_DAYS)]
    i = int(first)
    while i < last:
        least = start[i] + max(BLOCK, CONTEXTS * (start[i] - context[i]))
        end = min(int(last), max(i + 1, int(np.searchsorted(start, least))))
        yield Block(int(context[i]), int(start[i]), int(start[end]))
        i = end
    low, high = (dated + part for part in shard.share(staged.rows - dated))
    for begin in range(low, high, BLOCK):
        yield Block(begin, begin, min(begin + BLOCK, high))


def _forecast(model: Model, staged: Staged, blocks: Sequence[Block], progress: Any) -> None:
    """Fill the table `forecasts` with number, date, station and probability of every row of the blocks."""
    staged.database.execute("CREATE TABLE forecasts (number BIGINT, day INTEGER, station INTEGER, probability DOUBLE)")
    names = np.array(staged.stations)
    unknown = features.unknown_stations(names)
    if unknown:
        warnings.warn(unknown, ObservationWarning, stacklevel=2)

    def work(block: Block) -> dict[str, NDArray[Any]]:
        with staged.database.cursor() as database:
            rows: dict[str, Any] = database.execute(
                "SELECT * FROM ordered WHERE rowid >= ? AND rowid < ? ORDER BY rowid", [block.context, block.end]
            ).fetchnumpy()
        table = _table(rows, names)
        own = slice(block.start - block.context, None)
        number, table = rows["number"][own], _table(rows, names)
        _refuse_repeats(staged, take(table, own), number)
        probability = model.probability_of_rain(features.matrix(table, own))
        return {
            "number": number,
            "day": _days(table)[own],
            "station": rows["Location"][own],
            "probability": probability,
        }

    insert = f"INSERT INTO forecasts SELECT number, nullif(day, {NOT_A_DAY}), station, probability FROM block"
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = iter(blocks)
        running = [pool.submit(work, block) for block in islice(waiting, THREADS + 1)]
        try:
            while running:
                found = running.pop(0).result()
                running += [pool.submit(work, block) for block in islice(waiting, 1)]
                staged.insert(insert, found)
                progress.update(len(found["number"]))
        finally:
            pool.shutdown(cancel_futures=True)


def _table(rows: dict[str, Any], names: NDArray[np.str_]) -> Table:
    """A table of observations from rows as they are staged."""
    table: Table = {}
    for column in OBSERVED:
        values = rows[column.name]
        if column.kind == "date":
            table[column.name] = np.ma.filled(values.astype(np.int64), NOT_A_DAY).astype("datetime64[D]")
        elif column.kind == "station":
            table[column.name] = names[values]
        elif column.kind == "direction":
            table[column.name] = _POINTS[np.ma.filled(values, -1)]
        else:
            table[column.name] = np.ma.filled(values, np.nan)
    return table


def _days(table: Table) -> NDArray[np.int64]:
    return table["Date"].astype(np.int64)


def _refuse_repeats(staged: Staged, table: Table, number: NDArray[np.int64]) -> None:
    """ObservationError where a station has two observations a day, whichever files they are from."""
    if not repeats(table, number):
        return
    # Of all blocks, this one may not hold the first.
    with staged.database.cursor() as database:
        again = database.execute(
            'SELECT number, earlier, "Date", "Location" FROM (SELECT number, "Date", "Location", lag(number) OVER'
            ' (PARTITION BY "Date", "Location" ORDER BY number) AS earlier FROM ordered WHERE "Date" IS NOT NULL)'
            " WHERE earlier IS NOT NULL ORDER BY number"
        ).fetchall()
    places = [
        (staged.place(later), staged.place(earlier), f"{staged.stations[station]} on {np.datetime64(day, 'D')}")
        for later, earlier, day, station in again
    ]
    name = places[0][0][0]
    problems = [
        Repeat(row, "Date", what, str(earlier_row) if other == name else f"{earlier_row} of {other}")
        for (source, row), (other, earlier_row), what in places
        if source == name
    ]
    raise refuse(name, problems, len(problems))


def _write(model: Model, staged: Staged, out: IO[bytes], form: Format) -> None:
    """The table `forecasts` in input order."""
    database = staged.database
    database.execute("CREATE TABLE finished AS SELECT * FROM forecasts ORDER BY number; DROP TABLE forecasts")
    names = np.array(staged.stations)
    if form == "parquet":
        _write_parquet(model, staged, out)
        return
    text = Text(form, max(map(len, staged.stations)))
    out.write(text.start)
    for start in range(0, staged.count("finished"), BLOCK_ROWS):
        rows: dict[str, Any] = database.execute(
            "SELECT * FROM finished WHERE rowid >= ? AND rowid < ? ORDER BY rowid", [start, start + BLOCK_ROWS]
        ).fetchnumpy()
        date = np.ma.filled(rows["day"].astype(np.int64), NOT_A_DAY).astype("datetime64[D]")
        out.write(text.block(forecast_table(model, date, names[rows["station"]], rows["probability"])))
    out.write(text.end)


def _write_parquet(model: Model, staged: Staged, out: IO[bytes]) -> None:
    names = np.array(staged.stations, object)
    staged.database.execute("CREATE TABLE stations (id INTEGER, name VARCHAR)")
    staged.insert("INSERT INTO stations SELECT * FROM block", {"id": np.arange(len(names)), "name": names})
    date, location, probability, rain = COLUMNS
    with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
        path = Path(folder) / "forecasts.parquet"
        staged.database.execute(
            f"COPY (SELECT DATE '1970-01-01' + day AS {date}, stations.name AS {location},"
            f" probability AS {probability}, CASE WHEN probability >= ? THEN 'Yes' ELSE 'No' END AS {rain}"
            f" FROM finished JOIN stations ON station = id ORDER BY number) TO {literal(str(path))} (FORMAT parquet)",
            [model.threshold],
        )
        with path.open("rb") as file:
            shutil.copyfileobj(file, out)
