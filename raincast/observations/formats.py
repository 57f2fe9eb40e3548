"""CSV, JSON and JSON Lines: bytes to blocks of text columns.

Every value becomes text, which `parsing` checks: limits are the same in every format. Messages begin with `name`, the
caller's name for the input.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from typing import IO, Any

from raincast.observations.columns import COLUMNS, TARGET
from raincast.observations.errors import FormatError, ObservationError, Violation
from raincast.observations.parsing import check_columns, check_header

READ_BLOCK_ROWS = 50_000
# A weatherAUS line has about 120 characters. Longer lines than this are refused without reading them into memory.
LONGEST_LINE = 65_536
# JSON other than JSON Lines is read at once and takes several times its size in memory.
LARGEST_JSON = 268_435_456
Block = tuple[dict[str, Sequence[str]], list[Violation]]
Blocks = tuple[list[str], Iterator[Block]]
_NOT_RECORDS = "the JSON is not a list of observations, each an object"
WANTED = tuple(column.name for column in (*COLUMNS, TARGET))


def csv_blocks(name: str, file: IO[bytes]) -> Blocks:
    """Return header and blocks of a CSV file with commas, in UTF-8. Raises ObservationError."""
    rows = csv.reader(_text_lines(name, file), skipinitialspace=True)
    records = _csv_records(name, rows)
    header = [column.strip() for column in next(records, [])]
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


def _csv_records(name: str, rows: Any) -> Iterator[list[str]]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise FormatError(f"{name}: line {rows.line_num} is not CSV: {error}") from error
        if len(row) > 1 or (row and row[0].strip()):
            yield row


def _blocks_of_records(header: list[str], records: Iterator[list[str]]) -> Iterator[Block]:
    """Return blocks of the wanted columns. A wide header must not multiply short rows."""
    width, start = len(header), 0
    wanted = [column in WANTED for column in header]
    names = [*compress(header, wanted)]
    while True:
        rows: list[list[str]] = []
        violations = []
        for row in islice(records, READ_BLOCK_ROWS):
            fields = [*compress(row, wanted)]
            if len(row) != width:
                number = start + len(rows) + 1
                violations.append(Violation(number, "fields", str(len(row)), f"{width}, as in the header"))
                fields += [""] * (len(names) - len(fields))
            rows.append(fields)
        if not rows:
            return
        yield dict(zip(names, zip(*rows, strict=True), strict=True)), violations
        start += len(rows)


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
            return _json_lines(name, first, file)
    content = start + file.read(LARGEST_JSON + 1 - len(start))
    if len(content) > LARGEST_JSON:
        raise FormatError(f"{name}: more than {LARGEST_JSON} bytes of JSON; send JSON Lines, CSV or Parquet")
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


def _json_lines(name: str, first: dict[str, Any], file: IO[bytes]) -> Blocks:
    """Return header and blocks of JSON Lines; the header is that of the first block."""
    records = chain([first], _json_line_records(name, file))
    block = list(islice(records, READ_BLOCK_ROWS))
    header = _columns_of(name, block)

    def blocks() -> Iterator[Block]:
        rows = block
        while rows:
            yield _block_of_dicts(name, rows, WANTED)
            rows = list(islice(records, READ_BLOCK_ROWS))

    return header, blocks()


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
        return value
    # Nested values are invalid; json.dumps could exceed the recursion limit.
    if isinstance(value, dict | list):
        return "[...]" if isinstance(value, list) else "{...}"
    return json.dumps(value)
