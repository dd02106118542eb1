"""Gradients of the training loss for one scalar threshold, computed once for all decays.

A scalar threshold moves along a line, and every training, whatever its decay, passes the same
places of it. So the gradients of a few hundred images are computed at a few thresholds, and
training takes its steps from the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

#: Neighbouring thresholds of the table differ by this factor.
RATIO = 0.7
#: The lowest threshold of the table, relative to its start.
LOWEST = 1e-3


class GradientTable:
    """The gradient of each batch's loss at relative thresholds 1, `RATIO`, `RATIO`^2, ...

    The table grows downwards as far as it is read. The mean of the batches at each threshold is
    `significant_mean`.

    Args:
        gradients: computes the gradients for the relative threshold at one relative threshold,
            (batches,).
    """

    def __init__(self, gradients: Callable[[float], Tensor]) -> None:
        self._compute = gradients
        self._thresholds: list[float] = []
        self._gradients: list[list[float]] = []
        self._add(1.0)

    @property
    def batches(self) -> int:
        """The number of batches."""
        return len(self._gradients[0])

    def read(self, relative: float, batch: int, draw: float) -> float:
        """The gradient of a batch at one of the two thresholds around ``relative``.

        Which one is drawn by their distances, so that the expected value is interpolated linearly.
        The mean of both would scatter less than gradients do, and AdamW divides by their scatter.

        Args:
            relative: the threshold relative to its start.
            batch: the number of the batch.
            draw: uniform in [0, 1).
        """
        while relative < self._thresholds[-1] > LOWEST:
            self._add(self._thresholds[-1] * RATIO)
        below = next((i for i, t in enumerate(self._thresholds) if t <= relative), None)
        if below is None:
            below = len(self._thresholds) - 1
        elif below > 0:
            low, high = self._thresholds[below], self._thresholds[below - 1]
            if draw < (relative - low) / (high - low):
                below -= 1
        return self._gradients[below][batch]

    def _add(self, relative: float) -> None:
        gradients = self._compute(relative)
        self._gradients.append(
            (gradients - gradients.mean() + significant_mean(gradients)).tolist()
        )
        self._thresholds.append(relative)


def significant_mean(gradients: Tensor) -> Tensor:
    """The mean of the batches' gradients, moved towards 0 by its standard error, to 0 at most.

    AdamW divides gradients by their scatter, so that a mean of 0 that a few batches miss by their
    error would move the threshold as a real one does, where training on many batches lets it rest.

    Args:
        gradients: (batches,).
    """
    mean = gradients.mean()
    if len(gradients) < 2:
        return mean
    error = gradients.std() / math.sqrt(len(gradients))
    return mean.sign() * (mean.abs() - error).clamp(min=0.0)
