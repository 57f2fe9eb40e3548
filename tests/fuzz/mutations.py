"""Changes of valid bytes into bytes that may be invalid, and observations in the formats that are changed."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import strategies as st

from raincast.observations.columns import COLUMNS
from tests.unit.bodies import bodies

# Bytes that mean something in HTTP, JSON, CSV or gzip.
MEANINGFUL = (
    b"\r\n",
    b"\n",
    b":",
    b",",
    b'"',
    b"{",
    b"[",
    b"]}",
    b"\\u",
    b"0",
    b"-",
    b"1e999",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    """Return bytes with up to `most` changes: bits flipped, a part cut out or repeated, bytes inserted."""
    data = draw(valid)
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(1, 40)))
        change = draw(st.sampled_from(("flip", "cut", "repeat", "insert", "end")))
        if change == "flip" and start < len(data):
            data = data[:start] + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
        elif change == "cut":
            data = data[:start] + data[end:]
        elif change == "repeat":
            data = data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]
        elif change == "insert":
            data = data[:start] + draw(st.sampled_from(MEANINGFUL) | st.binary(max_size=8)) + data[start:]
        else:
            data = data[:start]
    return data


# Observations as clients send them, some with values outside their limits, of other types or nested.
records: st.SearchStrategy[list[dict[str, Any]]] = bodies(max_size=4) | st.lists(
    st.dictionaries(
        st.sampled_from([column.name for column in COLUMNS] + ["RainTomorrow", "location", ""]) | st.text(max_size=5),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.recursive(st.just(1), lambda inner: st.lists(inner, max_size=2) | st.just({"a": 1}), max_leaves=4),
        max_size=5,
    ),
    max_size=4,
)


def as_json(rows: Any) -> bytes:
    """Return JSON, in which NaN is not a number."""
    return json.dumps(rows).encode()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    """Return JSON Lines."""
    return b"".join(as_json(row) + b"\n" for row in rows)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return CSV with the columns of all observations."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the `dataframe_split` of the MLflow protocol."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def as_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns that the first observation has, as `inputs` of the MLflow protocol."""
    return {name: [row.get(name) for row in rows] for name in (rows or [{}])[0]}
