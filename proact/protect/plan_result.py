"""The result of `plan`: which encoding and guard keep the most accuracy, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proact.results.rendering import renderer
from proact.results.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


#: The kinds of reasons for which a candidate is dropped before the first fault.
OVER_BUDGET = "over the budget"
TOO_COSTLY = "too much clean accuracy lost"
UNSTORABLE = "not possible for this model"


@dataclass(frozen=True)
class PlanRow:
    """One encoding with one guard, measured on validation samples.

    Attributes:
        encoding: the name of the encoding.
        guard: the name of the guard, or of the protected variant.
        accuracy: the mean accuracy under faults (or another metric), averaged over the bit error
            rates, with its interval.
        by_ber: the same at each bit error rate.
        difference: accuracy minus that of the best row under the same faults, with its paired
            interval; 0 for the best row itself.
        trials: the number of fault patterns at each bit error rate.
        clean: accuracy without faults on all validation samples.
        clean_cost: the clean accuracy of the given model minus ``clean``.
        saturated: the number of parameters that were out of range and were clamped.
        bits_per_weight: stored bits of the weights, check bits included, by their number.
        bits: stored bits of all numbers, bounds and thresholds of the guard included, divided by
            the number of numbers that the given model stores.
        decode_ns: nanoseconds to decode one word of a weight with the reference decoder in numpy;
            0 without a code.
        latency: the time of a forward pass with the guard divided by that without, with no decoder.
        dropped: why the candidate was given up before the last trial; empty if it was not.
    """

    encoding: str
    guard: str
    accuracy: Interval
    by_ber: Mapping[float, Interval]
    difference: Interval
    trials: int
    clean: float
    clean_cost: float
    saturated: int
    bits_per_weight: float
    bits: float
    decode_ns: float
    latency: float
    dropped: str = ""

    def document(self) -> dict[str, Any]:
        """The row as values that JSON can hold."""
        plain: dict[str, Any] = {
            name: value._asdict() if isinstance(value, Interval) else value
            for name, value in vars(self).items()
        }
        plain["by_ber"] = {f"{ber:g}": each._asdict() for ber, each in self.by_ber.items()}
        return plain


@dataclass(frozen=True)
class UnmeasuredCandidate:
    """A candidate that was dropped before the first fault.

    Attributes:
        encoding: the name of the encoding.
        guard: the name of the guard; empty if the encoding was dropped with every guard.
        kind: `OVER_BUDGET`, `TOO_COSTLY` or `UNSTORABLE`.
        reason: a sentence with the numbers.
    """

    encoding: str
    guard: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Encodings and guards, the one that keeps the most accuracy first.

    The best of many candidates was chosen by the very trials that measure it, so its accuracy is
    slightly optimistic. A campaign measures it on test samples under other faults.

    Attributes:
        rows: the candidates that were measured to the end, best first. Of equal ones, the one with
            less memory is first, then the one that takes less time.
        given_up: candidates that were shown to be worse after a few trials, or were not among the
            best of many, best first. Their `PlanRow.dropped` tells the reason.
        unmeasured: candidates that were dropped before the first fault.
        ber: the bit error rates.
        budget: the memory budget in bits a weight.
        clean: the accuracy of the given model without faults and without an encoding, on all
            validation samples.
        images_per_trial: validation samples that ran under each fault pattern.
        confidence: two-sided confidence level of each interval.
        margin: the margin that was asked for.
        is_margin_reached: whether the intervals of all ``rows`` are as narrow as asked.
    """

    rows: tuple[PlanRow, ...]
    given_up: tuple[PlanRow, ...]
    unmeasured: tuple[UnmeasuredCandidate, ...]
    ber: tuple[float, ...]
    budget: float
    clean: float
    images_per_trial: int
    confidence: float
    margin: float
    is_margin_reached: bool

    @property
    def best(self) -> PlanRow:
        """The first row."""
        return self.rows[0]

    def table(self) -> Table:
        """A table for `rich.print`; its caption counts the dropped candidates by reason."""
        return renderer().plan_table(self)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each measured candidate, best first, those given up last.

        The columns are the fields of `PlanRow`; intervals take three columns (``accuracy``,
        ``accuracy_low``, ``accuracy_high``). ``by_ber`` gives columns such as ``accuracy_0.001``.
        """
        return renderer().plan_frame(self)

    def document(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        plain = dict(vars(self))
        return {
            **plain,
            "ber": list(self.ber),
            "rows": [row.document() for row in self.rows],
            "given_up": [row.document() for row in self.given_up],
            "unmeasured": [dict(vars(each)) for each in self.unmeasured],
        }

    def __str__(self) -> str:
        best = self.best
        guard = "" if best.guard == "none" else f" with {best.guard}"
        return (
            f"{best.encoding}{guard} keeps {100 * best.accuracy.estimate:.2f} % "
            f"[{100 * best.accuracy.low:.2f}, {100 * best.accuracy.high:.2f}] "
            f"of {100 * self.clean:.2f} % at {best.bits_per_weight:.4g} bits a weight"
        )
