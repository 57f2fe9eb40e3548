"""Rows of files of any size on disk: read by duckdb, checked by `observations.parsing`, sorted by day.

The parser of small files parses each distinct text of a column once. Numbers, whose texts may all differ, are parsed by
duckdb if it agrees with that parser. Limits and messages are therefore those of small files.
"""

from __future__ import annotations

import re
import warnings
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from raincast.batch.plain_csv import insert_plain_csv
from raincast.observations import parquet, reading
from raincast.observations.columns import COLUMNS, DIRECTIONS, Column
from raincast.observations.database import connect
from raincast.observations.errors import (
    VIOLATIONS_KEPT,
    ObservationError,
    ObservationWarning,
    Violation,
    violation_error,
)
from raincast.observations.formats import READ_BLOCK_ROWS
from raincast.observations.parsing import LONGEST_VALUE, MISSING, check_header, parser_for

# More are no record of stations but an error or an attack; their names are held in memory.
MOST_STATIONS = 100_000
# numpy's NaT as a number of days since 1970-01-01.
NOT_A_DAY = int(np.datetime64("NaT", "D").astype(np.int64))
_NAMES = {column.name for column in COLUMNS}
_DIRECTION = {"": -1} | {name: code for code, name in enumerate(DIRECTIONS)}


@dataclass(frozen=True)
class StagedFile:
    """Staged file: its name in messages, and the number of its first row among all rows, from 0."""

    name: str
    first: int


class Staged:
    """Rows of all files in a duckdb database: as text in the table `text`; checked and sorted by day in `ordered`.

    The rowid of `text` numbers the rows in input order, that of `ordered` by day, rows without a date last.
    """

    def __init__(self, folder: Path) -> None:
        self.database: duckdb.DuckDBPyConnection = connect(folder / "rows.duckdb", folder / "spilled")
        self.database.execute(f"CREATE TABLE text ({', '.join(f'{_quoted(c.name)} VARCHAR' for c in COLUMNS)})")
        self.files: list[StagedFile] = []
        self.stations: list[str] = []
        self.rows = 0
        # Rows with a wrong number of fields, by file: the first violations and their count.
        self._fields: dict[str, tuple[list[Violation], int]] = {}

    def add(self, path: Path | IO[bytes], name: str) -> None:
        """Add the rows of a path or an open file. Raises ObservationError if file or header is invalid."""
        self.files.append(StagedFile(name, self.rows))
        # A pipe can be read only once.
        if not (isinstance(path, Path) and path.is_file() and insert_plain_csv(self.database, path, name)):
            with reading.opened(path, name) as file:
                if reading.detect_format(name, file) == "parquet":
                    self._add_parquet(name, file)
                else:
                    self._add_blocks(name, file)
        self.rows = self.count("text")
        if self.rows == self.files[-1].first:
            raise ObservationError(f"{name}: there is a header but no observation")

    def _add_parquet(self, name: str, file: Any) -> None:
        with reading.on_disk(file) as path:
            with parquet.parquet_errors(name):
                header, query = parquet.parquet_query(name, path, self.database)
            _warn(check_header(name, header))
            columns = ", ".join(_quoted(column) for column in header if column in _NAMES)
            try:
                self.database.execute(f"INSERT INTO text ({columns}) SELECT {columns} FROM ({query})", [path])
            except duckdb.Error:
                # An error of reading recurs without writing and becomes an ObservationError; one of writing does not.
                with parquet.parquet_blocks(name, path) as (_, blocks):
                    deque(blocks, maxlen=0)
                raise

    def _add_blocks(self, name: str, file: Any) -> None:
        with reading.blocks(name, file) as (header, blocks):
            _warn(check_header(name, header))
            for block, violations in blocks:
                if violations:
                    kept, count = self._fields.get(name, ([], 0))
                    self._fields[name] = (kept + violations)[:VIOLATIONS_KEPT], count + len(violations)
                texts = {
                    column: np.array([_storable(text) for text in values], object)
                    for column, values in block.items()
                    if column in _NAMES
                }
                columns = ", ".join(map(_quoted, texts))
                self.insert(f"INSERT INTO text ({columns}) SELECT {columns} FROM block", texts)

    def sort(self) -> None:
        """Check every value and sort the rows by day. Raises ObservationError for the first file with a violation."""
        conditions = {column: self._parse_column(column) for column in COLUMNS}
        invalid = {column: condition for column, condition in conditions.items() if condition}
        if invalid or self._fields:
            raise self._violation_error(invalid)
        selected, joins = ["text.rowid AS number"], []
        for i, column in enumerate(COLUMNS):
            name = f"text.{_quoted(column.name)}"
            if column.kind == "number":
                selected.append(f"coalesce({_accepted(column)}, 'nan'::DOUBLE) AS {_quoted(column.name)}")
            else:
                selected.append(f"values{i}.value AS {_quoted(column.name)}")
                joins.append(f"LEFT JOIN values{i} ON {name} = values{i}.text")
        self.database.execute(
            f"CREATE TABLE ordered AS SELECT {', '.join(selected)} FROM text {' '.join(joins)}"
            ' ORDER BY "Date" NULLS LAST, number'
        )
        self.database.execute("DROP TABLE text")

    def _parse_column(self, column: Column) -> str | None:
        """Parse a column's distinct texts, of numbers only the unusual ones; return SQL that selects invalid rows."""
        name, table = _quoted(column.name), f"values{COLUMNS.index(column)}"
        parser = parser_for(column)
        kind = "DOUBLE" if column.kind in ("number", "yes_no") else "INTEGER"
        self.database.execute(f"CREATE TABLE {table} (text VARCHAR, value {kind}, invalid BOOLEAN)")
        unusual = ""
        if column.kind == "number":
            missing = ", ".join(f"'{text}'" for text in sorted(MISSING))
            unusual = f" AND {_accepted(column)} IS NULL AND lower(trim({name})) NOT IN ({missing})"
        texts = self.database.cursor().execute(f"SELECT DISTINCT {name} FROM text WHERE {name} IS NOT NULL{unusual}")
        any_invalid = False
        while rows := texts.fetchmany(READ_BLOCK_ROWS):
            distinct = [text for (text,) in rows]
            values = [parser[text] for text in distinct]
            pairs = zip(distinct, values, strict=True)
            invalid = np.array(
                [text in parser.invalid or (column.kind == "station" and not value) for text, value in pairs]
            )
            any_invalid |= bool(invalid.any())
            block = {"text": np.array(distinct, object), "value": self._coded(column, values), "invalid": invalid}
            self.insert(f"INSERT INTO {table} SELECT text, nullif(value, {NOT_A_DAY}), invalid FROM block", block)
            # Each text is there once.
            parser.clear()
            parser.invalid.clear()
        if column.kind == "number" and not any_invalid:
            # Python parses some numbers that duckdb does not, such as those in digits of other scripts.
            self.database.execute(f"UPDATE text SET {name} = value::VARCHAR FROM {table} WHERE {name} = {table}.text")
        absent = f"{name} IS NULL" if column.kind == "station" else "false"
        if not any_invalid and not self._number(f"SELECT count(*) FROM text WHERE {absent}"):
            return None
        return f"({absent} OR {name} IN (SELECT text FROM {table} WHERE invalid))"

    def _coded(self, column: Column, values: list[Any]) -> NDArray[Any]:
        """Return values as numbers: days since 1970-01-01, indices of stations in `stations` and of directions."""
        if column.kind == "date":
            return np.array(values, "datetime64[D]").astype(np.int64)
        if column.kind == "station":
            ids = {station: i for i, station in enumerate(self.stations)}
            codes = [ids.setdefault(value, len(ids)) for value in values]
            if len(ids) > MOST_STATIONS:
                raise ObservationError(f"{self.files[-1].name}: more than {MOST_STATIONS} different stations")
            self.stations = list(ids)
            return np.array(codes, np.int32)
        if column.kind == "direction":
            return np.array([_DIRECTION[value] for value in values], np.int32)
        return np.array(values, np.float64)

    def _violation_error(self, invalid: dict[Column, str]) -> ObservationError:
        """Return the error for the first file with a violation; `invalid` has the SQL condition of invalid rows."""
        with_violation = [i for i, file in enumerate(self.files) if file.name in self._fields]
        if invalid:
            first = self._number(f"SELECT min(rowid) FROM text WHERE {' OR '.join(invalid.values())}")
            with_violation.append(max(i for i, file in enumerate(self.files) if file.first <= first))
        position = min(with_violation)
        start, name = self.files[position].first, self.files[position].name
        end = self.files[position + 1].first if position + 1 < len(self.files) else self.rows
        fields, count = self._fields.get(name, ([], 0))
        violations = list(fields)
        for column, condition in invalid.items():
            where = f"FROM text WHERE rowid >= {start} AND rowid < {end} AND {condition}"
            count += self._number(f"SELECT count(*) {where}")
            rows = self.database.execute(
                f"SELECT rowid, {_quoted(column.name)} {where} ORDER BY rowid LIMIT {VIOLATIONS_KEPT}"
            ).fetchall()
            violations += [Violation(row - start + 1, column.name, text or "", column.limit) for row, text in rows]
        order = ["fields", *(column.name for column in COLUMNS)]
        violations.sort(key=lambda violation: (violation.row, order.index(violation.column)))
        return violation_error(name, violations[:VIOLATIONS_KEPT], count)

    def place(self, number: int) -> tuple[str, int]:
        """Return the file of a row and the row's number in it, from 1, by its number among all rows, from 0."""
        file = max((file for file in self.files if file.first <= number), key=lambda file: file.first)
        return file.name, number - file.first + 1

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return self._number(f"SELECT count(*) FROM {table}")

    def insert(self, statement: str, block: dict[str, NDArray[Any]]) -> None:
        """Run a statement that reads arrays as the table `block`."""
        self.database.register("block", block)
        self.database.execute(statement)
        self.database.unregister("block")

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _number(self, query: str) -> int:
        ((value,),) = self.database.execute(query).fetchall()
        return int(value or 0)


def _storable(text: str) -> str:
    """Return a text that duckdb can store: overlong ones cut, lone surrogates as U+FFFF, both of which stay invalid."""
    text = text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\uffff", text)


def _accepted(column: Column) -> str:
    """Return SQL for a text's number, NULL if it is not a number within the column's limits."""
    number = f"TRY_CAST({_quoted(column.name)} AS DOUBLE)"
    limits = f"{number} BETWEEN {column.low!r} AND {column.high!r}"
    # duckdb accepts 1_000 and +-5, our parser does not.
    odd = f"contains({_quoted(column.name)}, '_') OR contains({_quoted(column.name)}, '+-')"
    return f"CASE WHEN {limits} AND NOT ({odd}) THEN {number} END"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _warn(line: str | None) -> None:
    if line:
        warnings.warn(line, ObservationWarning, stacklevel=3)
