"""The stored forms of a model's tensors in an encoding, and of their scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from proact.encodings import Bits, Encoding, Word
from proact.encodings.scaled_words import ScaledWord, StoredScale, owner_of, scales_of
from proact.errors import ProactError
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.selectors import Selector, matches, names_scales, select
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.plain_memory import checked_memory, has_plain_memory
from proact.ops.seeds import stream_of
from proact.text import short_repr


class _LackedBitsError(ValueError):
    """The words of a tensor lack the bits that a fault names."""


class StoredForms:
    """The tensors that a model stores in an encoding, scales included, with their stored forms.

    Each form is made once, so that all faults hit the same scales.

    Args:
        stored: the model's stored tensors.
        encoding: their encoding.
    """

    def __init__(self, stored: Sequence[StoredTensor], encoding: Encoding) -> None:
        self._of_model, self._encoding = stored, encoding
        self._words: dict[str, Word] = {}
        self._scaled: dict[str, ScaledWord] = {}  #: those whose scales are in the fault space
        self._not_stored: list[tuple[StoredTensor, Exception]] = []

    def word(self, stored: StoredTensor) -> Word:
        """The stored form of a tensor or of scales; TypeError or ValueError if there is none."""
        word = self._words.get(stored.name)
        if word is None:
            word = self._words[stored.name] = self._encoding.word(stored)
        return word

    @cached_property
    def tensors(self) -> list[StoredTensor]:
        """The stored tensors, each followed by its scales."""
        tensors: list[StoredTensor] = []
        for stored in self._of_model:
            tensors.append(stored)
            if not has_plain_memory(stored.tensor):
                continue
            try:
                word = self.word(stored)
            except (TypeError, ValueError) as error:
                self._not_stored.append((stored, error))  # refused if a fault hits it
                continue
            for scale in scales_of(stored, word):
                of_scale = self._encoding.scale_word(scale)
                if of_scale is not None:
                    self._words[scale.name] = of_scale
                    self._scaled[stored.name] = scale.scaled
                    tensors.append(scale)
        return tensors

    def exposed(self, where: Selector, bits: Bits) -> list[ExposedTensor]:
        """The selected tensors with their exposed bits; raises as `FaultSpace` does.

        Scales that lack the named bits are left out.
        """
        if not self._of_model:
            raise ValueError("the model has no parameters, so there are no bits to flip")
        exposed, lacks = [], None
        tensors = self.tensors
        self._refuse_scales_not_stored(where)
        for tensor in select(where, tensors):
            try:
                exposed.append(self.exposed_tensor(tensor, bits))
            except _LackedBitsError as error:
                if not isinstance(tensor, StoredScale):
                    raise
                lacks = lacks or error
        if lacks is not None and not exposed:
            raise lacks
        _refuse_shared_streams(exposed)
        return exposed

    def _refuse_scales_not_stored(self, where: Selector) -> None:
        """The error of a tensor that cannot be stored, if a selector is meant for its scales."""
        if not names_scales(where):
            return
        for stored, error in self._not_stored:
            names = tuple(f"{name}:scale" for name in stored.names)
            if matches(where, replace(stored, name=names[0], names=names, kind="scale")):
                raise error

    def exposed_tensor(self, stored: StoredTensor, bits: Bits) -> ExposedTensor:
        """One tensor with its exposed bits; raises if it cannot be faulted in this encoding."""
        owner = owner_of(stored)  # which changes with its scales
        checked_memory(owner.name, owner.tensor)
        word = self.word(stored)
        try:
            mask = word.mask(bits)
        except ValueError as error:
            raise _LackedBitsError(f"{stored.name}: {error}") from None
        return ExposedTensor(stored, word, mask, stream_of(stored.name))

    def refuse_changed_scales(self) -> None:
        """ProactError if scales hold faults: words cannot be told from values then."""
        for name, word in self._scaled.items():
            if word.are_scales_changed:
                raise ProactError(
                    f"the scales of {name} hold faults of another injection: give all faults to "
                    "one call of inject"
                )

    def stored_bits(self, stored: StoredTensor) -> int:
        """The number of stored bits of a tensor without its scales, or of scales.

        Scales beside coded words are not in the fault space, and are counted with their tensor.
        """
        if isinstance(stored, StoredScale):
            return self.word(stored).stored_bits(stored.tensor.numel())
        listed = self._scaled.get(stored.name)
        scales = 0 if listed is None else sum(part.bits for part in listed.parts)
        return self.word(stored).stored_bits(stored.tensor.numel()) - scales

    @property
    def bits(self) -> int | None:
        """The number of stored bits, exposed or not; None if a tensor cannot be stored."""
        if not all(has_plain_memory(stored.tensor) for stored in self._of_model):
            return None
        try:
            return sum(self.stored_bits(stored) for stored in self.tensors)
        except (TypeError, ValueError):
            return None


def _refuse_shared_streams(exposed: list[ExposedTensor]) -> None:
    names: dict[int, str] = {}
    for tensor in exposed:
        other = names.setdefault(tensor.stream, tensor.name)
        if other != tensor.name:
            raise ValueError(
                f"the names {short_repr(other)} and {short_repr(tensor.name)} have the same 48-bit "
                "hash and would get the same faults: rename one of them"
            )
