"""The fault space: the stored bits that a fault can hit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from proact.encodings import Bits
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.selectors import Selector, checked_where, matches
from proact.faults.stored_forms import StoredForms
from proact.nn.model_kinds import checked_module
from proact.nn.packed_state import PackedWeights, packed_weights
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.plan import checked_ber

if TYPE_CHECKING:
    import pandas as pd


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
        forms = StoredForms(stored_tensors(checked_module(model)), self.encoding)
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
        """The number of exposed bits."""
        return sum(tensor.bits for tensor in self)

    @property
    def elements(self) -> int:
        """The number of elements of the exposed tensors."""
        return sum(tensor.elements for tensor in self)

    @property
    def whole(self) -> int | None:
        """The number of bits that the model stores, exposed or not; None if it is not known."""
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


def refuse_packed(packed: Sequence[PackedWeights], where: Selector) -> None:
    """ValueError if ``where`` selects weights that faults cannot hit."""
    for weights, lack in packed:
        if matches(where, weights):
            raise ValueError(
                f"{weights.name or 'the model'} ({weights.layer_types[0]}) {lack}, or exclude the "
                "module with where="
            )
