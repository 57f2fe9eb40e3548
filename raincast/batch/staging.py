"""Files of any size as rows on disk: read by duckdb, checked by the one parser of `observations`, sorted by day.

A column's distinct texts are parsed, once each, by the same code as everywhere; numbers, whose texts may all differ, by
duckdb where it agrees with that code. So each limit, and each message, is the same as for a small file.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import duckdb
import numpy as np
from numpy.typing import NDArray

from raincast.observations import parquet, reading
from raincast.observations.columns import COLUMNS, DIRECTIONS, Column
from raincast.observations.errors import (
    VIOLATIONS_KEPT,
    ObservationError,
    ObservationWarning,
    Violation,
    violation_error,
)
from raincast.observations.formats import LONGEST_LINE, READ_BLOCK_ROWS, csv_blocks
from raincast.observations.parsing import MISSING, check_header, parser_for

THREADS = 2
# What duckdb may keep in memory; the rest waits on disk.
MEMORY = "128MB"
# numpy's NaT as a number of days.
NOT_A_DAY = int(np.datetime64("NaT", "D").astype(np.int64))
_NAMES = {column.name for column in COLUMNS}
_DIRECTION = {"": -1} | {name: code for code, name in enumerate(DIRECTIONS)}


@dataclass(frozen=True)
class StagedFile:
    """A file as it was staged: what messages call it, and the number of its first row among all rows."""

    name: str
    first: int


class Staged:
    """The rows of all sources in a duckdb file: as text in `text`, checked and sorted by day in `ordered`.

    The rowid of `text` numbers the rows in input order, that of `ordered` in the order of days, rows without one last.
    """

    def __init__(self, folder: Path) -> None:
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "threads": THREADS,
            "temp_directory": str(folder / "spilled"),
        }
        self.database = duckdb.connect(folder / "rows.duckdb", config=settings)
        self.database.execute(f"CREATE TABLE text ({', '.join(f'{_quoted(c.name)} VARCHAR' for c in COLUMNS)})")
        self.files: list[StagedFile] = []
        self.stations: list[str] = []
        self.rows = 0
        # What was wrong with the fields of rows, by source: the first violations, and how many there are.
        self._fields: dict[str, tuple[list[Violation], int]] = {}

    def add(self, path: Path | IO[bytes], name: str) -> None:
        """Take in a path or an open file. Raises ObservationError where it cannot be read or has no right header."""
        self.files.append(StagedFile(name, self.rows))
        # A pipe can be read only once.
        if not (isinstance(path, Path) and path.is_file() and self._add_csv(path, name)):
            with reading.opened(path, name) as file:
                if reading.detect_format(name, file) == "parquet":
                    self._add_parquet(name, file)
                else:
                    self._add_blocks(name, file)
        self.rows = self.count("text")
        if self.rows == self.files[-1].first:
            raise ObservationError(f"{name}: there is a header but no observation")

    def _add_csv(self, path: Path, name: str) -> bool:
        """Let duckdb read a CSV file, many times as fast as Python; False where there is anything unusual in it.

        duckdb overlooks some of what our reader refuses: what is in columns it does not read, a comma too many, a last
        line without end. So it gets only plain text, and has to find as many fields as there are commas.
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
            commas = _commas_of_plain(file)
        if commas is None:
            return False
        unknown = check_header(name, header)
        wanted = {_quoted(column): f"c{i}" for i, column in enumerate(header) if column in _NAMES}
        compression = "gzip" if start.startswith(b"\x1f\x8b") else "none"
        columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(header)))
        before = self.count("text")
        self.database.begin()
        try:
            with reading.linked(path) as link:
                self.database.execute(
                    f"INSERT INTO text ({', '.join(wanted)}) SELECT {', '.join(wanted.values())} FROM read_csv(?,"
                    f" columns = {{{columns}}}, auto_detect = false,"
                    " header = true, delim = ',', quote = '\"', escape = '\"', strict_mode = true,"
                    f" max_line_size = {LONGEST_LINE}, compression = '{compression}')",
                    [link],
                )
        except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as error:
            if parquet.no_room(error):
                raise
            self.database.rollback()
            return False
        if commas != (self.count("text") - before + 1) * (len(header) - 1):
            self.database.rollback()
            return False
        self.database.commit()
        _warn(unknown)
        return True

    def _add_parquet(self, name: str, file: Any) -> None:
        with reading.on_disk(file) as path, parquet.parquet_errors(name):
            header, query = parquet.parquet_query(name, path, self.database)
            _warn(check_header(name, header))
            columns = ", ".join(_quoted(column) for column in header if column in _NAMES)
            self.database.execute(f"INSERT INTO text ({columns}) SELECT {columns} FROM ({query})", [path])

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
        """Check every value, sort the rows by day. Raises ObservationError, for the first file that has a violation."""
        conditions = {column: self._values_of(column) for column in COLUMNS}
        wrong = {column: condition for column, condition in conditions.items() if condition}
        if wrong or self._fields:
            raise self._refusal(wrong)
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

    def _values_of(self, column: Column) -> str | None:
        """Parse a column's distinct texts, of numbers only the unusual ones; returns SQL that is true of wrong rows."""
        name, table = _quoted(column.name), f"values{COLUMNS.index(column)}"
        parser = parser_for(column)
        kind = "DOUBLE" if column.kind in ("number", "yes_no") else "INTEGER"
        self.database.execute(f"CREATE TABLE {table} (text VARCHAR, value {kind}, wrong BOOLEAN)")
        unusual = ""
        if column.kind == "number":
            missing = ", ".join(f"'{text}'" for text in sorted(MISSING))
            unusual = f" AND {_accepted(column)} IS NULL AND lower(trim({name})) NOT IN ({missing})"
        texts = self.database.cursor().execute(f"SELECT DISTINCT {name} FROM text WHERE {name} IS NOT NULL{unusual}")
        any_wrong = False
        while rows := texts.fetchmany(READ_BLOCK_ROWS):
            found = [text for (text,) in rows]
            values = [parser[text] for text in found]
            pairs = zip(found, values, strict=True)
            wrong = np.array(
                [text in parser.wrong or (column.kind == "station" and not value) for text, value in pairs]
            )
            any_wrong |= bool(wrong.any())
            block = {"text": np.array(found, object), "value": self._coded(column, values), "wrong": wrong}
            self.insert(f"INSERT INTO {table} SELECT text, nullif(value, {NOT_A_DAY}), wrong FROM block", block)
        if column.kind == "number" and not any_wrong:
            # Python reads some numbers that duckdb does not, such as those in other scripts' digits.
            self.database.execute(f"UPDATE text SET {name} = value::VARCHAR FROM {table} WHERE {name} = {table}.text")
        absent = f"{name} IS NULL" if column.kind == "station" else "false"
        if not any_wrong and not self._number(f"SELECT count(*) FROM text WHERE {absent}"):
            return None
        return f"({absent} OR {name} IN (SELECT text FROM {table} WHERE wrong))"

    def _coded(self, column: Column, values: list[Any]) -> NDArray[Any]:
        """Values as numbers: days since 1970-01-01, positions of stations in `stations` and of directions."""
        if column.kind == "date":
            return np.array(values, "datetime64[D]").astype(np.int64)
        if column.kind == "station":
            ids = {station: i for i, station in enumerate(self.stations)}
            codes = [ids.setdefault(value, len(ids)) for value in values]
            self.stations = list(ids)
            return np.array(codes, np.int32)
        if column.kind == "direction":
            return np.array([_DIRECTION[value] for value in values], np.int32)
        return np.array(values, np.float64)

    def _refusal(self, wrong: dict[Column, str]) -> ObservationError:
        first = self._number(f"SELECT min(rowid) FROM text WHERE {' OR '.join(wrong.values())}") if wrong else self.rows
        bad = [i for i, source in enumerate(self.files) if source.name in self._fields]
        if wrong:
            bad.append(max(i for i, source in enumerate(self.files) if source.first <= first))
        place = min(bad)
        start, name = self.files[place].first, self.files[place].name
        end = self.files[place + 1].first if place + 1 < len(self.files) else self.rows
        fields, count = self._fields.get(name, ([], 0))
        violations = list(fields)
        for column, condition in wrong.items():
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
        """Which source a row is from and which row of it, counted from 1, by its number among all rows."""
        source = max((source for source in self.files if source.first <= number), key=lambda source: source.first)
        return source.name, number - source.first + 1

    def count(self, table: str) -> int:
        """Rows of a table."""
        return self._number(f"SELECT count(*) FROM {table}")

    def insert(self, statement: str, block: dict[str, NDArray[Any]]) -> None:
        """Run a statement that reads arrays as the table `block`."""
        self.database.register("block", block)
        self.database.execute(statement)
        self.database.unregister("block")

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def _number(self, query: str) -> int:
        ((value,),) = self.database.execute(query).fetchall()
        return int(value or 0)


def _storable(text: str) -> str:
    """A text as duckdb can hold it: half a character becomes one that is not printable either."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\uffff", text)


def _commas_of_plain(file: Any) -> int | None:
    """How many commas are in UTF-8 text without quotes, zero bytes, odd ends of lines or long lines; else None."""
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


def _accepted(column: Column) -> str:
    """SQL for the number that a text is, NULL where it is none or beyond the column's limits."""
    number = f"TRY_CAST({_quoted(column.name)} AS DOUBLE)"
    limits = f"{number} BETWEEN {column.low!r} AND {column.high!r}"
    # What duckdb takes for a number and Python does not, or not as the limits mean it: 1_000 and +-5.
    odd = f"contains({_quoted(column.name)}, '_') OR contains({_quoted(column.name)}, '+-')"
    return f"CASE WHEN {limits} AND NOT ({odd}) THEN {number} END"


def literal(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _warn(line: str | None) -> None:
    if line:
        warnings.warn(line, ObservationWarning, stacklevel=3)
