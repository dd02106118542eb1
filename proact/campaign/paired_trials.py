"""How many trials the differences to the first variant need, after every cell has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proact.results.cells import CellState
from proact.results.difference import Difference
from proact.results.run_log import RunSpec
from proact.results.statistics import StratifiedRule
from proact.results.store import Store


class PairedTrials:
    """The numbers of trials with which each difference is as narrow as its margin.

    The first analysis of a difference uses the trials that its two cells need for themselves. Where
    it ends depends on the rows of the two cells alone.

    Args:
        store: with the rows.
        run: the specification of the run; its first variant is the baseline.
        rule: says when a difference has enough pairs.
        cells: the cells, or their strata, with the trials that they need for themselves. Their
            ``paired`` becomes the number of trials that differences may use.
    """

    def __init__(
        self, store: Store, run: RunSpec, rule: StratifiedRule, cells: Sequence[CellState]
    ) -> None:
        self._store, self._run, self._rule = store, run, rule
        self._cells = {cell.spec: cell for cell in cells}
        #: By (variant, fault): the numbers of trials of the strata, and whether these are enough.
        self._counts: dict[tuple[str, str], tuple[list[int], bool]] = {}

    def targets(self, states: Sequence[CellState]) -> list[int]:
        """The numbers of trials that the cells of one fault need up to the next analysis; those of
        the last call if all differences have enough.

        Args:
            states: of all variants under the fault, with their strata.
        """
        cells = [self._cells[state.spec] for state in states]
        needed = {cell: max(cell.target, cell.paired) for cell in cells}
        of_variants: dict[str, list[CellState]] = {}
        for cell in cells:
            of_variants.setdefault(cell.spec.variant, []).append(cell)
        baselines = of_variants.pop(self._run.variants[0].name)
        for mine in of_variants.values():
            # A cell that was decided without a trial has no pairs.
            if all(cell.target for cell in (*mine, *baselines)):
                needed |= self._needed(Difference(self._store, self._run, mine, baselines), needed)
        for cell in cells:
            cell.paired = needed[cell]
        return [needed[cell] for cell in cells]

    def _needed(
        self, difference: Difference, needed: Mapping[CellState, int]
    ) -> dict[CellState, int]:
        strata = difference.strata
        counts = self._enough(difference)
        return {
            state: max(needed[state], count)
            for stratum, count in zip(strata, counts, strict=True)
            for state in stratum.states
        }

    def _enough(self, difference: Difference) -> list[int]:
        """The numbers of trials of a difference up to its next analysis that lacks trials, or up to
        its end."""
        strata = difference.strata
        spec = strata[0].states[0].spec
        key = spec.variant, spec.fault
        start = [stratum.of_cells for stratum in strata]
        counts, is_enough = self._counts.get(key, (start, False))
        while not is_enough and all(
            state.trials >= count
            for stratum, count in zip(strata, counts, strict=True)
            for state in stratum.states
        ):
            following = self._rule.next(difference.weights, *difference.trials(counts))
            counts, is_enough = (counts, True) if following is None else (following, False)
            self._counts[key] = counts, is_enough
        return counts
