"""Rounding: replace numbers in memory by the values of their stored words."""

from __future__ import annotations

import torch
from torch import Tensor

from proact import _native
from proact.ops.number_formats import NumberFormat
from proact.ops.plain_memory import address_of


def rounded_to_words(tensor: Tensor, form: NumberFormat) -> Tensor | None:
    """The values of the stored words of a tensor; None without the native module.

    Args:
        tensor: float32 or float64 of any shape, on any device. It is not changed.
        form: the stored form of its elements.

    Returns:
        A contiguous tensor of the same shape, dtype and device.
    """
    if _native.module is None:
        return None
    values = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    _native.module.round_to_words(
        address_of("values to round", values),
        values.numel(),
        values.element_size(),
        form.native,
        torch.get_num_threads(),
    )
    return values.to(tensor.device)
