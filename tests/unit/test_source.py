"""Training data from a path or a URL, and its SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincast import source
from raincast.observations import ObservationError

CONTENT = b"Location,Rainfall\nAlbury,1\n"
PLAIN = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(name="packed")
def fixture_packed(tmp_path: Path) -> Path:
    """A gzipped file."""
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(CONTENT))
    return path


@pytest.fixture(name="url")
def fixture_url(packed: Path) -> Iterator[str]:
    """A web server on loopback with the gzipped file."""

    class Files(http.server.SimpleHTTPRequestHandler):
        """Serves the folder of the fixture, silently."""

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(packed.parent))  # type: ignore[arg-type]

        def log_message(self, *_args: object) -> None:  # type: ignore[override]  # pylint: disable=arguments-differ
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{packed.name}"
        server.shutdown()
        thread.join()


def test_the_hash_is_that_of_the_content_however_it_is_packed(packed: Path, tmp_path: Path) -> None:
    plain = tmp_path / "data.csv"
    plain.write_bytes(CONTENT)
    assert source.verified_sha256("x", packed, None) == source.verified_sha256("x", plain, None) == PLAIN


def test_either_hash_may_be_expected(packed: Path) -> None:
    of_file = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert of_file != PLAIN
    assert source.verified_sha256("x", packed, of_file) == PLAIN
    assert source.verified_sha256("x", packed, PLAIN.upper()) == PLAIN


def test_another_hash_is_refused(packed: Path) -> None:
    with pytest.raises(ObservationError, match=f"data: its SHA-256 is .*unpacked {PLAIN}.*, expected was abc"):
        source.verified_sha256("data", packed, "abc")


def test_a_url_is_downloaded_and_the_copy_removed(url: str) -> None:
    with source.local(url) as path:
        assert gzip.decompress(path.read_bytes()) == CONTENT
    assert not path.exists()


def test_a_url_that_is_not_there_is_refused(url: str) -> None:
    with pytest.raises(ObservationError, match="nowhere: cannot be downloaded: 404"), source.local(url + "/nowhere"):
        pass


def test_a_server_that_is_not_there_is_refused() -> None:
    with pytest.raises(ObservationError, match="cannot be downloaded: .*refused"), source.local("http://127.0.0.1:9/x"):
        pass
