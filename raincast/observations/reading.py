"""Input to table: a path, a pattern or standard input, plain, gzipped or zipped.

The content decides the format, not the file's name.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, cast

from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.formats import Blocks, csv_blocks, json_blocks
from raincast.observations.parquet import parquet_blocks
from raincast.observations.parsing import check_header, parse_blocks
from raincast.observations.table import Table

STDIN, STANDARD_INPUT = "-", "standard input"
# Files up to this size are read into memory, compressed ones up to a tenth of it.
SMALL_BYTES = 1_000_000
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
        return parse_blocks(name, parts, target=target)


@contextmanager
def inputs(argument: str) -> Iterator[list[Input]]:
    """Yield the files of the argument "input" with their names: a file, a folder, a pattern or "-".

    Standard input is held in memory if it is small, else in a temporary file. Raises ObservationError.
    """
    if argument != STDIN:
        yield [(path, str(path)) for path in _files(argument)]
        return
    if sys.stdin is None:
        raise ObservationError("standard input is closed")
    with ExitStack() as stack:
        with readable(STANDARD_INPUT):
            start = sys.stdin.buffer.read(SMALL_BYTES + 1)
        file: Path | IO[bytes] = io.BytesIO(start)
        if len(start) > _limit(start):
            copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="raincast-"))
            file, part = Path(copy.name), start
            while part:
                try:
                    copy.write(part)
                    copy.flush()
                except OSError as error:
                    reason = f"no room for standard input, set TMPDIR to another folder: {error.strerror}"
                    raise OSError(error.errno, reason, copy.name) from error
                with readable(STANDARD_INPUT):
                    part = sys.stdin.buffer.read(SMALL_BYTES)
        yield [(file, STANDARD_INPUT)]


def _files(argument: str) -> list[Path]:
    """Return the file itself, all files in a folder, or those that match a pattern, sorted by path.

    In folders, names that begin with a dot or an underscore are left out: other tools keep their metadata there.
    """
    path = Path(argument)
    if path.is_dir():
        inside = (file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file())
        files = [path / file for file in inside if not any(part.startswith((".", "_")) for part in file.parts)]
    elif not path.exists() and glob.has_magic(argument):
        files = [Path(name) for name in sorted(glob.glob(argument, recursive=True)) if Path(name).is_file()]
    else:
        return [path]
    if not files:
        raise ObservationError(f"{argument}: there are no files")
    return files


def is_small(file: Path | IO[bytes]) -> bool:
    """Return True if a file is read into memory. A file that cannot be opened is small: reading it raises the error."""
    if not isinstance(file, Path) or not file.is_file():
        return True
    with suppress(OSError), file.open("rb") as content:
        return file.stat().st_size <= _limit(content.read(2))
    return True


def _limit(start: bytes) -> int:
    """Return the largest size, in bytes, of a small file that begins with `start`."""
    return SMALL_BYTES // 10 if start.startswith((b"\x1f\x8b", b"PK")) else SMALL_BYTES


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
        with _seekable(raw) as seekable, zipfile.ZipFile(seekable) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ObservationError(f"{name}: {len(members)} files in the zip archive, one is expected")
            if members[0].flag_bits & 1 or members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ObservationError(f"{name}: the zip archive is encrypted or not compressed by deflate")
            with archive.open(members[0]) as member_file:
                yield _filled(member_file)
    else:
        yield raw


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a temporary file with the rest of a stream, for formats that are read from the end."""
    with tempfile.NamedTemporaryFile(prefix="raincast-") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        copy.seek(0)
        yield cast(IO[bytes], copy)


@contextmanager
def on_disk(file: IO[bytes]) -> Iterator[str]:
    """Yield a path for a stream: a link if it is a plain file, else a temporary copy."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, io.FileIO) and isinstance(raw.name, str) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        with linked(Path(raw.name)) as link:
            yield link
    else:
        with _seekable(file) as copy:
            yield copy.name


@contextmanager
def linked(path: Path) -> Iterator[str]:
    """Yield the path of a link to a file; duckdb would read patterns and partition columns from the file's own path."""
    with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
        link = Path(folder) / "observations"
        link.symlink_to(path.absolute())
        yield str(link)
