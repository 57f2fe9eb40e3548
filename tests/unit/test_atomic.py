"""Atomic replacement of files and directories: on success, on errors, and on systems without exchange of names."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from raincast.atomic import check_parent, replace_directory, replace_file, write_to_disk


def test_a_file_is_replaced_on_success_and_no_temporary_file_remains(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with replace_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, replace_file(path) as file:
        file.write(b"new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="^no$"), replace_file(path) as file:
        file.write(b"new")
        raise ValueError("no")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_link_stays_a_link_to_the_new_content(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    with replace_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replace_file(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path, plain = tmp_path / "out.csv", tmp_path / "plain.csv"
    plain.write_bytes(b"")
    with replace_file(path) as file:
        file.write(b"new")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_directory_is_replaced_on_success_and_no_temporary_folder_remains(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    for content in (b"first", b"second"):
        with replace_directory(directory) as folder:
            write_to_disk(folder / content.decode(), content)
            assert not (directory / content.decode()).exists()
        assert [path.name for path in directory.iterdir()] == [content.decode()]
        assert (directory / content.decode()).read_bytes() == content
    assert os.listdir(tmp_path) == ["store"]


def test_an_error_leaves_the_old_directory(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    directory.mkdir()
    (directory / "old").write_text("old")
    with pytest.raises(ValueError, match="^no$"), replace_directory(directory) as folder:
        (folder / "new").write_text("new")
        raise ValueError("no")
    assert [path.name for path in directory.iterdir()] == ["old"]
    assert os.listdir(tmp_path) == ["store"]


class WithoutExchange:  # pylint: disable=too-few-public-methods
    """A C library without renameat2."""


def test_a_directory_is_replaced_on_systems_that_cannot_exchange_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_settings: WithoutExchange())
    directory = tmp_path / "store"
    directory.mkdir()
    (directory / "old").write_text("old")
    with replace_directory(directory) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in directory.iterdir()] == ["new"]
    assert os.listdir(tmp_path) == ["store"]


def test_only_stale_temporary_names_of_the_same_directory_are_removed(tmp_path: Path) -> None:
    stale = (".store.abcdefgh.raincast", ".out.csv.abcdefgh.raincast")
    others = (
        ".store.backup",
        ".store.abcdefgh",
        ".store.abcdefgh.raincast.old",
        ".store.ABCDEFGH.raincast",
        ".other.abcdefgh.raincast",
    )
    for name in (*stale, *others, ".store.young_00.raincast"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text("content")
    for name in (*stale, *others):
        os.utime(tmp_path / name, (0, 0))
    with replace_directory(tmp_path / "store"):
        pass
    with replace_file(tmp_path / "out.csv"):
        pass
    assert set(os.listdir(tmp_path)) == {*others, ".store.young_00.raincast", "store", "out.csv"}


def test_a_name_with_the_characters_of_a_pattern_is_no_pattern(tmp_path: Path) -> None:
    for name in (".ma.abcdefgh.raincast", ".mb.abcdefgh.raincast"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    with replace_directory(tmp_path / "m[ab]"):
        pass
    assert len(os.listdir(tmp_path)) == 3


def test_a_stale_file_or_folder_in_use_stays(tmp_path: Path) -> None:
    directory, path = tmp_path / "store", tmp_path / "out.csv"
    with replace_directory(directory) as folder, replace_file(path):
        for temporary in tmp_path.iterdir():
            os.utime(temporary, (0, 0))
        with replace_directory(directory) as other, replace_file(path):
            assert folder.is_dir() and other != folder
            assert len(list(tmp_path.iterdir())) == 4
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "store"]


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="Too many levels"), replace_file(loop):
        pass
    assert loop.is_symlink()


def test_check_parent_makes_the_parent_and_leaves_it_empty(tmp_path: Path) -> None:
    check_parent(tmp_path / "deep" / "store")
    assert os.listdir(tmp_path / "deep") == []
    with pytest.raises(OSError, match="/proc"):
        check_parent(Path("/proc/deep/store"))
