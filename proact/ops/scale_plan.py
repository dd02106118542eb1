"""Scale plans: one native call reads all numbers again whose scales were flipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.ops.number_formats import (
    NativeForm,
    ScaledFloatWord,
    ScaledIntegerWord,
    ScaleLayout,
)
from proact.ops.plain_memory import MemoryGuard, address_of, checked_memory, refuse_lost
from proact.ops.plan import FlipLog


class NativeScales(NamedTuple):
    """Stored scales or zero points for native code."""

    memory: Tensor  #: (n,), contiguous, on the CPU
    form: NativeForm  #: ``("power_of_two",)``, ``("float32",)``, ``("integer",)`` or a small float
    layout: ScaleLayout
    is_zero_point: bool

    @property
    def description(self) -> tuple[object, ...]:
        """As csrc/bindings expects it."""
        memory = self.memory
        place = address_of("scales", memory), memory.numel(), memory.element_size()
        return (*place, self.form, tuple(self.layout), self.is_zero_point)


class ScalePlan:
    """Tensors on the CPU with the stored scales that a `FlipPlan` flips.

    Each use checks that the memory of the tensors is still where it was, and raises ProactError
    otherwise.
    """

    def __init__(self) -> None:
        assert _native.module is not None
        self._plan: Any = _native.module.ChangedScales()
        self.memory = MemoryGuard()
        self._kept: list[object] = []  # native code reads their memory

    def add(
        self,
        name: str,
        tensor: Tensor,
        form: ScaledIntegerWord | ScaledFloatWord,
        unit: float,
        parts: Sequence[NativeScales],
    ) -> None:
        """Adds a tensor.

        Args:
            name: of the tensor, for errors.
            tensor: dense float32 or float64 memory of any shape.
            form: the stored form of its elements, with the clean scales.
            unit: a fixed factor of its scales.
            parts: its stored scales and zero points.

        Raises:
            ValueError: the tensor lacks plain memory that can be written (`checked_memory`).
        """
        zeros = form.zero_points if isinstance(form, ScaledIntegerWord) else None
        checked_memory(name, tensor)
        self._plan.add(
            address_of(name, tensor),
            tensor.numel(),
            tensor.element_size(),
            address_of(f"the scales of {name}", form.scales),
            form.scales.numel(),
            tuple(form.layout),
            0 if zeros is None else address_of(f"the zero points of {name}", zeros),
            unit,
            isinstance(form, ScaledFloatWord),
            [part.description for part in parts],
        )
        self.memory.add(name, tensor)
        self._kept += [form, parts]

    def reread(self, log: RereadLog, flips: FlipLog) -> None:
        """Reads the numbers again whose scales or zero points have flips in ``flips``.

        Their old words are logged before they are changed.
        """
        if not flips.is_checked:
            self.memory.check()
        self._plan.reread_into(log.native, flips._log)


class RereadLog:
    """The words of numbers before they were read again."""

    def __init__(self, plan: ScalePlan) -> None:
        assert _native.module is not None
        self.native: Any = _native.module.FlipLog()
        self._plan = plan  # the log writes to its tensors

    def __len__(self) -> int:
        """The number of words."""
        return len(self.native)

    def words_of(self, tensor: Tensor) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The elements of a tensor that were read again, ascending, and their old memory words."""
        number, element, _, before = self.native.columns()
        mine = np.array([each is tensor for each in self._plan.memory.tensors])[number]
        return element[mine], before[mine]

    def restore(self) -> None:
        """Writes the old words back, as `FlipLog.restore`."""
        lost = self._plan.memory.follow(self.native, self.native.tensors())
        self.native.restore(1)
        refuse_lost(lost)
