"""Temporary folders in TMPDIR, and the removal of those that killed processes left behind."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from raincast.atomic import remove_unlocked

PREFIX = "raincast-tmp-"
_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")


class TemporaryError(OSError):
    """Temporary file that cannot be written."""


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a new folder in TMPDIR, which is removed at the end.

    The process holds a lock on it, which ends with the process. The first call removes our unlocked folders. Raises
    OSError.
    """
    _sweep(tempfile.gettempdir())
    path, handle = _locked_folder()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _locked_folder() -> tuple[Path, int]:
    """Create and lock a folder; try again if a sweep of another process removes it before it is locked."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX)
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            # A file system without locks: nobody can lock the folder, so that nobody sweeps it.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.exists(path):
                return Path(path), handle
            os.close(handle)


@cache
def _sweep(temporary: str) -> None:
    """Remove the folders of this user that no process has locked."""
    with suppress(OSError), os.scandir(temporary) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                with suppress(OSError):
                    remove_unlocked(Path(entry.path))
