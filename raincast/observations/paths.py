"""Files of an input: a path, all files of a folder, or those that match a pattern. None is left out silently."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raincast.observations.errors import ObservationError


def files(argument: str) -> list[Path]:
    """Return the file itself, all files in a folder, or those that match a pattern, sorted by path.

    In folders, names that begin with a dot or an underscore are left out: other tools keep their metadata there. Raises
    ObservationError, in particular for a part that cannot be read.
    """
    if not argument:
        raise ObservationError("the input is empty, pass the path of a file or folder, a pattern or -")
    path = Path(argument)
    with _readable(argument):
        if path.is_dir():
            found = sorted(_in_folder(path))
        elif not os.path.lexists(path) and glob.has_magic(argument):
            found = sorted(_matches(argument))
        else:
            return [path]
    if not found:
        raise ObservationError(f"{argument}: there are no files")
    return found


def same_file(path: Path, other: Path | int) -> bool:
    """Return True if two paths, or a path and a descriptor, lead to the same file."""
    try:
        return os.path.samestat(os.stat(path), os.stat(other))
    except OSError:
        return False


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObservationError(f"{error.filename or name}: cannot be read: {error.strerror or error}") from error


def _in_folder(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders. Raises ObservationError, OSError."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith((".", "_")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif stat.S_ISREG(os.stat(entry.path).st_mode):
                    yield Path(entry.path)
                else:
                    kind = "a link to a folder, which is not followed" if entry.is_dir() else "not a file"
                    raise ObservationError(f"{entry.path}: is {kind}")


def _matches(pattern: str) -> Iterator[Path]:
    """Yield the files that match a pattern. Raises OSError; glob leaves out what it cannot read."""
    for parent in map(str, Path(pattern).parents):
        if glob.has_magic(parent):
            for match in glob.iglob(parent, recursive=True):
                if stat.S_ISDIR(os.stat(match).st_mode):
                    os.scandir(match).close()
        else:
            if os.path.isdir(parent):
                os.scandir(parent).close()
            break
    recursive = Path(pattern).name == "**"
    for match in glob.iglob(pattern, recursive=True):
        mode = os.stat(match).st_mode
        if stat.S_ISREG(mode):
            yield Path(match)
        elif recursive and stat.S_ISDIR(mode):
            os.scandir(match).close()
