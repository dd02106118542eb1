"""The sizes, dtypes, thresholds and threads at which HyReLU is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _timing import threads_text

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache_bytes() -> int:
    """The size that sysfs reports; 32 MiB where it reports none."""
    sizes = [0]
    for index in _CACHES.glob("index*/size"):
        text = index.read_text().strip()
        number = text.rstrip("".join(_UNITS))
        if number.isdigit():
            sizes.append(int(number) * _UNITS.get(text[len(number) :], 1))
    return max(sizes) or 32 << 20


@dataclass(frozen=True)
class Case:
    """One measured case.

    Attributes:
        work: ``"zero forward"``, ``"zero in place"``, ``"soft forward"`` or ``"soft fwd+bwd"``.
        elements: size of the tensor (count).
        threads: threads of torch (count).
        placement: of the threshold T: ``"tail"`` (at the maximum of the data), ``"1%"`` (1 % of the
            elements lie in the soft band or above) or ``"bulk"`` (at the median of positive ones).
        granularity: one T for the ``"layer"``, for each ``"channel"`` or for each ``"neuron"``.
        eager: whether the formula in eager torch is a contender.
        compiled: whether the compiled formula is one.
        has_isas: whether the other instruction sets of the machine are contenders.
    """

    work: str
    elements: int
    dtype: torch.dtype
    threads: int
    placement: str = "tail"
    granularity: str = "layer"
    eager: bool = False
    compiled: bool = False
    has_isas: bool = False

    @property
    def is_soft(self) -> bool:
        return self.work.startswith("soft")

    @property
    def is_step(self) -> bool:
        return self.work.endswith("bwd")

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return (
            f"{size_text(self.bytes)} {self.dtype_name}, T {self.placement} per "
            f"{self.granularity}, {threads_text(self.threads)}"
        )


def size_text(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def default(threads: int, quick: bool) -> list[Case]:
    if quick:
        return [
            *_grid([1 << 14], torch.float32, 1),
            # Compiling a formula takes seconds: only the one with a goal is compiled.
            *(
                replace(case, compiled=case.is_step and case.eager)
                for case in _grid([1 << 18], torch.float32, 1)
            ),
            *_grid([1 << 18], torch.bfloat16, 1),
            *_granularities([1 << 18]),
            *(_grid([1 << 20], torch.float32, threads) if threads > 1 else ()),
        ]
    # From the first-level cache to tensors that fit no cache, where all contenders wait for memory.
    beyond = min(max(64 << 20, 4 * last_level_cache_bytes()), 512 << 20) // 4
    sizes = sorted({1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, beyond})
    few = [1 << 16, 1 << 20, 1 << 24]
    cases = _grid(sizes, torch.float32, 1, compiled=few)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        cases += _grid([1 << 16, 1 << 20, 1 << 22], dtype, 1, compiled=[1 << 20])
    cases += _granularities([1 << 18, 1 << 22])
    if threads > 1:
        cases += _grid(few, torch.float32, threads, compiled=few)
    return cases


def on_gpu(quick: bool) -> list[Case]:
    """From 64 KiB to 1 GiB; the smaller sizes fit a GPU's cache."""
    halves = (torch.float16, torch.bfloat16)
    if quick:
        return [case for dtype in (torch.float32, *halves) for case in _grid([1 << 22], dtype, 1)]
    sizes = [1 << power for power in range(14, 29, 2)]
    cases = _grid(sizes, torch.float32, 1, compiled=[1 << 18, 1 << 24])
    for dtype in halves:
        cases += _grid([2 * size for size in sizes], dtype, 1, compiled=[1 << 25])
    return [*(replace(case, has_isas=False) for case in cases), *_granularities([1 << 24])]


def of_sizes(sizes: list[int], threads: int) -> list[Case]:
    """The cases in float32 at given sizes (elements)."""
    cases = []
    for n in dict.fromkeys((1, threads)):
        cases += _grid(sizes, torch.float32, n, compiled=sizes)
    return [*cases, *_granularities(sizes)]


def without_compiled(cases: list[Case]) -> list[Case]:
    return [replace(case, compiled=False) for case in cases]


def _grid(
    sizes: list[int], dtype: torch.dtype, threads: int, compiled: list[int] | None = None
) -> list[Case]:
    cases = []
    for n in sizes:
        also = n in (compiled or ())
        # A call of the eager formula takes most of a second on the largest tensors, and its ratio
        # is no better there.
        eager, eager_elsewhere = (n * dtype.itemsize <= most << 20 for most in (64, 16))
        # Below, the call takes longer than the loop.
        isas = threads == 1 and n >= 1 << 18
        cases += [
            Case("zero forward", n, dtype, threads, "tail", "layer", eager, also, isas),
            Case("zero in place", n, dtype, threads),
            Case("soft forward", n, dtype, threads, "1%", "layer", eager_elsewhere, also, isas),
            Case("soft fwd+bwd", n, dtype, threads, "tail", has_isas=isas),
            Case("soft fwd+bwd", n, dtype, threads, "1%", "layer", eager, also, isas),
            Case("soft fwd+bwd", n, dtype, threads, "bulk", "layer", eager_elsewhere, also, isas),
        ]
    return cases


def _granularities(sizes: list[int]) -> list[Case]:
    return [
        Case(work, n, torch.float32, 1, "1%", granularity, eager=True)
        for n in sizes
        for granularity in ("channel", "neuron")
        for work in ("zero forward", "soft fwd+bwd")
    ]
