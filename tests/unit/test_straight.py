"""Formulas as straight-line Python: the same numbers as the formulas themselves, missing values and signs included."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raincast.straight import Lookup, Program, Term

TABLE = [1.5, -2.0, math.nan]
numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, math.nan])


def formulas(x: Any, y: Any, position: Any, table: Any) -> list[Any]:
    """Every operator, on both sides of a number where it has two."""
    return [x + y, x + 2, 2 + x, x - y, x - 2, 2 - x, x * y, x * 2, 2 * x, x / 3, x % 360, -x, (x > y) * 1.0,
            (x == y) * 1.0, table[position] * x, (x - y) / 4 % 7 + x]  # fmt: skip


@given(numbers, numbers, st.integers(-1, 2))
def test_the_function_computes_what_the_formulas_say(x: float, y: float, position: int) -> None:
    program = Program()
    terms = formulas(*(Term(program, name) for name in ("x", "y", "position")), Lookup("table"))
    compute = program.function("x, y, position", terms, {"table": TABLE})
    assert list(map(repr, compute(x, y, position))) == list(map(repr, formulas(x, y, position, TABLE)))


def test_an_expression_may_use_what_is_known_and_terms() -> None:
    program = Program()
    x = Term(program, "x")
    least = program.term(f"low if {x} < low else {x}")
    compute = program.function("x", [least, x], {"low": 3})
    assert (compute(1), compute(5)) == ((3, 1), (5, 5))
