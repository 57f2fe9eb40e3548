"""CSV, JSON and JSON Lines: bytes to blocks of text columns.

Every value becomes text, which `parsing` checks: limits are the same in every format. Messages begin with `name`, the
caller's name for the input.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, Any, TypeVar

from raincast.observations.columns import COLUMNS, TARGET
from raincast.observations.errors import FormatError, ObservationError, Violation
from raincast.observations.json_stream import json_records
from raincast.observations.parsing import LONGEST_VALUE, check_columns, check_header

READ_BLOCK_ROWS = 50_000
# A weatherAUS line has about 120 characters. Longer lines than this are refused without reading them into memory.
LONGEST_LINE = 65_536
# Bytes of a record, which may have several lines.
LONGEST_RECORD = 131_072
# Up to this size JSON other than JSON Lines is decoded at once, and takes up to 40 times its size in memory.
WHOLE_JSON = 1_000_000
# A block ends after this many characters: its values take several times as much memory.
BLOCK_CHARACTERS = 16_000_000
Block = tuple[dict[str, Sequence[str]], list[Violation]]
Blocks = tuple[list[str], Iterator[Block]]
Item = TypeVar("Item")
_NOT_RECORDS = "the JSON is not a list of observations, each an object"
WANTED = tuple(column.name for column in (*COLUMNS, TARGET))
_WANTED = frozenset(WANTED)


def csv_blocks(name: str, file: IO[bytes]) -> Blocks:
    """Return header and blocks of a CSV file with commas, in UTF-8. Raises ObservationError."""
    lines = _RecordLines(name, file)
    rows = csv.reader(lines, skipinitialspace=True)
    records = _csv_records(name, rows, lines)
    header = [column.strip() for column in next(records, [])]
    check_columns(name, len(header))
    if len(header) == 1:
        for delimiter, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if delimiter in header[0]:
                raise ObservationError(f"{name}: the columns are separated by {word}, commas are expected")
    return header, _blocks_of_records(header, records)


def _lines(name: str, file: IO[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), first):
        if len(line) > LONGEST_LINE:
            raise FormatError(f"{name}: line {number} is longer than {LONGEST_LINE} bytes, the limit of a line")
        yield number, line


def _text_lines(name: str, file: IO[bytes]) -> Iterator[str]:
    for number, line in _lines(name, file):
        if b"\0" in line:
            raise FormatError(f"{name}: line {number} has a zero byte, this is not a text file")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise FormatError(
                f"{name}: line {number} is not UTF-8: byte 0x{byte:02x} at position {error.start + 1}"
                f" ({bytes([byte]).decode('latin-1')!r} in Latin-1); save the file as UTF-8"
            ) from error


class _RecordLines:
    """Lines of text, of which a record may have at most LONGEST_RECORD bytes; `size` counts those of this record."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.lines, self.size = name, _text_lines(name, file), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.size += len(line)
        if self.size > LONGEST_RECORD:
            raise FormatError(f"{self.name}: a record is longer than {LONGEST_RECORD} characters; is a quote missing?")
        return line


def _csv_records(name: str, rows: Any, lines: _RecordLines) -> Iterator[list[str]]:
    while True:
        lines.size = 0
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise FormatError(f"{name}: line {rows.line_num} is not CSV: {error}") from error
        if len(row) > 1 or (row and row[0].strip()):
            yield row


def _blocks_of_records(header: list[str], records: Iterator[list[str]]) -> Iterator[Block]:
    width, number = len(header), 0
    wanted = [i for i, column in enumerate(header) if column in WANTED]
    names = [header[i] for i in wanted]
    violations: list[Violation] = []

    def selected() -> Iterator[tuple[list[str], int]]:
        nonlocal number
        for row in records:
            number += 1
            if len(row) != width:
                violations.append(Violation(number, "fields", str(len(row)), f"{width}, as in the header"))
                row = (row + [""] * width)[:width]
            if len(wanted) != width:
                row = [row[i] for i in wanted]
            yield row, sum(map(len, row))

    for rows in _blocks(selected()):
        yield dict(zip(names, zip(*rows, strict=True), strict=True)), violations[:]
        violations.clear()


def _blocks(sized: Iterator[tuple[Item, int]]) -> Iterator[list[Item]]:
    """Yield lists of items with their sizes: up to READ_BLOCK_ROWS items, or BLOCK_CHARACTERS and the last item."""
    block: list[Item] = []
    total = 0
    for item, size in sized:
        block.append(item)
        total += size
        if len(block) >= READ_BLOCK_ROWS or total >= BLOCK_CHARACTERS:
            yield block
            block, total = [], 0
    if block:
        yield block


def json_blocks(name: str, file: IO[bytes]) -> Blocks:
    """Return header and blocks of a JSON array of records, {"observations": [records]} or JSON Lines.

    Raises ObservationError.
    """
    start = file.readline(LONGEST_LINE)
    if start.endswith(b"\n"):
        try:
            first = _decoder().decode(start.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            first = None
        if isinstance(first, dict) and "observations" not in first:
            return _streamed(name, chain([first], _json_line_records(name, file)))
    content = start + file.read(max(0, WHOLE_JSON + 1 - len(start)))
    if len(content) > WHOLE_JSON:
        parts = chain([content], iter(lambda: file.read(WHOLE_JSON), b""))
        return _streamed(name, json_records(name, parts, _decoder(), LONGEST_LINE))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: the JSON is not UTF-8 at byte {error.start + 1}") from error
    # With the text, this would be up to five times the size of the file.
    del content
    values: list[Any] = []
    decoder, position = _decoder(), len(text) - len(text.lstrip())
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            if values and not isinstance(value, dict):
                raise ObservationError(f"{name}: {_NOT_RECORDS}")
            values.append(value)
            position = re.compile(r"\s*").match(text, position).end()  # type: ignore[union-attr]
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{name}: not valid JSON: {error}") from error
    if not values:
        raise FormatError(f"{name}: not valid JSON: there is no value")
    records = values[0] if len(values) == 1 else values
    if isinstance(records, dict):
        records = records.get("observations", values)
    return record_blocks(name, records)


def record_blocks(name: str, records: Any) -> Blocks:
    """Return header and one block of a list of JSON objects, whose numbers may be text. Raises ObservationError."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ObservationError(f"{name}: {_NOT_RECORDS}")
    if not records:
        raise ObservationError(f"{name}: the list of observations is empty")
    header = _columns_of(name, records)
    return header, iter([_block_of_dicts(name, records, header)])


def _columns_of(name: str, records: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of all records in the order of their first use. Raises TooMany."""
    columns: dict[str, None] = {}
    for record in records:
        columns |= dict.fromkeys(record)
        check_columns(name, len(columns))
    return [*columns]


def _streamed(name: str, records: Iterator[dict[str, Any]]) -> Blocks:
    """Return header and blocks of many records; the header is that of the first block."""
    header: dict[str, None] = {}

    def selected() -> Iterator[tuple[dict[str, str], int]]:
        for record in records:
            if isinstance(record, _Record) and record.duplicated:
                check_header(name, record.duplicated)
            header.update(dict.fromkeys(record))
            check_columns(name, len(header))
            values = {column: _text(record[column]) for column in record.keys() & _WANTED}
            yield values, sum(map(len, values.values()))

    blocks = _blocks(selected())
    first = next(blocks, [])
    if not first:
        raise ObservationError(f"{name}: the list of observations is empty")
    return list(header), (
        ({column: [record.get(column, "") for record in rows] for column in WANTED}, [])
        for rows in chain([first], blocks)
    )


def _json_line_records(name: str, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    decoder = _decoder()
    for number, line in _lines(name, file, 2):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{name}: line {number} is not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise ObservationError(f"{name}: line {number} is not an observation, a JSON object")
        yield record


def _block_of_dicts(name: str, records: Sequence[dict[str, Any]], columns: Iterable[str]) -> Block:
    for record in records:
        if isinstance(record, _Record) and record.duplicated:
            check_header(name, record.duplicated)
    wanted = [column for column in columns if column in WANTED]
    return {column: [_text(record.get(column)) for record in records] for column in wanted}, []


def _decoder() -> json.JSONDecoder:
    # Numbers stay text for the parser that all formats share.
    return json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_Record)


class _Record(dict[str, Any]):
    """JSON object; `duplicated` lists all its names if one occurs twice, else nothing."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.duplicated = [column for column, _ in pairs] if len(pairs) > len(self) else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "..."
    # Nested values are invalid; json.dumps could exceed the recursion limit.
    if isinstance(value, dict | list):
        return "[...]" if isinstance(value, list) else "{...}"
    return json.dumps(value)
