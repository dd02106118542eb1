"""Trials that several bit error rates of one variant have in common.

The strata of two rates have the same limits on their numbers of flips, and draw their patterns and
images from the same random numbers. If a trial of both has the least number of flips that the
stratum allows, both have the same flips on the same images, and so the same row. At rates where a
second flip is rare, that holds for most trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from proact.campaign.jobs import WorkUnit
from proact.faults import BitFlipStratum, Fault, Injector
from proact.results.cells import CellState
from proact.results.store import Row, Store

#: Stands for the rate of a stratum, in the key that the strata of several rates share.
_ANY_RATE = 0.5
#: Rates share the trials of a stratum if at least this share of them has the least number of flips.
_LEAST_SHARE = 0.1


class SharedTrials:
    """Finds the rows that the same stratum has at another rate.

    Args:
        store: with the rows.
        faults: of the job.
        injectors: of the variants.
        seed: of the campaign.
        cells: those that may share trials, by their positions (variant, fault) in the job.
    """

    def __init__(
        self,
        store: Store,
        faults: Sequence[Fault],
        injectors: Sequence[Injector],
        seed: int,
        cells: Mapping[tuple[int, int], CellState],
    ) -> None:
        self._store, self._faults, self._injectors, self._seed = store, faults, injectors, seed
        groups: dict[tuple[int, BitFlipStratum], list[tuple[float, CellState]]] = {}
        for (variant, position), cell in cells.items():
            fault = faults[position]
            if isinstance(fault, BitFlipStratum) and self._is_rare(variant, fault):
                key = variant, replace(fault, ber=_ANY_RATE)
                groups.setdefault(key, []).append((fault.ber, cell))
        self._others: dict[CellState, list[CellState]] = {}
        self._at_higher_rates: dict[CellState, list[CellState]] = {}
        for group in groups.values():
            for ber, cell in group:
                self._others[cell] = [other for _, other in group if other is not cell]
                self._at_higher_rates[cell] = [other for rate, other in group if rate > ber]

    def _is_rare(self, variant: int, fault: BitFlipStratum) -> bool:
        """Whether enough trials of a stratum have the least number of flips."""
        bits = self._injectors[variant].bits_of_parts(fault)
        in_field, elsewhere, in_others = ((lowest, lowest) for lowest, _ in fault.ranges)
        least = replace(fault, in_field=in_field, elsewhere=elsewhere, in_others=in_others)
        return least.weight(bits) >= _LEAST_SHARE * fault.weight(bits)

    def may_find_more(self, cell: CellState) -> bool:
        """Whether a higher rate, which runs first, is still at work on trials that a cell needs."""
        return any(not other.is_finished for other in self._at_higher_rates.get(cell, ()))

    def rows(self, cell: CellState, unit: WorkUnit) -> list[Row]:
        """The rows of the trials of a unit that another rate has."""
        fault, found = self._faults[unit.fault], dict[int, Row]()
        others = self._others.get(cell, [])
        if not others:
            return []
        assert isinstance(fault, BitFlipStratum)
        least = sum(lowest for lowest, _ in fault.ranges)
        for other in others:
            for row in self._store.rows(other.spec.key, unit.end, unit.first, least):
                found[row.trial] = row
        injector = self._injectors[unit.variant]
        # What was not run took no time.
        return [
            row._replace(seconds=0.0)
            for trial, row in sorted(found.items())
            if injector.number_of_flips(fault, self._seed, trial) == least
        ]
