"""Range plans: sweeps that bring elements outside their trained range back into it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from proact import _native
from proact.errors import ProactError
from proact.ops import _range_reference as reference
from proact.ops._device_sweep import DeviceSweeps, sweeps_on_gpu
from proact.ops._hyrelu_native import DTYPES
from proact.ops._memory import extent, layout, may_overlap
from proact.ops.plain_memory import MemoryGuard, address_of, check_writable, lack_of_memory
from proact.ops.sweep_counts import SweepCounts
from proact.ops.sweep_log import SweepLog
from proact.text import short_repr

#: The replacements for a value outside its range, in the order of csrc/core/value_range.hpp.
ACTIONS = ("zero", "saturate")


class RangePlan:
    """Tensors and their bounds. One native call sweeps all that lie in dense memory of one device.

    Args:
        tensors: float16, bfloat16, float32 or float64; of any shape, on any device, with any
            strides.
        low, high: the bounds of each tensor, ends included, with one of these dtypes. A bound
            broadcasts against its tensor: one number, or one for each index of one dimension (such
            as shape (channels, 1, 1, 1)).
        names: names of the tensors for error messages.

    Raises:
        TypeError: another dtype, or a tensor without plain memory.
        ValueError: memory that cannot be written, bounds that do not broadcast, different devices,
            or elements or tensors that share memory.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        low: Sequence[Tensor],
        high: Sequence[Tensor],
        names: Sequence[str] = (),
    ) -> None:
        if not len(tensors) == len(low) == len(high):
            raise ValueError(
                "each tensor must have a lower and an upper bound, got "
                f"{len(tensors)} tensors, {len(low)} lower and {len(high)} upper bounds"
            )
        named = list(names) or [f"tensor {number}" for number in range(len(tensors))]
        for name, tensor, lower, upper in zip(named, tensors, low, high, strict=True):
            _check(name, tensor, lower, upper)
        bounds = [
            (f"a bound of {name}", bound)
            for side in (low, high)
            for name, bound in zip(named, side, strict=True)
        ]
        refuse_shared_memory(list(zip(named, tensors, strict=True)), bounds)
        self._names = named
        self._bounded = list(zip(tensors, low, high, strict=True))
        self._native: Any = None if _native.module is None else _native.module.RangePlan()
        self._memory = MemoryGuard()
        self._on_gpus = DeviceSweeps("DeviceRangePlan")
        #: The positions of the tensors in the native plan for host memory.
        self._swept_natively: list[int] = []
        self._swept_by_torch: list[int] = []
        for position, bounded in enumerate(self._bounded):
            has_numbers = bounded[0].numel() > 0
            if has_numbers and sweeps_on_gpu(bounded):
                plan = self._on_gpus.on(bounded[0].device)
                native, guard, positions = plan.native, plan.memory, plan.positions
            elif has_numbers and self._native is not None and all(map(is_dense_on_host, bounded)):
                native, guard, positions = self._native, self._memory, self._swept_natively
            else:
                self._swept_by_torch.append(position)
                continue
            self._add_native(native, named[position], *bounded)
            for each, memory in zip(("", "a bound of ", "a bound of "), bounded, strict=True):
                guard.add(each + named[position], memory)
            positions.append(position)

    @staticmethod
    def _add_native(native: Any, name: str, tensor: Tensor, low: Tensor, high: Tensor) -> None:
        channels, inner = channels_of(tensor, low)
        native.add(
            address_of(name, tensor),
            tensor.numel(),
            DTYPES[tensor.dtype],
            address_of(f"a bound of {name}", low),
            address_of(f"a bound of {name}", high),
            DTYPES[low.dtype],
            channels,
            inner,
        )

    def sweep_into(
        self,
        log: SweepLog | None,
        action: str,
        threads: int | None = None,
        isa: str = "",
        later: bool = False,
    ) -> SweepCounts[int]:
        """Replaces elements outside their bounds; counts them in each tensor.

        With a log, each word is logged before it is changed, so that `SweepLog.restore` also undoes
        a sweep that was interrupted.

        Args:
            log: makes it possible to undo the sweep; None for a permanent one.
            action: one of `ACTIONS`.
            threads: the largest number of CPU threads, torch's by default.
            isa: an instruction set of `proact.build_info`. The result depends on neither.
            later: whether the counts are read later. If the tensors on a GPU take at most 256 MiB,
                the host then does not wait for the sweep, and its log takes 1.5 times that memory.
        """
        counts = SweepCounts(int, [[0] for _ in self._bounded])
        on_gpus = None if log is None else log._on_gpus
        log = log or SweepLog(self)  # on a CPU a log costs next to nothing
        if self._native is not None:
            self._memory.check()
            count = torch.get_num_threads() if threads is None else threads
            found = self._native.sweep_into(log._native, ACTIONS.index(action), count, isa)
            counts.add(self._swept_natively, found)
        for plan in self._on_gpus:
            numbers = plan.sweep(on_gpus, ACTIONS.index(action), later=later)
            counts.add_late(plan.positions, numbers)
        by_torch = []
        for position in self._swept_by_torch:
            bounded, name = self._bounded[position], self._names[position]
            for each in bounded:
                if (lack := lack_of_memory(each)) is not None:
                    raise ProactError(
                        f"{name} or a bound of it can no longer be swept: it is {lack}"
                    )
            by_torch.append(reference.sweep(*bounded, action, log._plain, name))
        counts.add(self._swept_by_torch, by_torch)
        return counts


def checked_action(action: str) -> str:
    """``action``; ValueError for an unknown one."""
    if action not in ACTIONS:
        raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {short_repr(action)}")
    return action


def _check(name: str, tensor: Tensor, low: Tensor, high: Tensor) -> None:
    _check_memory(name, name, tensor, tensor)
    check_bounds(name, tensor, low, high)
    if not tensor.is_contiguous() and may_overlap(tensor):
        raise ValueError(f"elements of {name} must not share memory, got {layout(tensor)}")
    check_writable(name, tensor)


def check_bounds(name: str, tensor: Tensor, low: Tensor, high: Tensor) -> None:
    """TypeError or ValueError if bounds do not fit the floating-point tensor named ``name``."""
    _check_memory(f"the bound of {name}", name, low, tensor)
    _check_memory(f"{name}'s bound", name, high, tensor)
    fits = low.dim() <= tensor.dim() and all(
        bound in (1, size)
        for bound, size in zip(reversed(low.shape), reversed(tensor.shape), strict=False)
    )
    if low.shape != high.shape or not fits or sum(size != 1 for size in low.shape) > 1:
        raise ValueError(
            f"bounds must be one number, or one for each index of one dimension; got {name} of "
            f"shape {tuple(tensor.shape)} with bounds of shapes {tuple(low.shape)} and "
            f"{tuple(high.shape)}"
        )
    if low.dtype != high.dtype:
        raise TypeError(
            f"both bounds of {name} must have one dtype, got {low.dtype} and {high.dtype}"
        )


def _check_memory(what: str, name: str, each: Tensor, tensor: Tensor) -> None:
    if not isinstance(each, Tensor):
        raise TypeError(f"{what} must be a torch.Tensor, got {type(each).__name__}")
    if (lack := lack_of_memory(each)) is not None:
        raise TypeError(f"{what} must have plain memory, got {lack}")
    if each.dtype not in DTYPES:
        raise TypeError(f"{what} must be float16, bfloat16, float32 or float64, got {each.dtype}")
    if each.device != tensor.device:
        raise ValueError(f"{what} must be on {tensor.device} like {name}, got {each.device}")


def refuse_shared_memory(
    written: Sequence[tuple[str, Tensor]], read: Sequence[tuple[str, Tensor]]
) -> None:
    """ValueError if a tensor that is written shares memory with another or with a bound."""
    extents = sorted(
        (str(tensor.device), *extent(tensor), name, is_written)
        for is_written, tensors in ((True, written), (False, read))
        for name, tensor in tensors
        if tensor.numel()
    )
    for (device, _, end, before, a), (other, begin, _, after, b) in pairwise(extents):
        if device == other and begin < end and (a or b):
            raise ValueError(
                f"tensors and bounds must not share memory, and {before} and {after} do"
            )


def channels_of(tensor: Tensor, bound: Tensor) -> tuple[int, int]:
    """The number of bounds, and the number of consecutive elements that share one."""
    for dim in range(1, bound.dim() + 1):
        if bound.shape[-dim] != 1:
            return bound.shape[-dim], prod(tensor.shape[tensor.dim() - dim + 1 :])
    return 1, tensor.numel()


def is_dense_on_host(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg()
