"""Normalisation in a pass of several copies, by the formula of torch's kernels for one model.

On a CPU these kernels multiply by ``a = weight / sqrt(var + eps)`` and add ``bias - mean * a``. The
batching rules of `torch.func.vmap` normalise first and multiply by the weight then. Both agree up
to rounding, except where a fault makes a number so large that a product overflows: one formula then
gives NaN where the other gives infinity or a finite number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Kernels compute in another dtype than their input for floats of 16 bits.
_DTYPES = (torch.float32, torch.float64)


class NormsOfOneModel(TorchFunctionMode):
    """Computes batch norms that use running statistics, and group norms, as for one model.

    Other calls, and inputs on other devices or of other dtypes, are left to torch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        own = _NORMS.get(func)
        if own is not None:
            result = own(*args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None:
        return None
    if not _fits(x, weight, bias, running_mean, running_var):
        return None
    scale = _times(1.0 / torch.sqrt(running_var + eps), weight)
    return _affine(x, scale, _plus(-running_mean * scale, bias))


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if (weight is None and bias is None) or not x.numel() or not _fits(x, weight, bias):
        return None
    samples, channels = x.shape[:2]
    if channels % num_groups:
        return None
    var, mean = torch.var_mean(x.reshape(samples, num_groups, -1), dim=2, correction=0)
    inverse = 1.0 / torch.sqrt(var + eps)
    # One number for each channel of each sample.
    mean, inverse = (t.repeat_interleave(channels // num_groups, 1) for t in (mean, inverse))
    scale = _times(inverse, weight)
    return _affine(x, scale, _plus(-mean * scale, bias))


def _fits(x: Tensor, *others: Tensor | None) -> bool:
    if x.device.type != "cpu" or x.dtype not in _DTYPES or x.dim() < 2:
        return False
    return all(other is None or other.dtype == x.dtype for other in others)


def _times(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a * b


def _plus(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x * scale + shift`` with factors (channels,) or (samples, channels).

    Kernels round once, after a fused multiply-add, which float64 does for float32.
    """
    shape = (*scale.shape, *[1] * (x.dim() - 2))
    scale, shift = scale.reshape(shape).double(), shift.reshape(shape).double()
    return (x.double() * scale + shift).to(x.dtype)


_NORMS: dict[object, Callable[..., Tensor | None]] = {
    functional.batch_norm: _batch_norm,
    functional.group_norm: _group_norm,
}
