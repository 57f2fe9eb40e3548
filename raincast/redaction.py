"""Redaction: URLs in a text lose user, password, query and fragment, which may hold secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Shorter parts of a URL are in texts by chance.
SHORTEST_SECRET = 3
_URL = re.compile(r"([A-Za-z][\w+.-]*://)([^\s'\"<>]*[^\s'\"<>:,;.)])")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")


def redact(text: str) -> str:
    """Return a text whose URLs lack user, password, query and fragment; in doubt more than these is left out."""
    return _URL.sub(_redacted, text) if "://" in text else text


def without_parts_of(text: str, url: str) -> str:
    """Return a redacted text without the secrets of a URL, which libraries also quote in pieces, such as the path."""
    user = url.partition("://")[2].rpartition("@")[0]
    query = re.split(r"[?#]", url, maxsplit=1)[1:]
    parts = re.split(r"[:@/?#&=]", "/".join([user, *query]))
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        if len(part) >= SHORTEST_SECRET:
            text = text.replace(part, "***")
    return redact(text)


def _redacted(match: re.Match[str]) -> str:
    scheme, rest = match[1], re.split(r"[?#]", match[2], maxsplit=1)[0]
    end = rest.rfind("@")
    # A password may hold "/" unquoted: then the user ends behind what looks like the host.
    if end >= 0 and ("@" in rest.partition("/")[0] or ":" in rest[:end]):
        rest = rest[end + 1 :]
    # Neither host nor host:port: the start of a password that holds "?" or "#".
    if not _AUTHORITY.fullmatch(rest.partition("/")[0]):
        return f"{scheme}***"
    return scheme + rest
