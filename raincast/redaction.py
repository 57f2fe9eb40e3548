"""Redaction: URLs in a text lose user, password, query and fragment, which may hold secrets."""

from __future__ import annotations

import re

_URL = re.compile(r"([A-Za-z][\w+.-]*://)([^\s'\"<>]*)")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")


def redact(text: str) -> str:
    """Return a text whose URLs lack user, password, query and fragment; in doubt more than these is left out."""
    return _URL.sub(_redacted, text) if "://" in text else text


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
