"""HyReLU as a torch operator: checks, schema, shape rule, autograd and dispatch."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from proact.ops import _hyrelu_batching as batching
from proact.ops import _hyrelu_native as native
from proact.ops import _hyrelu_reference as reference
from proact.ops._hyrelu_native import DTYPES, HALVES, MODES
from proact.ops._memory import extent, layout, may_overlap
from proact.ops.plain_memory import (
    address_of,
    check_operands,
    is_plain_on_host,
    lies_in_storage,
)
from proact.text import short_repr

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

    * ``soft``, for training: ``max(0, x * sigmoid(slope * (threshold - x)))``
    * ``zero``, for deployment: ``x`` if ``0 < x <= threshold``, else 0
    * ``saturate``, the rule of Ranger (arXiv 2003.13874): ``min(max(x, 0), threshold)``

    The result is always finite for a finite threshold: x = NaN gives 0; x = +inf gives 0, or the
    threshold in ``saturate``. A threshold that is NaN or negative gives 0 everywhere; +inf gives
    ReLU of the finite elements, and 0 for others.

    Args:
        x: shape (samples, ...), float32, float64, float16 or bfloat16 (halves compute in float32).
        threshold: broadcasts against one sample, ``x.shape[1:]``: 0-dimensional (layer-wise), one
            per channel, or one per neuron. It has the dtype of ``x``, or float32 if ``x`` is
            float16 or bfloat16.
        mode: ``"soft"``, ``"zero"`` or ``"saturate"``.
        slope: the steepness k of ``soft``, in units of 1/x; finite and above 0.

    Returns:
        A new tensor with the shape, dtype and memory format of ``x``. Differentiable in ``x`` and
        ``threshold``; second derivatives are those of the plain-torch formula.

    Raises:
        TypeError: an argument of another type, a dtype that is not listed, or a tensor that torch's
            dispatcher cannot turn into one with memory: sparse, nested, distributed, masked, or
            with a freed storage.
        ValueError: a threshold that does not broadcast, an unknown mode, a slope out of range, or
            different devices.
    """
    is_plain = _check(x, threshold, mode, slope)
    if _wants_plain_form() and not batching.is_only_vmap():
        return reference.forward(x, threshold, mode, slope)
    if is_plain and _may_skip_dispatcher():
        if torch.is_grad_enabled() and (x.requires_grad or threshold.requires_grad):
            differentiable: Tensor = _HyReLU.apply(x, threshold, mode, slope)  # type: ignore[no-untyped-call]
            return differentiable
        return native.forward(x, threshold, mode, slope)
    result: Tensor = torch.ops.proact.hyrelu(x, threshold, mode, slope)
    return result


def hyrelu_(x: Tensor, threshold: Tensor, mode: str = "soft", slope: float = 20.0) -> Tensor:
    """`hyrelu` in place, for inference: overwrites ``x`` with the result and returns it.

    Args:
        x, threshold, mode, slope: as for `hyrelu`.

    Raises:
        TypeError: as `hyrelu`.
        ValueError: as `hyrelu`; also if autograd would need the overwritten values, or if elements
            of ``x`` share memory with each other or with ``threshold``.
    """
    is_plain = _check(x, threshold, mode, slope, written=("x",))
    if torch.is_grad_enabled() and (x.requires_grad or threshold.requires_grad):
        raise ValueError(
            "hyrelu_ overwrites x, which autograd would need: call it under torch.no_grad(), or "
            "use hyrelu"
        )
    if _wants_plain_form():
        return x.copy_(reference.forward(x, threshold, mode, slope))
    if not x.is_contiguous() and may_overlap(x):
        raise ValueError(f"the elements of x must not share memory in hyrelu_, got {layout(x)}")
    if _share_memory(x, threshold):
        raise ValueError("x and threshold must not share memory in hyrelu_, and they do")
    if is_plain and _may_skip_dispatcher():
        native.forward_(x, threshold, mode, slope)
    else:
        torch.ops.proact.hyrelu_(x, threshold, mode, slope)
    return x


def _check(
    x: Tensor, threshold: Tensor, mode: str, slope: float, written: Collection[str] = ()
) -> bool:
    """Raises what `hyrelu` does; returns whether both tensors are plain ones in host memory."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not isinstance(threshold, Tensor):
        raise TypeError(f"threshold must be a torch.Tensor, got {type(threshold).__name__}")
    is_plain = False
    if not torch.compiler.is_compiling():  # memory has no address yet
        is_plain = is_plain_on_host(x) and is_plain_on_host(threshold)
        if not is_plain:
            check_operands({"x": x, "threshold": threshold}, written)
    dtype = x.dtype
    if dtype not in DTYPES:
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {dtype}")
    if threshold.dtype != dtype and not (dtype in HALVES and threshold.dtype == torch.float32):
        raise TypeError(f"threshold must have the dtype of x, {dtype}, got {threshold.dtype}")
    check_mode_and_slope(mode, slope)
    if x.device != threshold.device:
        _check_devices({"x": x, "threshold": threshold})
    if not _fits(threshold, x):
        raise ValueError(
            f"threshold must broadcast against one sample of shape {tuple(x.shape[1:])}, got shape "
            f"{tuple(threshold.shape)} for x of shape {tuple(x.shape)}"
        )
    return is_plain


def _check_devices(tensors: Mapping[str, Tensor]) -> None:
    devices = [tensor.device for tensor in tensors.values()]
    if any(device != devices[0] for device in devices):
        names, found = (" and ".join(map(str, each)) for each in (tensors, devices))
        raise ValueError(f"{names} must be on one device, got {found}")


def _share_memory(x: Tensor, threshold: Tensor) -> bool:
    if not (x.numel() and lies_in_storage(x) and lies_in_storage(threshold)):
        return False
    (begin, end), (first, last) = extent(x), extent(threshold)
    return begin < last and first < end


def check_mode_and_slope(mode: str, slope: float = 20.0) -> None:
    """ValueError or TypeError if `hyrelu` would refuse the mode or the slope."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {short_repr(mode)}")
    if isinstance(slope, bool) or not isinstance(slope, (int, float)):
        raise TypeError(f"slope must be a number, got {short_repr(slope)}")
    if not 0 < slope <= sys.float_info.max:
        raise ValueError(f"slope must be a finite number above 0, got {short_repr(slope)}")


def broadcasts(threshold: tuple[int, ...], x: tuple[int, ...]) -> bool:
    """Whether a threshold of one shape broadcasts against a sample of an ``x`` of another."""
    sample = x[1:]
    if len(x) == 0 or len(threshold) > len(sample):
        return False
    trailing = sample[len(sample) - len(threshold) :]
    return all(t in (1, s) for t, s in zip(threshold, trailing, strict=True))


_cached_broadcasts = lru_cache(maxsize=4096)(broadcasts)


def _fits(threshold: Tensor, x: Tensor) -> bool:
    if not torch.compiler.is_compiling() and type(x) is Tensor:
        return _cached_broadcasts(threshold.shape, x.shape)
    return broadcasts(threshold.shape, x.shape)  # sizes may be symbolic and not hashable


def _wants_plain_form() -> bool:
    """Whether to use the plain torch form: Inductor fuses it, and torch.func and forward-mode
    derivatives can differentiate it. Inside vmap alone, `hyrelu` has a rule of its own."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _may_skip_dispatcher() -> bool:
    """Whether no active mode intercepts operators, so that the native function may be called with
    plain tensors past torch's dispatcher.

    The dispatcher costs as much as a loop over ten thousand elements.
    """
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch._C._autograd._profiler_enabled()
    )


def _hyrelu_shape(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    _check_devices({"x": x, "threshold": threshold})
    return torch.empty_like(x)


def _in_place_shape(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    _check_devices({"x": x, "threshold": threshold})


def _backward_shape(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    _check_devices({"grad": grad, "x": x, "threshold": threshold})
    return (
        torch.empty_like(x),
        torch.empty_like(threshold, memory_format=torch.contiguous_format),
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, threshold, ctx.mode, ctx.slope = inputs
    ctx.save_for_backward(x, threshold)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    x, threshold = ctx.saved_tensors
    # Gradients are enabled here only if the caller wants second derivatives.
    if torch.is_grad_enabled() or torch.autograd.forward_ad._current_level >= 0:
        function = reference.backward
    elif _may_skip_dispatcher() and all(map(is_plain_on_host, (grad, x, threshold))):
        function = native.backward
    else:
        function = torch.ops.proact.hyrelu_backward
    grad_x, grad_threshold = function(grad, x, threshold, ctx.mode, ctx.slope)
    return grad_x, grad_threshold, None, None


class _HyReLU(torch.autograd.Function):
    """The operator's autograd for calls that skip the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
        _keep_inputs(ctx, (x, threshold, mode, slope), x)
        return native.forward(x, threshold, mode, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return _autograd(ctx, grad)


# The kernels check their arguments: an operator of torch can be called without `hyrelu`.


def _forward(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    _check_kernel(x, threshold, mode, slope)
    return native.forward(x, threshold, mode, slope)


def _forward_(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    _check_kernel(x, threshold, mode, slope)
    native.forward_(x, threshold, mode, slope)


def _backward(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    _check_kernel(x, threshold, mode, slope)
    address_of("grad", grad)
    _check_devices({"grad": grad, "x": x})
    if grad.shape != x.shape:
        raise ValueError(
            f"grad must have the shape of x, {tuple(x.shape)}, got {tuple(grad.shape)}"
        )
    return native.backward(grad, x, threshold, mode, slope)


def _check_kernel(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    _check(x, threshold, mode, slope)
    address_of("x", x)
    address_of("threshold", threshold)


for _device in ("CPU", "CUDA"):
    _library.impl("hyrelu", _forward, _device)
    _library.impl("hyrelu_", _forward_, _device)
    _library.impl("hyrelu_backward", _backward, _device)
# Any other device.
_library.impl("hyrelu", native.plain_forward, "CompositeExplicitAutograd")
_library.impl("hyrelu_", native.plain_forward_, "CompositeExplicitAutograd")
_library.impl("hyrelu_backward", native.plain_backward, "CompositeExplicitAutograd")
torch.library.register_fake("proact::hyrelu", _hyrelu_shape, lib=_library)
torch.library.register_fake("proact::hyrelu_", _in_place_shape, lib=_library)
torch.library.register_fake("proact::hyrelu_backward", _backward_shape, lib=_library)
torch.library.register_autograd(
    "proact::hyrelu", _autograd, setup_context=_keep_inputs, lib=_library
)
batching.register(_library)
