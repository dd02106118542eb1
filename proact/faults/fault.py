"""The base classes of faults, and faults as JSON.

A fault is a frozen value: equal fields make equal faults with equal hashes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from proact.encodings import Bits
from proact.faults.selectors import Selector, checked_where, shown, where_from_json, where_to_json
from proact.ops.plan import checked_ber
from proact.plain_values import parse_json
from proact.text import short_repr

#: One rate for all tensors, or rates by selector; a tensor has the rate of its first match.
Rates = float | Mapping[Selector, float] | tuple[tuple[Selector, float], ...]


class Fault(ABC):
    """What a trial does to a model."""

    _kinds: ClassVar[dict[str, type[Fault]]] = {}

    def __init_subclass__(cls, is_kind: bool = True) -> None:
        super().__init_subclass__()
        if is_kind:
            Fault._kinds[cls.__name__] = cls

    @abstractmethod
    def expected_ber(self, bits: Sequence[int]) -> float:
        """The expected share of the exposed bits that are hit, in [0, 1].

        Args:
            bits: the number of exposed bits in each part of the fault space, one part for each
                rate.
        """

    def probability_of_none(self, bits: Sequence[int]) -> float | None:
        """The probability that a trial flips no bit; None if it depends on more than the fault.

        Args:
            bits: as for `expected_ber`.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """The name of the kind and its fields, as JSON values; the inverse of `fault_from_dict`."""
        return {
            "kind": type(self).__name__,
            **{f.name: _to_json(f.name, getattr(self, f.name)) for f in fields(self)},  # type: ignore[arg-type]
        }

    def to_json(self) -> str:
        """One line of JSON; the inverse of `fault_from_json`."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def _from_fields(cls, values: dict[str, Any]) -> Fault:
        return cls(**{name: _from_json(name, value) for name, value in values.items()})

    def __str__(self) -> str:
        parts = []
        # Positional fields come first and are always shown.
        for f in sorted(fields(self), key=lambda f: bool(f.kw_only)):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if not f.kw_only:
                parts.append(_shown(f.name, value))
            elif value != f.default:
                parts.append(f"{f.name}={_shown(f.name, value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def fault_from_dict(description: Mapping[str, Any]) -> Fault:
    """The fault that a mapping of JSON values describes, as `Fault.to_dict` makes it.

    Raises:
        ValueError, TypeError: an unknown kind, unknown or missing fields, values out of range.
    """
    if not isinstance(description, Mapping):
        raise TypeError(f"a fault must be described by a mapping, got {type(description).__name__}")
    values = dict(description)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in Fault._kinds:
        known = ", ".join(sorted(Fault._kinds))
        raise ValueError(f"the kind of a fault must be one of {known}, got {short_repr(kind)}")
    declared = fields(Fault._kinds[kind])  # type: ignore[arg-type]
    names = {f.name for f in declared}
    if unknown := sorted(set(values) - names):
        raise ValueError(
            f"the fields of {kind} are {', '.join(sorted(names))}, got {short_repr(unknown[0])}"
        )
    for f in declared:
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{kind} needs the field {f.name}, got {', '.join(values) or 'none'}")
    return Fault._kinds[kind]._from_fields(values)


def fault_from_json(text: str) -> Fault:
    """The fault that `Fault.to_json` wrote.

    Raises:
        ValueError, TypeError: text that is not JSON, or as `fault_from_dict`.
    """
    try:
        description = parse_json(text)
    except ValueError as error:
        raise ValueError(
            f"a fault must be one JSON object, got text that is not JSON: {error}"
        ) from None
    return fault_from_dict(description)


@dataclass(frozen=True)
class StoredFault(Fault, is_kind=False):
    """A fault in stored parameters and buffers: the base class of `proact.faults.BitFlip`,
    `proact.faults.ExactFlips`, `proact.faults.StuckAt`, `proact.faults.Burst` and
    `proact.faults.BitFlipStratum`. Its attributes are given by keyword.

    Attributes:
        bits: the exposed bits of each word: a field of the encoding (``"sign"``, ``"exponent"``,
            ``"mantissa"``; ``"integer"``, ``"fraction"``), a mask (an integer: 31 exposes the five
            lowest bits), a sequence of bit numbers and fields (``(31, 30)``; 0 is the lowest bit),
            or None for all.
        where: the exposed tensors: a pattern of qualified names, a `Where`, or a sequence of these,
            of which one must match; all by default.

    Raises:
        TypeError: an argument of another type. Injection raises ValueError for a selector that
            matches no tensor, and for bits that the words of a selected tensor lack (scales and
            zero points without these bits are left out).
    """

    bits: Bits = field(default=None, kw_only=True)
    where: Selector = field(default="*", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", checked_bits(self.bits))
        object.__setattr__(self, "where", checked_where(self.where))

    @property
    def rates(self) -> tuple[tuple[Selector, float], ...]:
        """Selectors within `where`, each with its BER; by default one selector for all tensors."""
        return (("*", 0.0),)


@dataclass(frozen=True)
class RatedFault(StoredFault, is_kind=False):
    """A fault with a bit error rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ber", _checked_rates(self.ber))  # type: ignore[attr-defined]

    @property
    def rates(self) -> tuple[tuple[Selector, float], ...]:
        ber = self.ber  # type: ignore[attr-defined]
        return ber if isinstance(ber, tuple) else (("*", ber),)

    def expected_ber(self, bits: Sequence[int]) -> float:
        rates = [rate for _, rate in self.rates]
        if len(rates) == 1:
            return rates[0]
        return sum(rate * n for rate, n in zip(rates, bits, strict=True)) / sum(bits)


def checked_bits(bits: Any) -> Bits:
    """``bits`` as a hashable value; TypeError for a type that no word accepts."""
    if bits is None or isinstance(bits, str):
        return bits
    if isinstance(bits, (int, np.integer)) and not isinstance(bits, bool):
        return int(bits)
    if isinstance(bits, Iterable):
        parts = tuple(int(b) if isinstance(b, np.integer) else b for b in bits)
        if all(isinstance(b, (str, int)) and not isinstance(b, bool) for b in parts):
            return parts
    raise TypeError(
        "bits must be a field's name, a mask, a sequence of bit numbers and names, or None, got "
        f"{short_repr(bits)}"
    )


def _checked_rates(ber: Any) -> float | tuple[tuple[Selector, float], ...]:
    if isinstance(ber, Mapping):
        ber = tuple(ber.items())
    if not isinstance(ber, tuple):
        return checked_ber(ber)
    if not ber:
        raise ValueError("a mapping of bit error rates must have at least one selector, got none")
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in ber):
        raise TypeError(
            "a bit error rate must be a number or a mapping of selectors to them, got "
            f"{short_repr(ber)}"
        )
    return tuple((checked_where(where), checked_ber(rate)) for where, rate in ber)


def _to_json(name: str, value: Any) -> Any:
    if name == "where":
        return where_to_json(value)
    if name == "ber" and isinstance(value, tuple):
        return [[where_to_json(where), rate] for where, rate in value]
    return list(value) if isinstance(value, tuple) else value


def _from_json(name: str, value: Any) -> Any:
    if name == "where":
        return where_from_json(value)
    if name == "ber" and isinstance(value, list):
        is_paired = all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        return tuple((where_from_json(w), rate) for w, rate in value) if is_paired else tuple(value)
    return tuple(value) if isinstance(value, list) else value


def _shown(name: str, value: Any) -> str:
    if name == "ber" and isinstance(value, tuple):
        return "{" + ", ".join(f"{shown(w)}: {rate:.12g}" for w, rate in value) + "}"
    if isinstance(value, float):
        return f"{value:.12g}"
    if name == "bits" and isinstance(value, int):
        return hex(value)
    return shown(value)
