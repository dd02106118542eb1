"""Calls the native HyReLU loops and kernels with addresses; the caller has checked arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from proact import _native
from proact.ops import _hyrelu_reference as reference
from proact.ops._hyrelu_layout import Layout, layout_of, like
from proact.ops.cuda_stream import queue_of

MODES = ("soft", "zero", "saturate")
_MODE_NUMBER = {mode: number for number, mode in enumerate(MODES)}
#: The instruction set of the loops; "" for the one that was chosen when the module was loaded.
_isa: ContextVar[str] = ContextVar("isa", default="")
#: The numbers of dtypes in csrc/bindings.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
HALVES = (torch.float16, torch.bfloat16)


def forward(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    if not _has_native(x):
        return plain_forward(x, threshold, mode, slope)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    layout = layout_of(x, _in_real(threshold))
    if layout is None:
        return y.copy_(forward(x.contiguous(), threshold, mode, slope))
    _call_forward(x, layout, mode, slope, y)
    return y


def forward_(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    layout = layout_of(x, _in_real(threshold)) if x.numel() and _has_native(x) else None
    if layout is None:
        x.copy_(forward(x, threshold, mode, slope))
    else:
        _call_forward(x, layout, mode, slope, x)
        torch.autograd.graph.increment_version(x)


def backward(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    if not _has_native(x) or x.numel() == 0:
        return plain_backward(grad, x, threshold, mode, slope)
    layout = layout_of(x, _in_real(threshold))
    if layout is None:
        grad_dense, grad_threshold = backward(grad, x.contiguous(), threshold, mode, slope)
        return torch.empty_like(x).copy_(grad_dense), grad_threshold
    grad_x = torch.empty_like(x)
    ordered = torch.empty_like(layout.threshold)
    _call_backward(like(x, grad.to(x.dtype)), x, layout, mode, slope, grad_x, ordered)
    grad_threshold = layout.to_given(ordered, threshold, x.dim())
    if grad_threshold.dtype != threshold.dtype:
        grad_threshold = grad_threshold.to(threshold.dtype)
    return grad_x, grad_threshold


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Computes with an instruction set of `proact.build_info` in this block, to compare them."""
    token = _isa.set(name)
    try:
        yield
    finally:
        _isa.reset(token)


def plain_forward(x: Tensor, threshold: Tensor, mode: str, slope: float) -> Tensor:
    return torch.empty_like(x).copy_(reference.forward(x, threshold, mode, slope))


def plain_forward_(x: Tensor, threshold: Tensor, mode: str, slope: float) -> None:
    x.copy_(reference.forward(x, threshold, mode, slope))


def plain_backward(
    grad: Tensor, x: Tensor, threshold: Tensor, mode: str, slope: float
) -> tuple[Tensor, Tensor]:
    grad_x, grad_threshold = reference.backward(grad, x, threshold, mode, slope)
    return torch.empty_like(x).copy_(grad_x), grad_threshold.contiguous()


def _has_native(x: Tensor) -> bool:
    module = _native.module
    return module is not None and (x.is_cpu or (module.cuda and x.is_cuda))


def _in_real(threshold: Tensor) -> Tensor:
    """The threshold as the native loops take it: float32 if it is float16 or bfloat16."""
    return threshold.float() if threshold.dtype in HALVES else threshold


def _call_forward(x: Tensor, layout: Layout, mode: str, slope: float, y: Tensor) -> None:
    module: Any = _native.module
    loops = layout.loops
    arguments = (
        DTYPES[x.dtype],
        _MODE_NUMBER[mode],
        loops.samples,
        loops.thresholds,
        loops.inner,
        x.data_ptr(),
        layout.threshold.data_ptr(),
        slope,
        y.data_ptr(),
    )
    if x.is_cpu:
        module.hyrelu(*arguments, torch.get_num_threads(), _isa.get())
    else:
        with torch.cuda.device(x.device):
            module.cuda_hyrelu(*arguments, *_where(x))


def _call_backward(
    grad: Tensor,
    x: Tensor,
    layout: Layout,
    mode: str,
    slope: float,
    grad_x: Tensor,
    grad_threshold: Tensor,
) -> None:
    module: Any = _native.module
    shape = layout.loops[:3]
    arguments = (
        DTYPES[x.dtype],
        _MODE_NUMBER[mode],
        *shape,
        grad.data_ptr(),
        x.data_ptr(),
        layout.threshold.data_ptr(),
        slope,
        grad_x.data_ptr(),
        grad_threshold.data_ptr(),
    )
    if x.is_cpu:
        module.hyrelu_backward(*arguments, torch.get_num_threads(), _isa.get())
    else:
        size = module.cuda_backward_workspace_bytes(*shape)
        workspace = torch.empty(size, dtype=torch.uint8, device=x.device)
        with torch.cuda.device(x.device):
            module.cuda_hyrelu_backward(*arguments, workspace.data_ptr(), *_where(x))


def _where(x: Tensor) -> tuple[int, int]:
    return queue_of(x.device)
