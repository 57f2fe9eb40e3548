"""Parquet files, read by duckdb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raincast.observations.errors import ObservationError, shorten
from raincast.observations.formats import READ_BLOCK_ROWS, WANTED, Block, Blocks
from raincast.observations.parsing import check_header


@contextmanager
def parquet_errors(name: str) -> Iterator[None]:
    """Turn duckdb's errors into an ObservationError: `name` is not a readable Parquet file."""
    import duckdb  # pylint: disable=import-outside-toplevel

    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise ObservationError(
            f"{name}: not a readable Parquet file: {shorten(' '.join(str(error).split()), 200)}"
        ) from error


@contextmanager
def parquet_blocks(name: str, path: str) -> Iterator[Blocks]:
    """Yield header and blocks of text columns of a Parquet file. Raises ObservationError."""
    # Imported only for Parquet: the import takes as long as the rest of a forecast.
    import duckdb  # pylint: disable=import-outside-toplevel

    with parquet_errors(name), duckdb.connect() as database:
        header, query = parquet_query(name, path, database)
        rows = database.execute(query, [path])
        yield header, _blocks_of_rows([c for c in header if c in WANTED], rows.fetchmany)


def parquet_query(name: str, path: str, database: Any) -> tuple[list[str], str]:
    """Return the header, and the query for the known columns as text, whose parameter is the path.

    Raises ObservationError.
    """
    header = _parquet_header(database.execute("SELECT name, num_children FROM parquet_schema(?)", [path]))
    check_header(name, header)
    wanted = [column for column in header if column in WANTED]
    ambiguous = {column.lower() for column in wanted} & {c.lower() for c in header if c not in wanted}
    if ambiguous:
        raise ObservationError(f"{name}: columns differ only in capital letters: {', '.join(sorted(ambiguous))}")
    names = ", ".join(f'"{column}"::VARCHAR AS "{column}"' for column in wanted)
    return header, f"SELECT {names} FROM read_parquet(?, hive_partitioning = false)"


def _parquet_header(schema: Any) -> list[str]:
    """Return the top-level columns of a Parquet schema, which lists the root, then each column before its parts."""
    (_, count), *rest = schema.fetchall()
    header, parts = [], 0
    for name, children in rest:
        if parts:
            parts -= 1
        else:
            header.append(str(name))
        parts += children or 0
    return header[: count or 0]


def _blocks_of_rows(columns: list[str], fetch: Callable[[int], list[tuple[str | None, ...]]]) -> Iterator[Block]:
    while rows := fetch(READ_BLOCK_ROWS):
        texts = ([value or "" for value in column] for column in zip(*rows, strict=True))
        yield dict(zip(columns, texts, strict=True)), []
