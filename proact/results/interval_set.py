"""Sets of trial numbers, kept as half-open intervals."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class IntervalSet:
    """Numbers of at least 0, kept as disjoint intervals [first, end); memory grows with the number
    of intervals."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._runs: list[tuple[int, int]] = []
        for first, end in runs:
            self.add(first, end)

    def copy(self) -> IntervalSet:
        return IntervalSet(self._runs)

    def add(self, first: int, end: int) -> None:
        """Adds first to end - 1."""
        if first >= end:
            return
        before = [run for run in self._runs if run[1] < first]
        behind = [run for run in self._runs if run[0] > end]
        met = self._runs[len(before) : len(self._runs) - len(behind)]
        run = (min([first, *(r[0] for r in met)]), max([end, *(r[1] for r in met)]))
        self._runs = [*before, run, *behind]

    def upto(self) -> int:
        """The first number that is missing: all before it are there."""
        return self._runs[0][1] if self._runs and self._runs[0][0] == 0 else 0

    def gap(self, longest: int) -> tuple[int, int]:
        """The first missing numbers as a run of at most ``longest``."""
        first = self.upto()
        position = bisect_right(self._runs, (first, first))
        later = [run[0] for run in self._runs[position:] if run[0] > first]
        return first, min([first + longest, *later[:1]])

    def count(self, end: int) -> int:
        """How many of the numbers below ``end`` are there."""
        return sum(max(min(run[1], end) - run[0], 0) for run in self._runs)
