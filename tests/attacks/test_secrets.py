"""Passwords in URLs reach neither standard error, nor model.json, nor MLflow."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincast.redaction import redact, without_parts_of
from tests.conftest import ROOT, Command

SECRET = "s3cr3t"
FEW_TREES = ("--iterations", "2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no URL at all: what?", "no URL at all: what?"),
        ("postgresql://user:s3cr3t@host:5432/db", "postgresql://host:5432/db"),
        ("at 'https://s3cr3t@host/a?token=s3cr3t#s3cr3t', twice", "at 'https://host/a', twice"),
        ("http://u:p@ss/s3cr3t@host/", "http://host/"),
        ("http://u:s3?cr3t@host/", "http://***"),
        ("http://u:s3#cr3t@host/", "http://***"),
        ("http://u:12/s3cr3t@host/x", "http://host/x"),
        ("http://host:80/a?mail=a@b&token=s3cr3t", "http://host:80/a"),
        ("http://host/a@b", "http://host/a@b"),
        ("not logged to http://user:s3cr3t@127.0.0.1:9: refused", "not logged to http://127.0.0.1:9: refused"),
        ("http://[::1]:80/a http://u:s3cr3t@h", "http://[::1]:80/a http://h"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_urls_lose_their_secrets(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_secret_that_a_library_quotes_without_its_url_is_hidden() -> None:
    url = "http://user:s3%40cr3t@host/x?token=abcdef"
    text = without_parts_of("with url: /x?token=abcdef/api; host 's3@cr3t'; s3%40cr3t", url)
    assert not any(part in text for part in ("abcdef", "s3@cr3t", "s3%40cr3t"))


@pytest.fixture(name="website", scope="module")
def fixture_website(slice_csv: Path) -> Iterator[str]:
    """Yield host and port of a web server with the slice."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(slice_csv.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_training_records_no_secret_of_the_data(
    website: str, command: Command, slice_csv: Path, tmp_path: Path
) -> None:
    out, store = tmp_path / "model", tmp_path / "store"
    store.mkdir()
    process = command(
        "train.py",
        "--data",
        f"http://{website}/{slice_csv.name}?token={SECRET}",
        "--out",
        out,
        *FEW_TREES,
        MLFLOW_TRACKING_URI=f"sqlite:///{store}/runs.db",
    )
    assert process.returncode == 0, process.stderr.decode()
    written = [path for folder in (out, store) for path in folder.rglob("*") if path.is_file()]
    assert written
    for content in (process.stdout, process.stderr, *(path.read_bytes() for path in written)):
        assert SECRET.encode() not in content


STORES = {
    "without driver": f"postgresql://user:{SECRET}@127.0.0.1:1/db",
    "without another driver": f"mysql://user:{SECRET}@127.0.0.1:1/db",
    "unknown dialect": f"postgresql+none://user:{SECRET}@127.0.0.1:1/db",
    "unknown scheme": f"foo://user:{SECRET}@127.0.0.1:1/db",
    "unreachable": f"http://user:{SECRET}@127.0.0.1:9/?token={SECRET}",
    "slash in the password": f"http://user:pa/{SECRET}@127.0.0.1:9/",
    "no number as port": f"http://127.0.0.1:{SECRET}/",
    "broken address": f"http://[::1?{SECRET}",
}
STORES["read-only"] = "sqlite:////proc/nowhere/mlflow.db"
# Log an unfinished training to each store, and print the exit codes.
LOG = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from raincast import cli
from raincast.lifecycle import tracking
from raincast.observations import reading
_, directory, *stores = sys.argv
sys.argv = ["train.py"]
table = reading.read({sample!r})
for store in stores:
    os.environ["MLFLOW_TRACKING_URI"] = store
    print(cli.run(lambda: tracking.log(Path(directory), None, table)))
"""


def test_a_store_that_fails_is_one_line_without_secrets(trained: Path, tmp_path: Path) -> None:
    script = LOG.format(root=str(ROOT), sample=str(ROOT / "data" / "sample.csv"))
    call = [sys.executable, "-c", script, str(trained), *STORES.values()]
    env = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    process = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert process.stdout.split() == ["1"] * len(STORES), process.stderr
    lines = process.stderr.splitlines()
    assert len(lines) == len(STORES), process.stderr
    assert SECRET not in process.stderr
    assert all(line.startswith(f"train.py: the model is saved in {trained}, but not logged to ") for line in lines)


@pytest.mark.parametrize("script", ["prediction.py", "train.py"])
def test_a_wrong_call_shows_no_secret_and_no_control_character(script: str, command: Command) -> None:
    process = command(script, "a", "b", f"https://user:{SECRET}@host/\x1b[31m\u202e\x9b")
    assert process.returncode == 2
    stderr = process.stderr.decode()
    assert SECRET not in stderr
    assert all(character.isprintable() or character == "\n" for character in stderr)


@pytest.mark.parametrize("script", ["prediction.py", "train.py"])
def test_a_name_with_control_characters_reaches_no_terminal(script: str, command: Command) -> None:
    name = "/nowhere/\x1b]0;title\x07\r\x9b2J\u202e\n.csv"
    data = ("--data", name, "--no-tracking", "--out", "/proc/\x1b[2J/model") if script == "train.py" else (name,)
    process = command(script, *data)
    assert process.returncode != 0
    assert all(character.isprintable() or character == "\n" for character in process.stderr.decode())
    assert "\\x1b" in process.stderr.decode()
