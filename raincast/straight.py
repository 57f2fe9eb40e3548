"""Formulas that are written for arrays, as one straight-line Python function for plain numbers.

The formulas are run once on Terms, which note what is done with them. So there is one definition of each, and a row
alone pays neither for arrays nor for calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Program:
    """The lines of a function; each computes one value."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def term(self, expression: str) -> Term:
        """The value of an expression, to be computed here."""
        name = f"t{len(self._lines)}"
        self._lines.append(f"    {name} = {expression}")
        return Term(self, name)

    def function(
        self, arguments: str, results: Iterable[Term], known: Mapping[str, Any]
    ) -> Callable[..., tuple[Any, ...]]:
        """What computes the results; the lines may use its arguments and the `known` values by their names."""
        head, end = f"def straight({arguments}):", f"    return {', '.join(map(str, results))},"
        namespace = dict(known)
        # The text is made of the project's own formulas, at the start, and of nothing that anyone sends.
        exec("\n".join((head, *self._lines, end)), namespace)  # pylint: disable=exec-used
        return namespace["straight"]  # type: ignore[no-any-return]


def _noted(form: str) -> Callable[..., Term]:
    def note(*operands: Any) -> Term:
        program: Program = operands[0].program
        return program.term(form.format(*operands))

    return note


class Term:
    """A value that is not known yet, by its name in a Program."""

    # pylint: disable=too-few-public-methods  # it has operators

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name

    def __str__(self) -> str:
        return self.name

    __hash__ = None  # type: ignore[assignment]
    __eq__ = _noted("{} == {}")  # type: ignore[assignment]
    __gt__ = _noted("{} > {}")
    __neg__ = _noted("-{}")
    __add__, __radd__ = _noted("{0} + {1}"), _noted("{1} + {0}")
    __sub__, __rsub__ = _noted("{0} - {1}"), _noted("{1} - {0}")
    __mul__, __rmul__ = _noted("{0} * {1}"), _noted("{1} * {0}")
    __truediv__ = _noted("{} / {}")
    __mod__ = _noted("{} % {}")


class Lookup:
    """A sequence that the function knows by this name."""

    # pylint: disable=too-few-public-methods  # a position is all that one can ask it

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, position: Term) -> Term:
        return position.program.term(f"{self.name}[{position}]")
