"""Inject + restore through `proact.faults.inject` and through the native plan below it.

`inject` is compared with the fastest numpy script, which draws once for the whole model. The plan
is compared with numpy scripts that draw for each tensor, and with a lower bound, the floor: XORing
a list of flips twice that was drawn beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle

import _numpy_flips as by_numpy
import numpy as np
import torch
from _model_shapes import MODELS, Shapes
from _numpy_flips import Words
from _timing import Call, Goal, Row, Times, compare, interleave, threads_text
from numpy.typing import NDArray
from torch import Tensor, nn

from proact import _native
from proact.faults import BitFlip, inject
from proact.ops.plan import FlipLog, FlipPlan
from proact.ops.seeds import stream_of

RATES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
INJECT, ONE_DRAW = "inject()", "numpy, one draw"
OURS, OURS_ALONE, FLOOR = "proact", "proact, 1 thread", "floor"
SORTING, UNIQUE = "numpy, sorting", "numpy, np.unique"
#: Above this rate the script that draws by np.unique takes ten seconds per trial.
HIGHEST_UNIQUE_RATE = 1e-3
LOWEST_FLOOR_RATE = 1e-5
#: Goals are stated for these models; in ResNet-20 a trial has few flips.
LARGE = ("VGG-16", "ResNet-50")

INJECT_GOALS = {
    ber: Goal(f"inject() >= {limit:g}x faster than {ONE_DRAW}, BER {ber:g}", limit, at_most=False)
    for ber, limit in ((1e-6, 3.0), (1e-4, 6.0), (1e-3, 10.0))
}
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
GOALS = (*INJECT_GOALS.values(), *NUMPY_GOALS.values(), FLOOR_GOAL)

Script = Callable[[list[Words], float, np.random.Generator, by_numpy.Draw], list[by_numpy.Flipped]]

_ALL_BITS = (1 << 32) - 1
#: Every tensor starts at a cache line, as with torch's allocator.
_LINE_WORDS = 16


class ParameterMemory:
    """A model's parameters: random float32 tensors in one allocation.

    One allocation lets the floor be a single call instead of one call per tensor. All other
    contenders get the separate tensors.
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

    def model(self) -> nn.Module:
        """The tensors as parameters of nested modules, as their names say."""
        root = nn.Module()
        for name, tensor in self.tensors.items():
            *path, leaf = name.split(".")
            module = root
            for child in path:
                if child not in module._modules:
                    module.add_module(child, nn.Module())
                module = module.get_submodule(child)
            module.register_parameter(leaf, nn.Parameter(tensor))
        return root

    def plan(self) -> FlipPlan:
        plan = FlipPlan()
        for name, tensor in self.tensors.items():
            plan.add(tensor, stream_of(name), _ALL_BITS, None)
        return plan


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


class XorList:
    """The flips of one trial as a list, one entry per flip in the order of the plan.

    Every injection takes at least the time of XORing this list twice.
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
    """Whether the floor is native code; numpy's is slower than the plan."""
    return hasattr(_native.module, "xor_list")


@dataclass(frozen=True)
class Case:
    """One measured case: a model, a bit error rate per stored bit, and threads (count)."""

    model: str
    ber: float
    threads: int

    def __str__(self) -> str:
        return f"{self.model}, BER {self.ber:g}, {threads_text(self.threads)}"


def cases(models: list[str], rates: list[float], threads: int) -> list[Case]:
    return [
        Case(model, ber, n)
        for model in models
        for ber in rates
        for n in dict.fromkeys((1, threads))
    ]


def measure(
    wanted: list[Case], repeats: int, seed: int, cache_bytes: int, budget_seconds: float
) -> Iterator[list[Row]]:
    """Yields the rows of each case. One model is in memory at a time: cases of a model are
    neighbours."""
    model = ""
    for case in wanted:
        if case.model != model:
            model = case.model
            memory = ParameterMemory(MODELS[model](), seed)
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
            OURS_ALONE: _inject_and_restore(plan, Case(case.model, case.ber, 1), seed),
        }
    contenders = {
        INJECT: _inject_call(memory.model(), case.ber, seed),
        ONE_DRAW: _numpy_script(
            memory, case.ber, seed, by_numpy.distinct_by_sorting, by_numpy.inject_at_once
        ),
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
        # Each call is another trial, so that its words are as cold in the cache as in a campaign.
        plan.flip(case.ber, seed, next(trials), case.threads).restore(case.threads)

    return run


def _inject_call(model: nn.Module, ber: float, seed: int) -> Call:
    fault, trials, threads = BitFlip(ber), count(), torch.get_num_threads()

    def run() -> None:
        torch.set_num_threads(1)
        try:
            with inject(model, fault, seed=seed, trial=next(trials)):
                pass
        finally:
            torch.set_num_threads(threads)

    return run


def _numpy_script(
    memory: ParameterMemory,
    ber: float,
    seed: int,
    draw: by_numpy.Draw,
    script: Script = by_numpy.inject,
) -> Call:
    arrays, random = memory.arrays(), np.random.default_rng(seed)
    return lambda: by_numpy.restore(script(arrays, ber, random, draw))


def _floor(
    memory: ParameterMemory, plan: FlipPlan, ber: float, seed: int, cache_bytes: int
) -> Call:
    """Cycles through the lists of several trials, enough that their words leave the cache."""
    lines = max(1.0, min(ber * memory.bits, memory.words.size / _LINE_WORDS))
    lists = []
    for trial in range(min(256, 1 + int(2 * cache_bytes / (64 * lines)))):
        log = plan.flip(ber, seed, trial, threads=1)
        lists.append(XorList(memory, log))
        log.restore()
    turns = cycle(lists)
    return lambda: next(turns).flip_and_flip_back()


def _rows(case: Case, times: Times, flips: float) -> list[Row]:
    pairs = [(OURS, other) for other in times if other not in (OURS, INJECT, ONE_DRAW)]
    if INJECT in times:
        pairs.insert(0, (INJECT, ONE_DRAW))
    rows = []
    for ours, other in pairs:
        faster = other != FLOOR
        goal = None
        if case.model in LARGE and case.threads == 1:
            goal = NUMPY_GOALS.get((other, case.ber))
            if other == ONE_DRAW:
                goal = INJECT_GOALS.get(case.ber)
            if other == FLOOR and floor_is_native():
                goal = FLOOR_GOAL
        question = f"faster than {other}" if faster else f"time over the {other}"
        rows.append(
            Row(
                question=f"{INJECT} {question}" if ours == INJECT else question,
                case=str(case),
                unit="flip",
                nanoseconds=1e9 * float(np.median(times[ours])) / flips,
                ratio=compare(times, ours, other, faster=faster),
                goal=goal,
                labels={
                    "part": "flips",
                    "against": other,
                    "model": case.model,
                    "ber": case.ber,
                    "threads": case.threads,
                    "expected_flips": flips,
                },
            )
        )
    return rows
