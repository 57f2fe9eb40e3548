"""Observations as a client sends them, for tests of request decoding."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from raincast.observations import formats
from raincast.observations.columns import COLUMNS, DIRECTIONS, MEASUREMENTS, Column
from raincast.observations.errors import ObservationError
from raincast.observations.parsing import MISSING, check_header, parse_blocks
from raincast.observations.table import Table
from raincast.serving import decoding

Sent = dict[str, Any]


def value_of(column: Column) -> st.SearchStrategy[Any]:
    """Return values within the limits of a column, including the limits."""
    if column.kind == "number":
        integers = st.integers(int(np.ceil(column.low)), int(np.floor(column.high)))
        return (
            st.floats(column.low, column.high, allow_nan=False) | integers | st.sampled_from([column.low, column.high])
        )
    if column.kind == "direction":
        return st.sampled_from(DIRECTIONS)
    if column.kind == "yes_no":
        return st.sampled_from(["Yes", "No"])
    if column.kind == "date":
        return st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)).map(str)
    letters = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=64)
    names = st.sampled_from(["Sydney", "Perth", "Atlantis", "Alice Springs", 'O"Neil\\', "x" * 64])
    return names | letters.filter(lambda name: name.lower() not in MISSING)


def _key(sent: Sent) -> object:
    return (sent["Location"], sent["Date"]) if sent.get("Date") else object()


def bodies(*, null: bool = True, max_size: int = 5) -> st.SearchStrategy[list[Sent]]:
    """Return valid observations without duplicates; keys but Location and Rainfall may be absent, or null."""
    optional = {c.name: st.none() | value_of(c) if null else value_of(c) for c in COLUMNS if c.kind != "station"}
    rainfall = optional.pop("Rainfall")
    station = next(value_of(column) for column in COLUMNS if column.kind == "station")
    sent = st.fixed_dictionaries({"Location": station, "Rainfall": rainfall}, optional=optional)
    return st.lists(sent, min_size=1, max_size=max_size, unique_by=_key)


def is_measured(sent: Sent) -> bool:
    """Return True if an observation has a measurement that is not null."""
    return any(sent.get(name) is not None for name in MEASUREMENTS)


def as_table(observed: decoding.Row | Table) -> Table:
    """Return a decoded row or table as a table; a row must have the types that `row_features` needs."""
    assert list(observed) == [column.name for column in COLUMNS]
    if not decoding.is_row(observed):
        return observed
    table: Table = {}
    for column in COLUMNS:
        value = observed[column.name]
        if column.kind == "date":
            assert value is None or isinstance(value, datetime.date)
            table[column.name] = np.array([value], "datetime64[D]")
        else:
            assert isinstance(value, str if column.kind in ("station", "direction") else float), column.name
            table[column.name] = np.array([value])
    return table


def is_regular(sent: Sent) -> bool:
    """Return True for an observation with a measurement and a usual station, which must not need the text parser."""
    return is_measured(sent) and sent["Location"].replace(" ", "").isalpha() and sent["Location"] not in MEASUREMENTS


def too_deep(decode: Callable[[bytes], object], before: str, after: str) -> list[int]:
    """Return the depths of a value, between two parts of a body, at which decoding raises RecursionError."""
    depths = []
    # Python's limit is 1000 calls, including those that led here.
    for depth in (*range(1, 1_001), 100_000):
        try:
            decode((before + "[" * depth + "]" * depth + after).encode())
        except ObservationError:
            pass
        except RecursionError:
            depths.append(depth)
    return depths


def by_text(body: bytes) -> Table:
    """Return the table that the text parser makes of a JSON body."""
    header, blocks = formats.json_blocks(decoding.NAME, io.BytesIO(body))
    check_header(decoding.NAME, header)
    return parse_blocks(decoding.NAME, blocks)


def assert_same(one: Table, other: Table) -> None:
    """Assert that two tables have the same columns and identical values; NaN and NaT equal themselves."""
    assert list(one) == list(other)
    for name, values in one.items():
        assert values.dtype.kind == other[name].dtype.kind, name
        np.testing.assert_array_equal(values, other[name], err_msg=name)
