"""Fault kinds: what happens to the exposed bits. Frozen values, compared and hashed as such."""

from __future__ import annotations

from dataclasses import dataclass

from proact.ops.plan import checked_ber


@dataclass(frozen=True)
class BitFlip:
    """Every exposed bit flips independently with probability ``ber``.

    Attributes:
        ber: bit error rate, a probability per stored bit in [0, 1], ends included.
        bits: the exposed bits of each word: a field of the encoding (``"sign"``, ``"exponent"``,
            ``"mantissa"``; ``"integer"``, ``"fraction"``), a mask, or None for all.
        where: shell-style pattern of the qualified tensor names that are exposed.
    """

    ber: float
    bits: str | int | None = None
    where: str = "*"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ber", checked_ber(self.ber))
        if self.bits is not None and (
            isinstance(self.bits, bool) or not isinstance(self.bits, (str, int))
        ):
            raise TypeError(f"bits is a field's name, a mask or None, got {self.bits!r}")
        if not isinstance(self.where, str):
            raise TypeError(f"where is a pattern of tensor names, got {self.where!r}")

    @property
    def selection(self) -> tuple[str, str | int | None]:
        """What is exposed, whatever the rate."""
        return self.where, self.bits

    def __str__(self) -> str:
        parts = [f"{self.ber:.12g}"]
        if self.bits is not None:
            parts.append(f"bits={self.bits if isinstance(self.bits, str) else hex(self.bits)}")
        if self.where != "*":
            parts.append(f"where={self.where}")
        return f"BitFlip({', '.join(parts)})"
