"""`restrict_range_`: puts what lies outside its trained range back into it, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proact.ops import _range_reference as reference
from proact.ops.range_plan import RangeLog, RangePlan, checked_action

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

    * ``zero``: by the number nearest to 0 that its bounds allow: 0, unless they leave it out
    * ``saturate``: by the bound that it passed; NaN, and where that bound is infinite, as for
      ``zero``

    -0.0 passes where 0 does. Where nothing can pass (a bound is NaN, or low > high) all becomes 0.
    Range restriction of activations: Z. Chen, G. Li, K. Pattabiraman, arXiv 2003.13874; here of
    what a network stores. Where nothing lies outside nothing is written, and the call takes as long
    as reading the tensors once; the replaced elements cost more, one by one.

    Args:
        tensors: of any shapes, on any device, float16, bfloat16, float32 or float64; none requires
            grad. Dense ones on the CPU are swept by one native call for all, others by torch.
        low, high: for each tensor a bound tensor on its device, of one of these dtypes, which
            broadcasts against it: one number, or one for each index of one dimension.
        action: ``"zero"`` or ``"saturate"``.

    Returns:
        How many elements of each tensor were replaced: (number of tensors,), int64, on the CPU.

    Raises:
        TypeError, ValueError: another dtype, no plain memory, bounds that do not broadcast so, two
            devices, shared memory, a tensor that requires grad. The tensors are then unchanged.
    """
    checked_action(action)
    for given in (*tensors, *low, *high):
        if not isinstance(given, Tensor):
            raise TypeError(f"tensors and bounds are torch.Tensor, got {type(given).__name__}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError("the tensors are such that do not require grad: pass tensor.detach()")
    if torch.compiler.is_compiling():
        return _restrict_plainly(tensors, low, high, action)
    operator = torch.ops.proact.restrict_range_
    repairs: Tensor = operator(list(tensors), list(low), list(high), action)
    return repairs


def _restrict(
    tensors: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], action: str
) -> Tensor:
    plan = RangePlan(tensors, low, high)
    # Before the sweep: whatever interrupts it, autograd knows that the tensors may have changed.
    torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])
    return torch.tensor(plan.sweep_into(RangeLog(plan), action), dtype=torch.int64)


def _restrict_plainly(
    tensors: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], action: str
) -> Tensor:
    """Inside a compiled graph, where memory has no address yet."""
    repairs = torch.zeros(len(tensors), dtype=torch.int64)
    for number, tensor in enumerate(tensors):
        outside, result = reference.restricted(tensor, low[number], high[number], action)
        tensor.copy_(torch.where(outside, result, tensor))
        repairs[number] = outside.sum()
    return repairs


_library.impl("restrict_range_", _restrict, "CompositeExplicitAutograd")
torch.library.register_fake(
    "proact::restrict_range_",
    lambda tensors, low, high, action: torch.empty(len(tensors), dtype=torch.int64, device="cpu"),
    lib=_library,
)
