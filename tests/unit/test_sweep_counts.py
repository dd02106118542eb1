"""Are counts that a GPU computes late the same numbers, and are they waited for only when read?"""

from __future__ import annotations

import pickle

import pytest

from proact.ops.scrub_plan import Scrubbed
from proact.ops.sweep_counts import SweepCounts, SweepTotals


class Numbers:
    """Numbers of a GPU that finishes when the host waits for it."""

    def __init__(self, *numbers: int) -> None:
        self.numbers, self.is_complete, self.reads = list(numbers), False, 0

    def read(self) -> list[int]:
        self.is_complete = True
        self.reads += 1
        return self.numbers


def late(*numbers: int) -> tuple[SweepCounts[int], Numbers]:
    counts, gpu = SweepCounts(int, [[0] for _ in numbers]), Numbers(*numbers)
    counts.add_late(range(len(numbers)), gpu)
    return counts, gpu


def test_numbers_of_several_memories_of_a_tensor_are_summed() -> None:
    counts = SweepCounts(Scrubbed, [[0, 0], [0, 0], [0, 0]])
    counts.add([2, 0], [1, 2, 3, 4])
    gpu = Numbers(10, 20, 30, 40, 50, 60)
    counts.add_late([0, 2, 2], gpu)
    assert not counts.are_known
    assert counts.read() == [Scrubbed(13, 24), Scrubbed(0, 0), Scrubbed(81, 102)]
    assert counts.read() == counts.read()
    assert counts.are_known
    assert gpu.reads == 1


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2]])
def test_numbers_that_do_not_fit_are_refused(numbers: list[int]) -> None:
    counts = SweepCounts(Scrubbed, [[0, 0], [0, 0]])
    with pytest.raises(ValueError, match="numbers|argument"):
        counts.add([1, 0], numbers)
    assert counts.rows() == [[0, 0], [0, 0]]


def test_a_pickle_holds_the_numbers() -> None:
    counts, gpu = late(3, 4)
    copied = pickle.loads(pickle.dumps(counts))
    assert gpu.reads == 1
    assert copied.are_known
    assert copied.read() == [3, 4]


def test_totals_are_those_of_their_time() -> None:
    counts, gpus = zip(*(late(number, 10 * number) for number in (1, 2, 3)), strict=True)
    totals = [SweepTotals((100,))]
    for each in counts:
        totals.append(totals[-1].plus(each))
    assert not any(gpu.reads for gpu in gpus)
    assert [each.read() for each in totals] == [(100,), (111,), (133,), (166,)]
    assert [gpu.reads for gpu in gpus] == [1, 1, 1]


def test_totals_drop_counts_that_are_known() -> None:
    (first, gpu), (second, _), (third, _) = late(1), late(2), late(3)
    totals = SweepTotals((0,)).plus(first).plus(second)
    assert len(totals.late) == 2
    gpu.is_complete = True
    totals = totals.plus(third)
    assert totals.known == (1,)
    assert len(totals.late) == 2
    assert totals.read() == (6,)
