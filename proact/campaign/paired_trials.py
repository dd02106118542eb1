"""How many trials the differences to the first variant need, after every cell has its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proact.results.cells import CellState
from proact.results.difference import Difference
from proact.results.run_log import RunSpec
from proact.results.statistics import StratifiedRule, is_hopeless
from proact.results.store import Store


class PairedTrials:
    """The numbers of trials with which each difference is as narrow as its margin.

    The first analysis of a difference uses the trials that its two cells need for themselves. Where
    it ends depends on the rows of the two cells alone.

    Args:
        store: with the rows.
        run: the specification of the run; its first variant is the baseline.
        rule: says when a difference has enough pairs.
        cells: the cells, or their strata, with the trials that they need for themselves.
    """

    def __init__(
        self, store: Store, run: RunSpec, rule: StratifiedRule, cells: Sequence[CellState]
    ) -> None:
        self._store, self._run, self._rule = store, run, rule
        self._cells = {cell.spec: cell for cell in cells}
        self._ends: dict[tuple[str, str], _End] = {}

    def targets(self, states: Sequence[CellState]) -> list[int]:
        """The numbers of trials that the cells of one fault need up to the next analysis; those of
        the last call if all differences have enough.

        Args:
            states: of all variants under the fault, with their strata.
        """
        cells = [self._cells[state.spec] for state in states]
        needed = {cell: cell.target for cell in cells}
        of_variants: dict[str, list[CellState]] = {}
        for cell in cells:
            of_variants.setdefault(cell.spec.variant, []).append(cell)
        baselines = of_variants.pop(self._run.variants[0].name)
        for mine in of_variants.values():
            # A cell that was decided without a trial has no pairs.
            if all(cell.target for cell in (*mine, *baselines)):
                difference = Difference(self._store, self._run, mine, baselines)
                for stratum, count in zip(difference.strata, self._counts(difference), strict=True):
                    for cell in stratum.states:
                        needed[cell] = max(needed[cell], count)
        return [needed[cell] for cell in cells]

    @property
    def further(self) -> dict[str, dict[str, list[int]]]:
        """By variant and fault, the numbers of trials of the strata of the differences that needed
        more than their cells."""
        found: dict[str, dict[str, list[int]]] = {}
        for (variant, fault), end in self._ends.items():
            if end.counts != end.first:
                found.setdefault(variant, {})[fault] = end.counts
        return found

    def _counts(self, difference: Difference) -> list[int]:
        """The numbers of trials of a difference up to its next analysis that lacks trials, or up to
        its end."""
        spec = difference.strata[0].states[0].spec
        first = [stratum.of_cells for stratum in difference.strata]
        end = self._ends.setdefault((spec.variant, spec.fault), _End(first, first))
        while not end.is_reached and all(
            cell.trials >= count
            for stratum, count in zip(difference.strata, end.counts, strict=True)
            for cell in stratum.states
        ):
            trials, priors = difference.trials(end.counts)
            following = None
            if not any(
                is_hopeless(each.failed, n) for each, n in zip(trials, end.counts, strict=True)
            ):
                following = self._rule.next(difference.weights, trials, priors)
            end.is_reached, end.counts = following is None, following or end.counts
        return end.counts


@dataclass
class _End:
    """Where a difference ends.

    Attributes:
        first: the numbers of trials of its strata at the first analysis.
        counts: those at the next analysis, or at the last one.
        is_reached: whether these are enough.
    """

    first: list[int]
    counts: list[int]
    is_reached: bool = False
