"""The batching rule of HyReLU: inside `torch.func.vmap`, one call computes the whole map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType


def register(library: torch.library.Library) -> None:
    """Registers the rule of the operator that ``library`` defines."""
    torch.library.register_vmap("proact::hyrelu", _batched, lib=library)


def is_only_vmap() -> bool:
    """Whether `torch.func.vmap` is the only transform that is active, once or nested."""
    if torch.compiler.is_compiling() or torch.autograd.forward_ad._current_level >= 0:
        return False
    active = torch._C._functorch.get_interpreter_stack() or []
    return bool(active) and all(each.key() == TransformType.Vmap for each in active)


def _batched(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    threshold: Tensor,
    clip: str,
    slope: float,
) -> tuple[Tensor, int]:
    """HyReLU of ``x`` with dimensions (samples, map, ...): the map becomes part of each sample.

    Elements are clipped one by one, so that neither the map's size nor a place in it changes a bit.
    """
    of_x, of_threshold = in_dims[0], in_dims[1]
    if of_x is None:
        wide = x.unsqueeze(1).expand(-1, info.batch_size, *x.shape[1:])
    else:
        wide = x.movedim(of_x, 1)
    if of_threshold is not None:
        first = threshold.movedim(of_threshold, 0)
        missing = wide.dim() - 1 - first.dim()
        threshold = first.reshape(len(first), *(1,) * missing, *first.shape[1:])
    return torch.ops.proact.hyrelu(wide, threshold, clip, slope), 1
