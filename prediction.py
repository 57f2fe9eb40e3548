#!/usr/bin/env python3
"""Model + observations -> forecasts: does it rain tomorrow?

prediction.py                          forecasts for the bundled sample, as a table
prediction.py observations.csv         for a file: CSV, Parquet, JSON, JSON Lines; plain, gzip, zip
prediction.py folder/ -o out.parquet   for all files in a folder, or 'folder/*.csv', as one table of any size
prediction.py - < in.csv > out.csv     from standard input, as CSV
prediction.py in.csv -o out.parquet    to a file, by its suffix: .csv .json .parquet .txt
prediction.py serve                    over HTTP; `prediction.py serve --help` has its settings
"""

from __future__ import annotations

# pylint: disable=wrong-import-position
import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

# Read once, when numpy is loaded. Its threads gain nothing in products this small, and would take the cores of others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# onnxruntime would write a telemetry session into TMPDIR, which may be read-only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from raincast import __version__, command, forecast, model, reading
from raincast.shards import WHOLE

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
    parser.add_argument(
        "--shard",
        type=command.shard,
        default=command.setting("SHARD", "0/1"),
        metavar="I/N",
        help="forecast part I (from 0) of N parts of the days, or N with I in JOB_COMPLETION_INDEX (RAINCAST_SHARD)",
    )
    parser.add_argument("--version", action="version", version=f"raincast {__version__}")
    return parser.parse_args(argv)


def serve_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line behind `serve`."""
    parser = argparse.ArgumentParser(prog="prediction.py serve", description="Forecasts over HTTP.")
    add = parser.add_argument
    add("--host", default=command.setting("HOST", "127.0.0.1"), help="address (RAINCAST_HOST; default: %(default)s)")
    port = command.setting("PORT", "8080")
    add("--port", type=command.port, default=port, help="0 for any free one (RAINCAST_PORT; default: %(default)s)")
    drain = command.setting("DRAIN_SECONDS", "5")
    add(
        "--drain-seconds",
        type=command.seconds,
        default=drain,
        help="how long new connections are served after SIGTERM (RAINCAST_DRAIN_SECONDS; default: %(default)s)",
    )
    log = command.setting("FORECAST_LOG")
    add("--forecast-log", default=log, help="append each forecast with its observation (RAINCAST_FORECAST_LOG)")
    directory = command.setting("MODEL", str(model.DIRECTORY))
    add("--model", type=Path, default=directory, help="model directory (RAINCAST_MODEL, default: model/)")
    return parser.parse_args(argv)


def serve(given: argparse.Namespace) -> None:
    """Load, then serve until told to stop."""
    # Who only forecasts a file does not wait for a web server to be imported.
    from raincast import server  # pylint: disable=import-outside-toplevel

    server.serve(model.load(given.model), given.host, given.port, given.drain_seconds, given.forecast_log)


def output_format(given: argparse.Namespace) -> forecast.Format:
    """The format that was asked for, in words or by the output's suffix."""
    if given.output is not None and not Path(given.output).resolve().parent.is_dir():
        raise command.CallError(f"{given.output}: there is no such folder")
    if given.output is not None and Path(given.output).is_dir():
        raise command.CallError(f"{given.output}: is a folder, not a file to write to")
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
    path = Path(given.output) if given.output is not None else None
    loaded = model.load(given.model)
    with reading.sources(given.input) as sources:
        (source, name), *others = sources
        if given.shard == WHOLE and not others and reading.is_small(source):
            content = forecast.rendered(forecast.forecast(loaded, reading.read(source, name=name)), form)
            with output(path) as file:
                file.write(content)
            return
        # What large files need would double the time of a small one.
        from raincast import bulk  # pylint: disable=import-outside-toplevel

        if path is not None and given.shard != WHOLE and (path.is_file() or not path.exists()):
            path = given.shard.of(path)
        bulk.score(loaded, sources, partial(output, path), form, given.shard)


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[IO[bytes]]:
    """What to write to: a file, whole or not at all, or standard output."""
    if path is not None:
        with forecast.whole(path) as file:
            yield file
    elif sys.stdout is None:
        raise command.CallError("standard output is closed; say -o FILE")
    else:
        yield sys.stdout.buffer


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        sys.exit(command.run(lambda: serve(serve_arguments(sys.argv[2:]))))
    sys.exit(command.run(lambda: predict(arguments())))
