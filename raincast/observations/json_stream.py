"""Records of JSON documents that are too large for memory, one at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from raincast.observations.errors import FormatError, ObservationError

_SPACE = re.compile(r"[ \t\r\n]*")
_LIST = re.compile(r'[ \t\r\n]*(?:\{[ \t\r\n]*"observations"[ \t\r\n]*:[ \t\r\n]*)?\[')
_END_OF_BODY = re.compile(r"[ \t\r\n]*\}")


class _Text:
    """Text of which only a part is in memory."""

    def __init__(self, name: str, chunks: Iterable[bytes]) -> None:
        self.name, self.chunks = name, iter(chunks)
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.position, self.ended = "", 0, False

    def fill(self, length: int) -> None:
        """Hold at least this many characters after the position, or all that follow. Raises FormatError."""
        while not self.ended and len(self.text) - self.position < length:
            chunk = next(self.chunks, b"")
            self.ended = not chunk
            try:
                more = self.decode(chunk, self.ended)
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{self.name}: the JSON is not UTF-8: byte 0x{error.object[error.start]:02x}"
                ) from error
            self.text, self.position = self.text[self.position :] + more, 0

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind a match at the position; return False if there is none."""
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return match is not None

    def skip_space(self) -> str:
        """Move behind white space and return the next character, "" at the end."""
        self.fill(1)
        while self.skip(_SPACE) and self.position == len(self.text) and not self.ended:
            self.fill(1)
        return self.text[self.position : self.position + 1]


def json_records(
    name: str, chunks: Iterable[bytes], decoder: json.JSONDecoder, longest: int
) -> Iterator[dict[str, Any]]:
    """Yield the records of an array, {"observations": array} or objects one after the other.

    A record has at most `longest` characters. Raises ObservationError.
    """
    text = _Text(name, chunks)
    text.fill(longest)
    start = text.text[: text.position + longest]
    in_list = text.skip(_LIST)
    in_body = in_list and start.lstrip().startswith("{")
    number = 0
    while (character := text.skip_space()) not in ("", "]"):
        number += 1
        yield _record(text, number, decoder, longest)
        if in_list and (character := text.skip_space()) != "]":
            if character != ",":
                raise FormatError(f"{name}: not valid JSON: no comma or bracket after observation {number}")
            text.position += 1
            if text.skip_space() in ("", "]"):
                raise FormatError(f"{name}: not valid JSON: no observation after the last comma")
    if in_list:
        if character != "]":
            raise FormatError(f"{name}: not valid JSON: the list of observations does not end")
        text.position += 1
        if in_body:
            text.skip_space()
            if not text.skip(_END_OF_BODY):
                raise FormatError(f"{name}: not valid JSON: no closing brace after the list of observations")
    if text.skip_space():
        raise FormatError(f"{name}: not valid JSON: there is more after the list of observations")


def _record(text: _Text, number: int, decoder: json.JSONDecoder, longest: int) -> dict[str, Any]:
    text.fill(longest + 1)
    if text.text[text.position] != "{":
        raise ObservationError(f"{text.name}: the JSON is not a list of observations, each an object")
    part = text.text[text.position : text.position + longest]
    try:
        record, length = decoder.raw_decode(part)
    except (ValueError, RecursionError) as error:
        if len(part) == longest:
            raise FormatError(
                f"{text.name}: observation {number} is not valid JSON, or longer than {longest} characters"
            ) from error
        raise FormatError(f"{text.name}: not valid JSON: observation {number}: {error}") from error
    text.position += length
    return cast(dict[str, Any], record)
