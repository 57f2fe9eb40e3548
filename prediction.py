#!/usr/bin/env python3
"""Forecast from daily observations whether it rains tomorrow.

prediction.py                          forecasts for the bundled sample, as a table
prediction.py observations.csv         for a file: CSV, Parquet, JSON, JSON Lines; plain, gzip, zip
prediction.py folder/ -o out.parquet   for all files in a folder, or 'folder/*.csv', as one table of any size
prediction.py - < in.csv > out.csv     from standard input, as CSV
prediction.py in.csv -o out.parquet    to a file, by its suffix: .csv .json .parquet .txt
prediction.py serve                    over HTTP; `prediction.py serve --help` has its settings
"""

from __future__ import annotations

# pylint: disable=wrong-import-position,wrong-import-order
from raincast import signals

if __name__ == "__main__":
    # Before the imports that take time.
    signals.exit_on_signals()

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

# numpy reads it on import. Its threads gain nothing in products this small and would take cores from other processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# onnxruntime would write telemetry into TMPDIR, which may be read-only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from raincast import __version__, cli
from raincast.atomic import replace_file
from raincast.batch import shards
from raincast.forecasting import forecast, model, writing
from raincast.observations import paths, reading

SAMPLE = Path(__file__).resolve().parent / "data" / "sample.csv"
FORMAT_OF_SUFFIX: dict[str, writing.OutputFormat] = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "table",
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags default to RAINCAST_* in the environment."""
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "input",
        nargs="?",
        default=str(SAMPLE),
        help="observations: file, folder, pattern or - for standard input (default: the bundled sample)",
    )
    parser.add_argument("-o", "--output", help="file for the forecasts (default: standard output)")
    parser.add_argument(
        "--format",
        choices=writing.OUTPUT_FORMATS,
        default=cli.setting("FORMAT"),
        help="default: by the suffix of --output; without it csv for standard input, else table (RAINCAST_FORMAT)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=cli.setting("MODEL", str(model.DIRECTORY)),
        help="model directory (RAINCAST_MODEL, default: model/)",
    )
    parser.add_argument(
        "--shard",
        type=shards.shard,
        default=cli.setting("SHARD", "0/1"),
        metavar="I/N",
        help="forecast part I (from 0) of N parts of the days, or N with I in JOB_COMPLETION_INDEX (RAINCAST_SHARD)",
    )
    parser.add_argument("--version", action="version", version=f"raincast {__version__}")
    return parser.parse_args(argv)


def serve_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line after `serve`; flags default to RAINCAST_* in the environment."""
    parser = cli.Parser(prog="prediction.py serve", description="Forecast over HTTP.")
    add = parser.add_argument
    add(
        "--host",
        default=cli.setting("HOST", "127.0.0.1"),
        help="address to listen on (RAINCAST_HOST; default: %(default)s)",
    )
    port = cli.setting("PORT", "8080")
    add("--port", type=cli.port, default=port, help="port, 0 for any free port (RAINCAST_PORT; default: %(default)s)")
    drain = cli.setting("DRAIN_SECONDS", "5")
    add(
        "--drain-seconds",
        type=cli.seconds,
        default=drain,
        help="time in which new connections are accepted after SIGTERM (RAINCAST_DRAIN_SECONDS; default: %(default)s)",
    )
    log = cli.setting("FORECAST_LOG")
    add(
        "--forecast-log",
        default=log,
        help="file to which each forecast is appended with its observation (RAINCAST_FORECAST_LOG)",
    )
    directory = cli.setting("MODEL", str(model.DIRECTORY))
    add("--model", type=Path, default=directory, help="model directory (RAINCAST_MODEL, default: model/)")
    return parser.parse_args(argv)


def serve(given: argparse.Namespace) -> None:
    """Load the model and serve it until a signal stops the server."""
    # Imported here, since forecasting a file needs no web server.
    from raincast.serving import server  # pylint: disable=import-outside-toplevel

    server.serve(model.load(given.model), given.host, given.port, given.drain_seconds, given.forecast_log)


def output_format(given: argparse.Namespace) -> writing.OutputFormat:
    """Return the output format: --format, else by the suffix of --output. Raises CallError."""
    if given.output is not None:
        try:
            if not Path(given.output).resolve().parent.is_dir():
                raise cli.CallError(f"{given.output}: there is no such folder")
            if Path(given.output).is_dir():
                raise cli.CallError(f"{given.output}: is a folder, not a file")
        except (OSError, RuntimeError) as error:
            # A loop of links is a RuntimeError.
            reason = error.strerror if isinstance(error, OSError) else "a loop of links"
            raise cli.CallError(f"{given.output}: cannot be written: {reason}") from error
    if given.format:
        if given.format not in writing.OUTPUT_FORMATS:
            raise cli.CallError(f"RAINCAST_FORMAT: {given.format!r} is none of {' '.join(writing.OUTPUT_FORMATS)}")
        return cast(writing.OutputFormat, given.format)
    if given.output is not None:
        suffix = Path(given.output).suffix.lower()
        if suffix not in FORMAT_OF_SUFFIX:
            known = " ".join(FORMAT_OF_SUFFIX)
            raise cli.CallError(f"{given.output}: unknown suffix, known are {known}; pass --format")
        return FORMAT_OF_SUFFIX[suffix]
    return "csv" if given.input == reading.STDIN else "table"


def check_output(path: Path, given: argparse.Namespace, inputs: list[reading.Input]) -> None:
    """Raise CallError if the output would replace an input or a file of the model."""
    if path.resolve().is_relative_to(given.model.resolve()):
        raise cli.CallError(f"{path}: is in the model directory, choose another output")
    files: list[Path | int] = [file for file, _ in inputs if isinstance(file, Path)]
    if given.input == reading.STDIN:
        files = [sys.stdin.fileno()]
    if path.is_file() and any(paths.same_file(path, file) for file in files):
        raise cli.CallError(f"{path}: is also an input, choose another output")


def predict(given: argparse.Namespace) -> None:
    """Read observations, forecast and write the forecasts."""
    chosen_format = output_format(given)
    path = Path(given.output) if given.output is not None else None
    if path is not None and given.shard != shards.WHOLE and (path.is_file() or not path.exists()):
        path = given.shard.of(path)
    loaded = model.load(given.model)
    with reading.inputs(given.input) as inputs:
        if path is not None:
            check_output(path, given, inputs)
        (first, name), *others = inputs
        if given.shard == shards.WHOLE and not others and reading.is_small(first):
            content = writing.render(forecast.forecast(loaded, reading.read(first, name=name)), chosen_format)
            with output(path) as file:
                file.write(content)
            return
        # Imported here, since the import would double the time of a small file.
        from raincast.batch.forecast_files import forecast_files  # pylint: disable=import-outside-toplevel

        forecast_files(loaded, inputs, partial(output, path), chosen_format, given.shard)


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[IO[bytes]]:
    """Yield the file to write to, which is replaced atomically, or standard output. Raises CallError."""
    if path is not None:
        with replace_file(path) as file:
            yield file
    elif sys.stdout is None:
        raise cli.CallError("standard output is closed; pass -o FILE")
    else:
        yield sys.stdout.buffer


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        cli.main(lambda: serve(serve_arguments(sys.argv[2:])))
    cli.main(lambda: predict(arguments()))
