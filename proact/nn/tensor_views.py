"""Tensors as views of their storage, so that copies of tensors can share memory as they do."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from proact.nn.int8_layers import is_int8_parameter
from proact.ops.plain_memory import has_plain_memory


def is_view_like(value: Any) -> TypeGuard[Tensor]:
    """Whether its storage, offset, shape and strides describe the numbers of a tensor fully."""
    return (
        (type(value) in (Tensor, nn.Parameter) or is_int8_parameter(value))
        and has_plain_memory(value)
        and not (value.is_quantized or value.is_nested or value.is_conj() or value.is_neg())
    )


def tensor_of_storage(like: Tensor, storage: torch.UntypedStorage) -> Tensor:
    """A tensor, or parameter, with the place, shape and dtype of ``like`` in another storage.

    A parameter has the class of ``like`` and none of its attributes.
    """
    result = torch.empty(0, dtype=like.dtype, device=storage.device)
    result.set_(storage, like.storage_offset(), like.shape, like.stride())
    if isinstance(like, nn.Parameter):
        return parameter_of(type(like), result, like.requires_grad)
    return result.requires_grad_(like.requires_grad) if like.is_leaf else result


def parameter_of(kind: type[nn.Parameter], values: Tensor, requires_grad: bool) -> nn.Parameter:
    """A parameter of a class over the memory of ``values``, as `torch.nn.Parameter` makes it."""
    parameter: nn.Parameter = Tensor._make_subclass(kind, values, requires_grad)
    return parameter
