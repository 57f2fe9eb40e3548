"""Atomic replacement of a file or directory: after a kill at any moment it is the old or the new one, complete."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# A killed process leaves its hidden folder; a younger folder may belong to a running process.
STALE_SECONDS = 3600.0
# renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class TargetError(ValueError):
    """File or directory that cannot be written, or whose replacement would delete something else."""


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to, which replaces `path` if no error occurs.

    Of a link, the target is replaced. A device or a pipe, such as /dev/stdout, is written to. Raises OSError.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _temporary_file(path.resolve()) as file:
                yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _temporary_file(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except PermissionError as error:
        # In a container the user, who decides which folders are writable, is not obvious.
        raise PermissionError(error.errno, f"{error.strerror} for user {os.getuid()}", str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            _flush_to_disk(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def check_parent(directory: Path) -> None:
    """Create the parent of a directory and check that it is writable. Raises OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    os.rmdir(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))


@contextmanager
def replace_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces `directory` if no error occurs. Raises OSError."""
    for stale in directory.parent.glob(f".{directory.name}.*"):
        if time.time() - stale.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        _exchange(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_to_disk(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        _flush_to_disk(file)


def _exchange(new: Path, directory: Path) -> None:
    """Exchange `new` and `directory`; if there is no `directory`, rename `new`."""
    if not directory.exists():
        new.rename(directory)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(new), os.fsencode(directory)
    if exchange and exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    # For systems without an atomic exchange: the directory is absent for an instant, but never incomplete.
    old = new.with_name(new.name + ".old")
    directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    old.rename(new)
