"""From bit errors to failures per hour: upsets, the time between reloads, and critical trials.

Upsets hit each bit independently at a constant rate, and toggle it. A reload (or a scrub that
rewrites every word) ends the time in which they add up. The memory fails in a period between two
reloads if it is critical at the end of the period: its model then loses more than a limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import scipy

from proact.errors import unknown
from proact.options import above_0, named
from proact.results.cells import CellSpec
from proact.results.statistics import Interval
from proact.text import label, short_repr

if TYPE_CHECKING:
    from proact.results.result import Result

#: Failures in this many hours are a FIT (failures in time).
HOURS_OF_FIT = 1e9
BITS_OF_MBIT = 1 << 20
#: Target values of the probabilistic metric for random hardware failures (PMHF) of a whole item, in
#: FIT: ISO 26262-5:2018, clause 9.
BUDGETS: Mapping[str, float] = {"asil-d": 10.0, "asil-c": 100.0, "asil-b": 100.0}
#: A cell stands for bit error rates that differ by this share at most; the probability of a
#: critical trial is scaled by the ratio.
_SAME_RATE = 0.01
#: With fewer flips per trial, the probability of a flip is lost in the rounding of that of none.
_LEAST_FLIPS = 1e-9

Verdict = Literal["within", "above", "undecided"]


@dataclass(frozen=True)
class MemoryConditions:
    """The memory that stores a model, in operation.

    Attributes:
        fit_per_mbit: the raw rate of upsets in 1e9 hours and 2^20 bits, above 0.
        reload_hours: the time between two reloads or scrubs of the parameters in hours, above 0.
        budget: the rate of failures that is allowed, in FIT: a number above 0, or the name of an
            automotive safety integrity level in `BUDGETS`. None compares with no budget.

    Raises:
        ValueError, TypeError: a number that is not above 0, or an unknown name.
    """

    fit_per_mbit: float
    reload_hours: float
    budget: str | float | None = None

    def __post_init__(self) -> None:
        _checked("fit_per_mbit", self.fit_per_mbit)
        _checked("reload_hours", self.reload_hours)
        if self.budget is not None:
            budget_in_fit(self.budget)

    @property
    def ber(self) -> float:
        """The bit error rate at a reload, in (0, 0.5]: see `bit_error_rate`."""
        return bit_error_rate(self.fit_per_mbit, self.reload_hours)


@dataclass(frozen=True)
class FailureRate:
    """The rate of critical failures of a variant's stored parameters.

    Attributes:
        variant: its name.
        fault: the fault of the cell that measured it.
        bits: number of stored bits that upsets can hit.
        ber: the bit error rate at the end of a period between two reloads.
        critical: the probability that the model is then critical, with its interval.
        fit: critical failures in 1e9 hours (FIT), with its interval: ``critical`` divided by the
            hours of a period, times 1e9.
        upsets: upsets in 1e9 hours, in all stored bits.
    """

    variant: str
    fault: str
    bits: int
    ber: float
    critical: Interval
    fit: Interval
    upsets: float

    def verdict(self, budget: float) -> Verdict:
        """Whether the interval lies within a budget in FIT, above it, or on both sides of it."""
        if self.fit.high <= budget:
            return "within"
        return "above" if self.fit.low > budget else "undecided"


def bit_error_rate(fit_per_mbit: float, hours: float) -> float:
    """The probability that a bit differs from what was written ``hours`` ago.

    Upsets at the rate r toggle the bit, so that it differs after an odd number of them: (1 -
    exp(-2 r t)) / 2. For small rates that is r t.

    Args:
        fit_per_mbit: upsets in 1e9 hours and 2^20 bits, above 0.
        hours: above 0.

    Returns:
        A probability in (0, 0.5].

    Raises:
        ValueError, TypeError: an argument is not a finite number above 0.
    """
    rate = _checked("fit_per_mbit", fit_per_mbit) / HOURS_OF_FIT / BITS_OF_MBIT
    return -0.5 * math.expm1(-2.0 * rate * _checked("hours", hours))


def hours_until(ber: float, fit_per_mbit: float) -> float:
    """The inverse of `bit_error_rate`: after how many hours the bit error rate is ``ber``.

    Args:
        ber: a probability in (0, 0.5).
        fit_per_mbit: upsets in 1e9 hours and 2^20 bits, above 0.

    Raises:
        ValueError, TypeError: an argument is out of range.
    """
    if _checked("ber", ber) >= 0.5:
        raise ValueError(f"ber: expected a probability in (0, 0.5), got {short_repr(ber)}")
    rate = _checked("fit_per_mbit", fit_per_mbit) / HOURS_OF_FIT / BITS_OF_MBIT
    return -0.5 * math.log1p(-2.0 * ber) / rate


def budget_in_fit(budget: str | float) -> float:
    """A budget in FIT, from the name of an integrity level or a number above 0.

    Raises:
        ValueError, TypeError: an unknown name, or a number that is not above 0.
    """
    if isinstance(budget, str):
        try:
            return BUDGETS[budget]
        except KeyError:
            raise unknown("budget", budget, BUDGETS) from None
    return _checked("budget", budget)


def failure_rates(
    result: Result, fit_per_mbit: float, reload_hours: float, critical: float
) -> dict[str, FailureRate]:
    """See `Result.failure_rate`."""
    ber = bit_error_rate(fit_per_mbit, reload_hours)
    details = result.details(limit=_checked("critical", critical))
    rates = {}
    for variant in result.clean:
        cell = _cell_for(result, variant, ber)
        names = (cell.variant, cell.fault)
        if names in details:
            found = details[names].critical
        elif result.cell(*names).needs_no_trial:
            found = Interval(0.0, 0.0, 1.0 - (cell.unflipped or 0.0))
        else:
            raise ValueError(
                f"the cell of {label(cell.variant)} under {label(cell.fault)} has no trials yet"
            )
        assert cell.bits is not None
        at_reload = _at_reload(found, cell, ber)
        fit = Interval(*(HOURS_OF_FIT * end / reload_hours for end in at_reload))
        upsets = fit_per_mbit * cell.bits / BITS_OF_MBIT
        rates[variant] = FailureRate(variant, cell.fault, cell.bits, ber, at_reload, fit, upsets)
    return rates


def _at_reload(found: Interval, cell: CellSpec, ber: float) -> Interval:
    """The probability that the memory is critical at a reload, from that of a trial.

    One flip is critical with the probability that `ExactFlips(1)` measures. Of several flips
    nothing is known then, so the upper end counts them as critical.
    """
    assert cell.bits is not None
    if cell.family == _SINGLE:
        one = float(scipy.stats.binom.pmf(1, cell.bits, ber))
        several = float(scipy.stats.binom.sf(1, cell.bits, ber))
        return Interval(one * found.estimate, one * found.low, one * found.high + several)
    ratio = ber / cell.ber
    return Interval(*(min(ratio * end, 1.0) for end in found))


_RATED, _SINGLE, _ONE_FLIP = "BitFlip", "ExactFlips", "ExactFlips(1)"


def _cell_for(result: Result, variant: str, ber: float) -> CellSpec:
    """The cell that measures a bit error rate, or else the one of single flips."""
    mine = [cell for cell in result.spec.cells if cell.variant == variant]
    for cell in mine:
        is_frequent = cell.bits is not None and cell.bits * cell.ber >= _LEAST_FLIPS
        is_rate = cell.family == _RATED and math.isclose(ber, cell.ber, rel_tol=_SAME_RATE)
        if is_rate and is_frequent:
            return cell
    for cell in mine:
        if cell.family == _SINGLE and cell.fault == _ONE_FLIP:
            return cell
    rates = sorted({each.ber for each in mine if each.family == _RATED})
    measured = ", ".join(f"{rate:g}" for rate in rates)
    measured = measured or "no BitFlip with one rate in all stored bits"
    if any(math.isclose(ber, rate, rel_tol=_SAME_RATE) for rate in rates):
        raise ValueError(
            f"the bit error rate at a reload is {ber:.6g}, at which the probability of a flip is "
            "lost in rounding: run a campaign with the fault ExactFlips(1)"
        )
    raise ValueError(
        f"the bit error rate at a reload is {ber:.6g}, and the campaign has "
        f"{measured}: run a campaign at this rate, with margin='10%', or with the fault "
        "ExactFlips(1)"
    )


def _checked(name: str, value: float) -> float:
    named(name, above_0)(value)
    return float(value)
