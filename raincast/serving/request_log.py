"""Lines of the request log and of the forecast log, as JSON."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

# pylint: disable=too-few-public-methods  # Structs hold fields

Headers = dict[bytes, bytes]
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/: version, trace, the caller's span, flags; only later versions may have more.
TRACEPARENT = re.compile(
    rb"(?:(00)|(?!00|ff)[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}"
    rb"(?(1)|(?:-.*)?)",
    re.DOTALL,
)


class RequestLine(Struct, gc=False):
    """A request and its response."""

    time: str
    request_id: str
    trace_id: str | UnsetType
    parent_id: str | UnsetType
    method: str
    path: str
    status: int
    rows: int
    milliseconds: float
    model: str


class ForecastLine(Struct, gc=False):
    """A forecast with its observation."""

    time: str
    request_id: str
    model: str
    probability_of_rain: float
    rain_tomorrow: str
    observation: dict[str, Any]


def line(record: Struct) -> bytes:
    """Return a record as a line of JSON."""
    return msgspec.json.encode(record) + b"\n"


class RequestIds:
    """Identifiers of requests: the caller's if it matches REQUEST_ID, else a new one."""

    def __init__(self) -> None:
        self._prefix, self._numbers = os.urandom(6).hex(), itertools.count()

    def of(self, headers: Headers) -> str:
        """Return the identifier of a request with these headers."""
        value = headers.get(b"x-request-id")
        if value is not None and REQUEST_ID.fullmatch(text := value.decode("latin-1")):
            return text
        return f"{self._prefix}-{next(self._numbers):x}"


class Clock:
    """Text of the current time in UTC; the part that changes once a second is cached."""

    def __init__(self) -> None:
        self._second, self._text = 0, ""

    def now(self) -> str:
        """Return the time with milliseconds, in the format of RFC 3339."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((now - second) * 1000):03d}Z"


def trace_of(headers: Headers) -> tuple[str, str] | tuple[UnsetType, UnsetType]:
    """Return the trace and the caller's span in a valid `traceparent` header."""
    value = headers.get(b"traceparent")
    match = TRACEPARENT.fullmatch(value) if value is not None else None
    return (match["trace"].decode(), match["parent"].decode()) if match else (UNSET, UNSET)
