"""Hostile files: memory, odd archives, folders that can be read only in part, outputs that would replace an input."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raincast import temporary
from raincast.observations import reading
from raincast.observations.errors import ObservationError
from raincast.observations.parsing import MAX_COLUMNS
from raincast.serving.decoding import MAX_ROWS
from tests.attacks.memory import measured
from tests.conftest import ROOT, Command, small_disk

GOOD = b"Location,Rainfall\nSydney,1\n"
# The most resident memory that any file may take.
MOST_BYTES = 500_000_000


def predicted(*arguments: object, stdin: bytes = b"", **env: str) -> tuple[int, int, str]:
    """Run `prediction.py`; return its exit code, its peak memory in bytes and its stderr."""
    result = measured(str(ROOT / "prediction.py"), *arguments, stdin=stdin, **env)
    return result.code, result.peak, result.stderr


def parquet(select: str) -> Callable[[Path], Path]:
    """Return a function that writes a Parquet file with the rows of a query."""

    def write(folder: Path) -> Path:
        path = folder / "a.parquet"
        duckdb.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        return path

    return write


def gzipped(*parts: tuple[bytes, int]) -> Callable[[Path], Path]:
    """Return a function that writes a gzip file of repeated parts."""

    def write(folder: Path) -> Path:
        path = folder / "a.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for part, times in parts:
                for _ in range(times):
                    file.write(part)
        return path

    return write


RECORD = b'{"Location":"Sydney","Rainfall":1},'
BOMBS = {
    "Parquet of 3 million rows of a station-day": (
        parquet("""SELECT DATE '2017-01-01' AS "Date", 'Sydney' AS "Location", 1 AS "Rainfall" FROM range(3000000)"""),
        "2999999 problems: row 2, Date: Sydney on 2017-01-01 duplicates row 1",
    ),
    "Parquet of a million stations": (
        parquet("""SELECT 'S' || range AS "Location", 1 AS "Rainfall" FROM range(1000000)"""),
        "more than 100000 different stations",
    ),
    "Parquet of a million invalid values": (
        parquet("""SELECT 'Sydney' AS "Location", 'x' || range AS "Rainfall" FROM range(1000000)"""),
        "1000000 problems",
    ),
    "Parquet of long texts": (
        parquet("""SELECT repeat('x', 1000000) AS "Location", 1 AS "Rainfall" FROM range(10000)"""),
        "10000 problems: row 1, Location: 'xxx",
    ),
    "Parquet with a huge page": (
        parquet("""SELECT repeat('x', 300000000) AS "Location", 1 AS "Rainfall" """),
        "takes too much memory",
    ),
    "Parquet of nested values": (
        parquet("""SELECT 'Sydney' AS "Location", [{'a': range(1000)}] AS "Rainfall" FROM range(1000)"""),
        "the values of column Rainfall are nested",
    ),
    "Parquet of many columns": (
        parquet("""SELECT 'Sydney' AS "Location", 1 AS "Rainfall",""" + ",".join(f"1 AS c{i}" for i in range(5000))),
        f"5002 columns, at most {MAX_COLUMNS} are read",
    ),
    "JSON of nested lists": (gzipped((b"[" * 1_000_000, 240)), "not a list of observations"),
    "JSON of empty lists": (gzipped((b"[", 1), (b"[]," * 300_000, 200)), "not a list of observations"),
    "JSON of empty objects": (gzipped((b"[", 1), (b"{}," * 300_000, 5)), "there is no column Location"),
    "JSON of one text": (
        gzipped((b'[{"Location":"', 1), (b"x" * 1_000_000, 240)),
        "observation 1 is not valid JSON, or longer than 65536 characters",
    ),
    "JSON of many columns": (
        gzipped((b"[", 1), (b"{" + b",".join(b'"%d":1' % i for i in range(5000)) + b"},", 100)),
        f"5000 columns, at most {MAX_COLUMNS} are read",
    ),
    "JSON of a million observations": (gzipped((b"[", 1), (RECORD * 1000, 1000)), "does not end|not valid JSON"),
    "CSV of a line without end": (gzipped((GOOD, 1), (b"1" * 1_000_000, 240)), "line 3 is longer than 65536 bytes"),
    "CSV of a field without end": (gzipped((GOOD + b'"', 1), (b"x" * 60 + b"\n", 1_000_000)), "is longer than 131072"),
    "CSV of a record without end": (gzipped((GOOD, 1), (b'"\n",' * 1000, 10_000)), "is longer than 131072"),
    "CSV of long texts": (gzipped((b"Location,Rainfall\n", 1), (b"x" * 60_000 + b",1\n", 3000)), "3000 problems"),
    "CSV of many columns": (
        gzipped((b"Location,Rainfall" + b"," * 65_000 + b"\n", 1), (b"a\n", 30_000)),
        f"65002 columns, at most {MAX_COLUMNS} are read",
    ),
    "CSV of short rows": (
        gzipped((b"Location,Rainfall," + b",".join(b"c%d" % i for i in range(900)) + b"\n", 1), (b"a\n", 500_000)),
        "500000 problems: row 1, fields: '1' is not 902",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_grows_is_refused_in_bounded_memory(kind: str, tmp_path: Path, trained: Path) -> None:
    write, message = BOMBS[kind]
    path = write(tmp_path)
    assert path.stat().st_size < 10_000_000
    code, memory, stderr = predicted(path, "--model", trained)
    assert code == 2, stderr
    assert any(part in stderr for part in message.split("|")), stderr
    assert stderr.count("\n") <= 2
    assert memory <= MOST_BYTES


@pytest.mark.parametrize(
    "write",
    [
        parquet("""SELECT 'Sydney' AS "Location", 1 AS "Rainfall" FROM range(300000)"""),
        gzipped((b"Location,Rainfall\n", 1), (b"Sydney,1\n" * 1000, 300)),
        gzipped((b"[" + RECORD * 9, 1), (RECORD * 1000, 200), (RECORD[:-1] + b"]", 1)),
        gzipped((RECORD[:-2] + b',"x":[' + b"[]," * 20_000 + b"[]]}\n", 3000)),
    ],
    ids=["parquet", "csv", "json", "lines with nested values"],
)
def test_many_valid_rows_are_forecast_in_bounded_memory(
    write: Callable[[Path], Path], tmp_path: Path, trained: Path
) -> None:
    path = write(tmp_path)
    for given_input, stdin in (path, b""), ("-", path.read_bytes()):
        code, memory, stderr = predicted(given_input, "--model", trained, "-o", tmp_path / "out.parquet", stdin=stdin)
        assert code == 0, stderr
        assert memory <= MOST_BYTES


def test_a_file_is_small_by_what_it_holds(tmp_path: Path) -> None:
    rows = """SELECT 'Sydney' AS "Location", 1 AS "Rainfall" FROM range({})"""
    assert reading.is_small(parquet(rows.format(MAX_ROWS))(tmp_path))
    assert not reading.is_small(parquet(rows.format(MAX_ROWS + 1))(tmp_path))
    assert reading.is_small(gzipped((b"x", reading.SMALL_BYTES))(tmp_path))
    assert not reading.is_small(gzipped((b"x", reading.SMALL_BYTES + 1))(tmp_path))


def test_more_rows_than_a_training_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_ROWS", 2)
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD + b"Sydney,2\n")
    assert len(reading.read(path)["Rainfall"]) == 2
    path.write_bytes(GOOD + b"Sydney,2\nSydney,3\n")
    with pytest.raises(ObservationError, match="more than 2 observations"):
        reading.read(path)


def test_timestamps_of_parquet_are_utc_everywhere(command: Command, tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "a.parquet"
    with duckdb.connect() as database:
        database.execute(
            f"""SET TimeZone = 'UTC'; COPY (SELECT TIMESTAMPTZ '2017-01-01 00:00:00+00' AS "Date",
            'Sydney' AS "Location", 1 AS "Rainfall") TO '{path}' (FORMAT parquet)"""
        )
    outputs = {
        zone: command("prediction.py", path, "--format", "csv", "--model", trained, TZ=zone)
        for zone in ("UTC", "Australia/Sydney")
    }
    assert outputs["UTC"].returncode == outputs["Australia/Sydney"].returncode == 0
    assert outputs["UTC"].stdout == outputs["Australia/Sydney"].stdout
    assert b"2017-01-01,Sydney" in outputs["UTC"].stdout


def archive(*names: str, content: bytes = GOOD) -> bytes:
    """Return a zip archive of files with this content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, content)
    return out.getvalue()


def changed(offset: int, value: bytes, signature: bytes = b"PK\1\2") -> bytes:
    """Return an archive with other bytes at an offset from a signature."""
    content = bytearray(archive("a.csv"))
    start = content.rindex(signature) + offset
    content[start : start + len(value)] = value
    return bytes(content)


ODD_ARCHIVES = {
    "unknown version": changed(6, b"\xff\0"),
    "encrypted": changed(8, b"\1\0"),
    "patch data": changed(8, b"\x20\0"),
    "not UTF-8": changed(8, b"\0\x08").replace(b"a.csv", b"\xff\xff\xff\xff\xff"),
    "unknown method": changed(10, b"\x63\0"),
    "wrong checksum": changed(16, b"\0\0\0\0"),
    "offset behind the end": changed(42, b"\xfe\xff\xff\xff"),
    "zip64 without its record": changed(42, b"\xff\xff\xff\xff"),
    "huge directory": changed(12, b"\xfe\xff\xff\x7f", b"PK\5\6"),
    "directory before the start": changed(16, b"\xfe\xff\xff\x7f", b"PK\5\6"),
    "no directory": archive("a.csv")[:60],
    "directories only": archive("a/", content=b""),
    "nested": archive("a.zip", content=archive("a.csv")),
}


@pytest.mark.parametrize("kind", ODD_ARCHIVES)
def test_an_odd_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(ODD_ARCHIVES[kind])
    with pytest.raises(ObservationError, match="a.zip: ") as caught:
        reading.read(path)
    assert str(caught.value).isprintable()


def read_or_refuse(content: bytes) -> None:
    """Read content; only ObservationError may be raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reading.read(io.BytesIO(content), name="a file")
        except ObservationError:
            pass


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_a_damaged_archive_is_read_or_refused(changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(archive("a.csv"))
    for position, value in changes:
        start = position % len(content)
        content[start : start + len(value)] = value
    read_or_refuse(bytes(content))


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    """Return a folder with a file, and one in a subfolder."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.csv").write_bytes(GOOD)
    (folder / "sub" / "b.csv").write_bytes(GOOD)
    return folder


def link_to_folder(path: Path) -> None:
    """Make a path a link to its folder."""
    path.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("make", "message", "arguments"),
    [
        (lambda path: path.symlink_to("nowhere"), "No such file or directory", ("in", "in/**", "in/*/*")),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links", ("in", "in/**", "in/*/*")),
        # A pattern selects only files.
        (link_to_folder, "a link to a folder, which is not followed", ("in",)),
        (os.mkfifo, "not a file", ("in",)),
    ],
    ids=["dangling link", "loop", "link to a folder", "pipe"],
)
def test_a_folder_that_can_be_read_only_in_part_is_refused(
    arguments: tuple[str, ...],
    make: Callable[[Path], None],
    message: str,
    folder: Path,
    command: Command,
    trained: Path,
) -> None:
    odd = folder / "sub" / "odd.csv"
    make(odd)
    for argument in arguments:
        completed = command("prediction.py", folder.parent / argument, "--model", trained)
        assert completed.returncode == 2, completed.stderr
        assert completed.stderr.decode().startswith(f"prediction.py: {odd}: ")
        assert message in completed.stderr.decode()
        assert completed.stdout == b""


@pytest.mark.parametrize("argument", ["in", "in/**", "in/*/*.csv"])
def test_a_folder_without_permission_is_refused(argument: str, folder: Path, trained: Path, tmp_path: Path) -> None:
    (folder / "sub").chmod(0)
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from raincast.observations.paths import files\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(files(sys.argv[1]))"
    )
    assert trained
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(0o755)
    call = [sys.executable, "-c", code, str(tmp_path / argument)]
    completed = subprocess.run(call, capture_output=True, text=True, check=False)
    (folder / "sub").chmod(0o755)
    assert f"ObservationError: {folder}/sub: cannot be read: Permission denied" in completed.stderr, completed.stderr


@pytest.mark.parametrize("argument", ["", "x" * 300, "x" * 5000])
def test_an_impossible_input_is_refused(argument: str, command: Command, trained: Path) -> None:
    completed = command("prediction.py", argument, "--model", trained)
    assert completed.returncode == 2
    assert completed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["a.csv", "link.csv", "hard.csv", "../in/a.csv"])
@pytest.mark.parametrize("argument", ["in/a.csv", "in", "in/*.csv", "-"])
def test_an_output_that_is_an_input_is_refused(
    name: str, argument: str, folder: Path, trained: Path, tmp_path: Path
) -> None:
    (folder / "link.csv").symlink_to(folder / "a.csv")
    (folder / "hard.csv").hardlink_to(folder / "a.csv")
    given_input = argument if argument == "-" else tmp_path / argument
    call = [sys.executable, str(ROOT / "prediction.py"), str(given_input), "-o", str(folder / name)]
    call += ["--model", str(trained)]
    with (folder / "a.csv").open("rb") as stdin:
        completed = subprocess.run(call, stdin=stdin, capture_output=True, check=False)
    assert completed.returncode == 2
    assert b"is also an input" in completed.stderr
    assert (folder / "a.csv").read_bytes() == GOOD


def test_an_output_in_the_model_directory_is_refused(command: Command, trained: Path, folder: Path) -> None:
    before = (trained / "model.json").read_bytes()
    for name in ("model.json", "new.json"):
        completed = command("prediction.py", folder / "a.csv", "-o", trained / name, "--model", trained)
        assert completed.returncode == 2
        assert b"is in the model directory" in completed.stderr
    assert (trained / "model.json").read_bytes() == before


def test_a_loop_of_links_as_output_is_refused(command: Command, trained: Path, folder: Path) -> None:
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    completed = command("prediction.py", folder / "a.csv", "-o", folder / "loop.csv", "--model", trained)
    assert completed.returncode == 2
    assert completed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["\x1b]0;pwned\x07.csv", "a\rb.csv", "a\nb.csv", "\x9b31m.csv"])
def test_control_characters_of_a_name_never_reach_a_terminal(
    name: str, command: Command, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    for content in b"Location,Rainfall\n", b"Location,Rainfall,\x1b[31m\nSyd\x1b[2Jney,1\n", GOOD[:-2] + b"\x1b\n":
        path.write_bytes(content)
        completed = command("prediction.py", path, "--model", trained)
        assert completed.returncode == 2
        assert all(line.isprintable() for line in completed.stderr.decode().split("\n"))
        assert completed.stderr.count(b"\n") <= 2


def test_a_full_temporary_folder_is_one_line(command: Command, trained: Path, tmp_path: Path) -> None:
    content = b"Location,Rainfall\n" + b"Sydney,1\n" * 300_000
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content))
    with small_disk(tmp_path / "disk", "256k") as disk:
        for given_input, stdin in (path, b""), ("-", content), ("-", archive("a.csv", content=os.urandom(900_000))):
            completed = command("prediction.py", given_input, "--model", trained, stdin=stdin, TMPDIR=str(disk))
            assert completed.returncode in (1, 2) if b"\0" in stdin else completed.returncode == 1
            assert completed.stderr.count(b"\n") == 1, completed.stderr
            assert not list(disk.iterdir())


def test_folders_of_killed_runs_are_swept_and_others_stay(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from raincast import temporary\n"
        "with temporary.folder() as folder:\n"
        "    (folder / 'rows').write_text('x'); print(folder, flush=True); time.sleep(60)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    other = tmp_path / f"{temporary.PREFIX}not-ours"
    other.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / f"{temporary.PREFIX}abcdefgh").symlink_to(target)
    call = [sys.executable, "-c", code]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=environment, text=True) as killed:
        assert killed.stdout
        left = Path(killed.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
    assert (left / "rows").is_file()
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=environment, text=True) as running:
        assert running.stdout
        used = Path(running.stdout.readline().strip())
        assert not left.exists()
        short = code.replace("time.sleep(60)", "")
        subprocess.run([sys.executable, "-c", short], stdout=subprocess.PIPE, env=environment, check=True)
        assert (used / "rows").is_file()
        running.send_signal(signal.SIGKILL)
    assert other.is_dir()
    assert target.is_dir()


def test_json_lines_and_records_of_the_same_rows_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raincast.observations.formats.WHOLE_JSON", 100)
    records = [{"Location": f"S{i}", "Rainfall": i} for i in range(50)]
    tables = []
    for text in (
        json.dumps(records),
        json.dumps({"observations": records}),
        "".join(json.dumps(record) + "\n" for record in records),
        "".join(json.dumps(record, indent=1) + "\n" for record in records),
    ):
        path = tmp_path / "a.json"
        path.write_text(text)
        tables.append(reading.read(path)["Rainfall"].tolist())
    assert tables[0] == [float(i) for i in range(50)]
    assert tables == [tables[0]] * 4


def test_lying_sizes_of_gzip_and_zip_do_not_matter() -> None:
    packed = gzip.compress(GOOD)
    read_or_refuse(packed[:-4] + struct.pack("<I", 0xFFFFFFFF))
    read_or_refuse(archive("a.csv").replace(b"a.csv", b"\0.csv"))
    for offset in (20, 24):
        read_or_refuse(changed(offset, b"\xfe\xff\xff\xff"))
    read_or_refuse(changed(22, b"\xff\xff\xff\x7f", b"PK\3\4"))
