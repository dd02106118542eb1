"""Whether clips cost no more than the tolerance, on samples like the validation samples.

The drop of a sample is its metric without the clips minus its metric with them. The validation
samples give the mean drop only up to their own error, so it is not compared with the tolerance
itself: its upper bound is, at the one-sided confidence `CONFIDENCE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from scipy.special import stdtrit
from torch import Tensor

from proact.protect.distributed import DistributedContext

#: One-sided confidence that the mean drop lies below `upper_bound`.
CONFIDENCE = 0.95
#: A verdict is given early if the rest of the samples would have to deviate from those seen by
#: more than this number of standard errors to change it. A wrong rejection only leaves a threshold
#: higher than it could be.
_SURE_TO_ACCEPT, _SURE_TO_REJECT = 4.0, 2.0


def upper_bound(samples: int, total: float, squares: float) -> float:
    """The upper bound of the mean drop, from the drops of the validation samples.

    It is Student's bound for the mean of the drops and one more drop of 1. The added drop keeps the
    bound above 0 where no sample dropped: with probability 5 % none of n samples drops although
    3 / n of all samples do, and Student's bound alone would be 0.

    Args:
        samples: the number of drops, n.
        total: their sum.
        squares: the sum of their squares.
    """
    mean = (total + 1.0) / (samples + 1)
    error = _deviation(samples, total, squares) / math.sqrt(samples + 1)
    return min(mean + float(stdtrit(samples, CONFIDENCE)) * error, 1.0)


def _deviation(samples: int, total: float, squares: float) -> float:
    """The standard deviation of the drops and one more drop of 1."""
    spread = squares + 1.0 - (total + 1.0) ** 2 / (samples + 1)
    return math.sqrt(max(spread, 0.0) / samples)


@dataclass(frozen=True)
class Verdict:
    """The judgement of one candidate.

    Attributes:
        accepted: whether the upper bound of its drop is within the tolerance.
        kept: the mean metric of the validation samples, in [0, 1]; an estimate where ``samples`` is
            less than all of them.
        samples: the number of validation samples that were needed for the verdict.
    """

    accepted: bool
    kept: float
    samples: int


class ToleranceTest:
    """Judges candidates by the drops of the validation samples, as few of them as it needs.

    Samples have to be in random order. A verdict is given before all were seen if the others are
    sure not to change it (stochastic curtailment).

    Args:
        clean: the metric of each sample of this process without clips, (samples,) float64.
        tolerance: the mean drop that is allowed, in [0, 1].
        context: of all processes.
    """

    def __init__(self, clean: Tensor, tolerance: float, context: DistributedContext) -> None:
        self._clean, self._tolerance, self._context = clean, tolerance, context
        counted, total = context.all_reduce_sum(
            torch.tensor([len(clean), float(clean.sum())], dtype=torch.float64)
        ).tolist()
        self.samples = round(counted)
        self._mean = total / self.samples

    @property
    def can_accept(self) -> bool:
        """Whether a candidate that costs nothing on the validation samples would be accepted."""
        return upper_bound(self.samples, 0.0, 0.0) <= self._tolerance

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
            sums = [float(len(drops)), float(drops.sum()), float(drops.square().sum())]
            reduced = self._context.all_reduce_sum(torch.tensor(sums, dtype=torch.float64))
            count, total, squares = reduced.tolist()
            seen, share = round(count), count / self.samples
            # If the others drop as those seen do, this is what all of them together show.
            bound = upper_bound(self.samples, total / share, squares / share)
            spread = _deviation(seen, total, squares)
            error = spread * math.sqrt((self.samples - seen) / (self.samples * seen))
            accepted = bound <= self._tolerance
            errors = _SURE_TO_ACCEPT if accepted else _SURE_TO_REJECT
            if seen == self.samples or abs(bound - self._tolerance) > errors * error:
                return Verdict(accepted, self._mean - total / seen, seen)
            batches *= 2
