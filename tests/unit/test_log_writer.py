"""Lines to a file: in order, counted where they are lost, and never in the way."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raincast.serving import log_writer
from raincast.serving.log_writer import LogWriter, to_descriptor, to_file

Opened = Callable[[], contextlib.AbstractContextManager[int]]


@pytest.fixture(name="started")
def fixture_started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Opened], LogWriter]]:
    """Starts journals that write every millisecond, and closes them."""
    monkeypatch.setattr(log_writer, "SECONDS_BETWEEN_WRITES", 0.001)
    journals: list[LogWriter] = []

    def start(opened: Opened) -> LogWriter:
        journals.append(LogWriter(opened))
        return journals[-1]

    yield start
    for each in journals:
        each.close()
    assert not any(thread.name == "journal" for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is true, and fail where it does not become so."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def lines_of(path: Path) -> list[bytes]:
    """The whole lines of a file."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return content.splitlines()


def test_lines_arrive_in_order_whatever_the_batches(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "log"
    written = started(to_file(str(path)))
    for number in range(3_000):
        written.write(b"%d\n" % number)
        if number % 500 == 0:
            time.sleep(0.003)
    written.close()
    assert lines_of(path) == [b"%d" % number for number in range(3_000)]
    assert written.lost == 0


def test_lines_of_several_threads_all_arrive_each_threads_in_order(
    started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    written = started(to_file(str(path)))

    def work(name: int) -> None:
        for number in range(2_000):
            written.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written.close()
    found = [tuple(map(int, line.split())) for line in lines_of(path)]
    assert len(found) == 8_000
    for name in range(4):
        assert [number for who, number in found if who == name] == list(range(2_000))


def test_lines_appear_without_a_close_and_behind_what_stands_there(
    started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    written = started(to_file(str(path)))
    written.write(b"a\n")
    until(lambda: path.read_bytes() == b"before\na\n")
    written.write(b"b\n")
    until(lambda: path.read_bytes() == b"before\na\nb\n")


def test_closing_writes_what_is_left_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(log_writer, "SECONDS_BETWEEN_WRITES", 60.0)
    path = tmp_path / "log"
    written = LogWriter(to_file(str(path)))
    written.write(b"a\n")
    written.write(b"b\n")
    start = time.monotonic()
    written.close()
    assert time.monotonic() - start < 4
    assert path.read_bytes() == b"a\nb\n"


def test_closing_a_journal_without_lines_writes_nothing(tmp_path: Path) -> None:
    written = LogWriter(to_file(str(tmp_path / "log")))
    written.close()
    assert not list(tmp_path.iterdir())
    assert written.lost == 0


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_a_full_disk_loses_lines_that_are_counted(by: str, started: Callable[[Opened], LogWriter]) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        written = started(to_file("/dev/full") if by == "path" else to_descriptor(full.fileno()))
        for number in range(1, 4):
            written.write(b"a\n")
            written.write(b"b\n")
            until(lambda expected=2 * number: written.lost >= expected)  # type: ignore[misc]
            assert written.lost == 2 * number
        written.close()
    assert written.lost == 6


def test_a_closed_descriptor_loses_lines_that_are_counted(started: Callable[[Opened], LogWriter]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    written = started(to_descriptor(writer))
    written.write(b"a\n")
    until(lambda: written.lost == 1)
    written.close()
    os.close(writer)


def test_a_descriptor_stays_open_and_gets_every_line(started: Callable[[Opened], LogWriter]) -> None:
    reader, writer = os.pipe()
    written = started(to_descriptor(writer))
    written.write(b"a\n")
    assert os.read(reader, 100) == b"a\n"
    written.write(b"b\n")
    assert os.read(reader, 100) == b"b\n"
    written.close()
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_missing_folder_loses_lines_until_it_appears(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "mounted" / "log"
    written = started(to_file(str(path)))
    written.write(b"a\n")
    until(lambda: written.lost == 1)
    path.parent.mkdir()
    written.write(b"b\n")
    until(path.exists)
    written.close()
    assert path.read_bytes() == b"b\n"
    assert written.lost == 1


def test_a_file_that_was_rotated_is_made_anew(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "log"
    written = started(to_file(str(path)))
    written.write(b"a\n")
    until(lambda: path.exists() and path.read_bytes() == b"a\n")
    path.rename(tmp_path / "log.1")
    written.write(b"b\n")
    until(path.exists)
    written.close()
    assert [(tmp_path / name).read_bytes() for name in ("log.1", "log")] == [b"a\n", b"b\n"]
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Disk:  # pylint: disable=too-few-public-methods
    """Stands in for os.write: takes `room` more bytes, then says that the disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.write = os.write
        monkeypatch.setattr(log_writer.os, "write", self)

    def __call__(self, descriptor: int, content: bytes) -> int:
        if threading.current_thread().name != "journal":
            return self.write(descriptor, content)
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.write(descriptor, content[: self.room])
        self.room -= written
        return written


def test_a_torn_line_is_ended_before_the_next(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=7)
    written = started(to_file(str(path)))
    written.write(b"whole\nhalf\n")
    until(lambda: written.lost == 1)
    disk.room = 100
    written.write(b"next\n")
    written.close()
    assert path.read_bytes() == b"whole\nh\nnext\n"
    assert written.lost == 1


def test_a_line_torn_and_then_a_disk_still_full_lose_one_line_each(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=3)
    written = started(to_file(str(path)))
    for lost in (1, 2, 3):
        written.write(b"torn-%d\n" % lost)
        until(lambda expected=lost: written.lost >= expected)  # type: ignore[misc]
        assert written.lost == lost
    disk.room = 100
    written.write(b"next\n")
    written.close()
    assert path.read_bytes() == b"tor\nnext\n"


def test_nothing_is_put_before_a_line_where_the_last_batch_ended_whole(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=6)
    written = started(to_file(str(path)))
    written.write(b"whole\nhalf\n")
    until(lambda: written.lost == 1)
    disk.room = 100
    written.write(b"next\n")
    written.close()
    assert path.read_bytes() == b"whole\nnext\n"


def test_writes_in_small_pieces_are_put_together(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    write = os.write
    monkeypatch.setattr(log_writer.os, "write", lambda descriptor, content: write(descriptor, content[:2]))
    written = started(to_file(str(path)))
    written.write(b"one\n")
    written.write(b"three\n")
    written.close()
    assert path.read_bytes() == b"one\nthree\n"
    assert written.lost == 0


class Stopped:  # pylint: disable=too-few-public-methods
    """A descriptor that is given only when the gate is open: a reader that has stopped."""

    def __init__(self, path: Path) -> None:
        self.opened, self.gate, self.waiting = to_file(str(path)), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[int]:
        self.waiting.set()
        self.gate.wait()
        with self.opened() as descriptor:
            yield descriptor


def test_a_reader_that_has_stopped_holds_nobody_up_and_costs_no_more_than_the_limit(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "LARGEST_BACKLOG", 1_000)
    path = tmp_path / "log"
    stopped = Stopped(path)
    written = started(stopped)
    written.write(b"first----\n")
    assert stopped.waiting.wait(10)
    start = time.monotonic()
    for _ in range(1_000):
        written.write(b"0123456789\n")
    assert time.monotonic() - start < 1
    # 91 lines of 11 bytes are 1001: the line that goes over the limit is the last to be kept.
    assert written.lost == 1_000 - 91
    stopped.gate.set()
    until(lambda: path.exists() and len(path.read_bytes()) == 10 + 91 * 11)
    written.write(b"last-----\n")
    written.close()
    assert lines_of(path) == [b"first----"] + [b"0123456789"] * 91 + [b"last-----"]
    assert written.lost == 1_000 - 91


def test_a_line_that_comes_during_the_last_write_is_written_too(
    started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    stopped = Stopped(tmp_path / "log")
    written = started(stopped)
    written.write(b"a\n")
    assert stopped.waiting.wait(10)
    written.write(b"b\n")
    written.close(0.0)
    stopped.gate.set()
    written.close()
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"


def test_closing_gives_up_where_nobody_reads(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    stopped = Stopped(tmp_path / "log")
    written = started(stopped)
    written.write(b"a\n")
    assert stopped.waiting.wait(10)
    start = time.monotonic()
    written.close(0.05)
    assert time.monotonic() - start < 4
    stopped.gate.set()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), BlockingIOError(11, "later"), BrokenPipeError(32, "gone")]
)
def test_whatever_the_system_says_lines_are_counted_and_the_next_are_tried(
    error: OSError, started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    opened = to_file(str(tmp_path / "log"))
    failing: list[OSError] = [error]

    def unreliable() -> Any:
        if failing:
            raise failing.pop()
        return opened()

    written = started(unreliable)
    written.write(b"a\n")
    until(lambda: written.lost == 1)
    written.write(b"b\n")
    written.close()
    assert (tmp_path / "log").read_bytes() == b"b\n"
