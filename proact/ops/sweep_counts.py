"""What sweeps found. The host reads the counts of a GPU only when it needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Count = TypeVar("Count")


class LateNumbers(Protocol):
    """Integers that a GPU may not have computed yet."""

    @property
    def is_complete(self) -> bool:
        """Whether `read` would return without waiting."""

    def read(self) -> list[int]: ...


class SweepCounts(Generic[Count]):
    """The counts of one sweep for each tensor of a plan.

    A copy or a pickle holds the numbers, for which it waits.

    Args:
        make: makes the result for a tensor of its numbers, such as `int` of one number.
        rows: for each tensor, the numbers that are known.
    """

    def __init__(self, make: Callable[..., Count], rows: list[list[int]]) -> None:
        self._make = make
        # One attribute, so that threads that read at the same time find both of one time.
        self._state = _Rows(rows, ())

    def add(self, positions: Sequence[int], numbers: Sequence[int]) -> None:
        """Adds the numbers of tensors, those of a tensor side by side, to their rows.

        Args:
            positions: the rows; one may occur more than once.
            numbers: as many for each position as a row has.
        """
        rows, late = self._state
        self._state = _Rows(_added(rows, positions, numbers), late)

    def add_late(self, positions: Sequence[int], numbers: LateNumbers) -> None:
        """As `add`, once the numbers are known."""
        rows, late = self._state
        self._state = _Rows(rows, (*late, (positions, numbers)))

    @property
    def are_late(self) -> bool:
        """Whether numbers of a GPU have not been read yet."""
        return bool(self._state.late)

    @property
    def are_known(self) -> bool:
        """Whether `read` would return without waiting."""
        return all(numbers.is_complete for _, numbers in self._state.late)

    def read(self) -> list[Count]:
        """The result for each tensor; waits until the GPU has made this sweep."""
        return [self._make(*row) for row in self.rows()]

    def rows(self) -> list[list[int]]:
        """The numbers of each tensor; waits as `read` does."""
        rows, late = self._state
        for positions, numbers in late:
            rows = _added(rows, positions, numbers.read())
        self._state = _Rows(rows, ())
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        return SweepCounts, (self._make, self.rows())


class SweepTotals(NamedTuple):
    """The sums of counts over the sweeps up to one time. A later time has totals of its own.

    Attributes:
        known: the sums over the sweeps whose counts are known, one for each number of a row.
        late: the counts of the other sweeps, in their order.
    """

    known: tuple[int, ...]
    late: tuple[SweepCounts[Any], ...] = ()

    def plus(self, counts: SweepCounts[Any]) -> SweepTotals:
        """The totals after one more sweep. The host does not wait for the GPU."""
        known, late = self.known, [*self.late, counts]
        while late and late[0].are_known:
            known = _sums(known, late.pop(0))
        return SweepTotals(known, tuple(late))

    def read(self) -> tuple[int, ...]:
        """The sums; waits until the GPU has made these sweeps."""
        known = self.known
        for counts in self.late:
            known = _sums(known, counts)
        return known


class _Rows(NamedTuple):
    """Numbers of each tensor that are known, and the numbers to add, with the rows that they are
    for."""

    known: list[list[int]]
    late: tuple[tuple[Sequence[int], LateNumbers], ...]


def _added(
    rows: list[list[int]], positions: Sequence[int], numbers: Sequence[int]
) -> list[list[int]]:
    added = [list(row) for row in rows]
    width = len(numbers) // max(len(positions), 1)
    if len(numbers) != width * len(positions):
        raise ValueError(f"{len(numbers)} numbers do not go into {len(positions)} rows")
    for number, position in enumerate(positions):
        mine = numbers[number * width : (number + 1) * width]
        added[position] = [a + b for a, b in zip(added[position], mine, strict=True)]
    return added


def _sums(known: Sequence[int], counts: SweepCounts[Any]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(known, *counts.rows(), strict=True))
