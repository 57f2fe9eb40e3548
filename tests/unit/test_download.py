"""Training data from a path or a URL, and its SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincast.observations import download
from raincast.observations.errors import ObservationError
from raincast.redaction import redact

CONTENT = b"Location,Rainfall\nAlbury,1\n"
PLAIN = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(name="packed")
def fixture_packed(tmp_path: Path) -> Path:
    """Return the path of a gzipped file."""
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(CONTENT))
    return path


@pytest.fixture(name="url")
def fixture_url(packed: Path) -> Iterator[str]:
    """Yield the URL of the gzipped file on a web server on loopback."""

    class Files(http.server.SimpleHTTPRequestHandler):
        """Serves the folder of the fixture, silently."""

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(packed.parent))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if not self.path.startswith("/short"):
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_args: object) -> None:  # pylint: disable=arguments-differ
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{packed.name}"
        server.shutdown()
        thread.join()


def test_the_hash_is_that_of_the_unpacked_content(packed: Path, tmp_path: Path) -> None:
    plain = tmp_path / "data.csv"
    plain.write_bytes(CONTENT)
    assert download.verified_sha256("x", packed, None) == download.verified_sha256("x", plain, None) == PLAIN


def test_the_hash_of_the_file_or_of_its_content_may_be_expected(packed: Path) -> None:
    of_file = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert of_file != PLAIN
    assert download.verified_sha256("x", packed, of_file) == PLAIN
    assert download.verified_sha256("x", packed, PLAIN.upper()) == PLAIN


def test_another_hash_is_refused(packed: Path) -> None:
    with pytest.raises(ObservationError, match=f"data: its SHA-256 is .*unpacked {PLAIN}.*, expected abc"):
        download.verified_sha256("data", packed, "abc")


def test_a_url_is_downloaded_and_the_copy_removed(url: str) -> None:
    with download.local_copy(url) as path:
        assert gzip.decompress(path.read_bytes()) == CONTENT
    assert not path.exists()


def test_an_absent_url_is_refused(url: str) -> None:
    with (
        pytest.raises(ObservationError, match="nowhere: cannot be downloaded: 404"),
        download.local_copy(url + "/nowhere"),
    ):
        pass


def test_an_absent_server_is_refused() -> None:
    with (
        pytest.raises(ObservationError, match="cannot be downloaded: .*refused"),
        download.local_copy("http://127.0.0.1:9/x"),
    ):
        pass


def test_a_download_that_ends_early_is_refused(url: str) -> None:
    short = url.rpartition("/")[0] + "/short.csv"
    with pytest.raises(ObservationError, match="the download ended after 27 of 1000 bytes"), download.local_copy(short):
        pass


@pytest.mark.parametrize("bad", ["ftp://example.org/x.csv", "s3://bucket/x.csv"])
def test_other_schemes_are_refused(bad: str) -> None:
    with pytest.raises(ObservationError, match=f"{bad}: neither a path nor an http"), download.local_copy(bad):
        pass


@pytest.mark.parametrize("bad", ["http://[", "http://exa mple/x", "http://127.0.0.1:x/y"])
def test_an_invalid_url_is_refused(bad: str) -> None:
    with pytest.raises(ObservationError, match="cannot be downloaded"), download.local_copy(bad):
        pass


def test_no_secret_of_a_url_is_shown() -> None:
    secret = "http://user:secret@127.0.0.1:9/a/b.csv?token=secret#secret"
    assert redact(secret) == "http://127.0.0.1:9/a/b.csv"
    assert redact("some/file.csv") == "some/file.csv"
    with pytest.raises(ObservationError) as caught, download.local_copy(secret):
        pass
    assert "secret" not in str(caught.value)
