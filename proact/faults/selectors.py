"""Selectors: choose the tensors that a fault hits by name, layer type and kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from proact.nn.tensor_inventory import KINDS, StoredTensor
from proact.text import short_repr


@dataclass(frozen=True)
class Where:
    """Selects the tensors that match all given fields.

    Each field is one value or a sequence of alternatives.

    Attributes:
        name: shell-style pattern of the qualified tensor name, such as ``"layer1.*.weight"``.
        layer: type of the module that holds the tensor: ``nn.Conv2d`` or ``"Conv2d"``; subclasses
            match too.
        kind: ``weight`` (tensors with this word in their name, and parameters of floats with two
            axes or more that are longer than 1 and of no other kind), ``bias``, ``normalisation``
            (weights and biases of normalisation layers), ``statistics`` (running mean and
            variance), ``threshold``, ``bound`` (of weight-range), ``scale`` (scales and zero
            points, and buffers that are named so) or ``other``; ``buffer`` matches all buffers.
        exclude: a selector of tensors that are left out.

    Raises:
        ValueError, TypeError: an unknown kind, or a field of another type.
    """

    name: str | tuple[str, ...] = "*"
    layer: str | tuple[str, ...] | None = None
    kind: str | tuple[str, ...] | None = None
    exclude: str | Where | tuple[str | Where, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _normalised("name", self.name))
        if self.layer is not None:
            object.__setattr__(self, "layer", _normalised("layer", self.layer))
        if self.kind is not None:
            object.__setattr__(self, "kind", _normalised("kind", self.kind))
            for kind in as_tuple(self.kind):
                if kind not in (*KINDS, "buffer"):
                    raise ValueError(
                        f"a kind is one of {', '.join(KINDS)}, buffer; got {short_repr(kind)}"
                    )
        if self.exclude is not None:
            object.__setattr__(self, "exclude", checked_where(self.exclude))

    def matches(self, stored: StoredTensor) -> bool:
        """Whether the tensor fits every field; a tied one by any of its names."""
        kinds = (stored.kind, "buffer") if stored.is_buffer else (stored.kind,)
        return (
            any(fnmatchcase(name, p) for name in stored.names for p in as_tuple(self.name))
            and (self.layer is None or not set(as_tuple(self.layer)).isdisjoint(stored.layer_types))
            and (self.kind is None or not set(as_tuple(self.kind)).isdisjoint(kinds))
            and (self.exclude is None or not matches(self.exclude, stored))
        )

    def __str__(self) -> str:
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        parts = [f"{name}={shown(value)}" for name, value, default in given if value != default]
        return f"Where({', '.join(parts)})"


#: A pattern of tensor names, a `Where`, or a tuple of alternatives.
Selector = str | Where | tuple[str | Where, ...]


def checked_where(where: Any) -> Selector:
    """``where`` as a hashable selector; TypeError for anything else."""
    if isinstance(where, (str, Where)):
        return where
    is_listed = isinstance(where, Sequence) and len(where) > 0
    if is_listed and all(isinstance(part, (str, Where)) for part in where):
        return tuple(where)
    raise TypeError(
        "where must be a pattern of names, a proact.faults.Where or a sequence of these, got "
        f"{short_repr(where)}"
    )


def exactly(name: str) -> Where:
    """A selector of one tensor; wildcards in its name are escaped."""
    return Where("".join(f"[{char}]" if char in "*?[" else char for char in name))


def matches(where: Selector, stored: StoredTensor) -> bool:
    """Whether a selector matches the tensor."""
    return any(
        (Where(part) if isinstance(part, str) else part).matches(stored) for part in as_tuple(where)
    )


def names_scales(where: Selector) -> bool:
    """Whether a selector is meant for scales: by their kind, or by a name with a colon."""
    for part in as_tuple(where):
        found = Where(part) if isinstance(part, str) else part
        if "scale" in as_tuple(found.kind) or any(":" in name for name in as_tuple(found.name)):
            return True
    return False


def select(
    where: Selector, stored: Sequence[StoredTensor], what: str = "stored tensor"
) -> list[StoredTensor]:
    """The tensors that a selector matches; ValueError if there are none.

    ``what`` names in the message what the tensors stand for.
    """
    chosen = [tensor for tensor in stored if matches(where, tensor)]
    if not chosen:
        raise ValueError(f"{short_repr(shown(where))} matches no {what}: {_hint(where, stored)}")
    return chosen


def shown(where: Any) -> str:
    """A selector, or one of its fields, as text."""
    return "|".join(map(str, where)) if isinstance(where, tuple) else str(where)


def where_to_json(where: Selector) -> Any:
    """A selector as a JSON value: a string, an object, or a list of these."""
    if isinstance(where, tuple):
        return [where_to_json(part) for part in where]
    if isinstance(where, str):
        return where
    values = {field.name: getattr(where, field.name) for field in fields(where)}
    if where.exclude is not None:
        values["exclude"] = where_to_json(where.exclude)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None and (name, value) != ("name", "*")
    }


def where_from_json(value: Any) -> Selector:
    """The inverse of `where_to_json`."""
    if isinstance(value, list):
        return checked_where(tuple(where_from_json(part) for part in value))
    if isinstance(value, Mapping):
        known = {field.name for field in fields(Where)}
        if unknown := set(value) - known:
            raise ValueError(
                f"the fields of a Where are {', '.join(sorted(known))}, got {sorted(unknown)}"
            )
        chosen = dict(value)
        if chosen.get("exclude") is not None:
            chosen["exclude"] = where_from_json(chosen["exclude"])
        return Where(**chosen)
    return checked_where(value)


def _hint(where: Selector, stored: Sequence[StoredTensor]) -> str:
    names = [name for tensor in stored for name in tensor.names]
    if isinstance(where, str):
        close = get_close_matches(where, names, n=3, cutoff=0.4) or names[:3]
        more = len(names) - len(close)
        return f"there are {', '.join(map(repr, close))}" + (f" and {more} more" if more else "")
    layers = sorted({tensor.layer_types[0] for tensor in stored if tensor.layer_types})
    kinds = sorted({tensor.kind for tensor in stored})
    return f"there are layers {', '.join(layers)} and kinds {', '.join(kinds)}"


def _normalised(field: str, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, type):
        value = value.__name__
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        parts = tuple(part.__name__ if isinstance(part, type) else part for part in value)
        if parts and all(isinstance(part, str) for part in parts):
            return parts
    kinds = "a type, a string" if field == "layer" else "a string"
    raise TypeError(f"{field} must be {kinds} or a sequence of these, got {short_repr(value)}")


def as_tuple(value: Any) -> tuple[Any, ...]:
    """The alternatives of a selector or of one of its fields."""
    return value if isinstance(value, tuple) else (value,)
