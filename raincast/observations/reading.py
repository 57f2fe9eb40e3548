"""Input -> table: a path, a pattern or standard input, plain, gzipped or zipped.

The bytes decide the format, never the name.
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
# Files up to this size are read into memory, packed ones up to a tenth of it.
SMALL_BYTES = 1_000_000
Input = tuple[Path | IO[bytes], str]


def read(source: str | Path | IO[bytes], *, name: str | None = None, target: bool = False) -> Table:
    """Observations from a path or an open file.

    With `target` there must be a column RainTomorrow; it becomes 1.0, 0.0 and, where missing, NaN. Unknown columns
    are ignored with one ObservationWarning. `name` is what messages call the source, where it is not its path. Raises
    ObservationError, naming file, row, column, value and limit.
    """
    name = name or (str(source) if isinstance(source, str | Path) else STANDARD_INPUT)
    with opened(source, name) as file, blocks(name, file) as (header, parts):
        unknown = check_header(name, header, target=target)
        if unknown:
            warnings.warn(unknown, ObservationWarning, stacklevel=2)
        return parse_blocks(name, parts, target=target)


@contextmanager
def inputs(given: str) -> Iterator[list[Input]]:
    """What a user's word for the input means, each with what messages call it: a file, a folder, a pattern or "-".

    Standard input is in memory where it is small, else in a temporary file. Raises ObservationError.
    """
    if given != STDIN:
        yield [(path, str(path)) for path in _files(given)]
        return
    if sys.stdin is None:
        raise ObservationError("standard input is closed")
    with ExitStack() as stack:
        with readable(STANDARD_INPUT):
            start = sys.stdin.buffer.read(SMALL_BYTES + 1)
        source: Path | IO[bytes] = io.BytesIO(start)
        if len(start) > _limit(start):
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="raincast-"))
            source, part = Path(file.name), start
            while part:
                try:
                    file.write(part)
                    file.flush()
                except OSError as error:
                    reason = f"no room for standard input (TMPDIR says where): {error.strerror}"
                    raise OSError(error.errno, reason, file.name) from error
                with readable(STANDARD_INPUT):
                    part = sys.stdin.buffer.read(SMALL_BYTES)
        yield [(source, STANDARD_INPUT)]


def _files(given: str) -> list[Path]:
    """The files that a path means: itself, all in a folder, or those that match a pattern, by their names.

    In folders, what begins with a dot or an underscore is left out, where other tools keep their notes on the data.
    """
    path = Path(given)
    if path.is_dir():
        inside = (file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file())
        found = [path / file for file in inside if not any(part.startswith((".", "_")) for part in file.parts)]
    elif not path.exists() and glob.has_magic(given):
        found = [Path(name) for name in sorted(glob.glob(given, recursive=True)) if Path(name).is_file()]
    else:
        return [path]
    if not found:
        raise ObservationError(f"{given}: there are no files")
    return found


def is_small(source: Path | IO[bytes]) -> bool:
    """Whether a source is read into memory as a whole. One that cannot be opened is: reading it will say why."""
    if not isinstance(source, Path) or not source.is_file():
        return True
    with suppress(OSError), source.open("rb") as file:
        return source.stat().st_size <= _limit(file.read(2))
    return True


def _limit(start: bytes) -> int:
    """How large a file that begins so may be, to be read into memory."""
    return SMALL_BYTES // 10 if start.startswith((b"\x1f\x8b", b"PK")) else SMALL_BYTES


@contextmanager
def opened(source: str | Path | IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """The plain bytes of a path or an open file, unpacked where they are packed."""
    with readable(name), _raw(source) as raw, unpacked(name, raw) as file:
        yield file


@contextmanager
def blocks(name: str, file: IO[bytes]) -> Iterator[Blocks]:
    """Header and blocks of text columns of plain bytes in any format."""
    kind = detect_format(name, file)
    if kind == "parquet":
        with on_disk(file) as path, parquet_blocks(name, path) as found:
            yield found
    else:
        yield (json_blocks if kind == "json" else csv_blocks)(name, file)


def detect_format(name: str, file: IO[bytes]) -> Literal["csv", "json", "parquet"]:
    """What the first bytes of a file say that it is. Raises ObservationError where there are none."""
    start = cast(io.BufferedReader, file).peek(4)
    if not start:
        raise ObservationError(f"{name}: the file is empty")
    if start.startswith(b"PAR1"):
        return "parquet"
    return "json" if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{") else "csv"


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
def _raw(source: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if not isinstance(source, str | Path):
        yield _filled(source)
        return
    with open(source, "rb") as file:
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


@contextmanager
def on_disk(file: IO[bytes]) -> Iterator[str]:
    """A path for a stream: of a link to it where it is a plain file, else of a temporary copy."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, io.FileIO) and isinstance(raw.name, str) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        with linked(Path(raw.name)) as link:
            yield link
    else:
        with _seekable(file) as whole:
            yield whole.name


@contextmanager
def linked(path: Path) -> Iterator[str]:
    """The path of a link to a file: in its own path duckdb would see patterns of files, and columns in folders."""
    with tempfile.TemporaryDirectory(prefix="raincast-") as folder:
        link = Path(folder) / "observations"
        link.symlink_to(path.absolute())
        yield str(link)
