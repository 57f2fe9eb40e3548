"""Signals that end a command: it removes its temporary files and exits at once, wherever it is.

Python's own way, an exception, is lost in callbacks, destructors and libraries, and gives tracebacks during imports and
at exit.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The exit code of a process that ends by signal N is 128 + N, as in a shell.
FIRST_CODE = 128
ATTEMPTS = 100


class _State:
    """State of the process: its temporary paths, whether a signal raises SystemExit, and the signal that did."""

    # pylint: disable=too-few-public-methods  # fields

    temporary: set[str] = set()
    hooked = False
    raises = False
    received = 0


def exit_on_signals() -> None:
    """Exit on SIGINT, SIGTERM and SIGHUP with 130, 143 and 129; call it first, before imports that take time.

    SIGINT and SIGHUP stay ignored if the caller, such as nohup, has the process ignore them.
    """
    for number in NUMBERS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def remove_temporary_files() -> None:
    """From now on, have a signal remove the temporary files of this process, those of libraries included."""
    if not _State.hooked:
        _State.hooked = True
        # tempfile announces each name before it creates it.
        sys.addaudithook(_note)


def ignore_signals() -> None:
    """Ignore signals: the command is done, and its exit code is known."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def orderly() -> Iterator[None]:
    """Raise SystemExit on the first signal, so that a library can note its end elsewhere, then exit."""
    _State.raises = True
    try:
        yield
    finally:
        _State.raises = False
        if _State.received:
            _exit(_State.received)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("tempfile.mkdtemp", "tempfile.mkstemp"):
        _State.temporary.add(os.path.abspath(arguments[0]))


def _handle(number: int, _frame: FrameType | None) -> None:
    if _State.raises and not _State.received:
        _State.received = number
        sys.unraisablehook = _nothing
        raise SystemExit(FIRST_CODE + number)
    _exit(number)


def _nothing(_unraisable: Any) -> None:
    pass


def _exit(number: int) -> None:
    ignore_signals()
    if number == signal.SIGINT and sys.stderr is not None:
        start = "\n" if os.isatty(2) else ""
        _ignoring_errors(lambda: os.write(2, f"{start}{os.path.basename(sys.argv[0])}: interrupted\n".encode()))
    for path in _State.temporary:
        _remove(path)
    os._exit(FIRST_CODE + number)  # pylint: disable=protected-access


def _remove(path: str) -> None:
    # tempfile has imported it. An import of our own could meet one that the signal interrupted.
    rmtree = sys.modules["shutil"].rmtree
    for _ in range(ATTEMPTS):
        if not os.path.lexists(path):
            return
        if os.path.isdir(path) and not os.path.islink(path):
            # Other threads may still create files in it.
            rmtree(path, ignore_errors=True)
        else:
            _ignoring_errors(lambda: os.unlink(path))


def _ignoring_errors(action: Callable[[], object]) -> None:
    try:
        action()
    except OSError:
        pass
