"""Units and number formats of a metric: shares are shown in percent and points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from proact.results.metric_info import BUILT_IN_METRICS
from proact.results.run_log import RunSpec
from proact.results.statistics import Interval

#: Numbers that are closer to each other differ by the rounding of their sums.
_ROUNDING = 1e-11
#: Smaller numbers are shown with a power of ten.
_SMALL = 1e-4


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
        """The units of a run's metric."""
        return MetricUnits.of_range(spec.metric, spec.lowest, spec.highest, spec.is_better_higher)

    @staticmethod
    def of_range(metric: str, lowest: float, highest: float, is_better_higher: bool) -> MetricUnits:
        """The units of a metric. Values in a range within [0, 1] are shares."""
        return MetricUnits(metric, lowest >= 0.0 and highest <= 1.0, is_better_higher)

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

    def value(self, value: float, more: int = 0) -> str:
        """A value without its unit, with so many more digits than usual: ``94.8``."""
        return percent(value, 1 + more) if self.is_share else _significant(value, 3 + more)

    def fine(self, value: float) -> str:
        """A value with one more digit, for the effect of a single flip: ``0.25``."""
        return self.value(value, 1)

    def with_unit(self, value: float) -> str:
        """``94.8 %`` with a no-break space."""
        return self._with_unit(self.value(value))

    def difference(self, value: float, more: int = 0) -> str:
        """A signed difference without its unit, likewise: ``+15.1``."""
        return percent(value, 1 + more, "+") if self.is_share else f"{value:+.{3 + more}g}"

    def amount(self, value: float) -> str:
        """A difference without its sign: ``15.1 points``."""
        number = percent(abs(value), 1) if self.is_share else f"{abs(value):.3g}"
        return f"{number} {self.unit_of_differences}".strip()

    def limit(self, value: float) -> str:
        """A difference as the user gave it: ``5 points``, ``0.04 points``."""
        return f"{self.shown(value):g} {self.unit_of_differences}".strip()

    def estimate(self, interval: Interval, more: int = 0) -> str:
        """The estimate without its unit: ``94.8``, or ``94.82`` beside ``94.81 to 94.83``."""
        return interval_texts(interval, self.value, more)[0]

    def estimate_with_unit(self, interval: Interval) -> str:
        """``94.8 %`` with a no-break space."""
        return self._with_unit(self.estimate(interval))

    def interval(self, interval: Interval, more: int = 0) -> str:
        """The ends: ``93.8 to 95.2``, or ``94.81 to 94.83`` for 94.8 to 94.8."""
        return " to ".join(interval_texts(interval, self.value, more)[1:])

    def estimate_of_difference(self, interval: Interval) -> str:
        """The estimate of a difference without its unit: ``+15.1``."""
        return interval_texts(interval, self.difference)[0]

    def interval_of_difference(self, interval: Interval) -> str:
        """The ends: ``+11.4 to +19.0``."""
        return " to ".join(interval_texts(interval, self.difference)[1:])

    def _with_unit(self, text: str) -> str:
        return f"{text}\N{NO-BREAK SPACE}{self.unit}".strip()


def interval_texts(
    interval: Interval, show: Callable[[float, int], str], more: int = 0
) -> tuple[str, str, str]:
    """An estimate and the ends of its interval as text, with the digits that tell the ends apart.

    Args:
        interval: the interval.
        show: makes the text of a number with so many more digits than usual.
        more: the least number of further digits.
    """
    low, high = interval.low, interval.high
    while high - low > _ROUNDING and show(low, more) == show(high, more):
        more += 1
    return show(interval.estimate, more), show(low, more), show(high, more)


def percent(share: float, digits: int, sign: str = "") -> str:
    """A share in percent, as `decimal` shows it: ``94.8``, ``0.03``, ``99.97``.

    Args:
        share: the share, or a difference of shares.
        digits: the number of digits after the point.
        sign: ``"+"`` shows the sign of a positive number too.
    """
    return decimal(100.0 * share, digits, sign, ends=(0.0, 100.0))


def decimal(number: float, digits: int, sign: str = "", ends: tuple[float, ...] = (0.0,)) -> str:
    """A number with so many digits after the point, and with more of them where rounding alone
    would make it one of ``ends``, which mean "none" and "all". Numbers below 1e-4 have so many
    significant digits. The sign of 0 is not shown.
    """
    for end in ends:
        if abs(abs(number) - end) <= _ROUNDING:
            number = math.copysign(end, number) if end else 0.0
            return f"{number:{sign},.{digits}f}"
    if abs(number) < _SMALL:
        return f"{number:{sign}.{digits}g}"
    while abs(float(f"{number:.{digits}f}")) in ends:
        digits += 1
    return f"{number:{sign},.{digits}f}"


def _significant(value: float, digits: int) -> str:
    """A value with so many significant digits, and with more of them where rounding alone would
    make it 1, which means "the same" for a cosine."""
    while abs(float(f"{value:.{digits}g}")) == 1.0 and abs(abs(value) - 1.0) > _ROUNDING:
        digits += 1
    return f"{value:.{digits}g}"


def rate(ber: float) -> str:
    """A bit error rate as text: ``1e-5``, ``3e-7``, ``0.01`` as ``1e-2``, ``0``."""
    if ber == 0.0:
        return "0"
    mantissa, _, exponent = f"{ber:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
