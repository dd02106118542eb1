"""`restrict_range_`: replaces elements outside their trained range, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from proact.ops import _range_reference as reference
from proact.ops.plain_memory import check_operands, lack_of_memory
from proact.ops.range_plan import RangePlan, checked_action

_library = torch.library.Library("proact", "FRAGMENT")
_library.define(
    "restrict_range_(Tensor(a!)[] tensors, Tensor[] low, Tensor[] high, str action) -> Tensor"
)


def restrict_range_(
    tensors: Sequence[Tensor],
    low: Sequence[Tensor],
    high: Sequence[Tensor],
    action: str = "zero",
) -> Tensor:
    """Replaces every element that is not finite or not in [low, high], ends included; in place.

    * ``zero``: the replacement is the number in [low, high] that is nearest to 0, usually 0 itself
    * ``saturate``: the replacement is the bound that was exceeded; for NaN, or if that bound is
      infinite, it is that of ``zero``

    -0.0 counts as 0. If no value is allowed (a bound is NaN, or low > high), every element becomes
    0. The method is range restriction as Z. Chen, G. Li and K. Pattabiraman apply it to activations
    (arXiv 2003.13874); here it is applied to stored parameters. If all elements are inside their
    bounds, nothing is written and the call takes as long as reading the tensors once. Each replaced
    element adds to that time.

    Args:
        tensors: float16, bfloat16, float32 or float64, of any shapes, on any device, not requiring
            grad. One native call sweeps all dense tensors on the CPU, and one those on a GPU in a
            build with CUDA; torch sweeps the others.
        low, high: the bounds of each tensor, on its device, with one of these dtypes. A bound
            broadcasts against its tensor: one number, or one for each index of one dimension.
        action: ``"zero"`` or ``"saturate"``.

    Returns:
        The number of replaced elements in each tensor: (number of tensors,), int64, on the CPU.

    Raises:
        TypeError, ValueError: another dtype, no plain memory, bounds that do not broadcast,
            different devices, shared memory, or a tensor that requires grad. The tensors are then
            unchanged.
    """
    checked_action(action)
    for given in (*tensors, *low, *high):
        if not isinstance(given, Tensor):
            raise TypeError(
                f"tensors and bounds must be of type torch.Tensor, got {type(given).__name__}"
            )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError("tensors must not require grad: pass tensor.detach()")
    if torch.compiler.is_compiling():
        return _restrict_plainly(tensors, low, high, action)
    named = {
        f"{name} {number}": tensor
        for name, each in (("tensor", tensors), ("lower bound", low), ("upper bound", high))
        for number, tensor in enumerate(each)
    }
    _check_operands(named)
    operator = torch.ops.proact.restrict_range_
    repairs: Tensor = operator(list(tensors), list(low), list(high), action)
    return repairs


def _check_operands(named: Mapping[str, Tensor]) -> None:
    check_operands(named, [name for name in named if name.startswith("tensor")])
    for name, tensor in named.items():
        # torch would ask for shapes of the former, and has no rule for the latter.
        is_shape = tensor.is_meta and not isinstance(tensor, FakeTensor)
        if is_shape or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise TypeError(f"{name} must have plain memory, got {lack_of_memory(tensor)}")


def _restrict(
    tensors: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], action: str
) -> Tensor:
    plan = RangePlan(tensors, low, high)
    # Before the sweep: even if it is interrupted, autograd knows that the tensors may differ.
    torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])
    return torch.tensor(plan.sweep_into(None, action).read(), dtype=torch.int64)


def _restrict_plainly(
    tensors: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], action: str
) -> Tensor:
    """The form for compiled graphs, in which memory has no address yet."""
    repairs = torch.zeros(len(tensors), dtype=torch.int64)
    for number, tensor in enumerate(tensors):
        outside, result = reference.restricted(tensor, low[number], high[number], action)
        tensor.copy_(torch.where(outside, result, tensor))
        repairs[number] = outside.sum()
    return repairs


_library.impl("restrict_range_", _restrict, "CompositeExplicitAutograd")
torch.library.register_fake(
    "proact::restrict_range_",
    # Zeros: torch returns them from calls with tensors on meta, in which nothing is replaced.
    lambda tensors, low, high, action: torch.zeros(len(tensors), dtype=torch.int64, device="cpu"),
    lib=_library,
)
