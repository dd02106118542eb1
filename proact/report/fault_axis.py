"""What the faults of a family differ in: the bit error rate, or the number of flips."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from proact.report.units import rate
from proact.results.cells import CellResult

_COUNTED = re.compile(r"ExactFlips\((\d+)")


class FaultAxis(ABC):
    """The axis of figures, and the first column of tables, over the faults of one family.

    Attributes:
        noun: what a level on the axis is; ``word`` is shorter where "bit error" is understood.
        heading: of the column.
        label: of the axis.
    """

    noun: str
    word: str
    heading: str
    label: str

    @abstractmethod
    def level(self, fault: str, ber: float) -> float:
        """The place of a fault on the axis.

        Args:
            fault: its text.
            ber: its expected bit error rate, per exposed bit.
        """

    @abstractmethod
    def text(self, level: float) -> str:
        """A level in the column: ``1e-5``, ``3``."""

    @abstractmethod
    def short(self, level: float) -> str:
        """A level after "at": ``1e-5``, ``3 flips``."""

    @abstractmethod
    def full(self, level: float) -> str:
        """A level where nothing else says what it is: ``a bit error rate of 1e-5``, ``3 flips``."""

    def of(self, cell: CellResult) -> float:
        """The level of a cell's fault."""
        return self.level(cell.fault, cell.ber)


class RateAxis(FaultAxis):
    """Bit error rates."""

    noun, word = "bit error rate", "rate"
    heading = "BER per bit"
    label = "bit error rate (probability per stored bit)"

    def level(self, fault: str, ber: float) -> float:
        return ber

    def text(self, level: float) -> str:
        return rate(level)

    def short(self, level: float) -> str:
        return rate(level)

    def full(self, level: float) -> str:
        return f"a bit error rate of {rate(level)}"


class FlipsAxis(FaultAxis):
    """Numbers of flips: they are the same for variants that store different numbers of bits."""

    noun, word = "number of flips", "number of flips"
    heading = "flips"
    label = "number of flips in a trial"

    def level(self, fault: str, ber: float) -> float:
        found = _COUNTED.match(fault)
        assert found is not None, fault
        return int(found[1])

    def text(self, level: float) -> str:
        return f"{level:,.0f}"

    def short(self, level: float) -> str:
        return f"{level:,.0f} {'flip' if level == 1 else 'flips'}"

    def full(self, level: float) -> str:
        return self.short(level)


BY_RATE, BY_FLIPS = RateAxis(), FlipsAxis()


def axis_of(*families: str) -> FaultAxis:
    """The axis over the faults of a family, by its name; bit error rates for several families."""
    is_counted = [family.partition("(")[0] == "ExactFlips" for family in families]
    return BY_FLIPS if len(families) == 1 and all(is_counted) else BY_RATE
