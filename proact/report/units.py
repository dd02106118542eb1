"""How people read a metric: shares in percent and points, everything else as it is."""

from __future__ import annotations

from dataclasses import dataclass

from proact.results.statistics import Interval

#: What tables and axes call them.
_NAMES = {
    "top-1": "top-1 accuracy",
    "top-5": "top-5 accuracy",
    "sdc": "silent data corruption",
    "loss": "cross-entropy",
}
_UNITS = {"loss": "nats"}


@dataclass(frozen=True)
class Scale:
    """Of one metric.

    Attributes:
        metric: its name in the store.
        is_share: whether its values are shares, shown in percent.
        is_better_higher: which end of the range is the good one.
    """

    metric: str
    is_share: bool = True
    is_better_higher: bool = True

    @staticmethod
    def of(metric: str, lowest: float, highest: float, is_better_higher: bool) -> Scale:
        """Values in a range no wider than 1 are shares."""
        return Scale(metric, highest - lowest <= 1.0, is_better_higher)

    @property
    def name(self) -> str:
        return _NAMES.get(self.metric, self.metric)

    @property
    def unit(self) -> str:
        """Of a value; empty where nobody knows one."""
        return "%" if self.is_share else _UNITS.get(self.metric, "")

    @property
    def unit_of_differences(self) -> str:
        return "points" if self.is_share else self.unit

    def shown(self, value: float) -> float:
        """The number that people read."""
        return 100.0 * value if self.is_share else value

    def value(self, value: float) -> str:
        """Without its unit: ``94.8``."""
        return f"{100.0 * value:.1f}" if self.is_share else f"{value:.3g}"

    def fine(self, value: float) -> str:
        """With a digit more, for what a single flip changes: ``0.25``."""
        return f"{100.0 * value:.2f}" if self.is_share else f"{value:.4g}"

    def with_unit(self, value: float) -> str:
        """``94.8 %``, which no line is broken in."""
        return f"{self.value(value)}\N{NO-BREAK SPACE}{self.unit}".strip()

    def difference(self, value: float) -> str:
        """Signed, without its unit: ``+15.1``."""
        return f"{100.0 * value:+.1f}" if self.is_share else f"{value:+.3g}"

    def amount(self, value: float) -> str:
        """A difference without its sign: ``15.1 points``."""
        number = f"{abs(100.0 * value):.1f}" if self.is_share else f"{abs(value):.3g}"
        return f"{number} {self.unit_of_differences}".strip()

    def interval(self, interval: Interval) -> str:
        """The ends: ``93.8 to 95.2``."""
        return f"{self.value(interval.low)} to {self.value(interval.high)}"

    def interval_of_difference(self, interval: Interval) -> str:
        """The ends: ``+11.4 to +19.0``."""
        return f"{self.difference(interval.low)} to {self.difference(interval.high)}"


def rate(ber: float) -> str:
    """A bit error rate as it is written: ``1e-5``, ``3e-7``, ``0.01`` as ``1e-2``, ``0``."""
    if ber == 0.0:
        return "0"
    mantissa, _, exponent = f"{ber:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
