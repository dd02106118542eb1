"""HyReLU in plain torch: the oracle of tests, the form for torch.compile, and the fallback.

The formulas are those of csrc/core/hyrelu.hpp, which cites the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    """`proact.ops.hyrelu` of ``x``, with its dtype; halves are computed in float32.

    Twice differentiable.
    """
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    value, limit = x.to(wide), _stored(threshold, x, mode).to(wide)
    open_ = (value > 0) & torch.isfinite(value) & (limit >= 0)
    if mode == "soft":
        # The inner wheres keep huge values and NaN out of the product: even where the result is
        # masked, the gradient would be 0 times infinity or NaN. The gate is 0 below exp(-750).
        open_ = open_ & (slope * (limit - value) > -750.0)
        safe = torch.where(open_, value, 0.0)
        reachable = torch.where(open_ & torch.isfinite(limit), limit, 0.0)
        gate = torch.sigmoid(slope * (reachable - safe))
        gate = torch.where(torch.isposinf(limit), 1.0, gate)
        y = torch.where(open_, safe * gate, 0.0)
    elif mode == "zero":
        y = torch.where(open_ & (value <= limit), value, 0.0)
    else:
        passes = open_ & (value <= limit)
        clipped = (value > limit) & (limit > 0) & torch.isfinite(limit)
        y = torch.where(passes, value, torch.where(clipped, limit, 0.0))
    return y.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and of ``threshold``, which is summed over its broadcast axes."""
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    value, limit, g = x.to(wide), _stored(threshold, x, mode).to(wide), grad.to(wide)
    open_ = (value > 0) & torch.isfinite(value) & (limit >= 0)
    if mode == "soft":
        safe = torch.where(open_, value, 0.0)
        z = slope * (torch.where(limit >= 0, limit, 0.0) - safe)
        s = torch.sigmoid(z)
        bend = s * torch.sigmoid(-z) * safe * slope  # sigmoid(-z) is 1 - s without cancellation
        grad_x = torch.where(open_, g * (s - bend), 0.0)
        grad_t = torch.where(open_, g * bend, 0.0)
    else:
        grad_x = torch.where(open_ & (value <= limit), g, 0.0)
        clipped = (value > limit) & (limit > 0)
        grad_t = torch.where(clipped & (mode == "saturate"), g, torch.zeros_like(g))
    grad_t = grad_t.sum_to_size(threshold.shape) if grad_t.numel() else torch.zeros_like(limit)
    return grad_x.to(x.dtype), grad_t.to(threshold.dtype)


def _stored(threshold: Tensor, x: Tensor, mode: str) -> Tensor:
    """The threshold; for ``saturate``, which returns it, rounded to the dtype of ``x``."""
    return threshold.to(x.dtype) if mode == "saturate" else threshold
