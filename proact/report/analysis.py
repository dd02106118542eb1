"""The analysis of a campaign for a page: cells by family of faults, paired gains, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from proact.errors import unknown
from proact.report.fault_axis import FaultAxis, axis_of
from proact.report.units import MetricUnits
from proact.report.variant_cost import VariantCost, cost_of
from proact.results import Result
from proact.results.cells import CellResult, CellSpec
from proact.results.failure_rate import MemoryConditions, budget_in_fit
from proact.results.statistics import Interval
from proact.text import short_repr

#: Verdicts allow a loss of this part of the metric's range where no limit is given.
DEFAULT_LIMIT = 0.05

NO_TRIAL_NEEDED = "no trial needed"


def mark(cell: CellResult) -> str:
    """What tables say beside a value: ``unfinished``, ``no trial needed``, or nothing."""
    if cell.needs_no_trial:
        return NO_TRIAL_NEEDED
    return "" if cell.is_finished or cell.is_missing else "unfinished"


@dataclass(frozen=True)
class Family:
    """Faults that differ only in their rate, or in their number of flips.

    Attributes:
        name: the fault without its rate.
        faults: their levels on `axis` by name, from the lowest.
        cells: by (variant, fault).
        gains: paired gains over the baseline, by variant and fault.
    """

    name: str
    faults: Mapping[str, float]
    cells: Mapping[tuple[str, str], CellResult]
    gains: Mapping[str, Mapping[str, Interval]]

    @property
    def axis(self) -> FaultAxis:
        """What the faults differ in."""
        return axis_of(self.name)

    def cells_of(self, variant: str) -> list[CellResult]:
        """The cells of a variant, from the lowest level."""
        return [
            self.cells[variant, fault] for fault in self.faults if (variant, fault) in self.cells
        ]

    def line(self, variant: str) -> list[CellResult]:
        """Those of a variant's cells that have trials."""
        return [cell for cell in self.cells_of(variant) if not cell.is_missing]

    @property
    def has_line(self) -> bool:
        """Whether at least two levels can be joined by a line."""
        return len({level for level in self.faults.values() if level > 0}) > 1


class Analysis:
    """The cells of a campaign in the order and the groups in which a page shows them.

    Args:
        result: the result of a campaign, not of a sweep.
        baseline: the variant that the others are compared with; by default the first.
        limit: the loss against the model without faults that verdicts allow, in the metric's unit
            (0.05 is 5 points of accuracy), in (0, width of the metric's range]; by default 5 % of
            the range.
        family_wise: whether verdicts use intervals that all hold together with the campaign's
            confidence.
        conditions: of the memory in operation; None shows no rates of failures.

    Raises:
        ValueError: no such variant, a limit out of range, or no cell for the conditions.
    """

    def __init__(
        self,
        result: Result,
        baseline: str | None = None,
        limit: float | None = None,
        family_wise: bool = False,
        conditions: MemoryConditions | None = None,
    ) -> None:
        self.result, self.run, self.conditions = result, result.spec, conditions
        self.variants = [variant.name for variant in self.run.variants]
        if baseline is not None and baseline not in self.variants:
            raise unknown("variant", baseline, self.variants)
        self.is_family_wise = family_wise
        self.baseline = baseline or self.variants[0]
        self.units = MetricUnits.of(self.run)
        width = self.run.highest - self.run.lowest
        self.limit = DEFAULT_LIMIT * width if limit is None else limit
        if not 0.0 < self.limit <= width:
            raise ValueError(
                f"the limit of a loss lies in (0, {width:g}], the width of the metric's range; got "
                f"{short_repr(limit)}"
            )
        #: By variant; empty without conditions.
        self.failure_rates = (
            {}
            if conditions is None
            else result.failure_rate(
                conditions.fit_per_mbit, conditions.reload_hours, critical=self.limit
            )
        )

    @property
    def budget(self) -> float | None:
        """The allowed rate of failures, in FIT; None without one."""
        if self.conditions is None or self.conditions.budget is None:
            return None
        return budget_in_fit(self.conditions.budget)

    @property
    def searched_flips(self) -> int:
        """The number of flips that the searches for worst cases looked for; 0 without a search."""
        return max((each.searched for each in self.result.worst_cases.values()), default=0)

    @cached_property
    def costs(self) -> Mapping[str, VariantCost]:
        """The cost of each variant."""
        costs = self.run.notes.get("costs")
        noted = costs if isinstance(costs, Mapping) else {}
        return {
            variant.name: cost_of(variant, noted.get(variant.name) or {})
            for variant in self.run.variants
        }

    @cached_property
    def specs(self) -> Mapping[tuple[str, str], CellSpec]:
        return {(cell.variant, cell.fault): cell for cell in self.run.cells}

    @cached_property
    def families(self) -> list[Family]:
        """The families of faults; those with the most rates come first."""
        return self._families(self.result)

    @cached_property
    def pairs(self) -> Mapping[str, Mapping[str, int]]:
        """The numbers of paired trials with the baseline, by variant and fault."""
        others = [name for name in self.variants if name != self.baseline]
        return {name: self.result.pairs(name, self.baseline) for name in others}

    def fewest_pairs(self, family: Family) -> int:
        """The smallest number of pairs of a difference; 0 without one."""
        found = [self.pairs[name][fault] for name, mine in family.gains.items() for fault in mine]
        return min(found, default=0)

    @property
    def intervals_of_verdicts(self) -> int:
        """The number of intervals that verdicts look at: of cells and of gains."""
        family = self.families[0]
        of_cells = sum(not cell.is_missing for cell in family.cells.values())
        return of_cells + sum(map(len, family.gains.values()))

    @property
    def confidence_of_verdicts(self) -> float:
        """The confidence of each interval that verdicts look at. If each of m intervals misses with
        probability alpha / m, one of them misses with at most alpha (Bonferroni)."""
        if not self.is_family_wise:
            return self.run.confidence
        return 1.0 - (1.0 - self.run.confidence) / max(self.intervals_of_verdicts, 1)

    @cached_property
    def family_of_verdicts(self) -> Family:
        """The first family, with the intervals of `confidence_of_verdicts`."""
        if not self.is_family_wise:
            return self.families[0]
        return self._families(self.result.at_confidence(self.confidence_of_verdicts))[0]

    def _families(self, result: Result) -> list[Family]:
        gains = {
            variant: result.difference(variant, self.baseline)
            for variant in self.variants
            if variant != self.baseline
        }
        cells = {(cell.variant, cell.fault): cell for cell in result.cells}
        names = list(dict.fromkeys(cell.family for cell in self.run.cells))
        found = [self._family(name, cells, gains) for name in names]
        return sorted(found, key=lambda family: -len(family.faults))

    def _family(
        self,
        name: str,
        cells: Mapping[tuple[str, str], CellResult],
        gains: Mapping[str, Mapping[str, Interval]],
    ) -> Family:
        levels = {
            cell.fault: axis_of(name).level(cell.fault, cell.ber)
            for cell in self.run.cells
            if cell.family == name
        }
        faults = dict(sorted(levels.items(), key=lambda each: each[1]))
        return Family(
            name,
            faults,
            {key: cell for key, cell in cells.items() if key[1] in faults},
            {
                variant: {fault: mine[fault] for fault in faults if fault in mine}
                for variant, mine in gains.items()
            },
        )

    def why_no_gain(self, family: Family, variant: str, fault: str) -> str:
        """What tables say where a variant has no paired gain."""
        pair = [family.cells.get((name, fault)) for name in (variant, self.baseline)]
        is_decided = any(cell is not None and cell.needs_no_trial for cell in pair)
        return NO_TRIAL_NEEDED if is_decided else "no trials"

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and machine of the last session that stored a trial."""
        sessions = self.result.sessions
        worked = [session for session in sessions if session.rows]
        return (worked or list(sessions))[-1].environment

    @property
    def has_trials(self) -> bool:
        return any(not cell.is_missing for cell in self.result.cells)

    @property
    def trials(self) -> int:
        """The number of trials of all cells."""
        return sum(cell.trials for cell in self.result.cells)

    @property
    def failed(self) -> int:
        """The number of failed trials of all cells."""
        return sum(cell.failed for cell in self.result.cells)

    @cached_property
    def stratified(self) -> list[CellResult]:
        """The cells whose trials were drawn in strata."""
        return [cell for cell in self.result.cells if cell.strata]

    @property
    def critical_bits(self) -> list[int]:
        """The bits of the critical field, in ascending order."""
        strata = (cell.stratum for cell in self.run.cells if cell.stratum is not None)
        return sorted({bit for stratum in strata for bit in stratum.critical})

    def realised_ber(self, cell: CellResult) -> float | None:
        """Flips per exposed bit; None where the number of exposed bits is unknown. In a cell with
        strata it is weighted."""
        bits = self.specs[cell.variant, cell.fault].bits
        return None if not bits or not cell.trials else cell.flips / bits

    def most_divided(self) -> str | None:
        """The fault under which the values of the baseline's trials have the largest variance; None
        where the baseline has no trials."""
        spreads = {}
        for fault in self.families[0].faults:
            if self.families[0].cells[self.baseline, fault].trials:
                values = self.result.values(self.baseline, fault)
                n = sum(count for _, count in values)
                mean = sum(value * count for value, count in values) / n
                squares = sum(count * (value - mean) ** 2 for value, count in values)
                spreads[fault] = squares / n
        return max(spreads, key=spreads.__getitem__) if spreads else None
