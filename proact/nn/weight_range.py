"""A guard on what a network stores: bounds of its trained values, and a sweep before a forward."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils.hooks import RemovableHandle

from proact.errors import ProactError
from proact.ops.range_plan import RangeLog, RangePlan, checked_action

#: What has bounds of its own: a tensor, or an output channel.
GRANULARITIES = ("tensor", "channel")

#: Threads may share a network: sweeps and their undoing take turns.
_LOCK = threading.RLock()


class WeightRange(nn.Identity):
    """The smallest and largest trained value of a network's tensors, and the repair of what leaves
    them.

    A submodule of the network that it guards, named ``weight_range`` (in an `nn.Sequential` it
    hands on what it gets). Before each forward of that network one sweep replaces every stored
    number that is not finite or outside its bounds, as `proact.ops.restrict_range_` says; after it,
    also where it raised, the replaced words are put back: the guard shields what is computed, and
    changes nothing that others (fault injection, checkpoints) find in memory. Bounds are stored in
    the same memory as the rest, so faults hit them too.

    Tensors are looked up by name in each forward, so copies guard their own. Tensors that came
    later are not guarded. Nothing happens where a forward does not pass the network's hooks:
    ``model.forward(x)``, a call of a submodule alone, and what torch.fx traces. Under torch.compile
    the sweep runs outside of the graphs; torch.export and torch.jit.trace are refused, and so is a
    forward in training mode with autograd. Where a forward with autograd met a number to replace,
    torch refuses its backward (a tensor was modified in place).

    Args:
        model: the network.
        names: of its floating-point tensors that shall be guarded.
        granularity: ``"tensor"``, two bounds for each, or ``"channel"``, two for each output
            channel of tensors with two dimensions or more.
        action: ``"zero"`` (the number nearest to 0 that the bounds allow) or ``"saturate"``.

    Attributes:
        low, high: (bounds,), buffers of one dtype that holds the tensors' numbers exactly.

    Raises:
        ValueError: an unknown granularity or action, no name, a tensor with NaN or infinity.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        granularity: str = "tensor",
        action: str = "zero",
    ) -> None:
        super().__init__()
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"weight-range's granularity is {' or '.join(GRANULARITIES)}; got {granularity!r}"
            )
        if not names:
            raise ValueError("weight-range guards floating-point tensors, and there are none")
        self.names = tuple(names)
        self.granularity = granularity
        self.action = checked_action(action)
        # Plain attributes tell networks apart; this one tells what a network went through.
        self._repairs = 0
        self._last: list[int] = []
        self._running = _ActiveForwards()
        #: Of the hooks in the network.
        self.handles: tuple[RemovableHandle, ...] = ()
        tensors = self._tensors(model)
        #: For each tensor the shape of its bounds.
        self._shapes = [
            _bounds_shape(model, name, tensor) if granularity == "channel" else (1,) * tensor.dim()
            for name, tensor in zip(names, tensors, strict=True)
        ]
        bounds = sum(torch.Size(shape).numel() for shape in self._shapes)
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        for side in ("low", "high"):
            self.register_buffer(side, torch.empty(bounds, dtype=dtype, device=tensors[0].device))
        self.measure(model)

    def measure(self, model: nn.Module) -> None:
        """Takes the bounds from the values that ``model`` has now, as after more training.

        ValueError for NaN or infinity; the bounds are then as before.
        """
        tensors = self._tensors(model)
        for name, tensor in zip(self.names, tensors, strict=True):
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} holds NaN or infinity, which no range of trained values has"
                )
        by_tensor = self.by_tensor(self.low, self.high)
        for name, tensor in zip(self.names, tensors, strict=True):
            low, high = by_tensor[name]
            low.copy_(lowest(tensor, low.shape))
            high.copy_(highest(tensor, high.shape))

    def by_tensor(self, low: Tensor, high: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The bounds of each tensor, by name: views of ``low`` and ``high``, both like the buffers,
        in shapes that broadcast against the tensor."""
        views = {}
        begin = 0
        for name, shape in zip(self.names, self._shapes, strict=True):
            end = begin + torch.Size(shape).numel()
            views[name] = (
                low.detach()[begin:end].view(shape),
                high.detach()[begin:end].view(shape),
            )
            begin = end
        return views

    @property
    def repairs(self) -> int:
        """How many numbers all forwards so far found outside, each forward anew."""
        return self._repairs

    @property
    def last_repairs(self) -> dict[str, int]:
        """How many numbers the last forward found outside, by tensor, where there are any."""
        return {n: count for n, count in zip(self.names, self._last, strict=False) if count}

    def finish(self) -> None:
        """Puts back what forwards wrote over that never ended, such as one that Ctrl-C cut off."""
        with _LOCK:
            self._running.finish()

    def extra_repr(self) -> str:
        return (
            f"action={self.action!r}, granularity={self.granularity!r}, "
            f"tensors={len(self.names)}, bounds={2 * self.low.numel()}"
        )

    def _tensors(self, model: nn.Module) -> list[Tensor]:
        return [_tensor(model, name) for name in self.names]

    def begin(self, model: nn.Module) -> None:
        """Sweeps ``model`` for a forward that is about to run; `end` belongs to it."""
        with _LOCK:
            running = self._running
            running.depth += 1
            _refuse_training(model)
            tensors = self._tensors(model)
            if not all(map(_has_memory, (*tensors, self.low, self.high))):
                return  # shapes alone are computed
            plan = running.plan_of(self, tensors)
            log = RangeLog(plan)
            running.logs.append(log)
            self._last = plan.sweep_into(log, self.action)
            found = sum(self._last)
            self._repairs += found
            if found and torch.is_grad_enabled():
                running.changed += [
                    t for t, count in zip(tensors, self._last, strict=True) if count
                ]

    def end(self) -> None:
        """A forward is over: the last of those that run at once puts everything back."""
        with _LOCK:
            self._running.depth = max(0, self._running.depth - 1)
            if self._running.depth == 0:
                self._running.finish()


class _ActiveForwards:
    """What forwards that are going on wrote over. A copy or a pickle starts with none."""

    def __init__(self) -> None:
        self.depth = 0
        self.logs: list[RangeLog] = []
        self.changed: list[Tensor] = []  # under autograd
        self._plan: RangePlan | None = None
        self._layout: list[object] = []

    def plan_of(self, guard: WeightRange, tensors: list[Tensor]) -> RangePlan:
        """Kept while the tensors stay where they are."""
        layout: list[object] = [
            (t.data_ptr(), t.dtype, t.shape, t.stride()) for t in (guard.low, guard.high, *tensors)
        ]
        if self._plan is None or layout != self._layout:
            bounds = [
                (low.to(tensor.device), high.to(tensor.device))
                for tensor, (low, high) in zip(
                    tensors, guard.by_tensor(guard.low, guard.high).values(), strict=True
                )
            ]
            detached = [tensor.detach() for tensor in tensors]
            low, high = zip(*bounds, strict=True)
            self._plan = RangePlan(detached, low, high, guard.names)
            self._layout = layout
        return self._plan

    def finish(self) -> None:
        self.depth = 0
        while self.logs:
            self.logs[-1].restore()
            self.logs.pop()
        if self.changed:
            # What autograd saved has been changed back: a backward shall notice, not use it.
            torch.autograd.graph.increment_version(
                [t for t in self.changed if not t.is_inference()]
            )
            self.changed.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _ActiveForwards, ()


def lowest(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The smallest of the numbers that share a bound, in the bounds' shape."""
    dims = [dim for dim, size in enumerate(shape) if size == 1]
    return tensor.detach().amin(dims, keepdim=True) if dims else tensor.detach()


def highest(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The largest of the numbers that share a bound, in the bounds' shape."""
    return -lowest(-tensor.detach(), shape)


def _refuse_training(model: nn.Module) -> None:
    if model.training and torch.is_grad_enabled():
        raise ProactError(
            "a network under weight-range is not trained: its bounds are those of the values that "
            "it has. Call eval(), or train proact.nn.without_weight_range(model)"
        )


def _bounds_shape(model: nn.Module, name: str, tensor: Tensor) -> tuple[int, ...]:
    """One bound an output channel; one in all for vectors, of which bounds would be a copy."""
    shape = [1] * tensor.dim()
    if tensor.dim() >= 2:
        layer = f".{name.rpartition('.')[0]}".partition(".parametrizations")[0].removeprefix(".")
        # Transposed convolutions have the output channel (of each group) second.
        axis = int(isinstance(model.get_submodule(layer), nn.modules.conv._ConvTransposeNd))
        shape[axis] = tensor.shape[axis]
    return tuple(shape)


def _tensor(model: nn.Module, name: str) -> Tensor:
    *path, leaf = name.split(".")
    module: nn.Module | None = model
    for child in path:
        module = None if module is None else module._modules.get(child)
    if module is not None:
        for members in (module._parameters, module._buffers):
            tensor = members.get(leaf)
            if tensor is not None:
                return tensor
    raise ProactError(
        f"weight-range guards {name}, which the network does not have any more: apply weight-range "
        "after whatever replaces tensors"
    )


def _has_memory(tensor: Tensor) -> bool:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise ProactError(
            "weight-range repairs memory, and a tensor inside torch.func's transforms has none of "
            "its own: transform proact.nn.without_weight_range(model)"
        )
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)
