"""Encodings by tensor: mixed precision, and unequal error protection of the deciding tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from proact.encodings import Encoding, Word, encoding_named
from proact.faults.selectors import (
    Selector,
    checked_where,
    matches,
    shown,
    where_from_json,
    where_to_json,
)
from proact.nn.tensor_inventory import StoredTensor, activation

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
        self.parts = tuple((checked_where(where), encoding_named(each)) for where, each in parts)
        if not self.parts:
            raise ValueError("encodings by tensor must have at least one selector, got none")
        selectors = [where for where, _ in self.parts]
        for where in selectors:
            if selectors.count(where) > 1:
                raise ValueError(f"the encoding for {shown(where)!r} is given twice")
        self.is_coded = any(encoding.is_coded for _, encoding in self.parts)
        self.name = json.dumps(self.to_plain())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MixedEncoding) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def word(self, stored: StoredTensor) -> Word:
        return self._of(stored).word(stored)

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        return self._of(activation(name, tensor)).activation_word(name, tensor, largest)

    def to_plain(self) -> Any:
        """The mapping as JSON and YAML can hold it; `checked_encoding` is the inverse."""
        pairs = [(where_to_json(where), encoding.name) for where, encoding in self.parts]
        if all(isinstance(where, str) for where, _ in pairs):
            return dict(pairs)
        return [list(pair) for pair in pairs]

    def refuse_unused(self, models: Iterable[Sequence[StoredTensor]]) -> None:
        """ValueError if a selector is the first match of no tensor of any model.

        Args:
            models: the stored tensors of each model.
        """
        chosen = {self._position(stored) for model in models for stored in model}
        for position, (where, encoding) in enumerate(self.parts):
            if position not in chosen:
                raise ValueError(
                    f"the encoding {encoding.name} for {shown(where)!r} applies to no stored "
                    "tensor: the selector matches none, or earlier selectors match all of its "
                    "tensors"
                )

    def _of(self, stored: StoredTensor) -> Encoding:
        position = self._position(stored)
        if position is None:
            raise ValueError(
                f"no selector of the encoding matches {stored.name}: add one, such as '*' for all "
                "other tensors"
            )
        return self.parts[position][1]

    def _position(self, stored: StoredTensor) -> int | None:
        selected = (at for at, (where, _) in enumerate(self.parts) if matches(where, stored))
        return next(selected, None)


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
    if isinstance(given, str) and given.lstrip().startswith(("{", "[")):
        try:
            given = json.loads(given, object_pairs_hook=_without_repetition)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"encodings by tensor must be JSON such as {_EXAMPLE}, got {given!r}: {error}"
            ) from None
    if isinstance(given, Mapping):
        return MixedEncoding(given.items())
    if isinstance(given, (list, tuple)):
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
            raise ValueError(
                f"encodings by tensor must be pairs of a selector and an encoding, got {given!r}"
            )
        return MixedEncoding((_selector(where), encoding) for where, encoding in given)
    return encoding_named(given)  # type: ignore[arg-type]


def named_or_checked(given: EncodingLike) -> str | Encoding:
    """A name as it is, and anything else as `checked_encoding` reads it: for frozen options."""
    encoding = checked_encoding(given)
    return given if isinstance(given, str) else encoding


_EXAMPLE = '{"*.running_*": "float32+tmr", "*": "float32"}'


def _selector(where: Any) -> Selector:
    return where_from_json(list(where) if isinstance(where, tuple) else where)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, _ in pairs:
        if sum(other == key for other, _ in pairs) > 1:
            raise ValueError(f"{key!r} is given twice")
    return dict(pairs)
