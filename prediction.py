#!/usr/bin/env python3
"""Model + observations -> forecasts: does it rain tomorrow?

prediction.py                          forecasts for the bundled sample, as a table
prediction.py observations.csv         for a file: CSV, Parquet, JSON; plain, gzip, zip
prediction.py - < in.csv > out.csv     from standard input, as CSV
prediction.py in.csv -o out.parquet    to a file, by its suffix: .csv .json .parquet .txt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

from raincast import __version__, command, forecast, model, reading

SAMPLE = Path(__file__).resolve().parent / "data" / "sample.csv"
FORMAT_OF_SUFFIX: dict[str, forecast.Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; flags default to RAINCAST_* in the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", default=str(SAMPLE), help="observations, - for standard input")
    parser.add_argument("-o", "--output", help="where to write the forecasts (default: standard output)")
    parser.add_argument(
        "--format",
        choices=forecast.FORMATS,
        default=command.setting("FORMAT"),
        help="default: by the suffix of --output; without it csv for standard input, else table (RAINCAST_FORMAT)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=command.setting("MODEL", str(model.DIRECTORY)),
        help="model directory (RAINCAST_MODEL, default: model/)",
    )
    parser.add_argument("--version", action="version", version=f"raincast {__version__}")
    return parser.parse_args(argv)


def output_format(given: argparse.Namespace) -> forecast.Format:
    """The format that was asked for, in words or by the output's suffix."""
    if given.output is not None and not Path(given.output).resolve().parent.is_dir():
        raise command.CallError(f"{given.output}: there is no such folder")
    if given.format:
        if given.format not in forecast.FORMATS:
            raise command.CallError(f"RAINCAST_FORMAT: {given.format!r} is none of {' '.join(forecast.FORMATS)}")
        return cast(forecast.Format, given.format)
    if given.output is not None:
        suffix = Path(given.output).suffix.lower()
        if suffix not in FORMAT_OF_SUFFIX:
            known = " ".join(FORMAT_OF_SUFFIX)
            raise command.CallError(f"{given.output}: its suffix is none of {known}; say --format")
        return FORMAT_OF_SUFFIX[suffix]
    return "csv" if given.input == reading.STDIN else "table"


def predict(given: argparse.Namespace) -> None:
    """Read, forecast, write."""
    form = output_format(given)
    loaded = model.load(given.model)
    forecasts = forecast.forecast(loaded, reading.read(given.input))
    content = forecast.rendered(forecasts, form)
    if given.output is not None:
        forecast.write_whole(Path(given.output), content)
    elif sys.stdout is None:
        raise command.CallError("standard output is closed; say -o FILE")
    else:
        sys.stdout.buffer.write(content)


if __name__ == "__main__":
    sys.exit(command.run(lambda: predict(arguments())))
