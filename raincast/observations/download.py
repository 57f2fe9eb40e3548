"""Training data from a path or URL, checked against an expected SHA-256."""

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


def without_secrets(source: str) -> str:
    """What messages and model.json call a source: a URL without user, password and query, which may hold secrets."""
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return "the URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """A path for a path or an http(s) URL; what was downloaded is gone at the end. Raises ObservationError."""
    if "://" not in source:
        yield Path(source)
        return
    if not source.lower().startswith(("http://", "https://")):
        raise ObservationError(f"{without_secrets(source)}: neither a path nor an http(s) URL")
    with tempfile.NamedTemporaryFile(prefix="raincast-") as file:
        try:
            request = urllib.request.Request(source, headers={"User-Agent": USER_AGENT})
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                shutil.copyfileobj(answer, file)
                expected = answer.headers["Content-Length"]
        except urllib.error.HTTPError as error:
            raise ObservationError(
                f"{without_secrets(source)}: cannot be downloaded: {error.code} {error.reason}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ObservationError(f"{without_secrets(source)}: cannot be downloaded: {reason}") from error
        # Python takes a connection that closes early for the end of the file.
        if expected is not None and file.tell() != int(expected):
            raise ObservationError(
                f"{without_secrets(source)}: the download ended after {file.tell()} of {expected} bytes"
            )
        file.flush()
        yield Path(file.name)


def verified_sha256(name: str, path: Path, expected: str | None) -> str:
    """SHA-256 of a file's unpacked content, in hexadecimal.

    `expected` may be that of the file as it is or of its unpacked content; ObservationError where it is neither.
    """
    with readable(name), path.open("rb") as raw:
        packed = _sha256(raw)
        raw.seek(0)
        with unpacked(name, raw) as file:
            content = _sha256(file)
    if expected and expected.lower() not in (packed, content):
        raise ObservationError(f"{name}: its SHA-256 is {packed} (unpacked {content}), expected was {expected}")
    return content


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
