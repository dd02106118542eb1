"""A cell is one variant under one fault: its specification, its state and its result.

`CellSpec` identifies the cell, `CellState` counts its trials, `CellResult` holds its statistics.
`proact.results.cell_reader` computes results from stored rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proact.results.interval_set import IntervalSet
from proact.results.statistics import Interval, ProgressEstimate
from proact.results.store import CellKey
from proact.results.stored_json import stored
from proact.text import label

#: The names of two strata: only tensors that not every variant has are hit; no flip at all.
OWN, NO_FLIPS = "own", "no flips"


@stored
@dataclass(frozen=True)
class CellStratum:
    """A stratum of a cell: fault patterns with certain numbers of flips in the critical field.

    Attributes:
        name: ``"1"`` or ``"3 or more"``, the number of flips in the critical field; ``"0"``, none
            there but some in other bits of the same tensors; ``"own"``, none in these tensors but
            some in tensors that not every variant has.
        weight: the exact probability of such a pattern, in (0, 1). The patterns without a flip have
            what the weights of a cell's strata leave of 1.
        planned: the number of trials that the pilot expects it to need.
        critical: the numbers of the bits in the critical field; 0 is the lowest.
    """

    name: str
    weight: float
    planned: float
    critical: tuple[int, ...]


@stored
@dataclass(frozen=True)
class CellSpec:
    """The specification of a cell, or of one stratum of it, and the knowledge before its first
    trial.

    Attributes:
        variant, fault: their names.
        key: their numbers in the store.
        family: the fault without its rate: cells of one family make a line over BER. In a sweep:
            the fault whose space the parts divide.
        ber: expected bit error rate of the fault, per exposed bit.
        bits: number of bits that the fault can hit; None for faults in activations.
        unflipped: the probability that a trial flips nothing; None where it is unknown.
        is_clean_without_flips: see `proact.results.statistics.Prior`.
        part, share: in a sweep: the layer or bit, and its share of the exposed bits.
        field: in a sweep over bits: the field of the encoding that holds the bit.
        stratum: the stratum of the cell; None if its trials are drawn from all fault patterns.
    """

    variant: str
    fault: str
    family: str
    key: CellKey
    ber: float
    bits: int | None
    unflipped: float | None
    is_clean_without_flips: bool = True
    part: str | None = None
    share: float | None = None
    field: str | None = None
    stratum: CellStratum | None = None

    @property
    def weight(self) -> float:
        """The probability of the patterns that its trials are drawn from."""
        return 1.0 if self.stratum is None else self.stratum.weight

    @property
    def planned(self) -> float:
        """The number of trials that the pilot expects; 0 without strata."""
        return 0.0 if self.stratum is None else self.stratum.planned

    @property
    def label(self) -> str:
        """Variant and fault in labels, and the stratum if there are several."""
        stratum = "" if self.stratum is None else f", stratum {self.stratum.name}"
        return f"{label(self.variant)} {label(self.fault)}{stratum}"


@dataclass(eq=False)
class CellState:
    """How far a cell is, or one stratum of it. Of a stored run only the first four are known.

    Attributes:
        spec: the cell.
        stored: numbers of the trials in the store, failed ones included.
        target: the result uses the trials below this number; while the cell runs, the number of
            trials that it needs before the next interim analysis.
        is_finished: whether the cell has all trials that it needs.
        failed: number of failed trials.
        seconds: duration of a trial, a moving mean; 0 while unknown.
        issued: numbers of the trials that workers have or had.
        estimate: the last interim analysis; None before the first.
        planned: the number of trials that a pilot expects the cell to need; 0 if it is unknown.
    """

    spec: CellSpec
    stored: IntervalSet
    target: int = 0
    is_finished: bool = False
    failed: int = 0
    seconds: float = 0.0
    issued: IntervalSet = field(default_factory=IntervalSet)
    estimate: ProgressEstimate | None = None
    planned: int = 0

    @property
    def trials(self) -> int:
        """The number of stored trials without a gap, from 0 on."""
        return self.stored.upto()

    @property
    def expected(self) -> int:
        """The number of trials that the cell will have had, as now expected."""
        if self.is_finished:
            return self.target
        expected = self.planned if self.estimate is None else self.estimate.expected
        return max(expected, self.target, self.trials)

    @property
    def done(self) -> int:
        """The number of stored trials among the expected ones."""
        return min(self.trials, self.expected)


@dataclass(frozen=True)
class StratumResult:
    """The statistics of a stratum's trials.

    Attributes:
        name, weight: see `CellStratum`. The last stratum of a cell is ``"no flips"``.
        value: mean of the metric over its fault patterns, with its interval.
        trials, failed: the numbers of its trials with and without a result.
    """

    name: str
    weight: float
    value: Interval
    trials: int
    failed: int


@dataclass(frozen=True)
class CellResult:
    """The statistics of a cell's trials.

    Attributes:
        variant, fault: their names; ``ber`` is the fault's expected bit error rate, per exposed
            bit.
        metric: the quantity of ``value`` and ``clean``: top-1 accuracy by default.
        value: its mean over fault patterns and all images, with its interval.
        sdc: mean share of predictions that differ from the golden ones, which are those of the same
            variant without faults (silent data corruption), with its interval, in [0, 1]; outputs
            that are not finite count here too. None if outputs are not logits of classes.
        clean: the metric without faults on all images, after rounding to the encoding.
        trials: number of fault patterns with a result.
        failed: number of trials that failed; the intervals are wider by their share.
        flips: mean number of flipped bits per trial.
        non_finite: mean share of images, in [0, 1], whose output held NaN or infinity because of
            faults.
        raised: mean share of images whose forward pass raised an error because of faults. They
            count as wrong.
        is_finished: whether the cell has all trials that it needs; cells of an interrupted
            run may not.
        strata: the strata from which trials were drawn; empty if they were drawn from all fault
            patterns.
    """

    variant: str
    fault: str
    ber: float
    metric: str
    value: Interval
    sdc: Interval | None
    clean: float
    trials: int
    failed: int
    flips: float
    non_finite: float
    raised: float
    is_finished: bool = True
    strata: tuple[StratumResult, ...] = ()

    @property
    def sampled_strata(self) -> tuple[str | None, ...]:
        """The names by which `Result.rows` finds the trials: of the strata that were sampled, or
        one None if the cell has no strata."""
        return tuple(each.name for each in self.strata if each.name != NO_FLIPS) or (None,)

    @property
    def is_missing(self) -> bool:
        """Whether there is no estimate: no trial has a result, and the interval is the whole range.
        A cell that `needs_no_trial` is not missing."""
        return self.trials == 0 and not self.needs_no_trial

    @property
    def needs_no_trial(self) -> bool:
        """Whether the cell was decided without a trial: its fault flips bits so rarely that the
        interval without trials is narrow enough."""
        return self.trials == 0 and self.failed == 0 and self.is_finished

    @property
    def accuracy(self) -> Interval:
        """`value`, by the name that it has for top-1."""
        return self.value


@dataclass(frozen=True)
class CellDetails:
    """Further statistics of a cell's rows.

    Attributes:
        shares: mean shares of images by name: top5 (correct); sdc5, sdc10, sdc20, non_finite,
            raised (see `proact.campaign.counts.Counts`), as far as the outputs have them.
        loss: mean cross-entropy in nats, at most 20 per image; without an interval. None without
            labels.
        critical: the probability that a trial loses more than a limit; see `Result.details`.
        quantiles: of a trial's value, by level.
    """

    shares: Mapping[str, Interval] = field(default_factory=dict)
    loss: float | None = None
    critical: Interval = field(default_factory=lambda: Interval(0.0, 0.0, 1.0))
    quantiles: Mapping[float, Interval] = field(default_factory=dict)
