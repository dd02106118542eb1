"""One row of a verification."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: the question.
        measured, expected: the answer, and the right one.
        p_value: the probability that a right sampler is as far off; None where there is no chance.
        holds: whether the answer is right, as far as chance does not decide.
    """

    name: str
    measured: str
    expected: str
    p_value: float | None = None
    holds: bool = True
