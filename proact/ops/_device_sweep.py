"""Sweeps over GPU memory: the tensors of a plan on one GPU, and the logs that undo its sweeps.

A sweep is queued on the stream that is torch's current one, and waits for the GPU once, to read its
counts. It is undone in the order of that stream, even if another one is current by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from proact import _native
from proact.ops import cuda_stream
from proact.ops._device_plan import UploadedBytes, allocated, uploaded
from proact.ops.cuda_stream import FlipStream, current_device, queue_of
from proact.ops.plain_memory import MemoryGuard

#: A log has at least this many slots. A slot holds 16 bytes of the tensors and takes 24 bytes.
_LEAST_SLOTS = 1024
#: A log has one slot for this many groups of 16 bytes, so that it takes 2.3 % of their memory.
_GROUPS_PER_SLOT = 64
#: After sweeps that changed more, a log has up to one slot for this many groups.
_LEAST_GROUPS_PER_SLOT = 8


def sweeps_on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Whether kernels sweep tensors with plain memory: they are dense, and this build has kernels.

    A GPU reads words only at multiples of their size.
    """
    module = _native.module
    return (
        module is not None
        and bool(module.cuda)
        and all(
            cuda_stream.is_on_gpu(tensor)
            and tensor.is_contiguous()
            and not tensor.is_neg()
            and tensor.data_ptr() % tensor.element_size() == 0
            for tensor in tensors
        )
    )


class DeviceSweeps:
    """The native plans of a sweep over GPU memory, one for each GPU.

    Args:
        kind: the native class of the plans.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._plans: dict[torch.device, DeviceSweepPlan] = {}

    def on(self, device: torch.device) -> DeviceSweepPlan:
        if device not in self._plans:
            native = getattr(_native.module, self._kind)()
            self._plans[device] = DeviceSweepPlan(native, device)
        return self._plans[device]

    def __iter__(self) -> Iterator[DeviceSweepPlan]:
        return iter(self._plans.values())


class DeviceSweepPlan:
    """Tensors on one GPU, which one kernel sweeps.

    Attributes:
        native: the native plan, to which the caller adds memories.
        memory: the tensors and what else the kernel reads, which the caller adds too.
        positions: for each memory, the position of its tensor in the whole plan.
    """

    def __init__(self, native: Any, device: torch.device) -> None:
        self.native, self.device = native, device
        self.memory = MemoryGuard()
        self.positions: list[int] = []
        self._described = UploadedBytes(native.described, device)
        self._expected_slots = 0

    def sweep(self, log: DeviceSweepLog | None, *options: int) -> list[int]:
        """Sweeps all memories with options of the native plan; returns its counts.

        A sweep that needs more slots than its log has is undone and made again with more. Without
        a log, changes are permanent.

        Raises:
            ProactError: memory was moved or freed.
        """
        self.memory.check()
        if log is None:
            unlogged = DeviceSweep(self, 0)
            unlogged.run(options)
            return unlogged.results()[1]
        groups: int = self.native.groups()
        capacity = min(groups, max(_LEAST_SLOTS, groups // _GROUPS_PER_SLOT, self._expected_slots))
        sweep = DeviceSweep(self, capacity)
        log.add(sweep)
        sweep.run(options)
        wanted, counts = sweep.results()
        while wanted > sweep.capacity:
            sweep.restore()
            sweep = DeviceSweep(self, wanted)
            log.replace_last(sweep)  # until then, an interruption undoes the first sweep again
            sweep.run(options)
            wanted, counts = sweep.results()
        self._expected_slots = min(wanted + wanted // 4, groups // _LEAST_GROUPS_PER_SLOT)
        if wanted == 0:
            log.drop_last()  # gives its memory back
        return counts

    def encode(self) -> None:
        """Writes valid check bits into all memories of a scrub plan."""
        self.memory.check()
        with current_device(self.device):
            self.native.encode(self.description_address(), *queue_of(self.device))

    def description_address(self) -> int:
        """The address of the native plan's description on the GPU, for the current stream."""
        return self._described.address()


class DeviceSweep:
    """One sweep, whose counts and log lie on the GPU.

    Args:
        plan: the plan, complete.
        capacity: the number of slots of the log; 0 if changes are permanent.
    """

    def __init__(self, plan: DeviceSweepPlan, capacity: int) -> None:
        self._plan, self.capacity = plan, capacity
        self._stream = FlipStream(plan.device)
        self._moved: list[tuple[int, int, int]] = []
        self._slots = capacity  # an upper bound of those in use
        self._memory = allocated(plan.native.log_bytes(capacity), plan.device)
        self._memory[: plan.native.header_bytes()].zero_()

    def run(self, options: Iterable[int]) -> None:
        plan = self._plan
        with current_device(plan.device):
            plan.native.sweep(
                plan.description_address(),
                self._memory.data_ptr(),
                self.capacity,
                *options,
                *queue_of(plan.device),
            )

    def results(self) -> tuple[int, list[int]]:
        """The number of slots that the sweep needs, and its counts; waits for the GPU."""
        header = self._memory[: 8 * (1 + self._plan.native.counts())]
        wanted, *counts = header.cpu().view(torch.int64).tolist()
        self._slots = min(wanted, self.capacity)
        return wanted, counts

    def restore(self) -> list[str]:
        """Writes the old words back, to where the tensors are now.

        Returns:
            The names of tensors whose memory is gone.
        """
        plan = self._plan
        self._moved = []
        lost = plan.memory.follow(self)
        # On the stream that allocated the memory of the log (`FlipStream.ordered`), the allocator
        # does not reuse it before the stream has finished with it.
        with self._stream.ordered(), current_device(plan.device):
            if self._moved:
                moved = uploaded(plan.native.memories(self._moved), plan.device)
                memories = moved.data_ptr()
            else:
                memories = plan.description_address()
            log = memories, self._memory.data_ptr(), self.capacity
            plan.native.restore(self._slots, *log, *queue_of(plan.device))
        return lost

    def relocate(self, moved: list[tuple[int, int, int]]) -> None:
        """Notes where memory is now, as (before, bytes, now)."""
        self._moved = moved


class DeviceSweepLog:
    """The sweeps of one call, on one or more GPUs."""

    def __init__(self) -> None:
        self._sweeps: list[DeviceSweep] = []

    def add(self, sweep: DeviceSweep) -> None:
        """Adds a sweep before it changes memory, so that it is undone if it is interrupted."""
        self._sweeps.append(sweep)

    def replace_last(self, sweep: DeviceSweep) -> None:
        self._sweeps[-1] = sweep

    def drop_last(self) -> None:
        self._sweeps.pop()

    def restore(self) -> list[str]:
        """Undoes all sweeps; returns the names of tensors whose memory is gone."""
        return [name for sweep in reversed(self._sweeps) for name in sweep.restore()]
