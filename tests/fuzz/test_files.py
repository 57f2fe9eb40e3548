"""Files in every format, valid and damaged: each is read or refused with an ObservationError."""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raincast.observations import reading
from raincast.observations.errors import ObservationError, ObservationWarning
from raincast.observations.table import rows_of
from tests.fuzz.mutations import as_csv, as_json, as_json_lines, mutated, records
from tests.unit.bodies import bodies

TEXTS = records.map(as_csv) | records.map(as_json) | records.map(as_json_lines) | bodies().map(as_csv)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
reuse_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Return Parquet of valid observations, without compression so that a change stays a change of the content."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file, compression="none")
    return file.getvalue()


PARQUET = bodies().map(lambda rows: [{name: str(value) for name, value in row.items()} for row in rows]).map(as_parquet)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Return a zip archive, mostly of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from(METHODS))) as archive:
        for number in range(draw(st.sampled_from((1, 1, 1, 0, 2)))):
            name = draw(st.sampled_from(("observations.csv", "a/b.json", "folder/", "../x.csv", "ü.csv")))
            archive.writestr(f"{number}{name}", draw(TEXTS))
    return file.getvalue()


@st.composite
def odd_archives(draw: st.DrawFn) -> bytes:
    """Return a zip archive with other bytes in its headers: versions, flags, methods, sizes, names."""
    content = bytearray(draw(archives()))
    headers = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", content)]
    for header in draw(st.lists(st.sampled_from(headers), min_size=1, max_size=3)):
        # Versions, flags, method; the name's first byte; or any other field.
        place = header + draw(st.integers(4, 11) | st.sampled_from((30, 46)) | st.integers(12, 60))
        content[min(place, len(content) - 1)] = draw(st.sampled_from((0, 1, 64, 255)) | st.integers(0, 255))
    return bytes(content)


def read(content: bytes, path: Path) -> None:
    """Read a file by its path and as a stream; no error but ObservationError is handled."""
    path.write_bytes(content)
    for file in (path, io.BytesIO(content)):
        with warnings.catch_warnings(), suppress(ObservationError):
            warnings.simplefilter("ignore", ObservationWarning)
            assert rows_of(reading.read(file, name="file")) > 0


@reuse_folder
@given(content=mutated(TEXTS))
def test_every_text_file_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    read(content, tmp_path / "observations")


@reuse_folder
@given(content=mutated(PARQUET))
def test_every_parquet_file_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    read(content, tmp_path / "observations")


@reuse_folder
@given(content=mutated(mutated(TEXTS).map(gzip.compress)))
def test_every_gzip_file_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    read(content, tmp_path / "observations")


@reuse_folder
@given(content=mutated(archives()) | odd_archives())
def test_every_zip_archive_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    read(content, tmp_path / "observations")
