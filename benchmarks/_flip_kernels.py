"""Inject + restore through the native plan, against numpy scripts and against the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle

import _numpy_flips as by_numpy
import numpy as np
import torch
from _network_shapes import NETWORKS, Shapes
from _numpy_flips import Words
from _timing import Call, Goal, Row, compare, interleave, threads_text
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.ops.plan import FlipLog, FlipPlan
from proact.ops.seeds import stream_of

RATES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
OURS, OURS_ALONE, FLOOR = "proact", "proact, 1 thread", "floor"
SORTING, UNIQUE = "numpy, sorting", "numpy, np.unique"
#: The script that draws by np.unique takes ten seconds a trial above this.
HIGHEST_UNIQUE_RATE = 1e-3
LOWEST_FLOOR_RATE = 1e-5
#: Goals are stated for these; on ResNet-20 a trial is a handful of flips.
LARGE = ("VGG-16", "ResNet-50")

NUMPY_GOALS = {
    (script, ber): Goal(
        f"inject + restore >= {limit:g}x faster than {script}, BER {ber:g}", limit, at_most=False
    )
    for script in (SORTING, UNIQUE)
    for ber, limit in ((1e-6, 3.0), (1e-4, 6.0), (1e-3, 20.0))
}
FLOOR_GOAL = Goal(
    f"inject + restore <= 2x XORing a drawn list twice, BER >= {LOWEST_FLOOR_RATE:g}", 2.0, True
)
GOALS = (*NUMPY_GOALS.values(), FLOOR_GOAL)

_ALL_BITS = (1 << 32) - 1
#: torch's allocator starts every tensor at a cache line.
_LINE_WORDS = 16


class ParameterMemory:
    """A network's parameters: random float32 tensors in one allocation.

    One allocation, so that the floor is one call and its loop, not a call a tensor. Everybody
    else sees the tensors alone.
    """

    def __init__(self, shapes: Shapes, seed: int) -> None:
        ends = np.cumsum(
            [-(-_size(shape) // _LINE_WORDS) * _LINE_WORDS for shape in shapes.values()]
        )
        self.first_words: NDArray[np.int64] = np.concatenate(([0], ends[:-1]))
        memory = torch.empty(int(ends[-1])).normal_(generator=torch.Generator().manual_seed(seed))
        self.words: Words = memory.numpy().view(np.uint32)
        self.tensors: dict[str, Tensor] = {
            name: memory[first : first + _size(shape)].view(shape)
            for (name, shape), first in zip(shapes.items(), self.first_words.tolist(), strict=True)
        }
        self.bits = 32 * sum(tensor.numel() for tensor in self.tensors.values())

    def arrays(self) -> list[Words]:
        return [tensor.numpy().view(np.uint32).reshape(-1) for tensor in self.tensors.values()]

    def plan(self) -> FlipPlan:
        plan = FlipPlan()
        for name, tensor in self.tensors.items():
            plan.add(tensor, stream_of(name), _ALL_BITS, None)
        return plan


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


class XorList:
    """The flips of one trial as a drawn list: XORing it twice is the least that any injection does.

    One entry a flip, in the order in which the plan flipped.
    """

    def __init__(self, memory: ParameterMemory, log: FlipLog) -> None:
        flips = log.columns()
        element = memory.first_words[flips.tensor] + flips.element.astype(np.int64)
        self._words = memory.words
        self._elements = element.astype(np.uint32)
        self._masks = np.left_shift(np.uint32(1), flips.bit.astype(np.uint32))
        self._xor_list: Callable[..., None] | None = getattr(_native.module, "xor_list", None)
        self._arguments = (
            self._words.ctypes.data,
            self._words.itemsize,
            self._elements.ctypes.data,
            self._masks.ctypes.data,
            self._elements.size,
        )

    def flip(self) -> None:
        if self._xor_list is None:
            np.bitwise_xor.at(self._words, self._elements, self._masks)
        else:
            self._xor_list(*self._arguments)

    def flip_and_flip_back(self) -> None:
        self.flip()
        self.flip()


def floor_is_native() -> bool:
    return hasattr(_native.module, "xor_list")


@dataclass(frozen=True)
class Case:
    network: str
    ber: float
    threads: int

    def __str__(self) -> str:
        return f"{self.network}, BER {self.ber:g}, {threads_text(self.threads)}"


def cases(networks: list[str], rates: list[float], threads: int) -> list[Case]:
    return [
        Case(network, ber, n)
        for network in networks
        for ber in rates
        for n in dict.fromkeys((1, threads))
    ]


def measure(
    wanted: list[Case], repeats: int, seed: int, cache_bytes: int, budget_seconds: float
) -> Iterator[list[Row]]:
    """The rows of one case after the other."""
    network = ""
    for case in wanted:
        if case.network != network:  # neighbours share a network: one is in memory at a time
            network = case.network
            memory = ParameterMemory(NETWORKS[network](), seed)
        contenders = _contenders(case, memory, seed, cache_bytes)
        times = interleave(contenders, repeats, seed, budget_seconds)
        yield _rows(case, times, case.ber * memory.bits)


def _contenders(
    case: Case, memory: ParameterMemory, seed: int, cache_bytes: int
) -> dict[str, Call]:
    plan = memory.plan()
    if case.threads > 1:
        return {
            OURS: _inject_and_restore(plan, case, seed),
            OURS_ALONE: _inject_and_restore(plan, Case(case.network, case.ber, 1), seed),
        }
    contenders = {
        OURS: _inject_and_restore(plan, case, seed),
        SORTING: _numpy_script(memory, case.ber, seed, by_numpy.distinct_by_sorting),
    }
    if case.ber <= HIGHEST_UNIQUE_RATE:
        contenders[UNIQUE] = _numpy_script(memory, case.ber, seed, by_numpy.distinct_by_unique)
    if case.ber >= LOWEST_FLOOR_RATE:
        contenders[FLOOR] = _floor(memory, plan, case.ber, seed, cache_bytes)
    return contenders


def _inject_and_restore(plan: FlipPlan, case: Case, seed: int) -> Call:
    trials = count()

    def run() -> None:
        # Every call is a trial of its own: other words, so that they are as cold as in a campaign.
        plan.flip(case.ber, seed, next(trials), case.threads).restore(case.threads)

    return run


def _numpy_script(memory: ParameterMemory, ber: float, seed: int, draw: by_numpy.Draw) -> Call:
    arrays, random = memory.arrays(), np.random.default_rng(seed)
    return lambda: by_numpy.restore(by_numpy.inject(arrays, ber, random, draw))


def _floor(
    memory: ParameterMemory, plan: FlipPlan, ber: float, seed: int, cache_bytes: int
) -> Call:
    """The lists of so many trials that their words do not wait in the cache for the next turn."""
    lines = max(1.0, min(ber * memory.bits, memory.words.size / _LINE_WORDS))
    lists = []
    for trial in range(min(256, 1 + int(2 * cache_bytes / (64 * lines)))):
        log = plan.flip(ber, seed, trial, threads=1)
        lists.append(XorList(memory, log))
        log.restore()
    turns = cycle(lists)
    return lambda: next(turns).flip_and_flip_back()


def _rows(case: Case, times: dict[str, NDArray[np.float64]], flips: float) -> list[Row]:
    rows = []
    for other in times:
        if other == OURS:
            continue
        faster = other != FLOOR
        ratio, low, high, noisy = compare(times, OURS, other, faster=faster)
        goal = None
        if case.network in LARGE and case.threads == 1:
            goal = NUMPY_GOALS.get((other, case.ber))
            if other == FLOOR and floor_is_native():
                goal = FLOOR_GOAL
        rows.append(
            Row(
                question=f"faster than {other}" if faster else f"time over the {other}",
                where=str(case),
                unit="flip",
                nanoseconds=1e9 * float(np.median(times[OURS])) / flips,
                ratio=ratio,
                low=low,
                high=high,
                noisy=noisy,
                goal=goal,
                labels={
                    "part": "flips",
                    "against": other,
                    "network": case.network,
                    "ber": case.ber,
                    "threads": case.threads,
                    "expected_flips": flips,
                },
            )
        )
    return rows
