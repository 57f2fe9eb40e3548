"""Log lines, written to a file by a separate thread: a full disk or a stopped reader delays no request."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_WRITES = 0.1
LARGEST_BACKLOG = 16_000_000


class LogWriter:
    """Appends lines in batches to the file that `descriptor` opens, and counts lines that cannot be written in `lost`.

    A killed process loses at most the lines of the last tenth of a second.
    """

    # pylint: disable=too-many-instance-attributes  # the backlog, its file and its thread

    def __init__(self, descriptor: Callable[[], contextlib.AbstractContextManager[int]]) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._size = 0
        # The last write was cut short in a line.
        self._torn = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Add a line, which ends with a newline. Never waits, never raises."""
        if self._size > LARGEST_BACKLOG:
            self.lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Write the rest; give up after some seconds if the file does not take it."""
        self._closing.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(SECONDS_BETWEEN_WRITES)
            self._wake.clear()
            self._write_out()
        self._write_out()

    def _write_out(self) -> None:
        lines, self._lines = self._lines, []
        self._size = 0
        if not lines:
            return
        content, count = b"".join(lines), len(lines)
        try:
            with self._descriptor() as descriptor:
                if _ends_in_a_line(descriptor, self._torn):
                    content = b"\n" + content
                while content:
                    written = os.write(descriptor, content)
                    self._torn = content[written - 1 : written] != b"\n"
                    content = content[written:]
        except OSError:
            self.lost += max(1, min(count, content.count(b"\n")))


def _ends_in_a_line(descriptor: int, torn: bool) -> bool:
    """Return True if a file's last line is incomplete, as a killed process leaves it; of a pipe or device, `torn`."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return torn
    if not status.st_size:
        return False
    try:
        # The descriptor itself may be for writing only.
        with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:
            return os.pread(file.fileno(), 1, status.st_size - 1) not in (b"\n", b"")
    except OSError:
        return torn


def to_file(path: str) -> Callable[[], contextlib.AbstractContextManager[int]]:
    """Open a path for each batch to append, so that it may be rotated, removed or mounted."""

    @contextlib.contextmanager
    def opened() -> Iterator[int]:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    return opened


def to_descriptor(descriptor: int) -> Callable[[], contextlib.AbstractContextManager[int]]:
    """Use a descriptor that stays open, such as that of standard output."""
    return lambda: contextlib.nullcontext(descriptor)
