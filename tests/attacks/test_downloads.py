"""Hostile servers of training data: without end, too slow, redirected, and URLs with secrets."""

from __future__ import annotations

import base64
import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raincast.observations import download
from raincast.observations.errors import ObservationError
from tests.attacks.memory import measured
from tests.conftest import ROOT

GOOD = b"Location,Rainfall,RainTomorrow\nSydney,1,No\n"
AUTHORIZATION = "Basic " + base64.b64encode(b"ann:p@ss:word").decode()


class Hostile(BaseHTTPRequestHandler):
    """Server that answers by the path of the request, and remembers each Authorization field."""

    seen: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Answer."""
        path = self.path.partition("?")[0]
        self.seen.append((path, self.headers["Authorization"]))
        with suppress(OSError):
            if path.startswith("/to-"):
                self.send_response(302)
                self.send_header("Location", self.target(path))
                self.end_headers()
            elif path == "/private" and self.headers["Authorization"] != AUTHORIZATION:
                self.send_error(401, "secret-reason")
            elif path == "/slow-head":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                self.drip(b"X: y\r\n")
            else:
                self.send_response(200)
                if path == "/longer":
                    self.send_header("Content-Length", str(len(GOOD) + 1))
                if path == "/huge":
                    self.send_header("Content-Length", "9" * 30)
                if path == "/odd":
                    self.send_header("Content-Length", "many")
                self.end_headers()
                if path == "/endless":
                    while True:
                        self.wfile.write(bytes(65_536))
                elif path == "/drip":
                    self.drip(b"x")
                else:
                    self.wfile.write(gzip.compress(bytes(200_000_000)) if path == "/bomb" else GOOD)

    def target(self, path: str) -> str:
        """Return where a path is redirected to."""
        host = f"http://localhost:{self.connection.getsockname()[1]}"
        return {
            "/to-file": "file:///etc/passwd?token=redirected",
            "/to-ftp": "ftp://127.0.0.1/x?token=redirected",
            "/to-data": "data:text/csv,Location",
            "/to-itself": "/to-itself",
            "/to-other": f"{host}/good",
            "/to-nonsense": "http://127.0.0.1:x?token=redirected/",
        }[path]

    def drip(self, part: bytes) -> None:
        """Send a part over and over, slowly."""
        while True:
            self.wfile.write(part)
            time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(name="host")
def fixture_host() -> Iterator[str]:
    """Start the server; return its host and port."""
    Hostile.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def refusal(url: str) -> str:
    """Return the message for a URL."""
    with pytest.raises(ObservationError) as caught, download.local_copy(url):
        pass
    return str(caught.value)


def content(url: str) -> bytes:
    """Return the content of a URL."""
    with download.local_copy(url) as path:
        return path.read_bytes()


def test_a_download_without_end_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST_BYTES", 1_000_000)
    assert refusal(f"http://{host}/endless").endswith("/endless: the download has more than 1000000 bytes")
    assert refusal(f"http://{host}/huge").endswith("/huge: the download has more than 1000000 bytes")


@pytest.mark.parametrize("path", ["drip", "slow-head"])
def test_a_slow_download_is_refused(path: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each byte arrives in time, the download does not.
    monkeypatch.setattr(download, "LONGEST_SECONDS", 0.5)
    assert refusal(f"http://{host}/{path}").endswith(f"/{path}: the download takes more than 0.5 s")


@pytest.mark.parametrize("path", ["longer", "odd"])
def test_a_wrong_length_is_refused(path: str, host: str) -> None:
    assert f"/{path}: the download ended after {len(GOOD)} of " in refusal(f"http://{host}/{path}")


@pytest.mark.parametrize("path", ["to-file", "to-ftp", "to-data", "to-itself", "to-nonsense"])
def test_a_redirect_to_anything_but_http_is_refused(path: str, host: str) -> None:
    message = refusal(f"http://{host}/{path}")
    assert f"/{path}: cannot be downloaded: " in message
    assert "redirected?" not in message
    assert "token" not in message


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data://x", "FILE:///etc/passwd"])
def test_other_addresses_are_refused(url: str) -> None:
    assert "neither a path nor an http(s) URL" in refusal(url)


def test_a_user_and_password_are_sent_only_to_their_host(host: str) -> None:
    assert content(f"http://ann:p%40ss%3Aword@{host}/private") == GOOD
    assert content(f"http://ann:p%40ss%3Aword@{host}/to-other") == GOOD
    assert Hostile.seen == [("/private", AUTHORIZATION), ("/to-other", AUTHORIZATION), ("/good", None)]


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:Secret1@{host}/private?token=Secret2#Secret3",
        "http://ann:Secret1@{host}/longer?token=Secret2",
        "http://ann:Secret1@{host}/to-file?token=Secret2",
        "http://ann:Secret1@{host}/a b?token=Secret2",
        "http://ann:Secret1@{host}/\x01?token=Secret2",
        "http://ann:Secret1@{host}x/?token=Secret2",
        "http://ann:Secret1@[{host}/?token=Secret2",
        "http://ann:Sec#Secret1@{host}/",
        "http://ann:Sec?Secret1@{host}/",
        "http://ann:Sec/Secret1@{host}/",
        "http://ann:\udcffSecret1@{host}/",
        "ftp://ann:Secret1@{host}/?token=Secret2",
        "http://:Secret1@/x?token=Secret2",
    ],
)
def test_secrets_of_a_url_are_never_shown(url: str, host: str) -> None:
    message = refusal(url.format(host=host))
    assert "Sec" not in message
    assert "secret-reason" not in message


def test_the_command_downloads_hostile_data_in_bounded_memory(host: str, tmp_path: Path) -> None:
    url = f"http://ann:Secret1@{host}/bomb?token=Secret2"
    arguments = ("--data", url, "--out", tmp_path / "m", "--no-tracking")
    result = measured(str(ROOT / "train.py"), *arguments, TMPDIR=str(tmp_path))
    assert result.code == 2
    assert f"http://{host}/bomb: " in result.stderr
    assert "Secret" not in result.stderr
    assert result.peak <= 1_000_000_000
    assert not list(tmp_path.iterdir())
