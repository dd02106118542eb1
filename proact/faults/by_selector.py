"""Values by selector: a tensor has the value of the first selector that matches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from proact.faults.selectors import (
    Selector,
    checked_where,
    matches,
    shown,
    where_from_json,
    where_to_json,
)
from proact.nn.tensor_inventory import StoredTensor
from proact.plain_values import parse_json
from proact.text import short_repr

T = TypeVar("T")


class BySelector(Generic[T]):
    """Pairs of a selector and a value, in the order in which they are tried.

    Args:
        pairs: the pairs.
        noun: what a value is, for messages, such as ``"encoding"``.

    Raises:
        ValueError, TypeError: no pair, a selector that is given twice, or something else than a
            selector.
    """

    def __init__(self, pairs: Iterable[tuple[Selector, T]], noun: str) -> None:
        self.pairs = tuple((checked_where(where), value) for where, value in pairs)
        self._noun = noun
        if not self.pairs:
            raise ValueError(f"{noun}s by tensor must have at least one selector, got none")
        seen: set[Selector] = set()
        for where, _ in self.pairs:
            if where in seen:
                raise ValueError(f"the {noun} for {short_repr(shown(where))} is given twice")
            seen.add(where)

    def of(self, stored: StoredTensor) -> T:
        """The value of the first selector that matches a tensor; ValueError if none does."""
        position = self.position(stored)
        if position is None:
            raise ValueError(
                f"no selector of the {self._noun} matches {stored.name}: add one, such as '*' for "
                "all other tensors"
            )
        return self.pairs[position][1]

    def position(self, stored: StoredTensor) -> int | None:
        """The index of the first pair whose selector matches a tensor, or None."""
        selected = (at for at, (where, _) in enumerate(self.pairs) if matches(where, stored))
        return next(selected, None)


def selector_pairs(given: Any, noun: str, example: str) -> list[tuple[Selector, Any]] | None:
    """The pairs of values by selector that a caller, a file or JSON text gives.

    Args:
        given: a mapping of selectors to values, or a list of pairs of these. In a file or as JSON
            text, a selector has the form of ``where``: a pattern of names, or an object with the
            fields of `Where`.
        noun: what a value is, for messages, such as ``"encoding"``.
        example: a valid JSON text, for messages.

    Returns:
        The pairs with selectors unchecked; None if ``given`` has another form.

    Raises:
        ValueError, TypeError: JSON that cannot be read, a pattern that is given twice, or a list of
            something else than pairs.
    """
    if isinstance(given, str) and given.lstrip().startswith(("{", "[")):
        try:
            given = parse_json(given, _without_repetition)
        except ValueError as error:
            raise ValueError(
                f"{noun}s by tensor must be JSON such as {example}, got {short_repr(given)}: "
                f"{error}"
            ) from None
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, (list, tuple)):
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
            raise ValueError(
                f"{noun}s by tensor must be pairs of a selector and its {noun}, got "
                f"{short_repr(given)}"
            )
        return [(_selector(where), value) for where, value in given]
    return None


def pairs_to_plain(pairs: Iterable[tuple[Selector, str]]) -> Any:
    """Pairs as JSON and YAML can hold them; `selector_pairs` is the inverse.

    It is an object if all selectors are patterns of names, otherwise a list of pairs.
    """
    plain = [(where_to_json(where), value) for where, value in pairs]
    if all(isinstance(where, str) for where, _ in plain):
        return dict(plain)
    return [list(pair) for pair in plain]


def _selector(where: Any) -> Selector:
    return where_from_json(list(where) if isinstance(where, tuple) else where)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{short_repr(key)} is given twice")
        found[key] = value
    return found
