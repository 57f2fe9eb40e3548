"""Atomic replacement of a file or directory: after a kill at any moment it is the old or the new one, complete."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# Temporary names are `.name.xxxxxxxx.raincast`, beside what they replace.
SUFFIX = ".raincast"
# A killed process leaves its temporary file or folder. A younger one may not have its lock yet.
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
        # The stat raises OSError for a loop of links, which `exists` takes for a missing file.
        with suppress(FileNotFoundError):
            path.stat()
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
    _remove_stale(path)
    try:
        handle, temporary = tempfile.mkstemp(SUFFIX, f".{path.name}.", path.parent)
    except PermissionError as error:
        # In a container the user, who decides which folders are writable, is not obvious.
        raise PermissionError(error.errno, f"{error.strerror} for user {os.getuid()}", str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            _lock(handle)
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
    os.rmdir(tempfile.mkdtemp(SUFFIX, f".{directory.name}.", directory.parent))


@contextmanager
def replace_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces `directory` if no error occurs. Raises OSError."""
    try:
        _remove_stale(directory)
        temporary = Path(tempfile.mkdtemp(SUFFIX, f".{directory.name}.", directory.parent))
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(lock)
            temporary.chmod(0o755)
            yield temporary
            _exchange(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        error.filename = error.filename or str(directory)
        raise


def _remove_stale(path: Path) -> None:
    """Remove temporary files and folders that killed processes have left beside a path; those in use are locked."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
    with os.scandir(path.parent) as entries:
        found = [Path(entry.path) for entry in entries if temporary.fullmatch(entry.name)]
    for stale in found:
        # It may be another user's, or gone.
        with suppress(OSError):
            if time.time() - stale.lstat().st_mtime > STALE_SECONDS:
                remove_unlocked(stale)


def remove_unlocked(path: Path) -> None:
    """Remove a file or folder of ours that no process has locked. Raises OSError, also if it is locked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    # Some network file systems have no locks; nothing is removed there.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
