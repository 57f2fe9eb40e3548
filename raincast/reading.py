"""Bytes -> text columns -> table: CSV, Parquet and JSON, plain, gzipped or zipped, from a path or standard input.

The bytes decide what a file is, never its name. Every value becomes text and goes through the one parser of
`observations`, so that a limit means the same in every format.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from raincast.observations import (
    COLUMNS,
    TARGET,
    ObservationError,
    ObservationWarning,
    Problem,
    Table,
    check_header,
    parse_blocks,
    shorten,
)

BLOCK_ROWS = 50_000
# A weatherAUS line has about 120 characters; a line this long is no observation, and is not read into memory.
LONGEST_LINE = 65_536
# JSON is read as a whole, and takes several times its size.
LARGEST_JSON = 268_435_456
STDIN = "-"

Block = tuple[dict[str, Sequence[str]], list[Problem]]


def read(source: str | Path, *, name: str | None = None, target: bool = False) -> Table:
    """Observations from a path, or from standard input for "-".

    With `target` there must be a column RainTomorrow; it becomes 1.0, 0.0 and, where missing, NaN. Unknown columns
    are ignored with one ObservationWarning. `name` is what messages call the source, where it is not its path. Raises
    ObservationError, naming file, row, column, value and limit.
    """
    name = name or ("standard input" if str(source) == STDIN else str(source))
    with readable(name), _opened(source) as raw, unpacked(name, raw) as file:
        start = file.peek(4)  # type: ignore[attr-defined]
        if not start:
            raise ObservationError(f"{name}: the file is empty")
        if start.startswith(b"PAR1"):
            with _on_disk(file) as path:
                return _parquet(name, path, target=target)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
            return _table(name, *_json(name, file), target=target)
        return _table(name, *_csv(name, file), target=target)


def _table(name: str, header: Sequence[str], blocks: Iterator[Block], *, target: bool) -> Table:
    unknown = check_header(name, header, target=target)
    if unknown:
        shown = ", ".join(shorten(column) for column in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        warnings.warn(f"{name}: {len(unknown)} unknown column(s) ignored: {shown}", ObservationWarning, stacklevel=3)
    return parse_blocks(name, blocks, target=target)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what the operating system and the unpackers say of a bad file into an ObservationError."""
    try:
        yield
    except OSError as error:
        reason = "not a complete gzip file" if isinstance(error, gzip.BadGzipFile) else error.strerror or str(error)
        raise ObservationError(f"{name}: cannot be read: {reason}") from error
    except EOFError as error:
        raise ObservationError(f"{name}: the gzip data ends early, the file is truncated") from error
    except (zlib.error, zipfile.BadZipFile) as error:
        raise ObservationError(f"{name}: the compressed data is damaged: {error}") from error


@contextmanager
def _opened(source: str | Path) -> Iterator[IO[bytes]]:
    if str(source) == STDIN and sys.stdin is None:
        raise ObservationError("standard input is closed")
    with open(sys.stdin.fileno() if str(source) == STDIN else source, "rb", closefd=str(source) != STDIN) as file:
        yield file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else _filled(file)


class _Filled(io.RawIOBase):
    """A stream whose every read is full until its end: the first bytes of a pipe may come one by one."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view, count = memoryview(buffer), 0
        while count < len(view) and (part := self.file.read(len(view) - count)):
            view[count : count + len(part)] = part
            count += len(part)
        return count


def _filled(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(_Filled(file))


@contextmanager
def unpacked(name: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """The plain bytes of a plain, gzipped or zipped stream, buffered."""
    start = cast(io.BufferedReader, raw).peek(4)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(raw) as file:
            yield _filled(cast(IO[bytes], file))
    elif start.startswith(b"PK\x03\x04"):
        with _seekable(raw) as whole, zipfile.ZipFile(whole) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ObservationError(f"{name}: {len(members)} files in the zip archive, one is expected")
            if members[0].flag_bits & 1 or members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ObservationError(f"{name}: the zip archive is encrypted or packed in an unusual way")
            with archive.open(members[0]) as member_file:
                yield _filled(member_file)
    else:
        yield raw


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """A named file with the rest of a stream: some formats start reading at the end."""
    with tempfile.NamedTemporaryFile(prefix="raincast-") as whole:
        shutil.copyfileobj(file, whole)
        whole.flush()
        whole.seek(0)
        yield cast(IO[bytes], whole)


def _csv(name: str, file: IO[bytes]) -> tuple[list[str], Iterator[Block]]:
    rows = csv.reader(_lines(name, file), skipinitialspace=True)
    records = _csv_records(name, rows)
    header = [column.strip() for column in next(records, [])]
    if len(header) == 1:
        for delimiter, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if delimiter in header[0]:
                raise ObservationError(f"{name}: the columns are separated by {word}, commas are expected")
    return header, _csv_blocks(header, records)


def _lines(name: str, file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise ObservationError(f"{name}: line {number} is longer than {LONGEST_LINE} bytes, no observation is")
        if b"\0" in line:
            raise ObservationError(f"{name}: line {number} has a zero byte, this is not a text file")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise ObservationError(
                f"{name}: line {number} is not UTF-8: byte 0x{byte:02x} at position {error.start + 1}"
                f" ({bytes([byte]).decode('latin-1')!r} in Latin-1); save the file as UTF-8"
            ) from error


def _csv_records(name: str, rows: Any) -> Iterator[list[str]]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ObservationError(f"{name}: line {rows.line_num} is not CSV: {error}") from error
        if len(row) > 1 or (row and row[0].strip()):
            yield row


def _csv_blocks(header: list[str], records: Iterator[list[str]]) -> Iterator[Block]:
    width, start = len(header), 0
    while rows := list(islice(records, BLOCK_ROWS)):
        problems = []
        for i, row in enumerate(rows):
            if len(row) != width:
                problems.append(Problem(start + i + 1, "fields", str(len(row)), f"{width}, as in the header"))
                rows[i] = (row + [""] * width)[:width]
        yield dict(zip(header, zip(*rows, strict=True), strict=True)), problems
        start += len(rows)


def _json(name: str, file: IO[bytes]) -> tuple[list[str], Iterator[Block]]:
    """An array of records, {"observations": [records]}, or JSON Lines."""
    content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise ObservationError(f"{name}: more than {LARGEST_JSON} bytes of JSON; send CSV or Parquet")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ObservationError(f"{name}: the JSON is not UTF-8 at byte {error.start + 1}") from error
    # Numbers stay the text they are, so that they meet the same parser as every other format's.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_Record)
    values, position = [], len(text) - len(text.lstrip())
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            values.append(value)
            position = re.compile(r"\s*").match(text, position).end()  # type: ignore[union-attr]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ObservationError(f"{name}: not valid JSON: {error}") from error
    records = values[0] if len(values) == 1 else values
    if isinstance(records, dict):
        records = records.get("observations", values)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ObservationError(f"{name}: the JSON is not a list of observations, each an object")
    for record in records:
        if record.repeated:
            check_header(name, record.repeated)
    header = list(dict.fromkeys(column for record in records for column in record))
    wanted = [column.name for column in (*COLUMNS, TARGET) if column.name in header]
    return header, iter([({c: [_text(record.get(c)) for record in records] for c in wanted}, [])])


class _Record(dict[str, Any]):
    """A JSON object that remembers its names where one stands there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [column for column, _ in pairs] if len(pairs) > len(self) else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _on_disk(file: IO[bytes]) -> Iterator[str]:
    """A path for a stream: of a link to it where it is a plain file, else of a temporary copy.

    Never its own path: in that, duckdb would see patterns of other files and columns in the folders' names.
    """
    raw = getattr(file, "raw", None)
    if isinstance(raw, io.FileIO) and isinstance(raw.name, str) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
            link = Path(folder) / "observations.parquet"
            link.symlink_to(Path(raw.name).absolute())
            yield str(link)
    else:
        with _seekable(file) as whole:
            yield whole.name


def _parquet(name: str, path: str, *, target: bool) -> Table:
    # Only Parquet needs duckdb, and its import would take as long as all the rest of a forecast.
    import duckdb  # pylint: disable=import-outside-toplevel

    try:
        with duckdb.connect() as database:
            header = _parquet_header(database.execute("SELECT name, num_children FROM parquet_schema(?)", [path]))
            check_header(name, header, target=target)
            wanted = [column.name for column in (*COLUMNS, TARGET) if column.name in header]
            alike = {column.lower() for column in wanted} & {c.lower() for c in header if c not in wanted}
            if alike:
                raise ObservationError(f"{name}: columns differ only in capital letters: {', '.join(sorted(alike))}")
            names = ", ".join(f'"{column}"::VARCHAR' for column in wanted)
            rows = database.execute(f"SELECT {names} FROM read_parquet(?, hive_partitioning = false)", [path])
            return _table(name, header, _parquet_blocks(wanted, rows.fetchmany), target=target)
    except duckdb.Error as error:
        raise ObservationError(
            f"{name}: not a readable Parquet file: {shorten(' '.join(str(error).split()), 200)}"
        ) from error


def _parquet_header(schema: Any) -> list[str]:
    """Names of the top-level columns of a Parquet schema, which lists the root, then each column before its parts."""
    (_, count), *rest = schema.fetchall()
    header, parts = [], 0
    for name, children in rest:
        if parts:
            parts -= 1
        else:
            header.append(str(name))
        parts += children or 0
    return header[: count or 0]


def _parquet_blocks(columns: list[str], fetch: Callable[[int], list[tuple[str | None, ...]]]) -> Iterator[Block]:
    while rows := fetch(BLOCK_ROWS):
        texts = ([value or "" for value in column] for column in zip(*rows, strict=True))
        yield dict(zip(columns, texts, strict=True)), []
