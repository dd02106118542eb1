"""Computes the results of cells from stored rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from proact.results.cells import (
    NO_FLIPS,
    CellDetails,
    CellResult,
    CellSpec,
    CellState,
    StratumResult,
)
from proact.results.run_log import RunSpec
from proact.results.statistics import (
    Interval,
    Prior,
    StoppingRule,
    StratifiedRule,
    Trials,
    corrected_for_stopping,
    mean_over_strata,
    proportion_interval,
    quantile_interval,
    shift_of_stopping,
    stratified_quantile,
    trial_mean,
)
from proact.results.statistics.interval import Numbers
from proact.results.store import Store
from proact.results.stored_trials import trials_and_columns_of, trials_of
from proact.results.strata import (
    Strata,
    is_stratified,
    name_of,
    rest_of,
    weights_of,
    weights_of_sampled,
)

#: Shares of images as SQL over the columns of a row; without faults each of them is 0.
_SEVERITIES = {
    "sdc": "1.0 - agreeing * 1.0 / images",
    "sdc5": "sdc5 * 1.0 / images",
    "sdc10": "sdc10 * 1.0 / images",
    "sdc20": "sdc20 * 1.0 / images",
    "non_finite": "non_finite * 1.0 / images",
    "raised": "raised * 1.0 / images",
}


class CellReader:
    """Computes the results of a run's cells from their stored rows.

    Args:
        store: open, with the rows.
        run: the specification of the run.

    Methods take the states of a cell's strata, or its one state if it has none.
    """

    def __init__(self, store: Store, run: RunSpec) -> None:
        self._store, self._run = store, run

    def result(self, states: Strata) -> CellResult:
        """The trial is the unit of replication: images within one share its faults."""
        spec = states[0].spec
        trials = [self._trials(state) for state in states]
        totals = "avg(flips), avg(non_finite * 1.0 / images), avg(raised * 1.0 / images)"
        *means, agreeing = self._by_column(states, f"{totals}, max(agreeing)")
        flips, non_finite, raised = (_mean(states, column, 0.0) for column in means)
        has_stopped = self._has_stopped(states, trials)
        return CellResult(
            spec.variant,
            spec.fault,
            spec.ber,
            self._run.metric,
            self._value(states, trials),
            self._share(states, "sdc", has_stopped) if _has_any(agreeing) else None,
            self._clean(spec),
            sum(each.measured for each in trials),
            sum(each.failed for each in trials),
            flips,
            non_finite,
            raised,
            all(state.is_finished for state in states),
            self._strata(states, trials),
        )

    def values(self, states: Strata) -> list[tuple[float, float]]:
        """See `Result.values`."""
        shares: dict[float, float] = {}
        grouped_by_stratum = [
            self._store.grouped(state.spec.key, ["value"], state.target) for state in states
        ]
        weights = weights_of_sampled(states, [bool(each) for each in grouped_by_stratum])
        for grouped, weight in zip(grouped_by_stratum, weights, strict=True):
            rows = sum(count for _, count in grouped)
            for value, count in grouped:
                shares[float(value)] = shares.get(float(value), 0.0) + weight * count / rows
        if is_stratified(states):
            clean = self._clean(states[0].spec)
            shares[clean] = shares.get(clean, 0.0) + rest_of(states)
        return sorted(shares.items())

    def details(self, states: Strata, limit: float, levels: Sequence[float]) -> CellDetails:
        """See `CellDetails`; a critical trial loses more than ``limit``."""
        top5, loss, agreeing = self._by_column(states, "max(top5), avg(loss), max(agreeing)")
        images, clean_top5, clean_loss = self._store.clean_counts(states[0].spec.key)
        has_stopped = self._has_stopped(states, [self._trials(state) for state in states])
        shares = {}
        if _has_any(top5):
            known = (clean_top5 or 0.0) / images
            shares["top5"] = self._whole(states, lambda state: self._top5(state, known), known)
        for name in _SEVERITIES:
            if name in ("non_finite", "raised") or (_has_any(agreeing) and name != "sdc"):
                shares[name] = self._share(states, name, has_stopped)
        mean_loss = _mean(states, loss, clean_loss or 0.0) if _has_any(loss) else None
        critical = self._whole(
            states, lambda state: self._critical(state, float(limit), has_stopped), 0.0
        )
        return CellDetails(shares, mean_loss, critical, self._quantiles(states, levels))

    def _value(self, states: Strata, trials: Sequence[Trials]) -> Interval:
        priors = [self._run.prior(state.spec) for state in states]
        rule = self._run.rule if all(state.is_finished for state in states) else None
        if rule is not None and (is_stratified(states) or isinstance(rule, StratifiedRule)):
            return self._run.stratified_rule.interval(
                weights_of(states), trials, priors, self._run.confidence
            )
        if isinstance(rule, StoppingRule):
            return rule.interval(trials[0], priors[0], self._run.confidence)
        means = [
            trial_mean(*each, self._run.confidence) for each in zip(trials, priors, strict=True)
        ]
        if is_stratified(states):
            return mean_over_strata(weights_of(states), means, self._clean(states[0].spec))
        return means[0]

    def _strata(self, states: Strata, trials: Sequence[Trials]) -> tuple[StratumResult, ...]:
        if not is_stratified(states):
            return ()
        found = []
        for state, weight, mine in zip(states, weights_of(states), trials, strict=True):
            mean = trial_mean(mine, self._run.prior(state.spec), self._confidence(state))
            found.append(StratumResult(name_of(state), weight, mean, mine.measured, mine.failed))
        clean = self._clean(states[0].spec)
        known = Interval(clean, clean, clean)
        return (*found, StratumResult(NO_FLIPS, rest_of(states), known, 0, 0))

    def _whole(self, states: Strata, of: Callable[[CellState], Interval], known: float) -> Interval:
        """A quantity of a cell from that of its strata; ``known`` is its value without a flip."""
        if not is_stratified(states):
            return of(states[0])
        return mean_over_strata(weights_of(states), [of(state) for state in states], known)

    def _by_column(self, states: Strata, sums: str) -> list[tuple[Any, ...]]:
        """The aggregates over the trials of each stratum, by column; None without a trial."""
        return list(zip(*(self._totals(state, sums) for state in states), strict=True))

    def _trials(self, state: CellState) -> Trials:
        return trials_of(self._store, state.spec.key, state.target, self._run.prior(state.spec))

    def _totals(self, state: CellState, sums: str) -> tuple[Any, ...]:
        return self._store.totals(state.spec.key, sums, state.target)

    def _clean(self, spec: CellSpec) -> float:
        return self._run.prior(spec).clean

    def _confidence(self, cell: CellState) -> float:
        return self._run.confidence_of_cells(cell.is_finished)

    def _critical(self, state: CellState, limit: float, has_stopped: bool) -> Interval:
        """The probability that a trial loses more than the limit; unflipped ones never do."""
        trials, prior = self._trials(state), self._run.prior(state.spec)
        loss = trials.clean - trials.values
        # Of decimal fractions such as 1 - 0.95, the computer's differences are off by 1e-16.
        rounding = 1e-9 * (prior.highest - prior.lowest)
        is_critical = (loss if self._run.is_better_higher else -loss) > limit + rounding
        hits = int(trials.counts[is_critical].sum())
        among = trials.measured if prior.unflipped is None else trials.flipped
        of_flipped = proportion_interval(hits, among, self._confidence(state), trials.failed)
        share = Interval(*((1.0 - (prior.unflipped or 0.0)) * end for end in of_flipped))
        return self._corrected(share, state, trials, is_critical.astype(np.float64), has_stopped)

    def _share(self, states: Strata, name: str, has_stopped: bool) -> Interval:
        def of(state: CellState) -> Interval:
            prior = self._run.prior(state.spec)
            trials, (column,) = trials_and_columns_of(
                self._store, state.spec.key, state.target, prior, [_SEVERITIES[name]]
            )
            shares = replace(trials, values=column, clean=np.zeros(len(column)))
            of_shares = replace(prior, clean=0.0, lowest=0.0, highest=1.0)
            share = trial_mean(shares, of_shares, self._confidence(state))
            return self._corrected(share, state, trials, column, has_stopped)

        return self._whole(states, of, 0.0)

    def _corrected(
        self, share: Interval, state: CellState, trials: Trials, of: Numbers, has_stopped: bool
    ) -> Interval:
        """The share of trials of some kind, if the trials' values stopped the cell."""
        if not has_stopped:
            return share
        rule = self._run.stratified_rule
        prior = self._run.prior(state.spec)
        shift = shift_of_stopping(trials, prior, rule.confidence_at_stop, of)
        return corrected_for_stopping(share, shift)

    def _has_stopped(self, states: Strata, trials: Sequence[Trials]) -> bool:
        """Whether a rule ended the cell at its margin."""
        rule = self._run.rule if all(state.is_finished for state in states) else None
        return rule is not None and self._run.stratified_rule.has_stopped(trials)

    def _top5(self, cell: CellState, known: float) -> Interval:
        # Rows do not hold the clean share on the same images, so trials are used alone.
        grouped = self._store.grouped(cell.spec.key, ["top5 * 1.0 / images"], cell.target)
        if not grouped:
            return Interval(known, 0.0, 1.0)
        values, counts = np.array(grouped, dtype=np.float64).T
        trials = Trials(values, np.zeros(len(values)), counts, failed=self._lost(cell))
        return trial_mean(trials, Prior(known), self._confidence(cell))

    def _lost(self, cell: CellState) -> int:
        return len(self._store.failures(cell.spec.key, cell.target))

    def _quantiles(self, states: Strata, levels: Sequence[float]) -> dict[float, Interval]:
        prior, confidence = self._run.prior(states[0].spec), self._confidence(states[0])
        grouped = [
            np.array(
                self._store.grouped(state.spec.key, ["value"], state.target), dtype=np.float64
            ).reshape(-1, 2)
            for state in states
        ]
        if not all(map(len, grouped)):
            return {}
        if is_stratified(states):
            lost = [self._lost(state) for state in states]
            weights, range_of_values = weights_of(states), (prior.lowest, prior.highest)
            return {
                level: stratified_quantile(
                    grouped, weights, lost, prior.clean, level, confidence, range_of_values
                )
                for level in levels
            }
        values, counts = grouped[0].T
        lost_trials = self._lost(states[0])
        return {
            level: _quantile(values, counts, level, confidence, prior, lost_trials)
            for level in levels
        }


def _has_any(column: Sequence[Any]) -> bool:
    """Whether a stratum has a value in this column."""
    return any(value is not None for value in column)


def _mean(states: Strata, means: Sequence[float | None], known: float) -> float:
    """The mean over fault patterns from that of each stratum; ``known`` is the value without a
    flip."""
    weights = weights_of_sampled(states, [mean is not None for mean in means])
    weighted = (weight * (mean or 0.0) for weight, mean in zip(weights, means, strict=True))
    return math.fsum([*weighted, rest_of(states) * known])


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
