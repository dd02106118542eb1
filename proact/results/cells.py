"""A cell: what the stored rows of one variant under one fault say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from proact.results.statistics import (
    Interval,
    Known,
    StoppingRule,
    Trials,
    mean_interval,
    proportion_interval,
    quantile_interval,
    trial_mean,
)
from proact.results.statistics.interval import Numbers
from proact.results.store import CellKey, Store

#: Shares of images by column; of a network without faults, each is 0.
_SEVERITIES = {
    "sdc": "1.0 - agreeing * 1.0 / images",
    "sdc5": "sdc5 * 1.0 / images",
    "sdc10": "sdc10 * 1.0 / images",
    "sdc20": "sdc20 * 1.0 / images",
    "non_finite": "non_finite * 1.0 / images",
}


@dataclass(frozen=True)
class Source:
    """Where a cell's rows are, and what is known without them.

    Attributes:
        variant, fault: their names; ``ber`` is the fault's expected bit error rate, per exposed
            bit.
        key: their numbers in the store.
        known: about the metric; see `Known`.
        trials: the result is about the trials below this number.
        rule: by which the cell was stopped; None where the number of trials was given.
        is_better_higher: of the metric's values.
        is_finished: whether the cell has what was asked for.
    """

    variant: str
    fault: str
    ber: float
    key: CellKey
    known: Known
    trials: int
    rule: StoppingRule | None = None
    is_better_higher: bool = True
    is_finished: bool = True

    def confidence(self, asked: float) -> float:
        """At which intervals are made: a little more than ``asked`` where the cell was stopped."""
        return asked if self.rule is None else self.rule.confidence_at_stop

    def interval(self, trials: Trials, confidence: float) -> Interval:
        """Of the metric's mean."""
        if self.rule is None:
            return trial_mean(trials, self.known, confidence)
        return self.rule.interval(trials, self.known)


@dataclass(frozen=True)
class Cell:
    """One variant under one fault.

    Attributes:
        variant, fault: their names; ``ber`` is the fault's expected bit error rate, per exposed
            bit.
        metric: what ``value`` and ``clean`` are: top-1 accuracy unless another was asked for.
        value: its mean over fault patterns and all images, with its interval.
        sdc: mean share of predictions that differ from those of the same network without faults
            (silent data corruption), with its interval; outputs that are not finite count here too.
            None where outputs are not classes.
        clean: the metric without faults on all images.
        trials: how many fault patterns there are results of.
        failed: how many could not be run; the intervals are wider by their share.
        flips: mean number of bits flipped a trial.
        non_finite: mean share of images whose output held NaN or infinity.
        is_finished: whether it has what was asked for; one of a run that was interrupted may not.
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
    is_finished: bool = True

    @property
    def is_missing(self) -> bool:
        """Whether no trial tells anything: its interval is what may be, its estimate is none.

        A cell that has enough without a trial, as few bits may flip in it, is not missing.
        """
        return self.trials == 0 and (self.failed > 0 or not self.is_finished)

    @property
    def accuracy(self) -> Interval:
        """`value`, by the name that it mostly has."""
        return self.value


@dataclass(frozen=True)
class Details:
    """What else the rows of a cell say.

    Attributes:
        shares: mean shares of images: top5 (right); sdc5, sdc10, sdc20, non_finite (see
            `proact.campaign.metrics.Counts`), those that the outputs have.
        loss: mean cross-entropy in nats, at most 20 an image; without an interval. None without
            labels.
        critical: the probability that a trial loses more than a limit; see `Result.details`.
        quantiles: of a trial's value, by level.
    """

    shares: Mapping[str, Interval] = field(default_factory=dict)
    loss: float | None = None
    critical: Interval = field(default_factory=lambda: Interval(0.0, 0.0, 1.0))
    quantiles: Mapping[float, Interval] = field(default_factory=dict)


def trials_of(
    store: Store,
    key: CellKey,
    trials: int,
    known: Known,
    value: str = "value",
    clean: str = "clean",
) -> Trials:
    """The first ``trials`` trials of a cell; ``value`` and ``clean`` are SQL over the columns of a
    row."""
    condition = "flips > 0" if known.is_clean_without_flips else "1"
    grouped = store.grouped(key, [value, clean], trials, condition)
    columns = np.array(grouped, dtype=np.float64).reshape(-1, 3).T
    unflipped = 0
    if known.is_clean_without_flips:
        (unflipped,) = store.totals(key, "coalesce(sum(flips = 0), 0)", trials)
    failed = len(store.failures(key, trials))
    return Trials(columns[0], columns[1], columns[2], unflipped, failed)


def summarise(store: Store, source: Source, metric: str, confidence: float) -> Cell:
    """The cell of a source. The trial is the unit: images within one share its faults."""
    trials = trials_of(store, source.key, source.trials, source.known)
    flips, non_finite, agreeing = store.totals(
        source.key, "avg(flips), avg(non_finite * 1.0 / images), max(agreeing)", source.trials
    )
    return Cell(
        source.variant,
        source.fault,
        source.ber,
        metric,
        source.interval(trials, confidence),
        None if agreeing is None else _share(store, source, "sdc", confidence),
        source.known.clean,
        trials.measured,
        trials.failed,
        flips or 0.0,
        non_finite or 0.0,
        source.is_finished,
    )


def details(
    store: Store, source: Source, confidence: float, limit: float, levels: Sequence[float]
) -> Details:
    """See `Details`; ``limit`` is what a critical trial loses more than."""
    top5, loss, agreeing, rows = store.totals(
        source.key, "max(top5), avg(loss), max(agreeing), count(*)", source.trials
    )
    confidence = source.confidence(confidence)
    lost = len(store.failures(source.key, source.trials))
    shares = {}
    if top5 is not None:
        # Without the clean share on the same images, which rows do not hold, by trials alone.
        grouped = store.grouped(source.key, ["top5 * 1.0 / images"], source.trials)
        values, counts = np.array(grouped).T
        top = mean_interval(values, confidence, counts=counts)
        shares["top5"] = _with_lost(top, lost / (lost + rows))
    for name in _SEVERITIES:
        if name == "non_finite" or (agreeing is not None and name != "sdc"):
            shares[name] = _share(store, source, name, confidence)
    quantiles = {}
    if rows:
        grouped = store.grouped(source.key, ["value"], source.trials)
        values, counts = np.array(grouped).T
        quantiles = {
            level: _quantile(values, counts, level, confidence, source.known, lost)
            for level in levels
        }
    critical = _critical(store, source, confidence, float(limit), lost)
    return Details(shares, loss, critical, quantiles)


def _critical(store: Store, source: Source, confidence: float, limit: float, lost: int) -> Interval:
    """The probability that a trial is worse by more than the limit; unflipped ones never are."""
    losing = "clean - value" if source.is_better_higher else "value - clean"
    hits, flipped, rows = store.totals(
        source.key,
        f"coalesce(sum({losing} > {limit!r}), 0), coalesce(sum(flips > 0), 0), count(*)",
        source.trials,
    )
    unflipped = source.known.unflipped
    among = rows if unflipped is None else flipped
    found = _with_lost(proportion_interval(hits, among, confidence), lost / max(lost + among, 1))
    return Interval(*((1.0 - (unflipped or 0.0)) * end for end in found))


def _with_lost(share: Interval, lost: float) -> Interval:
    """Of a share in [0, 1], where this part of the trials is missing and may have been anything."""
    return Interval(share.estimate, (1 - lost) * share.low, (1 - lost) * share.high + lost)


def _quantile(
    values: Numbers, counts: Numbers, level: float, confidence: float, known: Known, lost: int
) -> Interval:
    """The missing trials stand at the range's end that makes each end of the interval safe."""

    def found(*missing: float) -> Interval:
        x = np.append(values, missing)
        k = np.append(counts, [lost] * len(missing))
        return quantile_interval(x, level, confidence, known.lowest, known.highest, k)

    if not lost:
        return found()
    return Interval(found().estimate, found(known.lowest).low, found(known.highest).high)


def difference(store: Store, source: Source, baseline: Source, confidence: float) -> Interval:
    """Mean gain over ``baseline``, trial by trial.

    Both met the same faults on the same images, which cancels much of the spread; what the images
    alone make of it is known, and taken out (`trial_mean`).
    """
    both = min(source.trials, baseline.trials)
    grouped = store.paired(source.key, baseline.key, both)
    columns = np.array(grouped, dtype=np.float64).reshape(-1, 4)
    is_clean = source.known.is_clean_without_flips and baseline.known.is_clean_without_flips
    # Trials in which neither network was hit differ as the clean ones do, on all images.
    flipped = columns[(columns[:, 2] > 0) | (not is_clean)]
    width = source.known.highest - source.known.lowest
    known = Known(source.known.clean - baseline.known.clean, None, -width, width)
    trials = Trials(
        flipped[:, 0],
        flipped[:, 1],
        flipped[:, 3],
        int(columns[:, 3].sum() - flipped[:, 3].sum()),
        both - int(columns[:, 3].sum()),
    )
    return trial_mean(trials, known, source.confidence(confidence))


def _share(store: Store, source: Source, name: str, confidence: float) -> Interval:
    known = replace(source.known, clean=0.0, lowest=0.0, highest=1.0)
    trials = trials_of(store, source.key, source.trials, known, _SEVERITIES[name], "0")
    return trial_mean(trials, known, source.confidence(confidence))
