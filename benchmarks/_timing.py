"""Interleaved timing, ratios of times, and goals for them.

Nothing is pinned and no time is asserted. The contenders of one comparison take turns, so that a
machine that slows down or is shared slows all of them, and only their ratios are judged.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

#: Shorter samples would measure the clock and the interpreter's loop.
SAMPLE_SECONDS = 200e-6
#: A budget leaves at least this many rounds: quartiles of fewer say nothing.
FEWEST_ROUNDS = 5
#: A ratio is noisy if the quartile range of one of its times exceeds this share of the median.
NOISY = 0.2

Call = Callable[[], object]
Times = Mapping[str, NDArray[np.float64]]


class Ratio(NamedTuple):
    """A ratio of two contenders' times.

    Attributes:
        value: ratio of the medians.
        low, high: first and third quartile of the ratios round by round.
        is_noisy: whether the times of one contender spread widely (`NOISY`).
    """

    value: float
    low: float
    high: float
    is_noisy: bool

    def __str__(self) -> str:
        return f"{'~' if self.is_noisy else ''}{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio: ``at_most`` for times, at least for how many times faster."""

    name: str
    limit: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"

    def reached(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit

    def verdict(self, ratio: float) -> str:
        """As a table shows it."""
        return "yes" if self.reached(ratio) else "NO"

    def worst(self, rows: Sequence[Row]) -> Row:
        return (max if self.at_most else min)(rows, key=lambda row: row.ratio.value)


@dataclass(frozen=True)
class Row:
    """The answer to one question in one case.

    Attributes:
        question: such as ``"time over torch.relu"``.
        case: size and all else that distinguishes the rows of a question.
        unit: the unit of work that ``nanoseconds`` refers to.
        nanoseconds: median time of proact for a unit of work.
        ratio: of proact and another contender.
        goal: None where none is stated for the case.
        gigabytes_per_second: memory traffic of proact.
        share_of_copy: memory traffic of proact over that of a copy.
        labels: size, dtype, threads and so on, for programs that read the JSON file.
    """

    question: str
    case: str
    unit: str
    nanoseconds: float
    ratio: Ratio
    goal: Goal | None = None
    gigabytes_per_second: float | None = None
    share_of_copy: float | None = None
    labels: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.goal.reached(self.ratio.value)


def waiting_for(device: str) -> Call:
    """A function that waits until all work that was queued on a device is done."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def interleave(
    contenders: Mapping[str, Call],
    repeats: int,
    seed: int = 0,
    budget_seconds: float = math.inf,
    *,
    device: str = "cpu",
) -> dict[str, NDArray[np.float64]]:
    """Seconds per call of each contender, one entry per round; each sample waits for the device.

    Each round runs every contender once, in random order, so that no contender always finds the
    cache in the same state. A slow comparison gets fewer rounds than ``repeats``.
    """
    wait = waiting_for(device)
    calls = {name: _calls_per_sample(call, wait) for name, call in contenders.items()}
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
                seconds = _seconds(contenders[name], calls[name], wait)
                samples[name].append(seconds / calls[name])
    finally:
        if was_enabled:
            gc.enable()
    return {name: np.array(seconds) for name, seconds in samples.items()}


def _seconds(call: Call, calls: int, wait: Call) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return time.perf_counter() - start


def _calls_per_sample(call: Call, wait: Call) -> int:
    call()  # the warm-up: compilation, lazy imports, first touch of memory
    calls = 1
    while (seconds := _seconds(call, calls, wait)) < SAMPLE_SECONDS:
        calls = max(2 * calls, math.ceil(calls * SAMPLE_SECONDS / max(seconds, 1e-7)))
    return calls


def compare(times: Times, ours: str, other: str, *, faster: bool = False) -> Ratio:
    """The time of ``ours`` over that of ``other``; with ``faster``, the inverse."""
    above, below = (times[other], times[ours]) if faster else (times[ours], times[other])
    low, high = np.quantile(above / below, (0.25, 0.75))
    ratio = float(np.median(above) / np.median(below))
    return Ratio(ratio, float(low), float(high), is_noisy(times[ours]) or is_noisy(times[other]))


def scaled(ratio: Ratio, factor: float) -> Ratio:
    """A ratio of amounts of work, from a ratio of times."""
    return ratio._replace(
        value=factor * ratio.value, low=factor * ratio.low, high=factor * ratio.high
    )


def is_noisy(seconds: NDArray[np.float64]) -> bool:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return bool((high - low) > NOISY * middle)


def threads_text(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
