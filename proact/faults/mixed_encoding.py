"""Encodings by tensor: mixed precision, and unequal error protection of the deciding tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from proact.encodings import Encoding, Word, encoding_named
from proact.encodings.base import MemoryWord
from proact.encodings.coded import Coded
from proact.encodings.integers import Native
from proact.encodings.scaled_words import StoredScale, scales_of
from proact.faults.by_selector import BySelector, pairs_to_plain, selector_pairs
from proact.faults.selectors import Selector, matches, names_scales, shown
from proact.nn.tensor_inventory import StoredTensor, activation
from proact.text import short_repr

#: An encoding, its name, or encodings by selector; a tensor has the encoding of its first match.
EncodingLike = str | Encoding | Mapping[Selector, str | Encoding]


class MixedEncoding(Encoding):
    """Stores each tensor in the encoding of the first selector that matches it.

    The numbers that decide most about accuracy (running statistics, thresholds, bounds) are few.
    They can have a stronger code than the weights at almost no cost in memory:

        {"*.running_*": "float32+tmr", Where(kind="threshold"): "float32+tmr", "*": "float32+bch2"}

    A selector may match no tensor of a model, so that one mapping serves models with and without
    thresholds. A tensor that no selector matches cannot be stored.

    Args:
        parts: pairs of a selector and an encoding, in the order in which they are tried.

    Attributes:
        name: the mapping as JSON: an object if all selectors are patterns of names, otherwise a
            list of pairs. `checked_encoding` reads it.
        parts: the pairs.

    Raises:
        ValueError, TypeError: no pair, a selector that is given twice, an unknown encoding, or an
            argument of another type.
    """

    def __init__(self, parts: Iterable[tuple[Selector, str | Encoding]]) -> None:
        named = [(where, encoding_named(each)) for where, each in parts]
        self._by_selector = BySelector(named, "encoding")
        self.parts = self._by_selector.pairs
        self.is_coded = any(encoding.is_coded for _, encoding in self.parts)
        self.revision = max(encoding.revision for _, encoding in self.parts)
        self.name = json.dumps(self.to_plain())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MixedEncoding) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def word(self, stored: StoredTensor) -> Word:
        return self._by_selector.of(stored).word(stored)

    def scale_word(self, scale: StoredScale) -> Word | None:
        """The stored form of scales.

        A selector is applied to scales only if it names them, by ``kind="scale"`` or by a name with
        a colon. Its encoding must keep their format, and may add a code beside it. Without such a
        selector, scales have the encoding of their tensor.
        """
        position = self._position_of_scale(scale)
        if position is not None:
            return _kept_word(scale, self.parts[position][1])
        return self._by_selector.of(scale.of).scale_word(scale)

    def _position_of_scale(self, scale: StoredScale) -> int | None:
        """The index of the first selector that names scales and matches these."""
        named = (
            position
            for position, (where, _) in enumerate(self.parts)
            if names_scales(where) and matches(where, scale)
        )
        return next(named, None)

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        return self._by_selector.of(activation(name, tensor)).activation_word(name, tensor, largest)

    def to_plain(self) -> Any:
        """The mapping as JSON and YAML can hold it; `checked_encoding` is the inverse."""
        return pairs_to_plain((where, encoding.name) for where, encoding in self.parts)

    def refuse_unused(self, models: Iterable[Sequence[StoredTensor]]) -> None:
        """ValueError if a selector is the first match of no tensor of any model.

        Args:
            models: the stored tensors of each model.
        """
        chosen: set[int | None] = set()
        for model in models:
            for stored in model:
                chosen.add(self._by_selector.position(stored))
                try:
                    scales = scales_of(stored, self.word(stored))
                except (TypeError, ValueError):
                    continue  # a fault that hits the tensor is refused elsewhere
                chosen.update(map(self._position_of_scale, scales))
        for position, (where, encoding) in enumerate(self.parts):
            if position not in chosen:
                raise ValueError(
                    f"the encoding {encoding.name} for {short_repr(shown(where))} applies to no "
                    "stored tensor: the selector matches none, or earlier selectors match all of "
                    "its tensors"
                )


def _kept_word(scale: StoredScale, encoding: Encoding) -> Word:
    """The word of scales in an encoding that keeps their format; ValueError for others."""
    own = scale.part.word
    plain = encoding.format if isinstance(encoding, Coded) else encoding
    word: Word | None = None
    if isinstance(plain, Native) or _holds(plain, scale):
        word = encoding.word_beside(scale) if isinstance(encoding, Coded) else own
    if word is None:
        raise ValueError(
            f"{scale.name} is stored as {own.name}, which the encoding {encoding.name} would "
            "change: use native, or native with a code that has check bits of its own, such as "
            "native+secded64 or native+tmr"
        )
    return word


def _holds(encoding: Encoding, scale: StoredScale) -> bool:
    """Whether scales are stored in the words of an encoding."""
    try:
        word = encoding.word(scale)
    except TypeError:
        return False
    return isinstance(word, MemoryWord) and word.bits == scale.part.word.bits


def checked_encoding(given: EncodingLike | Sequence[Any]) -> Encoding:
    """The encoding that a caller gives: by name, by selectors, or as an `Encoding`.

    Args:
        given: a name as for `proact.encodings.encoding_named`; an encoding; a mapping of selectors
            to these, or a list of pairs of them, as for `MixedEncoding`. In a file or as JSON text,
            a selector has the form of ``where``: a pattern of names, or an object with the fields
            of `Where`.

    Raises:
        ValueError, TypeError: an unknown name, or as `MixedEncoding`.
    """
    pairs = selector_pairs(given, "encoding", _EXAMPLE)
    if pairs is not None:
        return MixedEncoding(pairs)
    return encoding_named(given)  # type: ignore[arg-type]


def named_or_checked(given: EncodingLike) -> str | Encoding:
    """A name as it is, and anything else as `checked_encoding` reads it: for frozen options."""
    encoding = checked_encoding(given)
    return given if isinstance(given, str) else encoding


_EXAMPLE = '{"*.running_*": "float32+tmr", "*": "float32"}'
