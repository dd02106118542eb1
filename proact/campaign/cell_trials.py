"""How many trials each cell of a campaign needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proact.results.cells import CellState
from proact.results.run_log import RunSpec
from proact.results.statistics import SequentialRule, StoppingRule, Trials, is_hopeless
from proact.results.store import Store
from proact.results.stored_trials import trials_of

#: The condition that ends a cell: a stopping rule, a number of trials, or a number per cell.
Goal = SequentialRule | int | Callable[[CellState], int]


class CellTrials:
    """The numbers of trials with which each cell meets a goal.

    Under a stopping rule, where a cell ends depends on its rows alone.

    Args:
        store: with the rows.
        run: the specification of the run.
        goal: says when a cell has enough trials.
    """

    def __init__(self, store: Store, run: RunSpec, goal: Goal) -> None:
        self._store, self._run, self._goal = store, run, goal

    def targets(self, strata: Sequence[CellState]) -> Sequence[int]:
        """The numbers of trials that the strata of one cell need up to the next interim analysis;
        their current targets if they have enough, or if nearly all trials fail."""
        if any(map(self._is_hopeless, strata)):
            return [state.target for state in strata]
        goal = self._goal
        if not isinstance(goal, SequentialRule):
            return [goal if isinstance(goal, int) else goal(state) for state in strata]
        if not isinstance(goal, StoppingRule) or strata[0].spec.stratum is not None:
            return self._next_of_strata(strata)
        (cell,) = strata
        return [self._next_of_cell(cell, goal)]

    def _next_of_strata(self, strata: Sequence[CellState]) -> Sequence[int]:
        rule = self._run.stratified_rule
        priors = [self._run.prior(state.spec) for state in strata]
        targets = [state.target for state in strata]
        if not any(targets):
            return rule.first([state.spec.planned for state in strata], priors)
        weights = [state.spec.weight for state in strata]
        return rule.next(weights, [self._trials(state) for state in strata], priors) or targets

    def _next_of_cell(self, cell: CellState, rule: StoppingRule) -> int:
        prior = self._run.prior(cell.spec)
        if not cell.target:
            return rule.first(prior)
        trials = self._trials(cell)
        cell.estimate = rule.progress_estimate(trials, prior)
        following = rule.next(trials, prior)
        return cell.target if following is None else following

    def _trials(self, state: CellState) -> Trials:
        return trials_of(self._store, state.spec.key, state.target, self._run.prior(state.spec))

    def _is_hopeless(self, state: CellState) -> bool:
        # Trials beyond the target, from an earlier run or idle workers, must not decide.
        failed = len(self._store.failures(state.spec.key, state.target)) if state.failed else 0
        return is_hopeless(failed, state.target)
