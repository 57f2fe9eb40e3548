"""CSV files read by duckdb, many times as fast as Python."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO, cast

import duckdb

from raincast.observations import reading
from raincast.observations.columns import COLUMNS
from raincast.observations.errors import ObservationWarning
from raincast.observations.formats import LONGEST_LINE, csv_blocks
from raincast.observations.parquet import cut_sql
from raincast.observations.parsing import check_header

_NAMES = {column.name for column in COLUMNS}


def insert_plain_csv(database: duckdb.DuckDBPyConnection, path: Path, name: str) -> bool:
    """Insert the rows of a CSV file into the table `text`; return False, inserting nothing, if the file is unusual.

    duckdb overlooks errors that our reader refuses, such as surplus commas and errors in columns that are not read. It
    therefore reads only plain text, and must find as many fields as there are commas. Raises ObservationError.
    """
    with path.open("rb") as raw:
        start = raw.read(4)
    if start == b"PK\x03\x04":
        return False
    with reading.opened(path, name) as file:
        begin = cast(io.BufferedReader, file).peek(4).removeprefix(b"\xef\xbb\xbf")
        if reading.detect_format(name, file) != "csv" or begin[:1].isspace():
            return False
        header, _ = csv_blocks(name, file)
    with reading.opened(path, name) as file:
        commas = _count_commas(file)
    if commas is None:
        return False
    unknown = check_header(name, header)
    compression = "gzip" if start.startswith(b"\x1f\x8b") else "none"
    database.begin()
    try:
        with reading.linked(path) as link:
            ((rows,),) = database.execute(_insert_statement(header, compression), [link]).fetchall()
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException):
        # A full disk is an IOException too; the slower reader then fails as well, with the right message.
        database.rollback()
        return False
    if commas != (rows + 1) * (len(header) - 1):
        database.rollback()
        return False
    database.commit()
    if unknown:
        warnings.warn(unknown, ObservationWarning, stacklevel=3)
    return True


def _insert_statement(header: list[str], compression: str) -> str:
    """Return SQL that inserts the file at its parameter into `text`."""
    selected = {f'"{column}"': cut_sql(f"c{i}") for i, column in enumerate(header) if column in _NAMES}
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(header)))
    return (
        f"INSERT INTO text ({', '.join(selected)}) SELECT {', '.join(selected.values())} FROM read_csv(?,"
        f" columns = {{{columns}}}, auto_detect = false,"
        " header = true, delim = ',', quote = '\"', escape = '\"', strict_mode = true,"
        f" max_line_size = {LONGEST_LINE}, compression = '{compression}')"
    )


def _count_commas(file: IO[bytes]) -> int | None:
    """Return the number of commas of plain UTF-8 text.

    Return None for text with quotes, zero bytes, returns without newline, or lines longer than LONGEST_LINE.
    """
    commas = 0
    while chunk := file.read(1_000_000):
        chunk += file.readline(LONGEST_LINE + 1)
        if b'"' in chunk or b"\0" in chunk or chunk.count(b"\r") != chunk.count(b"\r\n"):
            return None
        if len(chunk) - chunk.rfind(b"\n") > LONGEST_LINE:
            return None
        try:
            chunk.decode()
        except UnicodeDecodeError:
            return None
        commas += chunk.count(b",")
    return commas
