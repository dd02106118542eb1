"""Guards while a model is rounded: bounds admit what they admitted, and check bits stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from proact.encodings import Encoding, Word
from proact.encodings.base import MemoryWord
from proact.encodings.coded_word import CodedWord
from proact.nn import ErrorCorrection, WeightRange
from proact.nn.model_kinds import checked_module
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import StoredTensor
from proact.nn.weight_range import highest, lowest


def guards_of(model: nn.Module) -> dict[str, StoredGuard]:
    """The guards on stored values of a model, by qualified name."""
    return {
        name: m for name, m in checked_module(model).named_modules() if isinstance(m, StoredGuard)
    }


def refuse_recoding(
    guards: Mapping[str, StoredGuard], stored: Iterable[StoredTensor], encoding: Encoding
) -> None:
    """ValueError if an encoding stores words with check bits of ecc in another form.

    Rounding would break the check bits, and faults would not hit the words that are corrected.
    """
    coded = {
        _qualified(name, tensor)
        for name, guard in guards.items()
        if isinstance(guard, ErrorCorrection)
        for tensor in guard.names
    }
    for each in stored if coded else ():
        if coded.isdisjoint(each.names):
            continue
        try:
            word = encoding.word(each)
        except (TypeError, ValueError):
            continue  # a fault that hits it is refused elsewhere
        if not isinstance(word, MemoryWord):
            dtype = str(each.tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{each.name} has check bits of ecc in its {dtype} words, which the encoding "
                f"{encoding.name} stores in another form: use the encoding native or {dtype}"
            )


def _qualified(guard: str, tensor: str) -> str:
    """The name in the whole model of a tensor that a guard names in its own model."""
    root = guard.rpartition(".")[0]
    return f"{root}.{tensor}" if root else tensor


#: The number of attempts to move a bound outwards until its rounded value admits all values. Each
#: moves it twice as far, because the first distance can be far below a step of the payload.
_STEPS = 48


class RoundedBounds:
    """The bounds of a model's guards while the model is rounded.

    Rounding moves values (int8 can move one past the largest of a tensor) and bounds, and a value
    inside its bounds must not end up outside. Each bound is therefore widened to the rounded values
    that it admitted before, and rounded afterwards. A value outside its bounds is a fault and does
    not widen them.

    Pass each rounded tensor to `include`, in the order of `in_order`: bounds come last.
    """

    def __init__(self, all_guards: Mapping[str, StoredGuard]) -> None:
        guards = {n: guard for n, guard in all_guards.items() if isinstance(guard, WeightRange)}
        #: By the bound's name: its value before, and what the rounded values need.
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
            for tensor in guard.names:
                of = self._of.setdefault(_qualified(name, tensor), [])
                of.append((*before[tensor], *needed[tensor]))

    def in_order(self, stored: Iterable[StoredTensor]) -> list[StoredTensor]:
        """The tensors, with bounds last."""
        return sorted(stored, key=lambda each: each.kind == "bound")

    def include(self, stored: StoredTensor, rounded: Tensor) -> None:
        """Extends the bounds of a tensor to its rounded values."""
        for name in stored.names:
            for low, high, needed_low, needed_high in self._of.get(name, ()):
                held = (stored.tensor >= low) & (stored.tensor <= high)
                smallest = lowest(torch.where(held, rounded, torch.inf), low.shape)
                largest = highest(torch.where(held, rounded, -torch.inf), high.shape)
                needed_low.copy_(torch.minimum(needed_low, smallest))
                needed_high.copy_(torch.maximum(needed_high, largest))

    def unrounded(self, stored: StoredTensor) -> Tensor:
        """The values to round: the widened ones for a bound, else the tensor itself."""
        name = self._name(stored)
        if name is None:
            return stored.tensor
        bound, needed = stored.tensor, self._needed[name]
        cuts = bound > needed if name.endswith(".low") else bound < needed
        return torch.where(cuts, needed, bound)

    def rounded(self, stored: StoredTensor, word: Word) -> Tensor:
        """The values of a tensor in the encoding.

        In words with a code, whose check bits take low bits, a bound that rounding narrows moves
        outwards.
        """
        values = self.unrounded(stored)
        result = word.rounded(values)
        name = self._name(stored)
        if name is None or not isinstance(word, CodedWord):
            return result
        needed = self._needed[name]
        for attempt in range(_STEPS):
            cuts = result > needed if name.endswith(".low") else result < needed
            if not cuts.any():
                break
            values = torch.where(cuts, values + 1.5 * 2**attempt * (needed - result), values)
            result = word.rounded(values)
        return result

    def check(self, stored: StoredTensor, rounded: Tensor) -> None:
        """ValueError if a rounded bound excludes a value that it must admit."""
        name = self._name(stored)
        if name is None:
            return
        needed = self._needed[name]
        cuts = rounded > needed if name.endswith(".low") else rounded < needed
        is_lost = rounded.isnan() & ~self._before[name].isnan()
        if (cuts | is_lost).any():
            raise ValueError(
                f"{name} is stored with less precision than the values it bounds, so that "
                "weight-range would repair correct values: store bounds like the values, or as "
                "float32"
            )

    def _name(self, stored: StoredTensor) -> str | None:
        return next((name for name in stored.names if name in self._needed), None)
