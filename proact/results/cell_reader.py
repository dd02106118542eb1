"""Computes the results of cells from stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from proact.results.cells import CellDetails, CellResult, CellState
from proact.results.run_log import RunSpec
from proact.results.statistics import (
    Interval,
    Prior,
    StoppingRule,
    Trials,
    mean_interval,
    proportion_interval,
    quantile_interval,
    trial_mean,
)
from proact.results.statistics.interval import Numbers
from proact.results.store import CellKey, Store

#: Shares of images as SQL over the columns of a row; without faults each of them is 0.
_SEVERITIES = {
    "sdc": "1.0 - agreeing * 1.0 / images",
    "sdc5": "sdc5 * 1.0 / images",
    "sdc10": "sdc10 * 1.0 / images",
    "sdc20": "sdc20 * 1.0 / images",
    "non_finite": "non_finite * 1.0 / images",
    "raised": "raised * 1.0 / images",
}


def trials_of(
    store: Store,
    key: CellKey,
    trials: int,
    prior: Prior,
    value: str = "value",
    clean: str = "clean",
) -> Trials:
    """The first ``trials`` trials of a cell; ``value`` and ``clean`` are SQL over the columns of a
    row."""
    condition = "flips > 0" if prior.is_clean_without_flips else "1"
    grouped = store.grouped(key, [value, clean], trials, condition)
    columns = np.array(grouped, dtype=np.float64).reshape(-1, 3).T
    unflipped = 0
    if prior.is_clean_without_flips:
        (unflipped,) = store.totals(key, "coalesce(sum(flips = 0), 0)", trials)
    failed = len(store.failures(key, trials))
    return Trials(columns[0], columns[1], columns[2], unflipped, failed)


class CellReader:
    """Computes the results of a run's cells from their stored rows.

    Args:
        store: open, with the rows.
        run: the specification of the run.
    """

    def __init__(self, store: Store, run: RunSpec) -> None:
        self._store, self._run = store, run

    def result(self, cell: CellState) -> CellResult:
        """The trial is the unit of replication: images within one share its faults."""
        spec, prior = cell.spec, self._run.prior(cell.spec)
        trials = trials_of(self._store, spec.key, cell.target, prior)
        flips, non_finite, raised, agreeing = self._store.totals(
            spec.key,
            "avg(flips), avg(non_finite * 1.0 / images), avg(raised * 1.0 / images), max(agreeing)",
            cell.target,
        )
        rule = self._rule(cell)
        return CellResult(
            spec.variant,
            spec.fault,
            spec.ber,
            self._run.metric,
            trial_mean(trials, prior, self._run.confidence)
            if rule is None
            else rule.interval(trials, prior),
            None if agreeing is None else self._share(cell, "sdc"),
            prior.clean,
            trials.measured,
            trials.failed,
            flips or 0.0,
            non_finite or 0.0,
            raised or 0.0,
            cell.is_finished,
        )

    def details(self, cell: CellState, limit: float, levels: Sequence[float]) -> CellDetails:
        """See `CellDetails`; a critical trial loses more than ``limit``."""
        store, key = self._store, cell.spec.key
        prior = self._run.prior(cell.spec)
        top5, loss, agreeing, rows = store.totals(
            key, "max(top5), avg(loss), max(agreeing), count(*)", cell.target
        )
        confidence = self._confidence(cell)
        lost = len(store.failures(key, cell.target))
        shares = {}
        if top5 is not None:
            # Rows do not hold the clean share on the same images, so trials are used alone.
            grouped = store.grouped(key, ["top5 * 1.0 / images"], cell.target)
            values, counts = np.array(grouped).T
            top = mean_interval(values, confidence, counts=counts)
            shares["top5"] = _widened(top, lost / (lost + rows))
        for name in _SEVERITIES:
            if name in ("non_finite", "raised") or (agreeing is not None and name != "sdc"):
                shares[name] = self._share(cell, name)
        quantiles = {}
        if rows:
            grouped = store.grouped(key, ["value"], cell.target)
            values, counts = np.array(grouped).T
            quantiles = {
                level: _quantile(values, counts, level, confidence, prior, lost) for level in levels
            }
        critical = self._critical(cell, confidence, float(limit), lost)
        return CellDetails(shares, loss, critical, quantiles)

    def difference(self, cell: CellState, baseline: CellState) -> Interval:
        """Mean gain over ``baseline``, trial by trial.

        Both met the same faults on the same images, which cancels much of the spread. The part of
        the difference that the drawn images explain is known, and removed (`trial_mean`).
        """
        mine, theirs = self._run.prior(cell.spec), self._run.prior(baseline.spec)
        both = min(cell.target, baseline.target)
        grouped = self._store.paired(cell.spec.key, baseline.spec.key, both)
        columns = np.array(grouped, dtype=np.float64).reshape(-1, 4)
        is_clean = mine.is_clean_without_flips and theirs.is_clean_without_flips
        # Trials in which neither variant was hit differ as the clean ones do, on all images.
        flipped = columns[(columns[:, 2] > 0) | (not is_clean)]
        width = mine.highest - mine.lowest
        prior = Prior(mine.clean - theirs.clean, None, -width, width)
        trials = Trials(
            flipped[:, 0],
            flipped[:, 1],
            flipped[:, 3],
            int(columns[:, 3].sum() - flipped[:, 3].sum()),
            both - int(columns[:, 3].sum()),
        )
        return trial_mean(trials, prior, self._confidence(cell))

    def _rule(self, cell: CellState) -> StoppingRule | None:
        """The rule that stopped the cell; None where nothing did."""
        return self._run.rule if cell.is_finished else None

    def _confidence(self, cell: CellState) -> float:
        """The level of the intervals: a little higher where a rule stopped the cell."""
        rule = self._rule(cell)
        return self._run.confidence if rule is None else rule.confidence_at_stop

    def _critical(self, cell: CellState, confidence: float, limit: float, lost: int) -> Interval:
        """The probability that a trial loses more than the limit; unflipped ones never do."""
        losing = "clean - value" if self._run.is_better_higher else "value - clean"
        hits, flipped, rows = self._store.totals(
            cell.spec.key,
            f"coalesce(sum({losing} > {limit!r}), 0), coalesce(sum(flips > 0), 0), count(*)",
            cell.target,
        )
        unflipped = cell.spec.unflipped
        among = rows if unflipped is None else flipped
        share = proportion_interval(hits, among, confidence)
        found = _widened(share, lost / max(lost + among, 1))
        return Interval(*((1.0 - (unflipped or 0.0)) * end for end in found))

    def _share(self, cell: CellState, name: str) -> Interval:
        prior = replace(self._run.prior(cell.spec), clean=0.0, lowest=0.0, highest=1.0)
        trials = trials_of(self._store, cell.spec.key, cell.target, prior, _SEVERITIES[name], "0")
        return trial_mean(trials, prior, self._confidence(cell))


def _widened(share: Interval, lost: float) -> Interval:
    """The interval of a share in [0, 1] if a part ``lost`` of the trials is missing: those may have
    had any value."""
    return Interval(share.estimate, (1 - lost) * share.low, (1 - lost) * share.high + lost)


def _quantile(
    values: Numbers, counts: Numbers, level: float, confidence: float, prior: Prior, lost: int
) -> Interval:
    """The missing trials stand at the end of the range that makes each end of the interval safe."""

    def found(*missing: float) -> Interval:
        x = np.append(values, missing)
        k = np.append(counts, [lost] * len(missing))
        return quantile_interval(x, level, confidence, prior.lowest, prior.highest, k)

    if not lost:
        return found()
    return Interval(found().estimate, found(prior.lowest).low, found(prior.highest).high)
