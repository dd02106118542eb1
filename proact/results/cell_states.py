"""How far the cells of a stored run are: which trials results use, and which cells are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proact.results.cells import CellSpec, CellState
from proact.results.interval_set import IntervalSet
from proact.results.run_log import RunSpec
from proact.results.statistics import StoppingRule, StratifiedRule
from proact.results.store import Store
from proact.results.stored_trials import trials_of

#: A cell by (variant, fault): the states of its strata, or one state if it has none.
States = Mapping[tuple[str, str], tuple[CellState, ...]]


def states_of(store: Store, spec: RunSpec) -> States:
    """The states of a run's cells, variants together in their order.

    Where a cell stops follows from its rows: of an interrupted run, the interim analyses are
    repeated on the stored rows.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, cell in enumerate(spec.cells):
        groups.setdefault((cell.variant, cell.fault), []).append(index)
    states = {names: _states(store, spec, indices) for names, indices in groups.items()}
    order = [variant.name for variant in spec.variants]
    return dict(sorted(states.items(), key=lambda item: order.index(item[0][0])))


def summary(states: Sequence[CellState]) -> CellState:
    """One state for a whole cell: of a cell with strata, with the number of trials of all."""
    if len(states) == 1:
        return states[0]
    first = states[0].spec
    whole = CellSpec(
        first.variant, first.fault, first.family, first.key, first.ber, first.bits, None
    )
    stored = IntervalSet([(0, sum(state.trials for state in states))])
    target = sum(state.target for state in states)
    return CellState(whole, stored, target, all(state.is_finished for state in states))


def _states(store: Store, spec: RunSpec, indices: Sequence[int]) -> tuple[CellState, ...]:
    cells = [spec.cells[index] for index in indices]
    stored = [IntervalSet(store.runs(cell.key)) for cell in cells]
    if spec.stopped:
        targets = [spec.stopped[index] for index in indices]
        is_finished = True
    elif isinstance(spec.rule, StratifiedRule) or cells[0].stratum is not None:
        targets, is_finished = _replayed_strata(store, spec, cells, [s.upto() for s in stored])
    else:
        target, is_finished = _replayed(store, spec, cells[0], stored[0].upto())
        targets = [target]
    return tuple(
        CellState(cell, mine, target, is_finished)
        for cell, mine, target in zip(cells, stored, targets, strict=True)
    )


def _replayed(store: Store, spec: RunSpec, cell: CellSpec, upto: int) -> tuple[int, bool]:
    """The trials that a cell's result uses, of ``upto`` stored ones, and whether it is finished:
    repeats the interim analyses that the rule makes on the stored rows."""
    rule, prior = spec.rule, spec.prior(cell)
    if not isinstance(rule, StoppingRule):
        # How the trials of a sweep are shared out follows from all of its cells.
        most = spec.trials if spec.kind == "campaign" else None
        return (upto, False) if most is None else (min(upto, most), upto >= most)
    target = rule.first(prior)
    if target == 0:
        return 0, True
    while target <= upto:
        following = rule.next(trials_of(store, cell.key, target, prior), prior)
        if following is None:
            return target, True
        target = following
    return upto, False


def _replayed_strata(
    store: Store, spec: RunSpec, cells: Sequence[CellSpec], upto: Sequence[int]
) -> tuple[list[int], bool]:
    """As `_replayed`, for the strata of one cell, which are looked at together."""
    rule, weights = spec.stratified_rule, [cell.weight for cell in cells]
    priors = [spec.prior(cell) for cell in cells]
    targets = rule.first([cell.planned for cell in cells], priors)
    if not any(targets):
        return targets, True
    while all(target <= there for target, there in zip(targets, upto, strict=True)):
        trials = [
            trials_of(store, cell.key, target, prior)
            for cell, target, prior in zip(cells, targets, priors, strict=True)
        ]
        following = rule.next(weights, trials, priors)
        if following is None:
            return targets, True
        targets = following
    return list(upto), False
