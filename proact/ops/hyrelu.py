"""HyReLU as a torch operator: checks, schema, shape rule, autograd and the native call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from proact import _native
from proact.ops import _hyrelu_reference as reference

MODES = ("soft", "zero", "saturate")
_NATIVE_NAME = {torch.float32: "float32", torch.float64: "float64"}
_HALVES = (torch.float16, torch.bfloat16)

_library = torch.library.Library("proact", "FRAGMENT")
# The mode is called clip here: torch.library calls an argument of its own "mode".
_library.define("hyrelu(Tensor x, Tensor threshold, str clip, float slope) -> Tensor")
_library.define("hyrelu_(Tensor(a!) x, Tensor threshold, str clip, float slope) -> ()")
_library.define(
    "hyrelu_backward(Tensor grad, Tensor x, Tensor threshold, str clip, float slope)"
    " -> (Tensor, Tensor)"
)


def hyrelu(x: Tensor, threshold: Tensor, mode: str = "soft", slope: float = 20.0) -> Tensor:
    """Clipped ReLU (HyReLU, arXiv 2406.06313, section III; equations in csrc/core/hyrelu.hpp).

    ==========  ===============================================================
    soft        ``max(0, x * sigmoid(slope * (threshold - x)))``, for training
    zero        ``x`` where ``0 < x <= threshold``, else 0, for deployment
    saturate    ``min(max(x, 0), threshold)``, Ranger's rule (arXiv 2003.13874)
    ==========  ===============================================================

    Non-finite values never pass: NaN gives 0; +inf gives 0, or a finite threshold in ``saturate``.
    A NaN or negative threshold gives 0 everywhere, +inf gives ReLU.

    Args:
        x: shape (samples, ...), float32, float64, float16 or bfloat16 (halves compute in float32).
        threshold: broadcasts against one sample, ``x.shape[1:]``: 0-dimensional (layer-wise), one
            per channel, or one per neuron. The dtype of ``x``, or float32 beside a half ``x``.
        mode: ``"soft"``, ``"zero"`` or ``"saturate"``.
        slope: the steepness k of ``soft``, finite and above 0; per unit of ``x``.

    Returns:
        A new tensor with the shape, dtype and memory format of ``x``. Differentiable in ``x`` and
        ``threshold``; second derivatives are those of the plain-torch formula.

    Raises:
        TypeError: a dtype that is not listed. ValueError: a threshold that does not broadcast, an
            unknown mode, a slope out of range, two devices.
    """
    _check(x, threshold, mode, slope)
    if _wants_plain_form():
        return reference.forward(x, threshold, mode, slope)
    result: Tensor = torch.ops.proact.hyrelu(x, threshold, mode, slope)
    return result


def hyrelu_(x: Tensor, threshold: Tensor, mode: str = "soft", slope: float = 20.0) -> Tensor:
    """`hyrelu`, written over ``x``; for inference.

    Raises as `hyrelu` does, and ValueError where autograd would need what is overwritten or where
    elements of ``x`` share memory with each other or with ``threshold``.
    """
    _check(x, threshold, mode, slope)
    if torch.is_grad_enabled() and (x.requires_grad or threshold.requires_grad):
        raise ValueError(
            "hyrelu_ writes over x and keeps nothing for autograd: call it under torch.no_grad(), "
            "or use hyrelu"
        )
    if _wants_plain_form():
        return x.copy_(reference.forward(x, threshold, mode, slope))
    if _may_overlap(x):
        raise ValueError(f"hyrelu_ needs an x whose elements do not overlap, got {_layout(x)}")
    if (
        x.numel()
        and _extent(x)[0] < _extent(threshold)[1]
        and _extent(threshold)[0] < _extent(x)[1]
    ):
        raise ValueError("hyrelu_ needs a threshold in other memory than x")
    torch.ops.proact.hyrelu_(x, threshold, mode, slope)
    return x


def _check(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    for name, value in (("x", x), ("threshold", threshold)):
        if not isinstance(value, Tensor):
            raise TypeError(f"hyrelu takes a torch.Tensor as {name}, got {type(value).__name__}")
    if x.dtype not in (*_NATIVE_NAME, *_HALVES):
        raise TypeError(f"hyrelu takes a floating-point x, got {x.dtype}")
    if threshold.dtype != x.dtype and not (x.dtype in _HALVES and threshold.dtype == torch.float32):
        raise TypeError(f"hyrelu takes a threshold of x's dtype {x.dtype}, got {threshold.dtype}")
    check_mode_and_slope(mode, slope)
    if x.device != threshold.device:
        raise ValueError(
            f"hyrelu takes one device, got x on {x.device}, threshold on {threshold.device}"
        )
    if not _broadcasts(threshold.shape, x.shape):
        raise ValueError(
            f"hyrelu's threshold broadcasts against one sample, {tuple(x.shape[1:])} for x of "
            f"shape {tuple(x.shape)}; got {tuple(threshold.shape)}"
        )


def check_mode_and_slope(mode: str, slope: float = 20.0) -> None:
    """ValueError where `hyrelu` would refuse them."""
    if mode not in MODES:
        raise ValueError(f"hyrelu's mode is one of {', '.join(MODES)}, got {mode!r}")
    if not (isinstance(slope, (int, float)) and math.isfinite(slope) and slope > 0):
        raise ValueError(f"hyrelu's slope is a finite number above 0, got {slope!r}")


def _broadcasts(threshold: torch.Size, x: torch.Size) -> bool:
    sample = x[1:]
    if len(x) == 0 or len(threshold) > len(sample):
        return False
    trailing = sample[len(sample) - len(threshold) :]
    return all(t in (1, s) for t, s in zip(threshold, trailing, strict=True))


def _wants_plain_form() -> bool:
    """Inductor fuses the plain form; torch.func and forward-mode derivatives see through it."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _may_overlap(x: Tensor) -> bool:
    """False where the strides keep all elements apart."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def _extent(x: Tensor) -> tuple[int, int]:
    """The first byte of the elements, and one past their last."""
    last = sum(stride * (size - 1) for stride, size in zip(x.stride(), x.shape, strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _layout(x: Tensor) -> str:
    return f"shape {tuple(x.shape)} with strides {tuple(x.stride())}"


def _is_dense(x: Tensor) -> bool:
    """Whether the elements fill one run of memory, in the usual order or channels-last."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _runs(sample: torch.Size, threshold: Tensor) -> tuple[Tensor, int]:
    """The threshold as the native loops want it, and how many neighbours share one.

    A shape such as (channels, 1, 1) is passed as it is; what broadcasts otherwise, as (width,)
    against (channels, height, width) does, is written out for one sample.
    """
    shape = (1,) * (len(sample) - threshold.dim()) + tuple(threshold.shape)
    full = next((i for i in range(len(shape), 0, -1) if shape[i - 1] != 1), 0)
    if shape[:full] != tuple(sample[:full]):
        return threshold.expand(sample).contiguous(), 1
    return threshold.contiguous(), math.prod(sample[full:])


def _native_shape(x: Tensor, threshold: Tensor, inner: int) -> Any:
    assert _native.module is not None
    thresholds = threshold.numel()
    samples = x.numel() // (thresholds * inner) if thresholds * inner else 0
    return _native.module.HyReluShape(samples, thresholds, inner)


def _has_native(x: Tensor) -> bool:
    return _native.module is not None and x.dtype in _NATIVE_NAME


def _forward_into(x: Tensor, threshold: Tensor, mode: str, slope: float, y: Tensor) -> None:
    """Native forward from a dense ``x`` to a ``y`` of the same strides, or ``x`` itself."""
    ready, inner = _runs(x.shape[1:], threshold)
    function = getattr(_native.module, f"hyrelu_{_NATIVE_NAME[x.dtype]}")
    function(
        MODES.index(mode),
        _native_shape(x, ready, inner),
        x.data_ptr(),
        ready.data_ptr(),
        slope,
        y.data_ptr(),
    )


def _in_native_order(x: Tensor, threshold: Tensor) -> bool:
    return x.is_contiguous() or (threshold.numel() == 1 and _is_dense(x))


def _hyrelu_cpu(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    if not _has_native(x):
        return _hyrelu_plain(x, threshold, mode, slope)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    if _in_native_order(x, threshold):
        _forward_into(x, threshold, mode, slope, y)
    else:
        dense = x.contiguous()
        result = torch.empty_like(dense)
        _forward_into(dense, threshold, mode, slope, result)
        y.copy_(result)
    return y


def _hyrelu_plain(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    return torch.empty_like(x).copy_(reference.forward(x, threshold, mode, slope))


def _hyrelu_inplace_cpu(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    if x.numel() and _has_native(x) and _in_native_order(x, threshold):
        _forward_into(x, threshold, mode, slope, x)
        torch.autograd.graph.increment_version(x)
    else:
        x.copy_(_hyrelu_cpu(x, threshold, mode, slope))


def _hyrelu_inplace_plain(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    x.copy_(reference.forward(x, threshold, mode, slope))


def _backward_cpu(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    if not _has_native(x) or x.numel() == 0:
        return _backward_plain(grad, x, threshold, mode, slope)
    dense_x, dense_grad = x.contiguous(), grad.contiguous()
    ready, inner = _runs(x.shape[1:], threshold)
    grad_x, grad_ready = torch.empty_like(dense_x), torch.empty_like(ready)
    function = getattr(_native.module, f"hyrelu_backward_{_NATIVE_NAME[x.dtype]}")
    function(
        MODES.index(mode),
        _native_shape(dense_x, ready, inner),
        dense_grad.data_ptr(),
        dense_x.data_ptr(),
        ready.data_ptr(),
        slope,
        grad_x.data_ptr(),
        grad_ready.data_ptr(),
    )
    grad_threshold = torch.empty_like(threshold, memory_format=torch.contiguous_format)
    grad_threshold.copy_(grad_ready.sum_to_size(threshold.shape))
    return torch.empty_like(x).copy_(grad_x), grad_threshold


def _backward_plain(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    grad_x, grad_threshold = reference.backward(grad, x, threshold, mode, slope)
    return torch.empty_like(x).copy_(grad_x), grad_threshold.contiguous()


def _hyrelu_shape(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    return torch.empty_like(x)


def _backward_shape(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(x),
        torch.empty_like(threshold, memory_format=torch.contiguous_format),
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, threshold, ctx.mode, ctx.slope = inputs
    ctx.save_for_backward(x, threshold)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    x, threshold = ctx.saved_tensors
    # Only a caller who asked for second derivatives runs backward with grad enabled.
    function = reference.backward if torch.is_grad_enabled() else torch.ops.proact.hyrelu_backward
    grad_x, grad_threshold = function(grad, x, threshold, ctx.mode, ctx.slope)
    return grad_x, grad_threshold, None, None


_library.impl("hyrelu", _hyrelu_cpu, "CPU")
_library.impl("hyrelu", _hyrelu_plain, "CompositeExplicitAutograd")
_library.impl("hyrelu_", _hyrelu_inplace_cpu, "CPU")
_library.impl("hyrelu_", _hyrelu_inplace_plain, "CompositeExplicitAutograd")
_library.impl("hyrelu_backward", _backward_cpu, "CPU")
_library.impl("hyrelu_backward", _backward_plain, "CompositeExplicitAutograd")
torch.library.register_fake("proact::hyrelu", _hyrelu_shape, lib=_library)
torch.library.register_fake("proact::hyrelu_", lambda x, threshold, mode, slope: None, lib=_library)
torch.library.register_fake("proact::hyrelu_backward", _backward_shape, lib=_library)
torch.library.register_autograd(
    "proact::hyrelu", _autograd, setup_context=_keep_inputs, lib=_library
)
