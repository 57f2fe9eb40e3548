"""Training data from a path or URL, and its SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from raincast import __version__
from raincast.observations.errors import ObservationError
from raincast.observations.reading import readable, unpacked

USER_AGENT = f"raincast/{__version__}"
TIMEOUT_SECONDS = 60.0


def without_secrets(path_or_url: str) -> str:
    """Return the name for messages and model.json: a URL loses its user, password and query, which may hold secrets."""
    if "://" not in path_or_url:
        return path_or_url
    try:
        parts = urlsplit(path_or_url)
    except ValueError:
        return "the URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def local_copy(path_or_url: str) -> Iterator[Path]:
    """Yield a path, for an http(s) URL that of a temporary download. Raises ObservationError."""
    if "://" not in path_or_url:
        yield Path(path_or_url)
        return
    name = without_secrets(path_or_url)
    if not path_or_url.lower().startswith(("http://", "https://")):
        raise ObservationError(f"{name}: neither a path nor an http(s) URL")
    with tempfile.NamedTemporaryFile(prefix="raincast-") as file:
        try:
            request = urllib.request.Request(path_or_url, headers={"User-Agent": USER_AGENT})
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                shutil.copyfileobj(response, file)
                expected = response.headers["Content-Length"]
        except urllib.error.HTTPError as error:
            raise ObservationError(f"{name}: cannot be downloaded: {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ObservationError(f"{name}: cannot be downloaded: {reason}") from error
        # Python treats a connection that closes early as the end of the file.
        if expected is not None and file.tell() != int(expected):
            raise ObservationError(f"{name}: the download ended after {file.tell()} of {expected} bytes")
        file.flush()
        yield Path(file.name)


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
