"""Scrub plans: sweeps that correct errors in codewords in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proact import _native
from proact.errors import ProactError
from proact.ops import _scrub_reference as reference
from proact.ops._device_sweep import DeviceSweeps, sweeps_on_gpu
from proact.ops._hyrelu_native import DTYPES
from proact.ops._memory import layout, may_overlap
from proact.ops._scrub_reference import Bounds
from proact.ops.in_place_code import TensorCode, check_word_size
from proact.ops.plain_memory import MemoryGuard, address_of, check_writable, lack_of_memory
from proact.ops.range_plan import channels_of, check_bounds, is_dense_on_host, refuse_shared_memory
from proact.ops.sweep_counts import SweepCounts
from proact.ops.sweep_log import SweepLog


class Scrubbed(NamedTuple):
    """The numbers of codewords with errors that a sweep found in a tensor.

    Attributes:
        corrected: codewords whose error the code corrected.
        detected: codewords whose error the code only detected, so that they were replaced.
    """

    corrected: int
    detected: int


class ScrubPlan:
    """Tensors of codewords. One native call sweeps all that lie in dense memory of one device.

    Codewords consist of words that are adjacent in the order of a tensor's elements. A codeword
    whose error is only detected becomes the codeword of the numbers nearest to 0 between two
    bounds, with their payload; without bounds, of 0. A code that masks clears bits instead.

    Args:
        tensors: of any shape, on any device, with any strides.
        codes: the code of each tensor.
        bounds: for each tensor, the lower and the upper bound of its replacements, as for
            `proact.ops.range_plan.RangePlan`; or None. A plan reads bounds in each sweep and does
            not scrub them first.
        names: names of the tensors for error messages.

    Raises:
        TypeError: a tensor without plain memory, or words of another size than those of the code.
        ValueError: memory that cannot be written, unfitting bounds, or elements or tensors that
            share memory.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        codes: Sequence[TensorCode],
        bounds: Sequence[Bounds | None],
        names: Sequence[str] = (),
    ) -> None:
        if not len(tensors) == len(codes) == len(bounds):
            raise ValueError(
                "each tensor must have a code and bounds or None, got "
                f"{len(tensors)} tensors, {len(codes)} codes and {len(bounds)} bounds"
            )
        self._names = list(names) or [f"tensor {number}" for number in range(len(tensors))]
        self._coded = list(zip(tensors, codes, bounds, strict=True))
        for name, (tensor, code, pair) in zip(self._names, self._coded, strict=True):
            _check(name, tensor, code, pair)
        pairs = [pair for pair in bounds if pair is not None]
        bounded = [n for n, pair in zip(self._names, bounds, strict=True) if pair is not None]
        refuse_shared_memory(
            list(zip(self._names, tensors, strict=True)),
            [(f"a bound of {n}", each) for n, p in zip(bounded, pairs, strict=True) for each in p],
        )
        self._native: Any = None if _native.module is None else _native.module.ScrubPlan()
        self._memory = MemoryGuard()
        self._on_gpus = DeviceSweeps("DeviceScrubPlan")
        #: The position of the tensor that each memory of the native plan for the host belongs to.
        self._positions: list[int] = []
        self._swept_plainly: list[int] = []
        for position, (tensor, code, pair) in enumerate(self._coded):
            memory = _in_memory_order(tensor, code, pair)
            read = (memory, *(pair or ()))
            if tensor.numel() and sweeps_on_gpu(read):
                plan = self._on_gpus.on(tensor.device)
                native, guard, positions = plan.native, plan.memory, plan.positions
            elif tensor.numel() and self._native is not None and all(map(is_dense_on_host, read)):
                native, guard, positions = self._native, self._memory, self._positions
            else:
                self._swept_plainly.append(position)
                continue
            parts = self._add_native(native, self._names[position], memory, code, pair)
            positions += [position] * parts
            guard.add(self._names[position], tensor)
            for bound in pair or ():
                guard.add(f"a bound of {self._names[position]}", bound)

    @property
    def codes(self) -> list[TensorCode]:
        """The code of each tensor."""
        return [code for _, code, _ in self._coded]

    @staticmethod
    def _add_native(
        native: Any, name: str, memory: Tensor, coded: TensorCode, bounds: Bounds | None
    ) -> int:
        """Adds the memories of a tensor to a native plan; returns their number."""
        replacement: tuple[int, ...] = ()
        if bounds is not None:
            low, high = bounds
            replacement = (
                address_of(f"a bound of {name}", low),
                address_of(f"a bound of {name}", high),
                DTYPES[low.dtype],
                DTYPES[memory.dtype],
                *channels_of(memory, low),
            )
        begin = address_of(name, memory)
        parts = coded.parts(memory.numel())
        for code, first, codewords in parts:
            address = begin + first * code.word_bytes
            native.add(address, codewords, code.native, code.word_bytes, first, *replacement)
        return len(parts)

    def scrub(
        self,
        log: SweepLog | None = None,
        threads: int | None = None,
        isa: str = "",
        later: bool = False,
    ) -> SweepCounts[Scrubbed]:
        """Corrects or replaces invalid codewords; counts them in each tensor.

        With a log, each word is logged before it is changed, so that `SweepLog.restore` also undoes
        a sweep that was interrupted.

        Args:
            log: makes it possible to undo the sweep; None for a permanent one.
            threads: the largest number of CPU threads, torch's by default.
            isa: an instruction set of `proact.build_info`. The result depends on neither.
            later: whether the counts are read later. If the tensors on a GPU take at most 256 MiB,
                the host then does not wait for the sweep, and its log takes 1.5 times that memory.
        """
        counts = SweepCounts(Scrubbed, [[0, 0] for _ in self._coded])
        if self._native is not None:
            self._memory.check()
            count = torch.get_num_threads() if threads is None else threads
            found = self._native.scrub(None if log is None else log._native, count, isa)
            counts.add(self._positions, [number for pair in found for number in pair])
        for plan in self._on_gpus:
            numbers = plan.sweep(None if log is None else log._on_gpus, later=later)
            counts.add_late(plan.positions, numbers)
        plainly: list[int] = []
        for position in self._swept_plainly:
            tensor, code, bounds = self._coded[position]
            name = self._names[position]
            for each in (tensor, *(bounds or ())):
                if (lack := lack_of_memory(each)) is not None:
                    raise ProactError(
                        f"{name} or a bound of it can no longer be scrubbed: it is {lack}"
                    )
            plain_log = None if log is None else log._plain
            plainly += reference.scrub(tensor, code, bounds, plain_log, name)
        counts.add(self._swept_plainly, plainly)
        return counts


def _check(name: str, tensor: Tensor, code: TensorCode, bounds: Bounds | None) -> None:
    if (lack := lack_of_memory(tensor)) is not None:
        raise TypeError(f"{name} must have plain memory, got {lack}")
    check_word_size(name, tensor, code)
    code.parts(tensor.numel())
    if not tensor.is_contiguous() and may_overlap(tensor):
        raise ValueError(f"elements of {name} must not share memory, got {layout(tensor)}")
    check_writable(name, tensor)
    if bounds is not None:
        check_bounds(name, tensor, *bounds)


def _in_memory_order(tensor: Tensor, coded: TensorCode, bounds: Bounds | None) -> Tensor:
    """A view with the dimensions in the order of memory, if the order does not matter.

    It does not for codewords of one word with one replacement, so that channels-last tensors are
    swept natively too.
    """
    is_one = coded.code.words == 1 and (bounds is None or bounds[0].numel() == 1)
    if tensor.is_contiguous() or not is_one:
        return tensor
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
