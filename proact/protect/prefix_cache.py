"""A network's outputs for a fixed set of images, computed from one site on.

What leads to the site is frozen while its threshold is trained, so that it is computed once an
image and kept, in memory within a budget.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from proact.nn.graph_cut import Cut, with_folded_batch_norm
from proact.nn.outputs import logits_of

#: Images that are taken to the site at a time.
_BATCH = 256


class Continuation:
    """Outputs for images by their indices.

    Args:
        network: whole, in eval mode; everything before the cut stays as it is now.
        cut: at the site; None where the network could not be cut: then it runs whole each time.
        images: (samples, ...).
        budget: bytes that what is kept may take; above it, the way to the site is computed anew
            each time.
        fold: whether the part behind the site has its batch norms folded into convolutions, which
            is faster, and equal up to rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        cut: Cut | None,
        images: Tensor,
        budget: int,
        fold: bool = False,
    ) -> None:
        self._network, self._cut, self._images = network, cut, images
        self._kept: list[_Kept] = []
        if cut is not None:
            self._after = with_folded_batch_norm(cut.after) if fold else cut.after
            with torch.no_grad():
                if len(images) * _bytes_a_sample(cut.before(images[:1])) <= budget:
                    self._keep()

    @property
    def bytes(self) -> int:
        """Of what is kept."""
        return sum(kept.memory.nbytes for kept in self._kept)

    def __call__(self, indices: Tensor) -> Tensor:
        """The logits of the images at ``indices``, which autograd follows back to the site."""
        if self._cut is None:
            return logits_of(self._network(self._images[indices]))
        if self._kept:
            crossing = [kept.take(indices) for kept in self._kept]
        else:
            with torch.no_grad():
                crossing = list(self._cut.before(self._images[indices]))
        return logits_of(self._after(*crossing))

    def all(self) -> Iterator[Tensor]:
        """The logits of all images, in order and in parts."""
        for part in torch.arange(len(self._images)).split(_BATCH):
            yield self(part)

    def _keep(self) -> None:
        assert self._cut is not None
        start = 0
        for part in self._images.split(_BATCH):
            crossing = self._cut.before(part)
            if not self._kept:
                self._kept = [_Kept(tensor, len(self._images)) for tensor in crossing]
            for kept, tensor in zip(self._kept, crossing, strict=True):
                kept.put(start, tensor)
            start += len(part)


class _Kept:
    """One tensor for all images, in the order in memory that the network gave it: with the channels
    last where it has them there."""

    def __init__(self, first: Tensor, samples: int) -> None:
        self._has_channels_last = (
            first.dim() == 4
            and not first.is_contiguous()
            and first.is_contiguous(memory_format=torch.channels_last)
        )
        shape = self._stored(first).shape[1:]
        self.memory = torch.empty((samples, *shape), dtype=first.dtype, device=first.device)

    def put(self, start: int, tensor: Tensor) -> None:
        self.memory[start : start + len(tensor)] = self._stored(tensor)

    def take(self, indices: Tensor) -> Tensor:
        chosen = self.memory[indices]
        return chosen.permute(0, 3, 1, 2) if self._has_channels_last else chosen

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1) if self._has_channels_last else tensor


def _bytes_a_sample(crossing: tuple[Tensor, ...]) -> int:
    return sum(tensor[0].numel() * tensor.element_size() for tensor in crossing)
