"""The log writer: lines in order, lost ones counted, and no delay."""

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
    """Start log writers that write every millisecond, and close them."""
    monkeypatch.setattr(log_writer, "SECONDS_BETWEEN_WRITES", 0.001)
    log_writers: list[LogWriter] = []

    def start(opened: Opened) -> LogWriter:
        log_writers.append(LogWriter(opened))
        return log_writers[-1]

    yield start
    for each in log_writers:
        each.close()
    assert not any(thread.name == "log writer" for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true; fail after 10 s."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.001)


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file, which must all be complete."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return content.splitlines()


def test_lines_arrive_in_order_in_any_batches(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = started(to_file(str(path)))
    for number in range(3_000):
        writer.write(b"%d\n" % number)
        if number % 500 == 0:
            time.sleep(0.003)
    writer.close()
    assert lines_of(path) == [b"%d" % number for number in range(3_000)]
    assert writer.lost == 0


def test_lines_of_several_threads_arrive_in_order_for_each_thread(
    started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    writer = started(to_file(str(path)))

    def work(name: int) -> None:
        for number in range(2_000):
            writer.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = [tuple(map(int, line.split())) for line in lines_of(path)]
    assert len(lines) == 8_000
    for name in range(4):
        assert [number for thread_name, number in lines if thread_name == name] == list(range(2_000))


def test_lines_are_appended_without_a_close(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    writer = started(to_file(str(path)))
    writer.write(b"a\n")
    until(lambda: path.read_bytes() == b"before\na\n")
    writer.write(b"b\n")
    until(lambda: path.read_bytes() == b"before\na\nb\n")


def test_closing_writes_the_rest_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(log_writer, "SECONDS_BETWEEN_WRITES", 60.0)
    path = tmp_path / "log"
    writer = LogWriter(to_file(str(path)))
    writer.write(b"a\n")
    writer.write(b"b\n")
    start = time.monotonic()
    writer.close()
    assert time.monotonic() - start < 4
    assert path.read_bytes() == b"a\nb\n"


def test_closing_without_lines_writes_nothing(tmp_path: Path) -> None:
    writer = LogWriter(to_file(str(tmp_path / "log")))
    writer.close()
    assert not list(tmp_path.iterdir())
    assert writer.lost == 0


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_a_full_disk_loses_lines_that_are_counted(by: str, started: Callable[[Opened], LogWriter]) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer = started(to_file("/dev/full") if by == "path" else to_descriptor(full.fileno()))
        for number in range(1, 4):
            writer.write(b"a\n")
            writer.write(b"b\n")
            until(lambda expected=2 * number: writer.lost >= expected)  # type: ignore[misc]
            assert writer.lost == 2 * number
        writer.close()
    assert writer.lost == 6


def test_a_closed_descriptor_loses_lines_that_are_counted(started: Callable[[Opened], LogWriter]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = started(to_descriptor(write_end))
    writer.write(b"a\n")
    until(lambda: writer.lost == 1)
    writer.close()
    os.close(write_end)


def test_a_descriptor_stays_open_and_gets_every_line(started: Callable[[Opened], LogWriter]) -> None:
    read_end, write_end = os.pipe()
    writer = started(to_descriptor(write_end))
    writer.write(b"a\n")
    assert os.read(read_end, 100) == b"a\n"
    writer.write(b"b\n")
    assert os.read(read_end, 100) == b"b\n"
    writer.close()
    os.close(write_end)
    assert os.read(read_end, 100) == b""
    os.close(read_end)


def test_a_missing_folder_loses_lines_until_it_appears(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "mounted" / "log"
    writer = started(to_file(str(path)))
    writer.write(b"a\n")
    until(lambda: writer.lost == 1)
    path.parent.mkdir()
    writer.write(b"b\n")
    until(path.exists)
    writer.close()
    assert path.read_bytes() == b"b\n"
    assert writer.lost == 1


def test_a_rotated_file_is_created_again(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = started(to_file(str(path)))
    writer.write(b"a\n")
    until(lambda: path.exists() and path.read_bytes() == b"a\n")
    path.rename(tmp_path / "log.1")
    writer.write(b"b\n")
    until(path.exists)
    writer.close()
    assert [(tmp_path / name).read_bytes() for name in ("log.1", "log")] == [b"a\n", b"b\n"]
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Disk:  # pylint: disable=too-few-public-methods
    """A substitute for os.write that accepts `room` more bytes and then reports a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, content: bytes) -> int:
        if threading.current_thread().name != "log writer":
            return self.write(descriptor, content)
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.write(descriptor, content[: self.room])
        self.room -= written
        return written


def test_an_incomplete_line_is_ended_before_the_next(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=7)
    writer = started(to_file(str(path)))
    writer.write(b"whole\nhalf\n")
    until(lambda: writer.lost == 1)
    disk.room = 100
    writer.write(b"next\n")
    writer.close()
    assert path.read_bytes() == b"whole\nh\nnext\n"
    assert writer.lost == 1


def test_each_line_on_a_full_disk_is_counted_once(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=3)
    writer = started(to_file(str(path)))
    for lost in (1, 2, 3):
        writer.write(b"torn-%d\n" % lost)
        until(lambda expected=lost: writer.lost >= expected)  # type: ignore[misc]
        assert writer.lost == lost
    disk.room = 100
    writer.write(b"next\n")
    writer.close()
    assert path.read_bytes() == b"tor\nnext\n"


@pytest.mark.parametrize("by", ["path", "descriptor"])
@pytest.mark.parametrize("before", [b"", b"whole\n", b"whole\nto"])
def test_a_line_that_another_process_left_incomplete_is_ended(
    by: str, before: bytes, started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(before)
    with path.open("ab", buffering=0) as file:
        writer = started(to_file(str(path)) if by == "path" else to_descriptor(file.fileno()))
        writer.write(b"next\n")
        until(lambda: path.read_bytes().endswith(b"next\n"))
        # Another process is killed meanwhile.
        file.write(b"tor")
        writer.write(b"last\n")
        writer.close()
    end = b"\n" if before.endswith(b"to") else b""
    assert path.read_bytes() == before + end + b"next\ntor\nlast\n"


def test_no_newline_is_added_after_a_complete_line(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(monkeypatch, room=6)
    writer = started(to_file(str(path)))
    writer.write(b"whole\nhalf\n")
    until(lambda: writer.lost == 1)
    disk.room = 100
    writer.write(b"next\n")
    writer.close()
    assert path.read_bytes() == b"whole\nnext\n"


def test_partial_writes_are_continued(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:2]))
    writer = started(to_file(str(path)))
    writer.write(b"one\n")
    writer.write(b"three\n")
    writer.close()
    assert path.read_bytes() == b"one\nthree\n"
    assert writer.lost == 0


class Stopped:  # pylint: disable=too-few-public-methods
    """A file that opens only once the gate is open, like that of a stopped reader."""

    def __init__(self, path: Path) -> None:
        self.opened, self.gate, self.waiting = to_file(str(path)), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[int]:
        self.waiting.set()
        self.gate.wait()
        with self.opened() as descriptor:
            yield descriptor


def test_a_stopped_reader_delays_no_line_and_costs_memory_up_to_the_limit(
    started: Callable[[Opened], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "LARGEST_BACKLOG", 1_000)
    path = tmp_path / "log"
    stopped = Stopped(path)
    writer = started(stopped)
    writer.write(b"first----\n")
    assert stopped.waiting.wait(10)
    start = time.monotonic()
    for _ in range(1_000):
        writer.write(b"0123456789\n")
    assert time.monotonic() - start < 1
    # 91 lines of 11 bytes are 1001: the line that exceeds the limit is the last one kept.
    assert writer.lost == 1_000 - 91
    stopped.gate.set()
    until(lambda: path.exists() and len(path.read_bytes()) == 10 + 91 * 11)
    writer.write(b"last-----\n")
    writer.close()
    assert lines_of(path) == [b"first----"] + [b"0123456789"] * 91 + [b"last-----"]
    assert writer.lost == 1_000 - 91


def test_a_line_added_during_the_last_write_is_written(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    stopped = Stopped(tmp_path / "log")
    writer = started(stopped)
    writer.write(b"a\n")
    assert stopped.waiting.wait(10)
    writer.write(b"b\n")
    writer.close(0.0)
    stopped.gate.set()
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"


def test_closing_gives_up_if_the_reader_has_stopped(started: Callable[[Opened], LogWriter], tmp_path: Path) -> None:
    stopped = Stopped(tmp_path / "log")
    writer = started(stopped)
    writer.write(b"a\n")
    assert stopped.waiting.wait(10)
    start = time.monotonic()
    writer.close(0.05)
    assert time.monotonic() - start < 4
    stopped.gate.set()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), BlockingIOError(11, "later"), BrokenPipeError(32, "gone")]
)
def test_lines_are_counted_after_any_system_error_and_the_next_are_written(
    error: OSError, started: Callable[[Opened], LogWriter], tmp_path: Path
) -> None:
    opened = to_file(str(tmp_path / "log"))
    failing: list[OSError] = [error]

    def unreliable() -> Any:
        if failing:
            raise failing.pop()
        return opened()

    writer = started(unreliable)
    writer.write(b"a\n")
    until(lambda: writer.lost == 1)
    writer.write(b"b\n")
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"b\n"
