"""Command lines: settings from the environment, argument types, messages on stderr, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from raincast import signals
from raincast.atomic import TargetError
from raincast.forecasting.model import ModelError
from raincast.observations.errors import ObservationError, printable
from raincast.redaction import redact

DONE, FAILED, WRONG_INPUT = 0, 1, 2


class CallError(ValueError):
    """Invalid arguments or settings of a command."""


class Parser(argparse.ArgumentParser):
    """Parser whose messages hold neither control characters nor secrets of URLs."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message("\n".join(printable(redact(line)) for line in message.split("\n")), file)


def setting(name: str, default: str | None = None) -> str | None:
    """Return the default of a flag: RAINCAST_<name> in the environment unless empty, else `default`."""
    return os.environ.get(f"RAINCAST_{name}") or default


def positive(text: str) -> int:
    """Return an integer above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def port(text: str) -> int:
    """Return a TCP port, for argparse."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port, 0 to 65535")
    return number


def seconds(text: str) -> float:
    """Return a duration of 0 to 3600 seconds, for argparse."""
    number = float(text)
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 to 3600")
    return number


def main(command: Callable[[], None]) -> NoReturn:
    """Run a command as a process: exit with its code, or by a signal with 128 and the signal's number."""
    signals.exit_on_signals()
    signals.remove_temporary_files()
    try:
        code = run(command)
    finally:
        signals.ignore_signals()
    sys.exit(code)


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit code: 0 done, 2 invalid input or call, 1 other failure.

    Expected errors become one line on stderr; an unexpected error keeps its traceback.
    """
    name = Path(sys.argv[0]).name
    shown: set[str] = set()

    def warn(message: Warning | str, *_args: object, **_kwargs: object) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            _print(f"{name}: warning", message)

    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            command()
            if sys.stdout is not None:
                sys.stdout.flush()
        except (ObservationError, CallError, TargetError) as error:
            return _print(name, error, WRONG_INPUT)
        except (ModelError, OSError, MemoryError, RecursionError) as error:
            _drop_unwritable_output()
            # The reader of the output, such as `head`, may have gone.
            return FAILED if isinstance(error, BrokenPipeError) else _print(name, _reason(error), FAILED)
        except Exception:  # pylint: disable=broad-exception-caught  # shown as Python would, but without secrets
            if sys.stderr is not None:
                with contextlib.suppress(OSError):
                    print(redact(traceback.format_exc()), file=sys.stderr, end="", flush=True)
            return FAILED
    return DONE


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    return str(error)


def _drop_unwritable_output() -> None:
    """Write what is left for a full or closed standard output nowhere: Python would report it again on exit."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(name: str, message: object, code: int = DONE) -> int:
    # If standard error is closed, print would write into the forecasts on standard output.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(printable(redact(f"{name}: {message}")), file=sys.stderr, flush=True)
    return code
