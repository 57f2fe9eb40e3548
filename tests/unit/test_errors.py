"""Messages and contents of observation errors."""

from __future__ import annotations

from raincast.observations.errors import FormatError, ObservationError, Violation, violation_error


def test_an_error_keeps_its_violations_and_shows_the_first() -> None:
    violations = [Violation(row, "Cloud9am", "12", "a number") for row in range(1, 8)]
    one = violation_error("test", violations[:1], 1)
    assert str(one) == "test: row 1, Cloud9am: '12' is not a number"
    assert (one.violations, one.count) == (violations[:1], 1)
    many = violation_error("test", violations, 1_234)
    assert str(many).startswith("test: 1234 problems: row 1, Cloud9am: '12' is not a number; row 2")
    assert str(many).endswith("row 5, Cloud9am: '12' is not a number (and 1229 more)")
    assert (many.violations, many.count) == (violations, 1_234)
    plain = ObservationError("no violation")
    assert (list(plain.violations), plain.count) == ([], 0)
    assert issubclass(FormatError, ObservationError)


def test_a_violation_names_row_column_value_and_limit() -> None:
    assert str(Violation(3, "Cloud9am", "12", "a number")) == "row 3, Cloud9am: '12' is not a number"
