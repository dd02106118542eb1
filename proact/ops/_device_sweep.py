"""Sweeps over GPU memory: the tensors of a plan on one GPU, and the logs that undo its sweeps.

A sweep is queued on the stream that is torch's current one. It is undone in the order of that
stream, even if another one is current by then. The host waits for the GPU where it reads counts,
and in sweeps whose log may prove too small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proact import _native
from proact.ops import _device_memory, cuda_stream
from proact.ops._device_memory import UploadedBytes
from proact.ops.cuda_stream import FlipStream, HostCopy, current_device, queue_of
from proact.ops.plain_memory import MemoryGuard

#: Bytes that a slot of a log holds of the tensors (`group_bytes` in csrc/cuda/sweep.hpp), and bytes
#: of its place.
_GROUP, _PLACE = 16, 8
#: Up to so many groups (256 MiB), a log can have a slot for each, so that the host need not wait to
#: learn whether the log was large enough. Larger logs would take too much memory.
_MOST_GROUPS_WITHOUT_WAIT = 1 << 24
#: Other logs have at least this many slots.
_LEAST_SLOTS = 1024
#: They have one slot for this many groups, so that they take 2.3 % of their memory.
_GROUPS_PER_SLOT = 64
#: After sweeps that changed more, they have up to one slot for this many groups.
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

    def sweep(self, log: DeviceSweepLog | None, *options: int, later: bool = False) -> SweepNumbers:
        """Sweeps all memories with options of the native plan; returns its counts.

        A sweep that needs more slots than its log has is undone and made again with more. Without
        a log, changes are permanent.

        Args:
            log: gets the sweep.
            options: those of the native plan.
            later: whether the counts are read later, so that the host should not wait for them.
                Up to `_MOST_GROUPS_WITHOUT_WAIT`, the log then has a slot for each group.

        Raises:
            ProactError: memory was moved or freed.
        """
        self.memory.check()
        if log is None:
            return DeviceSweep(self, 0).run(options)
        groups: int = self.native.groups()
        if later and groups <= _MOST_GROUPS_WITHOUT_WAIT:
            sweep = DeviceSweep(self, groups)
            log.add(sweep)
            return sweep.run(options)
        capacity = min(groups, max(_LEAST_SLOTS, groups // _GROUPS_PER_SLOT, self._expected_slots))
        sweep = DeviceSweep(self, capacity)
        log.add(sweep)
        found = sweep.run(options)
        while found.wanted > sweep.capacity:
            sweep.restore()
            sweep = DeviceSweep(self, found.wanted)
            log.replace_last(sweep)  # until then, an interruption undoes the first sweep again
            found = sweep.run(options)
        spare = found.wanted // 4
        self._expected_slots = min(found.wanted + spare, groups // _LEAST_GROUPS_PER_SLOT)
        if found.wanted == 0:
            log.drop_last()  # gives its memory back
        return found

    def encode(self) -> None:
        """Writes valid check bits into all memories of a scrub plan."""
        self.memory.check()
        with current_device(self.device):
            self.native.encode(self.description_address(), *queue_of(self.device))

    def description_address(self) -> int:
        """The address of the native plan's description on the GPU, for the current stream."""
        return self._described.address()


class SweepNumbers:
    """The counts of a sweep, and the number of slots of its log that it needs.

    Attributes:
        header: a copy of the header of the log, where both are.
    """

    def __init__(self, header: Tensor) -> None:
        self.header = HostCopy(header)

    @property
    def is_complete(self) -> bool:
        """Whether reading would not wait."""
        return self.header.is_complete

    @property
    def wanted(self) -> int:
        """The number of slots; waits until the GPU has made the sweep."""
        return int(self.header.read()[0])

    def read(self) -> list[int]:
        """The counts; waits until the GPU has made the sweep."""
        counts: list[int] = self.header.read()[1:].tolist()
        return counts


class DeviceSweep:
    """One sweep, whose counts and log lie on the GPU.

    Args:
        plan: the plan, complete.
        capacity: the number of slots of the log; 0 if changes are permanent.
    """

    def __init__(self, plan: DeviceSweepPlan, capacity: int) -> None:
        self._plan = plan
        self._stream = FlipStream(plan.device)
        self._moved: list[tuple[int, int, int]] = []
        self._log = _Log(
            _device_memory.allocated(plan.native.log_bytes(capacity), plan.device), capacity
        )
        self._log.memory[: plan.native.header_bytes()].zero_()
        header = self._log.memory[: 8 * (1 + plan.native.counts())]
        self._found = SweepNumbers(header.view(torch.int64))

    @property
    def capacity(self) -> int:
        """The number of slots of the log."""
        return self._log.capacity

    def run(self, options: Iterable[int]) -> SweepNumbers:
        plan, (memory, capacity) = self._plan, self._log
        with current_device(plan.device):
            plan.native.sweep(
                plan.description_address(),
                memory.data_ptr(),
                capacity,
                *options,
                *queue_of(plan.device),
            )
            self._found.header.begin()
        return self._found

    def keep_used_slots(self) -> bool:
        """Gives back the memory of slots that are not in use; waits until the sweep was made.

        Returns:
            Whether any slot is in use.
        """
        memory, capacity = self._log
        if not self._found.header.has_begun:
            return True  # a sweep that was interrupted may have been made
        used, native = self._found.wanted, self._plan.native
        if used == 0 or used >= capacity:
            return used > 0
        header = native.header_bytes()
        place = header + capacity * _GROUP
        with self._stream.current(), current_device(self._plan.device):
            kept = _device_memory.allocated(native.log_bytes(used), self._plan.device)
            kept[: header + used * _GROUP] = memory[: header + used * _GROUP]
            kept[header + used * _GROUP :] = memory[place : place + used * _PLACE]
        self._log = _Log(kept, used)
        return True

    def restore(self) -> list[str]:
        """Writes the old words back, to where the tensors are now.

        Returns:
            The names of tensors whose memory is gone.
        """
        plan, (memory, capacity) = self._plan, self._log
        self._moved = []
        lost = plan.memory.follow(self)
        slots = capacity
        if self._found.is_complete:
            slots = min(self._found.wanted, capacity)
        # On the stream that allocated the memory of the log (`FlipStream.ordered`), the allocator
        # does not reuse it before the stream has finished with it.
        with self._stream.ordered(), current_device(plan.device):
            if self._moved:
                moved = _device_memory.uploaded(plan.native.memories(self._moved), plan.device)
                memories = moved.data_ptr()
            else:
                memories = plan.description_address()
            log = memories, memory.data_ptr(), capacity
            plan.native.restore(slots, *log, *queue_of(plan.device))
        return lost

    def relocate(self, moved: list[tuple[int, int, int]]) -> None:
        """Notes where memory is now, as (before, bytes, now)."""
        self._moved = moved


class _Log(NamedTuple):
    """The memory of a log, which begins with a header, and its number of slots."""

    memory: Tensor
    capacity: int


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

    def keep_used_slots(self) -> None:
        """Gives back memory that holds no old words; waits until the sweeps were made."""
        self._sweeps = [sweep for sweep in self._sweeps if sweep.keep_used_slots()]

    def restore(self) -> list[str]:
        """Undoes all sweeps; returns the names of tensors whose memory is gone."""
        return [name for sweep in reversed(self._sweeps) for name in sweep.restore()]
