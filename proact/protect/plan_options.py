"""The options of `plan`: one model for Python and the command line.

This module imports nothing heavy: help pages read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proact.limits import SEEDS, TRIALS
from proact.options import (
    Options,
    above_0,
    between_0_and_1,
    integer,
    number,
    option,
)
from proact.protect.registry import METHODS
from proact.text import short_repr

#: The name of the model as it is among the guards.
NO_GUARD = "none"


def _check_rates(value: Any) -> object:
    from proact.ops.plan import checked_ber

    rates = value if isinstance(value, (list, tuple)) else (value,)
    if not rates:
        raise ValueError("expected at least one bit error rate, got none")
    for rate in rates:
        checked_ber(rate)
    # Results name a rate by its first six digits.
    shown = [f"{rate:g}" for rate in rates]
    if repeated := [each for each in shown if shown.count(each) > 1]:
        raise ValueError(
            f"expected rates that differ in their first six digits, got {repeated[0]} twice"
        )
    return value


def _check_candidates(value: Any) -> object:
    from proact.faults.mixed_encoding import checked_encoding

    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list of encodings, got {short_repr(value)}")
    if not value:
        raise ValueError("expected at least one encoding, got none")
    return [checked_encoding(each) for each in value]


def _check_guards(value: Any) -> object:
    from proact.errors import unknown

    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list of guards, got {short_repr(value)}")
    if not value:
        raise ValueError("expected at least one guard, got none")
    for name in value:
        if name != NO_GUARD and name not in METHODS:
            raise unknown("guard", name, (NO_GUARD, *METHODS))
    return value


def _check_tolerance(value: Any) -> object:
    if not 0.0 <= number(value) <= 1.0:
        raise ValueError(f"expected a number in [0, 1], got {short_repr(value)}")
    return value


def _split_rates(texts: Any) -> list[Any]:
    return [_as_number(text) for each in texts for text in str(each).split(",")]


def _as_rates(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """The options of `plan`.

    Attributes:
        ber: bit error rate, per stored bit, in [0, 1]; or several, whose accuracies are averaged.
        bits: the memory budget: stored bits a weight, check bits included, above 0. Weights are the
            parameters with two dimensions or more. The other numbers (biases, running statistics,
            thresholds, bounds) are few; the plan states the memory with them.
        candidates: the encodings to compare, by name, by selectors or as `Encoding`; None takes
            all formats and codes that fit the budget.
        guards: methods of protection to combine with each encoding; ``"none"`` is the model as it
            is.
        tolerance: candidates whose clean accuracy is lower than that of the given model by more
            than this are dropped; in [0, 1].
        margin: trials are added until half the width of the intervals of all remaining candidates,
            and of their differences to the best, is at most this; in the metric's unit, above 0.
        trials: the largest number of fault patterns of a candidate, at least 2.
        finalists: the largest number of candidates that meet more than 32 fault patterns: those
            with the highest accuracy so far. The plan names the others.
        images_per_trial: the number of validation images that run under each pattern, at least 1,
            drawn anew for each pattern.
        confidence: two-sided confidence level of the intervals, in (0, 1).
        seed: determines fault patterns and images, in [0, 2^63). Campaigns, and methods that
            search thresholds under faults, meet other patterns with the same seed.

    Raises:
        ValueError, TypeError: an option has a value that is not accepted.
    """

    ber: float | tuple[float, ...] = option(
        1e-3,
        "Bit error rates, probabilities per stored bit in [0, 1], as in 1e-3,1e-2; accuracies are "
        "averaged over them. The option can be repeated.",
        list[Any] | float,
        metavar="BER",
        check=_check_rates,
        parse=_as_rates,
        from_text=_split_rates,
    )
    bits: float = option(
        32.0,
        "Memory budget: stored bits per weight, check bits included; above 0.",
        float,
        metavar="BITS",
        check=above_0,
    )
    candidates: tuple[Any, ...] | None = option(
        None,
        "An encoding to compare. Repeat the option for each encoding.",
        list[Any],
        flag="--candidate",
        metavar="ENCODING",
        default_text="all formats and codes that fit the budget",
        check=_check_candidates,
    )
    guards: tuple[str, ...] = option(
        lambda: (NO_GUARD, "weight-range"),
        f"A method of protection to combine with each encoding: {NO_GUARD}, {', '.join(METHODS)}. "
        "Repeat the option for each method.",
        list[str],
        flag="--guard",
        metavar="METHOD",
        default_text=f"{NO_GUARD} weight-range",
        names=(NO_GUARD, *METHODS),
        check=_check_guards,
    )
    tolerance: float = option(
        0.015,
        "Largest loss of clean accuracy against the given model, in [0, 1].",
        float,
        metavar="SHARE",
        check=_check_tolerance,
    )
    margin: float = option(
        0.01,
        "Fault patterns are added until half the width of each interval is at most this; above 0.",
        float,
        metavar="MARGIN",
        check=above_0,
    )
    trials: int = option(
        400,
        "Largest number of fault patterns per candidate (count).",
        int,
        metavar="COUNT",
        check=integer(2, TRIALS),
    )
    finalists: int = option(
        10,
        "Largest number of candidates that meet more than 32 fault patterns (count).",
        int,
        metavar="COUNT",
        check=integer(1),
    )
    images_per_trial: int = option(
        256,
        "Validation images that run under each fault pattern (count).",
        int,
        metavar="COUNT",
        check=integer(1),
    )
    confidence: float = option(
        0.95,
        "Two-sided confidence level of the intervals, a probability in (0, 1).",
        float,
        metavar="LEVEL",
        check=between_0_and_1,
    )
    seed: int = option(
        0,
        "Seed of fault patterns and images, an integer in [0, 2^63).",
        int,
        metavar="INTEGER",
        check=integer(0, SEEDS),
    )

    @property
    def rates(self) -> tuple[float, ...]:
        """The bit error rates in the given order."""
        given = self.ber if isinstance(self.ber, (list, tuple)) else (self.ber,)
        return tuple(float(rate) for rate in given)
