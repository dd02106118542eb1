"""Are sets of trial numbers what Python's sets are?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proact.results.interval_set import IntervalSet

#: Ends before beginnings are empty runs.
RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=25)


def plain(runs: list[tuple[int, int]]) -> set[int]:
    return {number for first, end in runs for number in range(first, end)}


@given(runs=RUNS, end=st.integers(0, 50))
def test_counts_and_beginnings(runs: list[tuple[int, int]], end: int) -> None:
    ranges, numbers = IntervalSet(runs), plain(runs)
    assert ranges.count(end) == len([number for number in numbers if number < end])
    assert ranges.upto() == next(number for number in range(50) if number not in numbers)


@given(runs=RUNS, longest=st.integers(1, 50))
def test_a_gap_is_the_first_that_is_missing(runs: list[tuple[int, int]], longest: int) -> None:
    first, end = IntervalSet(runs).gap(longest)
    numbers = plain(runs)
    assert first == IntervalSet(runs).upto()
    assert first < end <= first + longest
    assert not numbers & set(range(first, end))
    assert end == first + longest or end in numbers, "no shorter than it has to be"


@given(runs=RUNS)
def test_the_order_of_additions_is_forgotten(runs: list[tuple[int, int]]) -> None:
    there, back = IntervalSet(runs), IntervalSet(runs[::-1])
    singly = IntervalSet((number, number + 1) for number in plain(runs))
    for end in range(50):
        assert there.count(end) == back.count(end) == singly.count(end)
    assert there.upto() == back.upto() == singly.upto()
    assert there.gap(50) == back.gap(50) == singly.gap(50)


@given(runs=RUNS, longest=st.integers(1, 7))
def test_filling_gaps_ends_without_one(runs: list[tuple[int, int]], longest: int) -> None:
    ranges, given_out = IntervalSet(runs), set[int]()
    while ranges.upto() < 50:
        first, end = ranges.gap(longest)
        assert not given_out & set(range(first, end))
        given_out |= set(range(first, end))
        ranges.add(first, end)
    assert plain(runs) | given_out >= set(range(50))
    assert not plain(runs) & given_out
    assert ranges.gap(longest) == (ranges.upto(), ranges.upto() + longest)


def test_a_long_campaign_takes_one_run() -> None:
    ranges = IntervalSet()
    for first in range(0, 100_000, 512):
        ranges.add(first, first + 512)
    assert ranges.upto() == ranges.count(1 << 32) == 196 * 512
    assert len(ranges._runs) == 1
