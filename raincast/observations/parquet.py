"""Parquet files, read by duckdb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raincast.observations.database import connect
from raincast.observations.errors import ObservationError, shorten
from raincast.observations.formats import WANTED, Block, Blocks
from raincast.observations.parsing import LONGEST_VALUE, MAX_COLUMNS, check_header

# Text values take about 60 bytes each in Python.
BLOCK_ROWS = 10_000
# The footer of a regular file has about 150 bytes for each column of 100,000 rows.
LARGEST_FOOTER = 8_000_000
_NESTED = ("STRUCT", "MAP", "UNION", "VARIANT", "GEOMETRY")


@contextmanager
def parquet_errors(name: str) -> Iterator[None]:
    """Turn duckdb's errors into an ObservationError: `name` is not a readable Parquet file."""
    import duckdb  # pylint: disable=import-outside-toplevel

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ObservationError(
            f"{name}: a page of the Parquet file takes too much memory; write it with smaller pages and row groups"
        ) from error
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise ObservationError(
            f"{name}: not a readable Parquet file: {shorten(' '.join(str(error).split()), 200)}"
        ) from error


@contextmanager
def parquet_blocks(name: str, path: str) -> Iterator[Blocks]:
    """Yield header and blocks of text columns of a Parquet file. Raises ObservationError."""
    with parquet_errors(name), connect() as database:
        header, query = parquet_query(name, path, database)
        rows = database.execute(query, [path])
        yield header, _blocks_of_rows([c for c in header if c in WANTED], rows.fetchmany)


def parquet_rows(name: str, path: str) -> int:
    """Return the number of rows of a Parquet file. Raises ObservationError."""
    with parquet_errors(name), connect() as database:
        _check_footer(name, path)
        ((rows,),) = database.execute("SELECT num_rows FROM parquet_file_metadata(?)", [path]).fetchall()
        return int(rows)


def parquet_query(name: str, path: str, database: Any) -> tuple[list[str], str]:
    """Return the header, and the query for the known columns as text, whose parameter is the path.

    Raises ObservationError.
    """
    _check_footer(name, path)
    header = _parquet_header(name, database.execute("SELECT name, num_children FROM parquet_schema(?)", [path]))
    check_header(name, header)
    wanted = [column for column in header if column in WANTED]
    ambiguous = {column.lower() for column in wanted} & {c.lower() for c in header if c not in wanted}
    if ambiguous:
        raise ObservationError(f"{name}: columns differ only in capital letters: {', '.join(sorted(ambiguous))}")
    source = "read_parquet(?, hive_partitioning = false)"
    names = ", ".join(f'"{column}"' for column in wanted)
    described = database.execute(f"DESCRIBE SELECT {names} FROM {source}", [path]).fetchall()
    selected = ", ".join(_as_text(name, column, kind) for column, kind, *_ in described)
    return header, f"SELECT {selected} FROM {source}"


def _check_footer(name: str, path: str) -> None:
    """Raise ObservationError if the footer, which duckdb reads into memory, is too large."""
    with Path(path).open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        size = int.from_bytes(file.read(4), "little")
    if LARGEST_FOOTER < size <= end:
        raise ObservationError(f"{name}: the Parquet footer has {size} bytes, more than {LARGEST_FOOTER}")


def _as_text(name: str, column: str, kind: str) -> str:
    """Return SQL for a column as text; an overlong value is cut, and the marker at its end makes it invalid."""
    if kind.startswith(_NESTED) or kind.endswith("]"):
        raise ObservationError(f"{name}: the values of column {column} are nested ({shorten(kind)})")
    text = f'"{column}"::VARCHAR'
    if kind == "BLOB":
        overlong = f"repeat('.', {LONGEST_VALUE + 1})"
        text = f'CASE WHEN octet_length("{column}") > {LONGEST_VALUE} THEN {overlong} ELSE {text} END'
    return f'{cut_sql(text)} AS "{column}"'


def cut_sql(text: str) -> str:
    """Return SQL that cuts an overlong text, and marks it so that it is invalid."""
    return f"CASE WHEN strlen({text}) > {LONGEST_VALUE} THEN left({text}, {LONGEST_VALUE}) || '...' ELSE {text} END"


def _parquet_header(name: str, schema: Any) -> list[str]:
    """Return the top-level columns of a Parquet schema, which lists the root, then each column before its parts."""
    ((_, count),) = schema.fetchmany(1)
    if count and count > MAX_COLUMNS:
        raise ObservationError(f"{name}: {count} columns, at most {MAX_COLUMNS} are read")
    header, parts = [], 0
    for column, children in iter(schema.fetchone, None):
        if parts:
            parts -= 1
        else:
            header.append(str(column))
        parts += children or 0
    return header[: count or 0]


def _blocks_of_rows(columns: list[str], fetch: Callable[[int], list[tuple[str | None, ...]]]) -> Iterator[Block]:
    while rows := fetch(BLOCK_ROWS):
        texts = ([value or "" for value in column] for column in zip(*rows, strict=True))
        yield dict(zip(columns, texts, strict=True)), []
