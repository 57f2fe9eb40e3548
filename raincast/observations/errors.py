"""Errors and warnings about observations: each names file, row, column, value and limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# How many violations a message shows, and how many an error holds.
VIOLATIONS_SHOWN, VIOLATIONS_KEPT = 5, 1_000


@dataclass(frozen=True)
class Violation:
    """One value that breaks its limit. Rows count from 1, the header not counted."""

    row: int
    column: str
    value: str
    limit: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {_cut(self.value)!r} is not {self.limit}"


@dataclass(frozen=True)
class Duplicate(Violation):
    """A station-day that stands in the table already, in the row that is given as the limit."""

    def __str__(self) -> str:
        duplicate = f"duplicates row {self.limit}; a station has one observation per day"
        return f"row {self.row}, {self.column}: {self.value} {duplicate}"


class ObservationError(ValueError):
    """The observations cannot be used; the message names source, row, column, value and limit.

    `violations` are the values that break their limits, the first VIOLATIONS_KEPT of `count`.
    """

    def __init__(self, message: str, violations: Sequence[Violation] = (), count: int = 0) -> None:
        super().__init__(message)
        self.violations, self.count = violations, count


class FormatError(ObservationError):
    """What was read is not the format it should be: no JSON, no CSV, no text."""


class ObservationWarning(UserWarning):
    """The observations can be used, but something in them deserves a look."""


def shorten(text: str, length: int = 40) -> str:
    """Text cut to a length that a message can hold, and without what a terminal or JSON cannot."""
    text = _cut(text, length)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def violation_error(source: str, violations: Sequence[Violation], count: int) -> ObservationError:
    """One error for all violations of a source: all counted, the first few shown."""
    shown = "; ".join(str(violation) for violation in violations[:VIOLATIONS_SHOWN])
    more = f" (and {count - VIOLATIONS_SHOWN} more)" if count > VIOLATIONS_SHOWN else ""
    text = f"{source}: {shown}{more}" if count == 1 else f"{source}: {count} problems: {shown}{more}"
    return ObservationError(text, violations, count)
