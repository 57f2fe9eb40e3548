"""Errors and warnings about observations, which name file, row, column, value and limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Number of violations that a message shows, and that an error holds.
VIOLATIONS_SHOWN, VIOLATIONS_KEPT = 5, 1_000


@dataclass(frozen=True)
class Violation:
    """Value outside its limit. `row` counts from 1, without the header."""

    row: int
    column: str
    value: str
    limit: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {_cut(self.value)!r} is not {self.limit}"


@dataclass(frozen=True)
class Duplicate(Violation):
    """Second row of a station-day; `limit` is the number of the first row."""

    def __str__(self) -> str:
        return (
            f"row {self.row}, {self.column}: {self.value} duplicates row {self.limit};"
            " a station has one observation per day"
        )


class ObservationError(ValueError):
    """Observations that cannot be used.

    `violations` are the values outside their limits: the first VIOLATIONS_KEPT of `count`.
    """

    def __init__(self, message: str, violations: Sequence[Violation] = (), count: int = 0) -> None:
        super().__init__(message)
        self.violations, self.count = violations, count


class FormatError(ObservationError):
    """Content that does not have its expected format, such as invalid JSON or CSV."""


class ObservationWarning(UserWarning):
    """Observations that can be used but should be reviewed."""


def shorten(text: str, length: int = 40) -> str:
    """Return a text for a message: cut to a length, with unprintable characters escaped."""
    return printable(_cut(text, length))


def printable(text: str) -> str:
    """Return a text with unprintable characters escaped, among them those that control a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def violation_error(name: str, violations: Sequence[Violation], count: int) -> ObservationError:
    """Return one error for all `count` violations of the input `name`; its message shows the first few."""
    shown = "; ".join(str(violation) for violation in violations[:VIOLATIONS_SHOWN])
    more = f" (and {count - VIOLATIONS_SHOWN} more)" if count > VIOLATIONS_SHOWN else ""
    text = f"{name}: {shown}{more}" if count == 1 else f"{name}: {count} problems: {shown}{more}"
    return ObservationError(text, violations, count)
