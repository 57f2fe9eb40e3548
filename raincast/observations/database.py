"""Connections to duckdb, with the same settings on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

THREADS = 2
# Memory limit of duckdb, which keeps the rest on disk if it has a folder.
MEMORY = "128MB"


def connect(path: Path | None = None, temporary: Path | None = None) -> Any:
    """Return a connection to a database in a file or in memory, which spills into the folder `temporary`.

    It loads no extensions, and timestamps are in UTC.
    """
    # Imported on the first use: the import takes as long as the rest of a forecast.
    import duckdb  # pylint: disable=import-outside-toplevel

    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "threads": THREADS,
        "temp_directory": str(temporary or ""),
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "allow_community_extensions": False,
    }
    database = duckdb.connect(path or ":memory:", config=settings)
    database.execute("SET TimeZone = 'UTC'; SET lock_configuration = true")
    return database
