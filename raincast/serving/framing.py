"""Framing of HTTP/1.1 requests: which heads are refused, and where the bytes are cut for the parser.

The parser alone decides what a request is; bytes are never changed. RFC 9112 has the rules.
"""

from __future__ import annotations

import re

from raincast.serving.problems import Problem

FIELDS = 100
HEADER_BYTES = 65_536
MAX_BODY = 10_000_000
# Bytes of a head, or of a chunked body, that are parsed at once.
PIECE_BYTES = 4_096
_END = b"\r\n\r\n"
# RFC 3986, 3.2.2 and 3.2.3: what a host and a port consist of.
_HOST = re.compile(rb"[\w.~!$&'()*+,;=:%\[\]-]*", re.ASCII)
_SINGLE = (b"host", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding")


def refusal(version: str, headers: list[tuple[bytes, bytes]]) -> Problem | None:
    """Return the reason to refuse a request whose head the parser accepts, if there is one."""
    if version not in ("1.0", "1.1"):
        return Problem(505, "http", f"HTTP/{version} is not supported")
    fields = dict(headers)
    reason = _wrong_field(version == "1.0", fields, [name for name, _ in headers])
    if reason:
        return Problem(400, "http", reason)
    if fields.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
        return Problem(501, "http", "Transfer-Encoding has to be chunked")
    return None


def _wrong_field(old: bool, fields: dict[bytes, bytes], names: list[bytes]) -> str | None:
    """Return the reason to refuse the headers of a request, by HTTP/1.0 if `old`."""
    repeated = [name for name in _SINGLE if names.count(name) > 1] if len(fields) < len(names) else []
    if repeated:
        return f"the header {repeated[0].decode()} is there more than once"
    if b"host" not in fields and not old:
        return "the header host is missing"
    if not _HOST.fullmatch(fields.get(b"host", b"")):
        return "the header host is not valid"
    if old and b"transfer-encoding" in fields:
        return "HTTP/1.0 has no Transfer-Encoding"
    return "the header te must not list chunked" if b"chunked" in fields.get(b"te", b"").lower() else None


def too_large() -> Problem:
    """Return the refusal of a body that is larger than MAX_BODY."""
    return Problem(413, "too_large", f"the body is larger than {MAX_BODY} bytes")


def content_length(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the length of the body by its header, which the parser has checked, 0 without one."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def end_of_piece(data: bytes, start: int, before: bytes, most: int) -> int:
    """Return where to cut `data` from `start`, so that a request that ends by an empty line ends a piece.

    `before` are the last three bytes before `start`, and a piece has at most `most` bytes.
    """
    if before:
        seam = (before + data[start : start + 3]).find(_END)
        if seam >= 0:
            return start + seam + len(_END) - len(before)
    end = data.find(_END, start, start + most)
    return end + len(_END) if end >= 0 else min(len(data), start + most)
