"""Input to table: a path, a pattern or standard input, plain, gzipped or zipped.

The content decides the format, not the file's name.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, cast

from raincast import temporary
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.formats import Block, Blocks, csv_blocks, json_blocks
from raincast.observations.parquet import parquet_blocks, parquet_rows
from raincast.observations.parsing import check_header, parse_blocks
from raincast.observations.paths import files as _files
from raincast.observations.table import Table

STDIN, STANDARD_INPUT = "-", "standard input"
# Files of up to this size, unpacked, and Parquet files of up to this many rows are forecast in memory.
SMALL_BYTES, SMALL_ROWS = 1_000_000, 10_000
# A training holds all observations in memory, with their features about 2 KB each.
MOST_ROWS = 1_000_000
# The directory of a zip archive of one file has about 100 bytes.
LARGEST_ZIP_DIRECTORY = 1_000_000
Input = tuple[Path | IO[bytes], str]


def read(file: str | Path | IO[bytes], *, name: str | None = None, target: bool = False) -> Table:
    """Return the observations of a path or an open file.

    With `target` the column RainTomorrow is required; it becomes 1.0, 0.0 or NaN. Unknown columns are ignored with one
    ObservationWarning. Messages call the file `name`, by default its path. Raises ObservationError with file, row,
    column, value and limit.
    """
    name = name or (str(file) if isinstance(file, str | Path) else STANDARD_INPUT)
    with opened(file, name) as content, blocks(name, content) as (header, parts):
        unknown = check_header(name, header, target=target)
        if unknown:
            warnings.warn(unknown, ObservationWarning, stacklevel=2)
        return parse_blocks(name, _at_most(MOST_ROWS, name, parts), target=target)


@contextmanager
def inputs(argument: str) -> Iterator[list[Input]]:
    """Yield the files of the argument "input" with their names: a file, a folder, a pattern or "-".

    Standard input and pipes are held in memory if they are small, else in a temporary file. Raises ObservationError;
    OSError if TMPDIR is full.
    """
    if argument != STDIN:
        files = _files(argument)
        if len(files) > 1 or files[0].is_file() or not files[0].exists():
            yield [(path, str(path)) for path in files]
            return
        name = str(files[0])
        with readable(name), files[0].open("rb") as pipe, _held(name, pipe) as file:
            yield [(file, name)]
        return
    if sys.stdin is None:
        raise ObservationError("standard input is closed")
    with _held(STANDARD_INPUT, sys.stdin.buffer) as file:
        yield [(file, STANDARD_INPUT)]


@contextmanager
def _held(name: str, stream: IO[bytes]) -> Iterator[Path | IO[bytes]]:
    """Yield the content of a stream: in memory if it is small, else in a temporary file."""
    stream = _filled(stream)
    with readable(name):
        start = stream.read(SMALL_BYTES + 1)
    if _holds_little(io.BytesIO(start)):
        yield io.BytesIO(start)
        return
    with temporary.folder() as folder:
        path = folder / "observations"
        with path.open("wb") as copy, readable(name):
            part = start
            while part:
                _copy(part, copy)
                part = stream.read(SMALL_BYTES)
        yield path


def _copy(part: bytes, copy: IO[bytes]) -> None:
    try:
        copy.write(part)
        copy.flush()
    except OSError as error:
        reason = f"no room for a copy of the input, set TMPDIR to another folder: {error.strerror}"
        raise temporary.TemporaryError(error.errno, reason, copy.name) from error


def is_small(file: Path | IO[bytes]) -> bool:
    """Return True if a file is forecast in memory, by what it holds. `inputs` opens only small files."""
    return not isinstance(file, Path) or _holds_little(file)


def _holds_little(file: Path | IO[bytes]) -> bool:
    """Read a file until it proves to be large. One that cannot be read is small: reading it raises the error."""
    with suppress(ObservationError), opened(file, "") as content:
        if detect_format("", content) != "parquet":
            return len(content.read(SMALL_BYTES + 1)) <= SMALL_BYTES
        if (size := _size(file)) is not None and size > SMALL_BYTES:
            return False
        with on_disk(content) as path:
            return parquet_rows("", path) <= min(SMALL_ROWS, SMALL_BYTES)
    return True


def _size(file: Path | IO[bytes]) -> int | None:
    """Return the packed size of a file on disk in bytes."""
    return file.stat().st_size if isinstance(file, Path) else None


def _at_most(most: int, name: str, parts: Iterator[Block]) -> Iterator[Block]:
    """Pass blocks on. Raises ObservationError after so many rows."""
    rows = 0
    for columns, violations in parts:
        rows += len(columns["Location"])
        if rows > most:
            raise ObservationError(f"{name}: more than {most} observations, the most that are held in memory")
        yield columns, violations


@contextmanager
def opened(file: str | Path | IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Yield the unpacked content of a path or an open file. Raises ObservationError."""
    with readable(name), _raw(file) as raw, unpacked(name, raw) as content:
        yield content


@contextmanager
def blocks(name: str, file: IO[bytes]) -> Iterator[Blocks]:
    """Yield header and blocks of text columns of an unpacked file in any format. Raises ObservationError."""
    kind = detect_format(name, file)
    if kind == "parquet":
        with on_disk(file) as path, parquet_blocks(name, path) as content:
            yield content
    else:
        yield (json_blocks if kind == "json" else csv_blocks)(name, file)


def detect_format(name: str, file: IO[bytes]) -> Literal["csv", "json", "parquet"]:
    """Return the format by the first bytes of a file. Raises ObservationError if it is empty."""
    start = cast(io.BufferedReader, file).peek(4)
    if not start:
        raise ObservationError(f"{name}: the file is empty")
    if start.startswith(b"PAR1"):
        return "parquet"
    return "json" if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{") else "csv"


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors of the operating system and of unpacking into an ObservationError."""
    try:
        yield
    except temporary.TemporaryError:
        raise
    except OSError as error:
        reason = "not a complete gzip file" if isinstance(error, gzip.BadGzipFile) else error.strerror or str(error)
        raise ObservationError(f"{name}: cannot be read: {reason}") from error
    except EOFError as error:
        raise ObservationError(f"{name}: the gzip data ends early, the file is truncated") from error
    except (zlib.error, zipfile.BadZipFile) as error:
        raise ObservationError(f"{name}: the compressed data is damaged: {error}") from error


@contextmanager
def _raw(file: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if not isinstance(file, str | Path):
        yield _filled(file)
        return
    with open(file, "rb") as content:
        yield content if stat.S_ISREG(os.fstat(content.fileno()).st_mode) else _filled(content)


class _Filled(io.RawIOBase):
    """Stream whose reads are full until its end, since a pipe may deliver its first bytes one by one."""

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
    """Yield the content of a plain, gzipped or zipped stream, buffered. Raises ObservationError."""
    start = cast(io.BufferedReader, raw).peek(4)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(raw) as file:
            yield _filled(cast(IO[bytes], file))
    elif start.startswith(b"PK\x03\x04"):
        with _seekable(raw) as seekable, _zip_member(name, seekable) as member:
            yield _filled(member)
    else:
        yield raw


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a stream that can be read from the end: the stream itself if it can, else a temporary copy."""
    if file.seekable():
        yield file
        return
    with temporary.folder() as folder, (folder / "observations").open("w+b") as copy:
        while part := file.read(SMALL_BYTES or 1):
            _copy(part, copy)
        copy.seek(0)
        yield copy


class _ZipBytes(io.RawIOBase):
    """Bytes of a zip archive; zipfile reads the whole directory, whatever its size, at once."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1, /) -> bytes:
        if size > LARGEST_ZIP_DIRECTORY:
            raise zipfile.BadZipFile("the directory of the zip archive is too large")
        return self.file.read(size)


class _Member(io.RawIOBase):
    """File in a zip archive, whose errors are those of damaged data."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file

    def read(self, size: int = -1, /) -> bytes:
        with _zip_errors():
            return self.file.read(size)


@contextmanager
def _zip_errors() -> Iterator[None]:
    """Turn the errors of zipfile for odd archives into BadZipFile."""
    try:
        yield
    # An OSError is a negative offset: of files, reading itself fails only on a damaged disk.
    except (NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error, EOFError, OSError) as error:
        raise zipfile.BadZipFile(str(error) or "the archive ends early") from error


@contextmanager
def _zip_member(name: str, seekable: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the only file in a zip archive. Raises ObservationError."""
    with ExitStack() as stack:
        with _zip_errors():
            archive = stack.enter_context(zipfile.ZipFile(cast(IO[bytes], _ZipBytes(seekable))))
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        if len(members) != 1:
            raise ObservationError(f"{name}: {len(members)} files in the zip archive, one is expected")
        if members[0].flag_bits & 1 or members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ObservationError(f"{name}: the zip archive is encrypted or not compressed by deflate")
        with _zip_errors():
            member = stack.enter_context(archive.open(members[0]))
        yield cast(IO[bytes], _Member(member))


@contextmanager
def on_disk(file: IO[bytes]) -> Iterator[str]:
    """Yield a path for a stream: a link if it is a plain file, else a temporary copy."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, io.FileIO) and isinstance(raw.name, str) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        with linked(Path(raw.name)) as link:
            yield link
    else:
        # A stream in memory can be read from the end, but has no path.
        with temporary.folder() as folder:
            copy = folder / "copy"
            with copy.open("wb") as content:
                while part := file.read(1_000_000):
                    _copy(part, content)
            yield str(copy)


@contextmanager
def linked(path: Path) -> Iterator[str]:
    """Yield the path of a link to a file; duckdb would read patterns and partition columns from the file's own path."""
    with temporary.folder() as folder:
        link = folder / "observations"
        link.symlink_to(path.absolute())
        yield str(link)
