"""Undo the rounding of a tensor to its encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from proact.encodings.base import integers_of
from proact.ops.cuda_stream import FlipStream
from proact.ops.plain_memory import has_plain_memory, is_writable, refuse_lost

#: The elements of a contiguous tensor that are restored at once.
_AT_ONCE = 1 << 20


def undo_of_rounding(name: str, tensor: Tensor, rounded: Tensor) -> Callable[[], object]:
    """Returns a function that restores the original values of elements that still hold the rounded
    ones. It allocates no memory, because a forward pass may leave a GPU without any."""
    stream, is_inference = FlipStream(tensor.device), tensor.is_inference()
    with torch.inference_mode(is_inference):
        original = tensor.detach().clone()
        largest, _, _ = next(_parts(tensor.detach(), rounded, original))
        is_rounded = torch.empty(largest.numel(), dtype=torch.bool, device=tensor.device)

    def undo() -> None:
        if not (has_plain_memory(tensor) and is_writable(tensor)):
            refuse_lost([name])
        with stream.ordered(), torch.inference_mode(is_inference):
            for now, after, before in _parts(tensor.detach(), rounded, original):
                same = is_rounded[: now.numel()].view(now.shape)
                torch.eq(integers_of(now), integers_of(after), out=same)
                torch.where(same, before, now, out=now)

    return undo


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors of one shape, of which the first is a largest one."""
    if all(tensor.is_contiguous() for tensor in tensors):
        flat = (tensor.view(-1).split(_AT_ONCE) for tensor in tensors)
        return zip(*flat, strict=True)
    return iter([tensors])
