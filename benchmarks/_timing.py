"""Interleaved timing, ratios of it, and the goals they are held against.

Nothing is pinned and nothing is asserted. The contenders of one comparison take turns, so that a
machine that slows down or is shared slows all of them, and only their ratio is judged.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Shorter samples would measure the clock and the interpreter's loop.
SAMPLE_SECONDS = 200e-6
#: Quartiles of fewer rounds say nothing; a budget does not cut below this.
FEWEST_ROUNDS = 5
#: Quartile range over median, above which a row is marked as noisy.
NOISY = 0.2

Call = Callable[[], object]
Times = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Goal:
    """What a ratio shall be: of times (at most), or how many times faster (at least)."""

    name: str
    limit: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"

    def reached(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit

    def worst(self, rows: list[Row]) -> Row:
        return (max if self.at_most else min)(rows, key=lambda row: row.ratio)


@dataclass(frozen=True)
class Row:
    """One question and its answer."""

    question: str
    where: str  #: the size and everything else that tells the rows of a question apart
    unit: str  #: what `nanoseconds` is per
    nanoseconds: float  #: ours, median
    ratio: float  #: of medians
    low: float  #: first quartile of the ratios round by round
    high: float  #: third quartile of them
    noisy: bool
    goal: Goal | None = None
    gigabytes_per_second: float | None = None
    share_of_copy: float | None = None
    #: size, dtype, threads and so on, for programs
    labels: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.goal.reached(self.ratio)


def interleave(
    contenders: Mapping[str, Call], repeats: int, seed: int = 0, budget_seconds: float = math.inf
) -> dict[str, NDArray[np.float64]]:
    """Seconds per call of each contender, one entry a round.

    Each round runs every contender once, in an order of its own, so that nobody always finds the
    cache as the same neighbour left it. A slow comparison gets fewer rounds than ``repeats``.
    """
    calls = {name: _calls_per_sample(call) for name, call in contenders.items()}
    order = list(contenders)
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    was_enabled = gc.isenabled()
    gc.disable()  # a collection would hit one contender at random
    try:
        for done in range(repeats):
            if done >= FEWEST_ROUNDS and time.perf_counter() - start > budget_seconds:
                break
            shuffle(order)
            for name in order:
                samples[name].append(_seconds(contenders[name], calls[name]) / calls[name])
    finally:
        if was_enabled:
            gc.enable()
    return {name: np.array(seconds) for name, seconds in samples.items()}


def _seconds(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def _calls_per_sample(call: Call) -> int:
    call()  # the warm-up: compilation, lazy imports, first touch of memory
    calls = 1
    while (seconds := _seconds(call, calls)) < SAMPLE_SECONDS:
        calls = max(2 * calls, math.ceil(calls * SAMPLE_SECONDS / max(seconds, 1e-7)))
    return calls


def compare(
    times: Times, ours: str, other: str, *, faster: bool
) -> tuple[float, float, float, bool]:
    """The ratio of medians, its quartiles over the rounds, and whether the machine was noisy.

    The ratio is ours over theirs; with ``faster``, theirs over ours.
    """
    above, below = (times[other], times[ours]) if faster else (times[ours], times[other])
    low, high = np.quantile(above / below, (0.25, 0.75))
    ratio = float(np.median(above) / np.median(below))
    return ratio, float(low), float(high), is_noisy(times[ours]) or is_noisy(times[other])


def is_noisy(seconds: NDArray[np.float64]) -> bool:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return bool((high - low) > NOISY * middle)


def threads_text(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
