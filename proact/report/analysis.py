"""What a page says of a campaign: its cells by family of faults, its gains, its verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from proact.errors import unknown
from proact.report.units import MetricUnits
from proact.results import Result
from proact.results.cells import CellResult, CellSpec
from proact.results.run_log import Variant
from proact.results.statistics import Interval

#: A loss of more than this, of the metric's range, is what a verdict looks for.
LIMIT = 0.05


@dataclass(frozen=True)
class Family:
    """Faults that differ in their rate alone.

    Attributes:
        name: what they have in common.
        faults: their names by expected BER (per exposed bit), from the lowest.
        cells: by variant and fault.
        gains: over the baseline, by variant and fault, paired.
    """

    name: str
    faults: Mapping[str, float]
    cells: Mapping[tuple[str, str], CellResult]
    gains: Mapping[str, Mapping[str, Interval]]

    def line(self, variant: str) -> list[CellResult]:
        """The variant's cells with trials, from the lowest BER."""
        cells = [
            self.cells[variant, fault] for fault in self.faults if (variant, fault) in self.cells
        ]
        return [cell for cell in cells if not cell.is_missing]

    @property
    def has_line(self) -> bool:
        """Whether there are two rates to draw a line between."""
        return len({ber for ber in self.faults.values() if ber > 0}) > 1


class Analysis:
    """A campaign as a page tells it.

    Args:
        result: of a campaign, not of a sweep.
        baseline: the variant that the others are compared with; by default the first.

    Raises:
        ValueError: no such variant.
    """

    def __init__(self, result: Result, baseline: str | None = None) -> None:
        self.result, self.run = result, result.spec
        self.variants = [variant.name for variant in self.run.variants]
        if baseline is not None and baseline not in self.variants:
            raise unknown("variant", baseline, self.variants)
        self.baseline = baseline or self.variants[0]
        self.units = MetricUnits.of(self.run)

    @cached_property
    def specs(self) -> Mapping[tuple[str, str], CellSpec]:
        return {(cell.variant, cell.fault): cell for cell in self.run.cells}

    @cached_property
    def families(self) -> list[Family]:
        """Those with most rates first."""
        gains = {
            variant: self.result.difference(variant, self.baseline)
            for variant in self.variants
            if variant != self.baseline
        }
        cells = {(cell.variant, cell.fault): cell for cell in self.result.cells}
        names = list(dict.fromkeys(cell.family for cell in self.run.cells))
        found = [self._family(name, cells, gains) for name in names]
        return sorted(found, key=lambda family: -len(family.faults))

    def _family(
        self,
        name: str,
        cells: Mapping[tuple[str, str], CellResult],
        gains: Mapping[str, Mapping[str, Interval]],
    ) -> Family:
        # Variants store different numbers of bits, so that n flips are another rate in each.
        of_family = [cell for cell in self.run.cells if cell.family == name]
        bers: dict[str, float] = {}
        for cell in sorted(of_family, key=lambda cell: cell.ber):
            bers.setdefault(cell.fault, cell.ber)
        return Family(
            name,
            bers,
            {key: cell for key, cell in cells.items() if key[1] in bers},
            {
                variant: {fault: mine[fault] for fault in bers if fault in mine}
                for variant, mine in gains.items()
            },
        )

    @property
    def has_trials(self) -> bool:
        return any(not cell.is_missing for cell in self.result.cells)

    @property
    def trials(self) -> int:
        """Of all cells."""
        return sum(cell.trials for cell in self.result.cells)

    @property
    def failed(self) -> int:
        """Trials that could not be run, of all cells."""
        return sum(cell.failed for cell in self.result.cells)

    def realised_ber(self, cell: CellResult) -> float | None:
        """Flips per exposed bit; None where nobody knows how many bits passed."""
        bits = self.specs[cell.variant, cell.fault].bits
        return None if not bits or not cell.trials else cell.flips / bits

    def most_divided(self) -> str | None:
        """The fault under which the baseline's trials differ most: where a mean says least; None
        where it has none."""
        spreads = {}
        for fault in self.families[0].faults:
            if self.families[0].cells[self.baseline, fault].trials:
                values = self.result.values(self.baseline, fault)
                n = sum(count for _, count in values)
                mean = sum(value * count for value, count in values) / n
                squares = sum(count * (value - mean) ** 2 for value, count in values)
                spreads[fault] = squares / n
        return max(spreads, key=spreads.__getitem__) if spreads else None


def holds_until(
    cells: Sequence[CellResult], limit: float, is_better_higher: bool
) -> CellResult | None:
    """The last of the cells, from the lowest BER, up to which each interval excludes a loss of more
    than ``limit`` against the same network without faults."""
    last = None
    for cell in cells:
        worst = cell.clean - cell.value.low if is_better_higher else cell.value.high - cell.clean
        if worst > limit:
            break
        last = cell
    return last


def largest_gain(
    gains: Mapping[str, Interval], is_better_higher: bool
) -> tuple[str, Interval] | None:
    """The fault under which the gain is largest and its interval excludes 0; None where there is
    none."""
    sign = 1.0 if is_better_higher else -1.0
    shown = {f: gain for f, gain in gains.items() if sign * gain.estimate > 0 and _excludes_0(gain)}
    if not shown:
        return None
    fault = max(shown, key=lambda fault: sign * shown[fault].estimate)
    return fault, shown[fault]


def losses(gains: Mapping[str, Interval], is_better_higher: bool) -> list[str]:
    """The faults under which the variant is worse than the baseline, by the interval."""
    sign = 1.0 if is_better_higher else -1.0
    return [f for f, gain in gains.items() if sign * gain.estimate < 0 and _excludes_0(gain)]


def _excludes_0(interval: Interval) -> bool:
    return interval.low > 0.0 or interval.high < 0.0


@dataclass(frozen=True)
class VariantCost:
    """What a variant takes beyond its weights.

    Attributes:
        thresholds, bounds: numbers stored.
        bytes: that they take in the encoding.
        percent: their number, of the other numbers' number.
        clean: the metric without faults.
        soft, latency: accuracy before hardening, and time of a forward pass over the unprotected
            network's, where the run's notes have them.
    """

    thresholds: int
    bounds: int
    bytes: float
    percent: float
    clean: float
    soft: float | None
    latency: float | None


def cost_of(variant: Variant, notes: Mapping[str, object]) -> VariantCost:
    """From what a variant stores; ``notes`` are the fields of a `proact.protect.Cost`, or empty."""
    added = {
        kind: variant.memory[kind] for kind in ("threshold", "bound") if kind in variant.memory
    }
    numbers = sum(memory.numbers for memory in added.values())
    others = sum(memory.numbers for memory in variant.memory.values()) - numbers
    return VariantCost(
        added["threshold"].numbers if "threshold" in added else 0,
        added["bound"].numbers if "bound" in added else 0,
        sum(memory.bits for memory in added.values()) / 8,
        100.0 * numbers / max(others, 1),
        variant.clean,
        _number(notes.get("clean_soft")),
        _number(notes.get("latency")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
