"""Shards: parsing, the share of the days, and the names of output files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincast.batch import shards
from raincast.batch.shards import INDEX, Shard

LARGE = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0/1", Shard(0, 1)),
        ("0/3", Shard(0, 3)),
        ("2/3", Shard(2, 3)),
        ("007/010", Shard(7, 10)),
        ("999999998/999999999", Shard(999_999_998, 999_999_999)),
    ],
)
def test_part_and_count_are_parsed_whatever_the_environment(text: str, expected: Shard) -> None:
    assert Shard.parse(text, {}) == expected
    assert Shard.parse(text, {INDEX: "1"}) == expected


@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_count_takes_the_part_from_the_environment(index: int) -> None:
    assert INDEX == "JOB_COMPLETION_INDEX"
    assert Shard.parse("5", {"JOB_COMPLETION_INDEX": str(index)}) == Shard(index, 5)


@pytest.mark.parametrize(
    "text",
    ["", "/", "1/", "/2", "a", "1/b", "-1/2", "1/-2", "1.0/2", " 1/2", "1/2 ", "1/2/3", "1\n", "0x1/2", "٣/٥", "1_0"],
)
def test_an_invalid_shard_is_refused_with_the_valid_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not I/N, with I from 0 to N - 1, nor N with I in JOB_COMPLETION_INDEX"):
        Shard.parse(text, {INDEX: "0"})


@pytest.mark.parametrize("text", ["1/1", "3/3", "4/3", "0/0", "1/0"])
def test_a_part_that_does_not_exist_is_refused(text: str) -> None:
    index, count = text.split("/")
    with pytest.raises(ValueError, match=f"there is no part {index} of {count}: they are counted from 0"):
        Shard.parse(text, {})
    with pytest.raises(ValueError, match=f"there is no part {index} of {count}: they are counted from 0"):
        Shard.parse(count, {INDEX: index})


@pytest.mark.parametrize("environment", [{}, {INDEX: ""}, {INDEX: "-1"}, {INDEX: "one"}, {INDEX: "1 "}, {INDEX: "٣"}])
def test_a_count_without_an_index_in_the_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="'5' lacks the part I: pass I/N or set JOB_COMPLETION_INDEX"):
        Shard.parse("5", environment)


@given(st.integers(0, LARGE), st.integers(1, 300))
def test_the_parts_are_disjoint_complete_ordered_and_even(total: int, count: int) -> None:
    shares = [Shard(index, count).share(total) for index in range(count)]
    assert shares[0][0] == 0
    assert shares[-1][1] == total
    assert all(before[1] == after[0] for before, after in pairwise(shares))
    sizes = {end - start for start, end in shares}
    assert min(sizes) >= 0
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, LARGE))
def test_the_only_part_is_everything(total: int) -> None:
    assert shards.WHOLE.share(total) == (0, total)


@pytest.mark.parametrize(
    ("shard", "path", "expected"),
    [
        (Shard(0, 1), "out.csv", "out-0-of-1.csv"),
        (Shard(3, 10), "deep/out.parquet", "deep/out-3-of-10.parquet"),
        (Shard(3, 11), "/abs/out.json", "/abs/out-03-of-11.json"),
        (Shard(99, 100), "out.tar.gz", "out.tar-99-of-100.gz"),
        (Shard(7, 1000), "out", "out-007-of-1000"),
    ],
)
def test_the_name_of_a_part_has_its_index_before_the_suffix(shard: Shard, path: str, expected: str) -> None:
    assert shard.of(Path(path)) == Path(expected)


@given(st.integers(1, 1200))
def test_the_names_of_all_parts_are_distinct_and_sort_by_part(count: int) -> None:
    names = [Shard(index, count).of(Path("out.csv")).name for index in range(count)]
    assert len(set(names)) == count
    assert sorted(names) == names
