"""Training data from a path or URL, and its SHA-256."""

from __future__ import annotations

import base64
import hashlib
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from raincast import __version__, temporary
from raincast.observations.errors import ObservationError
from raincast.observations.reading import readable, unpacked
from raincast.redaction import redact

USER_AGENT = f"raincast/{__version__}"
# Limit of the silence of a server, and of a complete download.
TIMEOUT_SECONDS, LONGEST_SECONDS = 60.0, 900.0
LARGEST_BYTES = 1_000_000_000
CHUNK_BYTES = 65_536


@contextmanager
def local_copy(path_or_url: str) -> Iterator[Path]:
    """Yield a path, for an http(s) URL that of a temporary download.

    Raises ObservationError, whose message holds no secrets; OSError if TMPDIR is full.
    """
    if "://" not in path_or_url:
        yield Path(path_or_url)
        return
    # What follows white space may be a part of a password or query.
    name = redact(path_or_url.split()[0])
    if not path_or_url.lower().startswith(("http://", "https://")):
        raise ObservationError(f"{name}: neither a path nor an http(s) URL")
    with temporary.folder() as folder:
        path = folder / "download"
        # A server can make any step last, so that only another thread can end the wait.
        download = _Download(path_or_url, name, path)
        download.start()
        try:
            download.join(LONGEST_SECONDS)
            if download.is_alive():
                raise ObservationError(f"{name}: the download takes more than {LONGEST_SECONDS:g} s")
        finally:
            download.stopped = True
        if download.error:
            raise download.error
        yield path


class _Download(threading.Thread):
    """Download of a URL to a file; afterwards `error` is None if it is complete."""

    def __init__(self, url: str, name: str, path: Path) -> None:
        super().__init__(name="download", daemon=True)
        self.url, self.source, self.path = url, name, path
        self.stopped = False
        self.error: Exception | None = None

    def run(self) -> None:
        """Download, or set `error`."""
        try:
            self._download()
        except (ObservationError, temporary.TemporaryError) as error:
            self.error = error
        except urllib.error.HTTPError as error:
            status = f"{error.code} {http.client.responses.get(error.code, '')}".rstrip()
            if 300 <= error.code < 400:
                status += ", redirected too often or to an address that is not http(s)"
            self.error = self._refusal(status)
        except (OSError, http.client.HTTPException) as error:
            reason: object = getattr(error, "reason", error)
            # Messages of other errors may repeat the URL.
            self.error = self._refusal(str(reason) if isinstance(reason, OSError) else "no valid response to the URL")
        except ValueError:
            self.error = self._refusal("the URL, or one that it redirects to, is not valid")

    def _refusal(self, reason: str) -> ObservationError:
        return ObservationError(f"{self.source}: cannot be downloaded: {reason}")

    def _download(self) -> None:
        with _opener().open(_request(self.url), timeout=TIMEOUT_SECONDS) as response:
            expected = response.headers["Content-Length"]
            size = 0
            with self.path.open("wb") as file:
                while not self.stopped and (chunk := response.read1(CHUNK_BYTES)):
                    size += len(chunk)
                    if size > LARGEST_BYTES or (expected and expected.isdecimal() and int(expected) > LARGEST_BYTES):
                        raise ObservationError(f"{self.source}: the download has more than {LARGEST_BYTES} bytes")
                    _write(file, chunk)
        # Python treats a connection that closes early as the end of the file.
        if expected is not None and str(size) != expected.strip():
            raise ObservationError(f"{self.source}: the download ended after {size} of {expected} bytes")


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        reason = f"no room for the download, set TMPDIR to another folder: {error.strerror}"
        raise temporary.TemporaryError(error.errno, reason, file.name) from error


def _request(url: str) -> urllib.request.Request:
    """Return the request for a URL, which may have a user and password. Raises ValueError."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": USER_AGENT})
    if user:
        name, _, password = user.partition(":")
        token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        # Not for the host of a redirect.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens URLs, of http and https only: Python's own opens file:, ftp: and data: too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def verified_sha256(name: str, path: Path, expected: str | None) -> str:
    """Return the SHA-256 of a file's unpacked content, in hexadecimal.

    `expected` may be the hash of the file or of its unpacked content. Raises ObservationError if it is neither.
    """
    with readable(name), path.open("rb") as raw:
        packed = _sha256(raw)
        raw.seek(0)
        with unpacked(name, raw) as file:
            content = _sha256(file)
    if expected and expected.lower() not in (packed, content):
        raise ObservationError(f"{name}: its SHA-256 is {packed} (unpacked {content}), expected {expected}")
    return content


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
