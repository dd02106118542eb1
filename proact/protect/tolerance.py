"""Whether clips cost no more than the tolerance, on samples like the validation samples.

The drop of a sample is its metric without the clips minus its metric with them. The validation
samples give the mean drop only up to their own error, so it is not compared with the tolerance
itself: its upper bound is, at the one-sided confidence `CONFIDENCE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from scipy.special import stdtrit
from torch import Tensor

from proact.protect.distributed import DistributedContext

#: One-sided confidence that the mean drop lies below `upper_bound`.
CONFIDENCE = 0.95
#: A candidate is rejected early if the rest of the samples would have to deviate from those seen by
#: more than this number of standard errors to change that.
_SURE = 3.0


def upper_bound(samples: int, total: float, squares: float) -> float:
    """The upper bound of the mean drop, from the drops of the validation samples.

    It is Student's bound for the mean, of the drops and one more drop of 1; half a drop more stands
    for the skewness of drops, most of which are 0. Where samples drop and none gains, the bound is
    that of Clopper and Pearson (Biometrika 26, 1934) up to 6 %: 3 / n if no sample drops, because
    with a probability of 5 % none of n samples drops although 3 / n of all samples do.

    Args:
        samples: the number of drops, n.
        total: their sum.
        squares: the sum of their squares.
    """
    mean = (total + 1.5) / (samples + 1)
    error = _deviation(samples, total, squares) / math.sqrt(samples + 1)
    return min(mean + float(stdtrit(samples, CONFIDENCE)) * error, 1.0)


def _deviation(samples: int, total: float, squares: float) -> float:
    """The standard deviation of the drops and one more drop of 1."""
    spread = squares + 1.0 - (total + 1.0) ** 2 / (samples + 1)
    return math.sqrt(max(spread, 0.0) / samples)


@dataclass(frozen=True, eq=False)
class Verdict:
    """The judgement of one candidate.

    Attributes:
        accepted: whether the upper bound of its drop is within the tolerance.
        kept: the mean metric of the validation samples, in [0, 1]; an estimate where ``samples`` is
            less than all of them.
        samples: the number of validation samples that were needed for the verdict.
        drops: of the samples of this process, in their order, as far as they were computed.
    """

    accepted: bool
    kept: float
    samples: int
    drops: Tensor


class ToleranceTest:
    """Judges candidates by the drops of the validation samples.

    A candidate is accepted by all samples. It is rejected before all were seen if the others are
    sure not to change that (stochastic curtailment): candidates differ from the thresholds that
    they start from, the reference, on few samples, so that the changes on a part of the samples
    tell the changes on the others.

    Args:
        clean: the metric of each sample of this process without clips, (samples,) float64, in
            random order.
        tolerance: the mean drop that is allowed, in [0, 1].
        context: of all processes.
    """

    def __init__(self, clean: Tensor, tolerance: float, context: DistributedContext) -> None:
        self._clean, self._tolerance, self._context = clean, tolerance, context
        self._reference = torch.zeros_like(clean)
        self.samples = round(self._sums(torch.ones_like(clean))[0])
        self._mean = self._sums(clean)[0] / self.samples

    @property
    def can_accept(self) -> bool:
        """Whether a candidate that costs nothing on the validation samples would be accepted."""
        return upper_bound(self.samples, 0.0, 0.0) <= self._tolerance

    def set_reference(self, drops: Tensor) -> None:
        """Makes the thresholds with these drops those from which the next candidates differ."""
        self._reference = drops

    def drops(self, values: Iterable[Tensor]) -> Tensor:
        """The drop of each sample of this process; ``values`` is as for `judge`."""
        return self._clean - torch.cat([batch.cpu() for batch in values])

    def judge(self, values: Iterator[Tensor]) -> Verdict:
        """Judges a candidate.

        Args:
            values: the metric of each sample of this process under the candidate, in batches. No
                more of them are taken than the verdict needs.
        """
        drops, batches = torch.zeros(0, dtype=torch.float64), 1
        while True:
            for batch in islice(values, batches):
                clean = self._clean[len(drops) : len(drops) + len(batch)]
                drops = torch.cat([drops, clean - batch.cpu()])
            start, rest = self._reference[: len(drops)], self._reference[len(drops) :]
            changes = drops - start
            seen = round(self._sums(torch.ones_like(drops))[0])
            total, squares = self._sums(drops, drops.square())
            if seen == self.samples:
                bound = upper_bound(self.samples, total, squares)
                return Verdict(bound <= self._tolerance, self._kept(total), self.samples, drops)
            change, changed, others = self._sums(changes, changes.square(), rest)
            # If the other samples change as those seen do, this is what all of them show.
            total += others + change * (self.samples - seen) / seen
            bound = upper_bound(self.samples, total, squares * self.samples / seen)
            error = _deviation(seen, change, changed) * math.sqrt(1 / seen - 1 / self.samples)
            if bound - self._tolerance > _SURE * error:
                return Verdict(False, self._kept(total), seen, drops)
            batches *= 2

    def _kept(self, total: float) -> float:
        return min(max(self._mean - total / self.samples, 0.0), 1.0)

    def _sums(self, *values: Tensor) -> list[float]:
        """The sum of each tensor over the samples of all processes."""
        sums = torch.tensor([float(each.sum()) for each in values], dtype=torch.float64)
        found: list[float] = self._context.all_reduce_sum(sums).tolist()
        return found
