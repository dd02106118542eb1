"""The difference of two variants under one fault, from trials with the same faults and images.

A difference is a sum over strata, as the mean of a cell is; a cell without strata is one stratum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proact.results.cells import OWN, CellState
from proact.results.run_log import RunSpec
from proact.results.statistics import Interval, Prior, Trials, mean_over_strata, trial_mean
from proact.results.store import Store
from proact.results.stored_trials import paired_trials_of, trials_of
from proact.results.strata import Strata, is_stratified, name_of


@dataclass(frozen=True)
class PairedStratum:
    """A stratum of a difference: that of the variant and that of the baseline.

    One of them is None in a stratum of tensors that the other variant lacks. That variant has its
    clean result there, and the trials have no partners.
    """

    variant: CellState | None
    baseline: CellState | None

    @property
    def states(self) -> list[CellState]:
        return [state for state in (self.variant, self.baseline) if state is not None]

    @property
    def is_paired(self) -> bool:
        return len(self.states) == 2

    @property
    def of_cells(self) -> int:
        """The number of trials that the two cells need for themselves."""
        return min(state.target for state in self.states)


class Difference:
    """The mean gain of a variant over a baseline under one fault.

    Args:
        store: open, with the rows.
        run: the specification of the run.
        states, baselines: of the strata of the two cells, or their one state.
        counts: the numbers of trials of the strata at which a rule ended the difference; None: it
            has those that the two cells need for themselves.

    Attributes:
        strata: those with pairs come first.
        counts: the numbers of trials of the strata.
    """

    def __init__(
        self,
        store: Store,
        run: RunSpec,
        states: Strata,
        baselines: Strata,
        counts: Sequence[int] | None = None,
    ) -> None:
        self._store, self._run = store, run
        self._clean = run.variant(states[0].spec.variant).clean
        self._clean_of_baseline = run.variant(baselines[0].spec.variant).clean
        self.strata: Sequence[PairedStratum] = _strata(states, baselines)
        self._is_stopped = counts is not None
        self.counts = [each.of_cells for each in self.strata] if counts is None else counts

    @property
    def weights(self) -> list[float]:
        """The probabilities of the strata's fault patterns."""
        return [stratum.states[0].spec.weight for stratum in self.strata]

    @property
    def pairs(self) -> int:
        """The number of trials that both cells have and the difference uses."""
        counted = zip(self.strata, self.counts, strict=True)
        return sum(count for stratum, count in counted if stratum.is_paired)

    def trials(self, counts: Sequence[int]) -> tuple[list[Trials], list[Prior]]:
        """The first ``counts`` trials of the strata, and the knowledge before them."""
        found = [
            self._paired(stratum, count) if stratum.is_paired else self._unpaired(stratum, count)
            for stratum, count in zip(self.strata, counts, strict=True)
        ]
        return [trials for trials, _ in found], [prior for _, prior in found]

    def interval(self) -> Interval:
        """The mean gain, trial by trial.

        Both variants met the same faults on the same images, which cancels much of the spread. The
        part of the difference that the drawn images explain is known, and removed (`trial_mean`).
        """
        trials, priors = self.trials(self.counts)
        rule = self._run.difference_rule
        if rule is not None and self._is_stopped:
            return rule.interval(self.weights, trials, priors, self._run.confidence)
        is_finished = all(state.is_finished for each in self.strata for state in each.states)
        confidence = self._run.confidence_of_cells(is_finished)
        means = [trial_mean(*each, confidence) for each in zip(trials, priors, strict=True)]
        return mean_over_strata(self.weights, means, self._clean - self._clean_of_baseline)

    def _paired(self, stratum: PairedStratum, count: int) -> tuple[Trials, Prior]:
        specs = [state.spec for state in stratum.states]
        mine, theirs = (self._run.prior(spec) for spec in specs)
        trials = paired_trials_of(self._store, (specs[0].key, specs[1].key), count, (mine, theirs))
        width = self._run.highest - self._run.lowest
        return trials, Prior(mine.clean - theirs.clean, None, -width, width)

    def _unpaired(self, stratum: PairedStratum, count: int) -> tuple[Trials, Prior]:
        (state,) = stratum.states
        prior = self._run.prior(state.spec)
        trials = trials_of(self._store, state.spec.key, count, prior)
        sign = 1.0 if stratum.baseline is None else -1.0
        known = -self._clean_of_baseline if stratum.baseline is None else self._clean
        ends = sorted(known + sign * end for end in (prior.lowest, prior.highest))
        return (
            replace(trials, values=known + sign * trials.values, clean=known + sign * trials.clean),
            replace(prior, clean=known + sign * prior.clean, lowest=ends[0], highest=ends[1]),
        )


def _strata(states: Strata, baselines: Strata) -> list[PairedStratum]:
    if not is_stratified(states):
        return [PairedStratum(states[0], baselines[0])]
    theirs = {name_of(state): state for state in baselines}
    return [
        *(PairedStratum(each, theirs[name_of(each)]) for each in states if name_of(each) != OWN),
        *(PairedStratum(each, None) for each in states if name_of(each) == OWN),
        *(PairedStratum(None, each) for each in baselines if name_of(each) == OWN),
    ]
