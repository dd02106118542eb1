"""Range plans: sweeps that repair elements outside their trained range, and logs that undo them."""

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
from proact.ops._hyrelu_native import DTYPES
from proact.ops._memory import extent, layout, may_overlap
from proact.ops.plain_memory import MemoryGuard, check_writable, lack_of_memory, refuse_lost

#: The replacements for a value outside its range, in the order of csrc/core/value_range.hpp.
ACTIONS = ("zero", "saturate")


class RangeLog:
    """The words that one sweep overwrote; empty until a plan fills it. Keeps the tensors alive."""

    def __init__(self, plan: RangePlan) -> None:
        self._plan = plan  # the log writes to its tensors
        self._native: Any = plan._native and _native_log()
        self._plain = reference.ReferenceRangeLog()

    def restore(self) -> None:
        """Writes the old words back, even if the memory has changed since.

        If the storage of a tensor has moved, the words are written where it is now.

        Raises:
            ProactError: memory that was freed. All words elsewhere are restored.
        """
        lost: list[str] = []
        if self._native is not None:
            lost += self._plan._memory.follow(self._native)
            self._native.restore()
        lost += self._plain.restore()
        refuse_lost(lost)


class RangePlan:
    """Tensors and their bounds. One native call sweeps all that lie in dense host memory.

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
        _refuse_shared_memory(named, tensors, low, high)
        self._names = named
        self._bounded = list(zip(tensors, low, high, strict=True))
        self._native: Any = None if _native.module is None else _native.module.RangePlan()
        self._memory = MemoryGuard()
        #: The positions of the tensors in the native plan; the others are swept by torch.
        self._swept_natively: list[int] = []
        for position, bounded in enumerate(self._bounded):
            is_dense = all(map(_is_dense_on_host, bounded))
            if self._native is not None and is_dense and bounded[0].numel():
                self._add_native(*bounded)
                for each, memory in zip(("", "a bound of ", "a bound of "), bounded, strict=True):
                    self._memory.add(each + named[position], memory)
                self._swept_natively.append(position)
        native = set(self._swept_natively)
        self._swept_by_torch = [p for p in range(len(tensors)) if p not in native]

    def _add_native(self, tensor: Tensor, low: Tensor, high: Tensor) -> None:
        channels, inner = _channels(tensor, low)
        self._native.add(
            tensor.data_ptr(),
            tensor.numel(),
            DTYPES[tensor.dtype],
            low.data_ptr(),
            high.data_ptr(),
            DTYPES[low.dtype],
            channels,
            inner,
        )

    def sweep_into(
        self, log: RangeLog, action: str, threads: int | None = None, isa: str = ""
    ) -> list[int]:
        """Replaces elements outside their bounds; returns the number of them in each tensor.

        Each word is logged before it is changed, so that `RangeLog.restore` also undoes a sweep
        that was interrupted. ``threads`` is the largest number of CPU threads, torch's by default,
        and ``isa`` an instruction set of `proact.build_info`; the result depends on neither.
        """
        repairs = [0] * len(self._bounded)
        if self._native is not None:
            self._memory.check()
            count = torch.get_num_threads() if threads is None else threads
            found = self._native.sweep_into(log._native, ACTIONS.index(action), count, isa)
            for position, here in zip(self._swept_natively, found, strict=True):
                repairs[position] = here
        for position in self._swept_by_torch:
            bounded, name = self._bounded[position], self._names[position]
            for each in bounded:
                if (lack := lack_of_memory(each)) is not None:
                    raise ProactError(
                        f"{name} or a bound of it can no longer be swept: it is {lack}"
                    )
            repairs[position] = reference.sweep(*bounded, action, log._plain, name)
        return repairs


def checked_action(action: str) -> str:
    """``action``; ValueError for an unknown one."""
    if action not in ACTIONS:
        raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
    return action


def _native_log() -> Any:
    module: Any = _native.module
    return module.RangeLog()


def _check(name: str, tensor: Tensor, low: Tensor, high: Tensor) -> None:
    for what, each in ((name, tensor), (f"the bound of {name}", low), (f"{name}'s bound", high)):
        if not isinstance(each, Tensor):
            raise TypeError(f"{what} must be a torch.Tensor, got {type(each).__name__}")
        lack = lack_of_memory(each)
        if lack is not None:
            raise TypeError(f"{what} must have plain memory, got {lack}")
        if each.dtype not in DTYPES:
            raise TypeError(
                f"{what} must be float16, bfloat16, float32 or float64, got {each.dtype}"
            )
        if each.device != tensor.device:
            raise ValueError(f"{what} must be on {tensor.device} like {name}, got {each.device}")
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
    if not tensor.is_contiguous() and may_overlap(tensor):
        raise ValueError(f"elements of {name} must not share memory, got {layout(tensor)}")
    check_writable(name, tensor)


def _refuse_shared_memory(
    names: Sequence[str], tensors: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor]
) -> None:
    written = [(name, t) for name, t in zip(names, tensors, strict=True) if t.numel()]
    read = [(f"a bound of {name}", b) for name, b in zip(names, low, strict=True)]
    read += [(f"a bound of {name}", b) for name, b in zip(names, high, strict=True)]
    extents = sorted(
        (str(tensor.device), *extent(tensor), name, is_written)
        for is_written, tensors in ((True, written), (False, read))
        for name, tensor in tensors
    )
    for (device, _, end, before, a), (other, begin, _, after, b) in pairwise(extents):
        if device == other and begin < end and (a or b):
            raise ValueError(
                f"tensors and bounds must not share memory, and {before} and {after} do"
            )


def _channels(tensor: Tensor, bound: Tensor) -> tuple[int, int]:
    """The number of bounds, and the number of consecutive elements that share one."""
    for dim in range(1, bound.dim() + 1):
        if bound.shape[-dim] != 1:
            return bound.shape[-dim], prod(tensor.shape[tensor.dim() - dim + 1 :])
    return 1, tensor.numel()


def _is_dense_on_host(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg()
