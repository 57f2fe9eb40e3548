"""Invalid files and calls: one clear line on stderr, exit code 2, no traceback, no output."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command

HEADER = "Date,Location,Rainfall,Humidity3pm,WindDir9am\n"
GOOD = "2017-01-01,Albury,0.2,45,N\n"


def with_rows(*rows: str) -> bytes:
    """Return a CSV file with the header and these rows."""
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


BAD = {
    "empty": (b"", "the file is empty"),
    "only a header": (HEADER.encode(), "there is a header but no observation"),
    "binary": (bytes(range(256)) * 40, "(zero byte, this is not a text file|is not UTF-8)"),
    "truncated gzip": (gzip.compress(with_rows(GOOD) * 50)[:-20], "the gzip data ends early, the file is truncated"),
    "damaged gzip": (gzip.compress(with_rows(GOOD))[:10] + b"\xff" * 40, "the compressed data is damaged"),
    "wrong delimiter": (with_rows(GOOD).replace(b",", b";"), "separated by semicolons, commas are expected"),
    "tabs": (with_rows(GOOD).replace(b",", b"\t"), "separated by tabs, commas are expected"),
    "no Location": (b"Date,Rainfall\n2017-01-01,3\n", r"there is no column Location \(found: Date, Rainfall\)"),
    "no measurement": (b"Date,Location\n2017-01-01,Albury\n", "there is no measurement, such as MinTemp"),
    "text in a number": (
        with_rows("2017-01-01,Albury,wet,45,N"),
        "row 1, Rainfall: 'wet' is not a number, 0 to 500 mm",
    ),
    "150 % humidity": (
        with_rows("2017-01-01,Albury,0,45,N", "2017-01-02,Albury,0,150,N"),
        "row 2, Humidity3pm: '150' is not a number, 0 to 100 %",
    ),
    "a wind direction NWN": (with_rows("2017-01-01,Albury,0,45,NWN"), "row 1, WindDir9am: 'NWN' is not one of N NNE"),
    "30 February": (with_rows("2017-02-30,Albury,0,45,N"), "row 1, Date: '2017-02-30' is not a date as YYYY-MM-DD"),
    "a station-day twice": (
        with_rows("2017-01-01,Albury,0,45,N", "2017-01-01,Albury,1,46,N"),
        "row 2, Date: Albury on 2017-01-01 duplicates row 1",
    ),
    "a column twice": (b"Location,Rainfall,Rainfall\nAlbury,1,2\n", "duplicate column Rainfall"),
    "Latin-1": (with_rows("2017-01-01,Orléans,0,45,N").decode().encode("latin-1"), "line 2 is not UTF-8: byte 0xe9"),
    "UTF-16": (with_rows(GOOD).decode().encode("utf-16"), "line 1 (has a zero byte|is not UTF-8)"),
    "a field too many": (with_rows("2017-01-01,Albury,0,45,N,7"), "row 1, fields: '6' is not 5, as in the header"),
    "a field too few": (with_rows("2017-01-01,Albury,0"), "row 1, fields: '3' is not 5, as in the header"),
    "an open quote": (with_rows('2017-01-01,"Albury,0,45,N'), "row 1, fields: '2' is not 5, as in the header"),
    "broken JSON": (b'[{"Location": "Albury", ', "not valid JSON"),
    "broken Parquet": (b"PAR1" + bytes(50) + b"PAR1", "not a readable Parquet file"),
}


def assert_refused(completed: subprocess.CompletedProcess[bytes], message: str) -> None:
    """Assert exit code 2, one line on stderr with the message, nothing on stdout."""
    stderr = completed.stderr.decode()
    assert completed.returncode == 2, stderr
    assert re.search(message, stderr), stderr
    assert stderr.count("\n") == 1
    assert "Traceback" not in stderr
    assert completed.stdout == b""


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_reason(case: str, command: Command, tmp_path: Path, trained: Path) -> None:
    content, message = BAD[case]
    bad, out = tmp_path / "bad.csv", tmp_path / "out.csv"
    bad.write_bytes(content)
    completed = command("prediction.py", bad, "-o", out, "--model", trained)
    assert_refused(completed, f"^prediction.py: {bad}: .*{message}")
    assert not out.exists()


def test_standard_input_is_refused_by_its_name(command: Command, trained: Path) -> None:
    completed = command("prediction.py", "-", "--model", trained, stdin=BAD["150 % humidity"][0])
    assert_refused(completed, "^prediction.py: standard input: row 2, Humidity3pm: '150'")


def test_a_line_of_100_megabytes_is_refused_without_reading_it_into_memory(
    command: Command, tmp_path: Path, trained: Path
) -> None:
    bad = tmp_path / "long.csv"
    with bad.open("wb") as file:
        file.write(HEADER.encode())
        for _ in range(100):
            file.write(b"1" * 1_000_000)
    completed = command("prediction.py", bad, "--model", trained)
    assert_refused(completed, f"^prediction.py: {bad}: line 2 is longer than 65536 bytes")


def test_a_missing_file_and_a_folder_of_other_files_are_refused(
    command: Command, tmp_path: Path, trained: Path
) -> None:
    nowhere = tmp_path / "nowhere.csv"
    completed = command("prediction.py", nowhere, "--model", trained)
    assert_refused(completed, f"^prediction.py: {nowhere}: cannot be read: No such file or directory")
    completed = command("prediction.py", tmp_path, "--model", trained)
    assert_refused(completed, f"^prediction.py: {tmp_path}: there are no files")
    (tmp_path / "notes.txt").write_text("Dear diary,\n")
    completed = command("prediction.py", tmp_path, "--model", trained)
    assert_refused(completed, f"^prediction.py: {tmp_path}/notes.txt: there is no column Location")
    completed = command("train.py", "--data", tmp_path, "--out", tmp_path / "model", "--no-tracking")
    assert completed.returncode == 2
    assert completed.stderr.decode().endswith(f"train.py: {tmp_path}: cannot be read: Is a directory\n")


def test_an_invalid_call_is_refused(command: Command, tmp_path: Path, trained: Path) -> None:
    assert_refused(
        command("prediction.py", "-o", tmp_path / "x.xls", "--model", trained),
        "unknown suffix, known are .csv .*; pass --format",
    )
    gone = tmp_path / "gone" / "out.csv"
    assert_refused(command("prediction.py", "-o", gone, "--model", trained), f"{gone}: there is no such folder")
    completed = command("prediction.py", "--format", "xml")
    assert completed.returncode == 2
    assert b"invalid choice: 'xml'" in completed.stderr
    completed = command("prediction.py", RAINCAST_FORMAT="xml")
    assert completed.returncode == 2
    assert b"RAINCAST_FORMAT" in completed.stderr


@pytest.mark.parametrize("count", ["0", "-5", "many"])
def test_an_invalid_number_of_trees_is_refused(count: str, command: Command) -> None:
    completed = command("train.py", "--iterations", count)
    assert completed.returncode == 2
    assert b"argument --iterations" in completed.stderr


def test_a_folder_of_other_files_is_refused_before_training(command: Command, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    completed = command("train.py", "--out", tmp_path)
    assert_refused(completed, f"^train.py: {tmp_path}: holds other things than a model, which saving would delete")
    assert (tmp_path / "precious.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("- <&-", 2, "standard input is closed"),
        (">&-", 2, "standard output is closed; pass -o FILE"),
        ("nowhere.csv 2>&-", 2, ""),
        ("nowhere.csv 2>/dev/full", 2, ""),
        ("--format csv -o /dev/stdout | cat", 0, ""),
    ],
)
def test_closed_and_full_standard_streams(redirection: str, code: int, message: str, trained: Path) -> None:
    call = f"set -o pipefail; '{sys.executable}' '{ROOT / 'prediction.py'}' --model '{trained}' {redirection}"
    completed = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=False)
    assert completed.returncode == code, completed.stderr
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed.stdout.count("\n") == (50 if code == 0 else 0)


def test_a_changed_model_is_refused(command: Command, trained: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(trained, tmp_path / "model"))
    content = bytearray((changed / "model.onnx").read_bytes())
    content[1000] ^= 1
    (changed / "model.onnx").write_bytes(content)
    completed = command("prediction.py", "--model", changed)
    assert (completed.returncode, completed.stdout) == (1, b"")
    assert completed.stderr.decode().startswith(f"prediction.py: {changed}/model.onnx: SHA-256 differs")
    assert completed.stderr.count(b"\n") == 1


def test_a_missing_model_is_exit_code_1_with_one_line(command: Command, tmp_path: Path) -> None:
    completed = command("prediction.py", "--model", tmp_path)
    assert completed.returncode == 1
    assert completed.stderr.decode().startswith(f"prediction.py: {tmp_path}/model.json: there is no such file")
    assert completed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("case", ["empty", "150 % humidity", "Latin-1", "a station-day twice"])
def test_training_refuses_the_files_that_prediction_refuses(case: str, command: Command, tmp_path: Path) -> None:
    content, message = BAD[case]
    bad, out = tmp_path / "bad.csv", tmp_path / "model"
    bad.write_bytes(content.replace(b"WindDir9am\n", b"WindDir9am,RainTomorrow\n").replace(b",N\n", b",N,Yes\n"))
    completed = command("train.py", "--data", bad, "--out", out, "--no-tracking")
    stderr = completed.stderr.decode()
    assert completed.returncode == 2, stderr
    assert re.search(f"train.py: {bad}: .*{message}", stderr), stderr
    assert "Traceback" not in stderr
    assert not out.exists()
