"""A guard on stored values: bounds of the trained values, and a sweep before each forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from proact.errors import ProactError
from proact.nn.stored_guard import LOCK, StoredGuard, mark_written
from proact.ops.cuda_stream import StreamMarks
from proact.ops.range_plan import RangePlan, checked_action
from proact.ops.sweep_counts import SweepCounts, SweepTotals
from proact.ops.sweep_log import SweepLog
from proact.text import short_repr

#: The unit that has its own bounds: a tensor, or an output channel.
GRANULARITIES = ("tensor", "channel")


class WeightRange(StoredGuard):
    """The smallest and largest trained values of a model's tensors, and a repair of other values.

    The guard is a submodule of the model, named ``weight_range``. (As part of an `nn.Sequential`
    it returns its input.) Before each forward of the model, one sweep replaces every stored number
    that is not finite or is outside its bounds, as `proact.ops.restrict_range_` does. After the
    forward, even if it raised, the replaced words are restored. So the guard protects what is
    computed, and fault injection and checkpoints find memory unchanged. Bounds are stored in the
    same memory as everything else, so faults hit them too.

    Tensors are looked up by name in each forward, so a copy of a model guards its own tensors.
    Tensors that were added later are not guarded. The guard needs the hooks of the model: it does
    nothing for ``model.forward(x)``, for a submodule that is called alone, and in a model that
    torch.fx has traced. With torch.compile the sweep runs outside the graphs. torch.export,
    torch.jit.trace, and a forward in training mode with autograd raise an error. If a forward with
    autograd replaced a number, torch raises an error in backward (a tensor was modified in place).

    Args:
        model: the model to guard.
        names: the floating-point tensors of the model that are guarded.
        granularity: ``"tensor"`` for two bounds for each tensor, or ``"channel"`` for two bounds
            for each output channel of tensors with two dimensions or more.
        action: ``"zero"`` (the number nearest to 0 within the bounds) or ``"saturate"``.

    Attributes:
        low, high: (bounds,), buffers of one dtype that represents the tensors' numbers exactly.

    Raises:
        ValueError: an unknown granularity or action, no names, a tensor with NaN or infinity, or
            one that holds no floats of 16 to 64 bits.
    """

    own_name = "weight_range"
    method = "weight-range"
    trained_reason = "its bounds are those of its current values"
    removal = "proact.nn.without_weight_range(model)"

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
                f"the granularity of weight-range is {' or '.join(GRANULARITIES)}, got "
                f"{short_repr(granularity)}"
            )
        if not names:
            raise ValueError(
                "weight-range needs at least one floating-point tensor to guard, got none"
            )
        self.names = tuple(names)
        self.granularity = granularity
        self.action = checked_action(action)
        # Private, because public attributes are part of a model's identity and this is history.
        self._totals = SweepTotals((0,))
        self._last: SweepCounts[int] = SweepCounts(int, [])
        self._running = _ActiveForwards()
        tensors = self.tensors(model)
        for name, tensor in zip(names, tensors, strict=True):
            if not can_be_bounded(tensor):
                raise ValueError(
                    f"weight-range guards floats of 16 to 64 bits, and {name} is {tensor.dtype}: "
                    "leave it out"
                )
        #: The shape of the bounds of each tensor.
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
        """Sets the bounds to the range of the current values of ``model``, as after training.

        Raises:
            ValueError: a tensor with NaN or infinity; the bounds are unchanged.
        """
        tensors = self.tensors(model)
        for name, tensor in zip(self.names, tensors, strict=True):
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} holds NaN or infinity, and weight-range needs finite values"
                )
        by_tensor = self.by_tensor(self.low, self.high)
        for name, tensor in zip(self.names, tensors, strict=True):
            low, high = by_tensor[name]
            low.copy_(lowest(tensor, low.shape))
            high.copy_(highest(tensor, high.shape))

    def by_tensor(self, low: Tensor, high: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The bounds of each tensor by name, as views of ``low`` and ``high``.

        Args:
            low, high: (bounds,), such as the buffers.

        Returns:
            For each tensor a pair of views in a shape that broadcasts against the tensor.
        """
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
        """The count of numbers outside their bounds, summed over all forwards so far.

        Reading it waits until a GPU has made the sweep of the last forward.
        """
        return self._totals.read()[0]

    @property
    def totals(self) -> SweepTotals:
        """`repairs` as a sum that is read later, without waiting now."""
        return self._totals

    @property
    def last_repairs(self) -> dict[str, int]:
        """The count of numbers that the last forward found outside their bounds, by tensor.

        Reading it waits until a GPU has made the sweep of this forward.
        """
        return {n: count for n, count in zip(self.names, self._last.read(), strict=False) if count}

    def finish(self) -> None:
        """Restores the words that unfinished forwards replaced, such as one ended by Ctrl-C."""
        with LOCK:
            self._running.finish()

    def extra_repr(self) -> str:
        return (
            f"action={self.action!r}, granularity={self.granularity!r}, "
            f"tensors={len(self.names)}, bounds={2 * self.low.numel()}"
        )

    @property
    def has_repaired(self) -> bool:
        """Whether running forwards have replaced numbers that will be restored."""
        return any(any(counts.read()) for counts in self._running.counts)

    def begin(self, model: nn.Module) -> None:
        """Sweeps ``model`` before a forward; each call needs a call of `end`."""
        with LOCK:
            running = self._running
            running.depth += 1
            self.refuse_training(model)
            tensors = self.tensors(model)
            if not all(map(self.has_memory, (*tensors, self.low, self.high))):
                return  # the forward computes shapes only
            # Words that an earlier forward had replaced may still wait to be restored elsewhere,
            # and sweeps of running forwards may still wait to be made.
            running.restored.wait()
            running.swept.wait()
            running.devices |= {tensor.device for tensor in tensors}
            plan = running.plan_of(self, tensors)
            if running.logs:  # of a running forward: too many could use up the memory of a GPU
                running.logs[-1].keep_used_slots()
            log = SweepLog(plan)
            running.logs.append(log)
            keeps_values = torch.is_grad_enabled()
            try:
                self._last = plan.sweep_into(log, self.action, later=not keeps_values)
            finally:
                running.swept.add(running.devices)
            self._totals = self._totals.plus(self._last)
            running.counts.append(self._last)
            if keeps_values:
                found = self._last.read()
                running.changed += [t for t, count in zip(tensors, found, strict=True) if count]

    def end(self) -> None:
        """Ends a forward; the last of the concurrent forwards restores all replaced words."""
        with LOCK:
            running = self._running
            running.depth = max(0, running.depth - 1)
            # A forward that has returned may still wait on its stream for a GPU.
            running.ended.add(running.devices)
            if running.depth == 0:
                running.finish()


class _ActiveForwards:
    """The words that running forwards replaced. A copy or a pickle starts empty."""

    def __init__(self) -> None:
        self.depth = 0
        self.logs: list[SweepLog] = []
        self.counts: list[SweepCounts[int]] = []
        self.changed: list[Tensor] = []  # under autograd
        self.devices: set[torch.device] = set()
        self.swept = StreamMarks()  # the sweeps of running forwards
        self.ended = StreamMarks()  # the forwards that have returned
        self.restored = StreamMarks()  # the last undoing
        self._plan: RangePlan | None = None
        self._layout: list[object] = []

    def plan_of(self, guard: WeightRange, tensors: list[Tensor]) -> RangePlan:
        """The plan of the sweep, reused while the tensors stay at their addresses."""
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
        self.counts.clear()
        lost: ProactError | None = None
        self.ended.wait()
        self.ended.clear()
        self.swept.clear()
        while self.logs:
            try:
                self.logs[-1].restore()
            except ProactError as error:  # memory that is gone: a second attempt cannot help
                lost = lost or error
            self.logs.pop()
        self.restored.clear()
        self.restored.add(self.devices)
        if self.changed:
            # Autograd saved the replaced values, and they are gone: make a backward raise.
            mark_written(self.changed)
            self.changed.clear()
        if lost is not None:
            raise lost

    def __reduce__(self) -> tuple[Any, ...]:
        return _ActiveForwards, ()


def can_be_bounded(tensor: Tensor) -> bool:
    """Whether a tensor holds floats of 16 to 64 bits, which have bounds in one common dtype."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def lowest(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The smallest of the numbers that share a bound, in the shape of the bounds."""
    dims = [dim for dim, size in enumerate(shape) if size == 1]
    return tensor.detach().amin(dims, keepdim=True) if dims else tensor.detach()


def highest(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The largest of the numbers that share a bound, in the shape of the bounds."""
    return -lowest(-tensor.detach(), shape)


def _bounds_shape(model: nn.Module, name: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape of one bound for each output channel; vectors have a single bound."""
    shape = [1] * tensor.dim()
    if tensor.dim() >= 2:
        layer = f".{name.rpartition('.')[0]}".partition(".parametrizations")[0].removeprefix(".")
        # The output channels (of each group) are the second dimension of transposed convolutions.
        axis = int(isinstance(model.get_submodule(layer), nn.modules.conv._ConvTransposeNd))
        shape[axis] = tensor.shape[axis]
    return tuple(shape)
