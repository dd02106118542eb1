"""What intervals show about a variant: where it holds, and its gains and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proact.results.cells import CellResult
from proact.results.statistics import Interval


def holds_until(
    cells: Sequence[CellResult], limit: float, is_better_higher: bool
) -> CellResult | None:
    """The last of the cells, from the lowest BER, up to which each interval excludes a loss of more
    than ``limit`` against the same variant without faults. A cell without trials excludes none."""
    last = None
    for cell in cells:
        worst = cell.clean - cell.value.low if is_better_higher else cell.value.high - cell.clean
        if cell.is_missing or worst > limit:
            break
        last = cell
    return last


def largest_gain(
    gains: Mapping[str, Interval], is_better_higher: bool
) -> tuple[str, Interval] | None:
    """The fault with the largest gain among those whose interval excludes 0, and that gain; None
    where no interval does."""
    sign = 1.0 if is_better_higher else -1.0
    shown = {f: gain for f, gain in gains.items() if sign * gain.estimate > 0 and _excludes_0(gain)}
    if not shown:
        return None
    fault = max(shown, key=lambda fault: sign * shown[fault].estimate)
    return fault, shown[fault]


def losses(gains: Mapping[str, Interval], is_better_higher: bool) -> list[str]:
    """The faults under which the interval shows the variant to be worse than the baseline."""
    sign = 1.0 if is_better_higher else -1.0
    return [f for f, gain in gains.items() if sign * gain.estimate < 0 and _excludes_0(gain)]


def _excludes_0(interval: Interval) -> bool:
    return interval.low > 0.0 or interval.high < 0.0
