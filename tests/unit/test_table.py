"""Tables of observations: duplicates, and the columns known at 3 pm."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincast.observations.errors import ObservationError
from raincast.observations.parsing import parse_blocks
from raincast.observations.table import Table, as_known_at_3pm, duplicates, rows_of


def _parse(**columns: list[str]) -> Table:
    return parse_blocks("test", [(dict(columns), [])])


@given(st.lists(st.tuples(st.sampled_from(["A", "AB", "B"]), st.none() | st.integers(0, 3)), max_size=20), st.randoms())
def test_duplicates_are_the_later_rows_of_a_station_day_with_the_row_before(
    places: list[tuple[str, int | None]], random: Random
) -> None:
    number = list(range(100, 100 + len(places)))
    random.shuffle(number)
    days = [np.datetime64("NaT") if day is None else np.datetime64("2017-01-01") + day for _, day in places]
    table = {"Location": np.array([name for name, _ in places], str), "Date": np.array(days, "datetime64[D]")}
    last: dict[tuple[str, int], int] = {}
    expected = []
    for row, (station, day) in sorted(zip(number, places, strict=True)):
        if day is not None:
            if (station, day) in last:
                expected.append((row, last[station, day], f"{station} on 2017-01-{day + 1:02}"))
            last[station, day] = row
    assert duplicates(table, np.array(number, np.int64)) == expected


def test_a_station_has_one_observation_per_day() -> None:
    days = ["2017-01-01", "2017-01-02", "2017-01-01", "2017-01-01"]
    with pytest.raises(ObservationError) as caught:
        _parse(Location=["Albury"] * 4, Date=days, Rainfall=["1"] * 4)
    assert str(caught.value).startswith("test: 2 problems: row 3, Date: Albury on 2017-01-01 duplicates row 1")


def test_rows_without_a_date_are_never_duplicates() -> None:
    assert rows_of(_parse(Location=["Albury", "Albury"], Date=["", "NA"], Rainfall=["1", "1"])) == 2


def test_columns_unknown_at_3_pm_are_missing_as_known_at_3_pm() -> None:
    table = _parse(Location=["Albury"], MaxTemp=["30"], Sunshine=["9"], WindGustDir=["N"], WindGustSpeed=["40"])
    known = as_known_at_3pm(table)
    assert list(known) == list(table)
    for name in ("MaxTemp", "Sunshine", "WindGustSpeed"):
        assert np.isnan(known[name]).all()
    assert known["WindGustDir"].tolist() == [""]
    assert table["MaxTemp"].tolist() == [30.0]
