"""Units and number formats of a metric: shares are shown in percent and points."""

from __future__ import annotations

from dataclasses import dataclass

from proact.results.metric_info import BUILT_IN_METRICS
from proact.results.run_log import RunSpec
from proact.results.statistics import Interval


@dataclass(frozen=True)
class MetricUnits:
    """The units of one metric, and its numbers as text.

    Attributes:
        metric: its name in the store.
        is_share: whether its values are shares, which are shown in percent.
        is_better_higher: whether a higher value is the better one.
    """

    metric: str
    is_share: bool = True
    is_better_higher: bool = True

    @staticmethod
    def of(spec: RunSpec) -> MetricUnits:
        """The units of a run's metric. Values in a range no wider than 1 are shares."""
        return MetricUnits(spec.metric, spec.highest - spec.lowest <= 1.0, spec.is_better_higher)

    @property
    def name(self) -> str:
        info = BUILT_IN_METRICS.get(self.metric)
        return self.metric if info is None else info.label

    @property
    def heading(self) -> str:
        """The name with a capital letter."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def accuracy_of(self) -> str:
        """The metric as the beginning of a title: ``Accuracy`` for shares of correct images."""
        return "Accuracy" if self.metric in ("top-1", "top-5") else self.heading

    @property
    def unit(self) -> str:
        """The unit of a value; empty where it is unknown."""
        info = BUILT_IN_METRICS.get(self.metric)
        return "%" if self.is_share else "" if info is None else info.unit

    @property
    def unit_of_differences(self) -> str:
        return "points" if self.is_share else self.unit

    def shown(self, value: float) -> float:
        """A value in the unit that is shown."""
        return 100.0 * value if self.is_share else value

    def value(self, value: float) -> str:
        """A value without its unit: ``94.8``."""
        return f"{100.0 * value:.1f}" if self.is_share else f"{value:.3g}"

    def fine(self, value: float) -> str:
        """A value with one more digit, for the effect of a single flip: ``0.25``."""
        return f"{100.0 * value:.2f}" if self.is_share else f"{value:.4g}"

    def with_unit(self, value: float) -> str:
        """``94.8 %`` with a no-break space."""
        return f"{self.value(value)}\N{NO-BREAK SPACE}{self.unit}".strip()

    def difference(self, value: float) -> str:
        """A signed difference without its unit: ``+15.1``."""
        return f"{100.0 * value:+.1f}" if self.is_share else f"{value:+.3g}"

    def amount(self, value: float) -> str:
        """A difference without its sign: ``15.1 points``."""
        number = f"{abs(100.0 * value):.1f}" if self.is_share else f"{abs(value):.3g}"
        return f"{number} {self.unit_of_differences}".strip()

    def limit(self, value: float) -> str:
        """A difference as the user gave it: ``5 points``, ``0.04 points``."""
        return f"{self.shown(value):g} {self.unit_of_differences}".strip()

    def interval(self, interval: Interval) -> str:
        """The ends: ``93.8 to 95.2``."""
        return f"{self.value(interval.low)} to {self.value(interval.high)}"

    def interval_of_difference(self, interval: Interval) -> str:
        """The ends: ``+11.4 to +19.0``."""
        return f"{self.difference(interval.low)} to {self.difference(interval.high)}"


def rate(ber: float) -> str:
    """A bit error rate as text: ``1e-5``, ``3e-7``, ``0.01`` as ``1e-2``, ``0``."""
    if ber == 0.0:
        return "0"
    mantissa, _, exponent = f"{ber:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
