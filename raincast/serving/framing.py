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
PIECE_BYTES = 1_024
_END = b"\r\n\r\n"
# RFC 3986, 3.2.2 and 3.2.3: what a host and a port consist of.
_HOST = re.compile(rb"[\w.~!$&'()*+,;=:%\[\]-]*", re.ASCII)
_ENCODINGS = frozenset((b"te", b"transfer-encoding"))
_SINGLE = (b"host", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding")


def refusal(version: str, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> Problem | None:
    """Return the reason to refuse a request whose head the parser accepts, if there is one.

    `fields` are the headers by name.
    """
    if len(headers) > FIELDS:
        return too_many_fields()
    if version not in ("1.0", "1.1"):
        return Problem(505, "http", f"HTTP/{version} is not supported")
    if len(fields) < len(headers):
        names = [name for name, _ in headers]
        repeated = [name for name in _SINGLE if names.count(name) > 1]
        if repeated:
            return Problem(400, "http", f"the header {repeated[0].decode()} is there more than once")
    host = fields.get(b"host", None if version == "1.1" else b"")
    if host is None or not _HOST.fullmatch(host):
        return Problem(400, "http", f"the header host is {'missing' if host is None else 'not valid'}")
    return None if _ENCODINGS.isdisjoint(fields) else _wrong_encoding(version, fields)


def _wrong_encoding(version: str, fields: dict[bytes, bytes]) -> Problem | None:
    if b"chunked" in fields.get(b"te", b"").lower():
        return Problem(400, "http", "the header te must not list chunked")
    encoding = fields.get(b"transfer-encoding", b"chunked").strip().lower()
    if encoding != b"chunked":
        return Problem(501, "http", "Transfer-Encoding has to be chunked")
    if version == "1.0" and b"transfer-encoding" in fields:
        return Problem(400, "http", "HTTP/1.0 has no Transfer-Encoding")
    return None


def too_many_fields() -> Problem:
    """Return the refusal of a request with more than FIELDS header fields."""
    return Problem(431, "headers", f"the request has more than {FIELDS} header fields")


def too_large() -> Problem:
    """Return the refusal of a body that is larger than MAX_BODY."""
    return Problem(413, "too_large", f"the body is larger than {MAX_BODY} bytes")


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
