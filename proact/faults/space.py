"""The fault space: the stored bits that a fault can hit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from torch import Tensor, nn

from proact.encodings import Bits, Encoding, Word
from proact.encodings.coded import CodedWord
from proact.encodings.scaled_words import ScaledWord, StoredScale, owner_of, scales_of
from proact.errors import ProactError
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.selectors import Selector, checked_where, matches, names_scales, select
from proact.nn.packed_state import packed_weights
from proact.nn.tensor_inventory import StoredTensor, checked_network, stored_tensors
from proact.ops.number_formats import bit_numbers
from proact.ops.plain_memory import checked_memory, has_plain_memory
from proact.ops.plan import checked_ber
from proact.ops.seeds import stream_of

if TYPE_CHECKING:
    import pandas as pd

#: Follows the name of a tensor in the name of its check words in the sampler.
_CHECK_WORDS = ":check"


class ExposedMemory(NamedTuple):
    """Stored words of one tensor that have the same exposed bits: its own words, or check words."""

    words: int
    stream: int  #: names the words in the sampler; in [0, 2^48)
    mask: int  #: the exposed bits of each word; bit 0 is the lowest
    first_bit: int  #: the number of bit 0 in the stored form of the tensor; 0 for its own words


@dataclass(frozen=True, eq=False)
class ExposedTensor:
    """One tensor of the fault space.

    Attributes:
        stored: the tensor with its names, layer and kind.
        word: the stored form of its elements.
        mask: the exposed bits of each word; bit 0 is the lowest. In an encoding with a code that
            needs memory of its own, the highest bits are those of the check word of a codeword.
        stream: names the tensor in the sampler; in [0, 2^48).
    """

    stored: StoredTensor
    word: Word
    mask: int
    stream: int

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def tensor(self) -> Tensor:
        return self.stored.tensor

    @property
    def elements(self) -> int:
        return self.tensor.numel()

    @property
    def bits(self) -> int:
        """The number of exposed bits in the whole tensor."""
        return sum(memory.words * memory.mask.bit_count() for memory in self.memories)

    def words_with(self, bit: int) -> int:
        """The number of stored words that have the bit of this number."""
        return next(m.words for m in reversed(self.memories) if bit >= m.first_bit)

    @property
    def words_per_check(self) -> int:
        """The number of words of the tensor that share a check word."""
        return self.word.fitted.code.words if isinstance(self.word, CodedWord) else 1

    @cached_property
    def memories(self) -> list[ExposedMemory]:
        """The exposed words of the tensor, and its exposed check words."""
        word = self.word
        if not isinstance(word, CodedWord):
            return [ExposedMemory(self.elements, self.stream, self.mask, 0)]
        width = word.format.bits
        own = ExposedMemory(self.elements, self.stream, self.mask & word.format.all_bits, 0)
        stream = stream_of(f"{self.name}{_CHECK_WORDS}")
        check = ExposedMemory(word.check_words, stream, self.mask >> width, width)
        return [memory for memory in (own, check) if memory.mask]

    @cached_property
    def bit_numbers(self) -> list[int]:
        """The exposed bits of a word, in ascending order."""
        return bit_numbers(self.mask)


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


class FaultSpace(Sequence[ExposedTensor]):
    """The stored bits that faults can hit: a sequence of `ExposedTensor`, each memory once.

    Args:
        model: a model with plain memory; it is not changed.
        encoding: the stored form of its parameters, by name or by selectors.
        where: the exposed tensors: a pattern of names, a `Where` or a sequence of these; all by
            default.
        bits: the exposed bits of each word: a field of the encoding, a mask, a sequence of bit
            numbers (0 is the lowest), or None for all.

    Attributes:
        bits: number of exposed bits.
        elements: number of elements of the exposed tensors.
        whole: number of bits that the model stores, exposed or not; None if the encoding cannot
            store one of its tensors.

    Raises:
        ValueError: a model without parameters, a selector that matches no tensor, bits that the
            words of a selected tensor lack, memory that is not plain, contiguous and writable,
            partly shared memory, or selected weights in a packed form.
        TypeError: a dtype that the encoding cannot store.
    """

    def __init__(
        self,
        model: nn.Module,
        encoding: EncodingLike = "float32",
        where: Selector = "*",
        bits: Bits = None,
    ) -> None:
        self.encoding = checked_encoding(encoding)
        selector = checked_where(where)
        forms = StoredForms(stored_tensors(checked_network(model)), self.encoding)
        refuse_packed(packed_weights(model), selector)
        self._exposed = forms.exposed(selector, bits)
        # Words depend on clean values, and the space may be asked while faults are in memory.
        self._whole = forms.bits

    @overload
    def __getitem__(self, index: int) -> ExposedTensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExposedTensor]: ...
    def __getitem__(self, index: int | slice) -> ExposedTensor | list[ExposedTensor]:
        return self._exposed[index]

    def __iter__(self) -> Iterator[ExposedTensor]:
        return iter(self._exposed)

    def __len__(self) -> int:
        return len(self._exposed)

    @property
    def bits(self) -> int:
        return sum(tensor.bits for tensor in self)

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self)

    @property
    def whole(self) -> int | None:
        return self._whole

    def to_pandas(self, ber: float = 0.0) -> pd.DataFrame:
        """One row for each tensor.

        Columns: tensor (qualified name), layer (type), kind, shape, elements, word (stored form),
        bits (exposed), flips (expected at ``ber``) and share (of the exposed bits, in [0, 1]).

        Args:
            ber: bit error rate, a probability per exposed bit in [0, 1].
        """
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame(self.rows(ber))
        return frame

    def rows(self, ber: float = 0.0) -> list[dict[str, Any]]:
        """The rows of `to_pandas` as dictionaries."""
        ber, total = checked_ber(ber), self.bits
        return [
            {
                "tensor": exposed.name,
                "layer": exposed.stored.layer_types[0],
                "kind": exposed.stored.kind,
                "shape": tuple(exposed.tensor.shape),
                "elements": exposed.elements,
                "word": exposed.word.name,
                "bits": exposed.bits,
                "flips": ber * exposed.bits,
                "share": exposed.bits / total,
            }
            for exposed in self
        ]


def refuse_packed(packed: Sequence[StoredTensor], where: Selector) -> None:
    """ValueError if ``where`` selects weights that are neither parameters nor buffers."""
    for weights in packed:
        if matches(where, weights):
            raise ValueError(
                f"{weights.name or 'the model'} ({weights.layer_types[0]}) keeps weights in a "
                "packed form, which faults cannot hit: quantise with torchao or with "
                "encoding='int8' instead, or exclude the module with where="
            )


def _refuse_shared_streams(exposed: list[ExposedTensor]) -> None:
    names: dict[int, str] = {}
    for tensor in exposed:
        other = names.setdefault(tensor.stream, tensor.name)
        if other != tensor.name:
            raise ValueError(
                f"the names {other!r} and {tensor.name!r} have the same 48-bit hash and would get "
                "the same faults: rename one of them"
            )
