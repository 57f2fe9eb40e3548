"""What both commands share: settings, warnings and errors as lines on stderr, exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from raincast.model import ModelError
from raincast.observations import ObservationError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


class CallError(ValueError):
    """The command was called with something it cannot do."""


def setting(name: str, default: str | None = None) -> str | None:
    """The default of a flag: RAINCAST_<name> in the environment, unless empty, else `default`."""
    return os.environ.get(f"RAINCAST_{name}") or default


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit code: 0 done, 2 the input or the call is wrong, 1 anything else.

    Expected errors become one line on stderr; an unexpected one keeps its traceback, which somebody has to read.
    """
    name = Path(sys.argv[0]).name
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            command()
            sys.stdout.flush()
        except (ObservationError, CallError) as error:
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


def _say(name: str, message: object, code: int) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return code
