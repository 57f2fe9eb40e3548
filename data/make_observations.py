#!/usr/bin/env python3
"""Make observations.csv.gz and sample.csv from the wheel of ctack14-practice-data-sets 0.1.21.

    pip download --no-deps ctack14-practice-data-sets==0.1.21
    python data/make_observations.py ctack14_practice_data_sets-0.1.21-py3-none-any.whl

Rows and values are unchanged, except that `row ID` is dropped and RainTomorrow 0/1 becomes No/Yes. The output is
reproducible byte by byte.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from pathlib import Path

MEMBER = "practice_data_sets/data/Weather Training Data.csv"
HERE = Path(__file__).resolve().parent
# The sample has each station's row at this distance from its end, which is recent and not used for fitting.
SAMPLE_FROM_END = 100


def main(wheel: str) -> None:
    """Read the wheel and write both files to the folder of this script."""
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")))
    for row in rows:
        del row["row ID"]
        row["RainTomorrow"] = {"0": "No", "1": "Yes"}[row["RainTomorrow"]]
    with (HERE / "observations.csv.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(csv_bytes(rows))
    rows_by_station: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        rows_by_station.setdefault(row["Location"], []).append(row)
    sample = [rows_by_station[name][-SAMPLE_FROM_END] for name in sorted(rows_by_station)]
    (HERE / "sample.csv").write_bytes(csv_bytes(sample, drop="RainTomorrow"))
    print(f"{len(rows)} observations, a sample of {len(sample)}")


def csv_bytes(rows: list[dict[str, str]], drop: str = "") -> bytes:
    """Return rows as CSV, without the column `drop`."""
    text = io.StringIO()
    names = [name for name in rows[0] if name != drop]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


if __name__ == "__main__":
    main(sys.argv[1])
