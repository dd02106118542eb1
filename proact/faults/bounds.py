"""Bounds of weight-range when a network is rounded: they still hold every number they held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from proact.nn import WeightRange
from proact.nn.tensor_inventory import StoredTensor
from proact.nn.weight_range import highest, lowest


def guards_of(model: nn.Module) -> dict[str, WeightRange]:
    """The guards in a network, by their qualified names."""
    return {name: m for name, m in model.named_modules() if isinstance(m, WeightRange)}


class RoundedBounds:
    """Rounding moves numbers (int8: past the largest of a tensor) and bounds, and what a bound held
    must not come to lie outside. So it is widened to hold all of it, and rounded then. What lay
    outside before is a fault, and widens nothing.

    Tensors are shown to `see` as they are rounded; bounds come after all others.
    """

    def __init__(self, guards: Mapping[str, WeightRange]) -> None:
        #: Per guard: bounds before; after, of the rounded numbers alone.
        self._before = {
            f"{name}.{side}": getattr(guard, side).detach()
            for name, guard in guards.items()
            for side in ("low", "high")
        }
        self._needed = {name: bound.clone() for name, bound in self._before.items()}
        self._of: dict[str, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
        for name, guard in guards.items():
            low, high = f"{name}.low", f"{name}.high"
            self._needed[low].fill_(torch.inf)
            self._needed[high].fill_(-torch.inf)
            before = guard.by_tensor(self._before[low], self._before[high])
            needed = guard.by_tensor(self._needed[low], self._needed[high])
            root = name.rpartition(".")[0]
            for tensor in guard.names:
                qualified = f"{root}.{tensor}" if root else tensor
                self._of.setdefault(qualified, []).append((*before[tensor], *needed[tensor]))

    def in_order(self, stored: Iterable[StoredTensor]) -> list[StoredTensor]:
        """The tensors, bounds last."""
        return sorted(stored, key=lambda each: each.kind == "bound")

    def see(self, stored: StoredTensor, rounded: Tensor) -> None:
        """Takes in what a tensor's numbers become."""
        for name in stored.names:
            for low, high, needed_low, needed_high in self._of.get(name, ()):
                held = (stored.tensor >= low) & (stored.tensor <= high)
                smallest = lowest(torch.where(held, rounded, torch.inf), low.shape)
                largest = highest(torch.where(held, rounded, -torch.inf), high.shape)
                needed_low.copy_(torch.minimum(needed_low, smallest))
                needed_high.copy_(torch.maximum(needed_high, largest))

    def unrounded(self, stored: StoredTensor) -> Tensor:
        """What is to be rounded: of bounds the widened ones, else the tensor itself."""
        name = self._name(stored)
        if name is None:
            return stored.tensor
        bound, needed = stored.tensor, self._needed[name]
        cuts = bound > needed if name.endswith(".low") else bound < needed
        return torch.where(cuts, needed, bound)

    def check(self, stored: StoredTensor, rounded: Tensor) -> None:
        """ValueError where rounded bounds cut off what they have to hold."""
        name = self._name(stored)
        if name is None:
            return
        needed = self._needed[name]
        cuts = rounded > needed if name.endswith(".low") else rounded < needed
        if cuts.any():
            raise ValueError(
                f"{name} is stored less finely than what it bounds, so that weight-range would "
                "repair healthy numbers: give bounds the words of the numbers, or float32"
            )

    def _name(self, stored: StoredTensor) -> str | None:
        return next((name for name in stored.names if name in self._needed), None)
