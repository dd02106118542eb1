"""One check of the sampler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One property of the sampler that was tested.

    Attributes:
        name: the property.
        measured, expected: the measured value and the correct one, as text.
        p_value: probability that a correct sampler deviates at least as much; None if the property
            does not depend on chance.
        holds: whether the property holds, apart from the p-value.
    """

    name: str
    measured: str
    expected: str
    p_value: float | None = None
    holds: bool = True
