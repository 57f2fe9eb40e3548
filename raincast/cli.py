"""What both commands share: settings, warnings and errors as lines on stderr, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from raincast.atomic import TargetError
from raincast.forecasting.model import ModelError
from raincast.observations.errors import ObservationError

DONE, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class CallError(ValueError):
    """The command was called with something it cannot do."""


def setting(name: str, default: str | None = None) -> str | None:
    """The default of a flag: RAINCAST_<name> in the environment, unless empty, else `default`."""
    return os.environ.get(f"RAINCAST_{name}") or default


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def port(text: str) -> int:
    """A TCP port, for argparse."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port, 0 to 65535")
    return number


def seconds(text: str) -> float:
    """A time of 0 s to an hour, for argparse."""
    number = float(text)
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 to 3600")
    return number


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit code: 0 done, 2 the input or the call is wrong, 1 anything else.

    Expected errors become one line on stderr; an unexpected one keeps its traceback, which somebody has to read.
    """
    name = Path(sys.argv[0]).name
    said: set[str] = set()

    def warn(message: Warning | str, *_args: object, **_kwargs: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            _say(f"{name}: warning", message)

    def terminated(*_: object) -> None:
        # As an exception it lets everything clean up behind itself.
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, terminated)
    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            command()
            if sys.stdout is not None:
                sys.stdout.flush()
        except (ObservationError, CallError, TargetError) as error:
            return _say(name, error, WRONG_INPUT)
        except ModelError as error:
            return _say(name, error, FAILED)
        except BrokenPipeError:
            # Whoever read our output has gone, as `head` does. Python would complain again while it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            reason = error.strerror or str(error)
            return _say(name, f"{error.filename}: {reason}" if error.filename else reason, FAILED)
        except KeyboardInterrupt:
            return _say(name, "interrupted", INTERRUPTED)
    return DONE


def _say(name: str, message: object, code: int = DONE) -> int:
    # With standard error closed, print would write to standard output instead, into the forecasts.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code
