"""A cell: what the rows of one variant under one fault say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proact.campaign.statistics import Interval, mean_interval
from proact.campaign.store import Row


@dataclass(frozen=True)
class Cell:
    """One variant under one fault.

    Attributes:
        variant, fault: their names; ``ber`` is the fault's expected bit error rate, per exposed
            bit.
        accuracy: mean over trials of the top-1 accuracy, in [0, 1], with its interval.
        sdc: mean share of predictions that differ from those of the same network without faults
            (silent data corruption), with its interval; outputs that are not finite count here too.
        clean: accuracy without faults, in [0, 1].
        trials: how many fault patterns were tried.
        flips: mean number of bits flipped a trial.
        non_finite: mean share of images whose output held NaN or infinity.
    """

    variant: str
    fault: str
    ber: float
    accuracy: Interval
    sdc: Interval
    clean: float
    trials: int
    flips: float
    non_finite: float


def summarise(
    variant: str, fault: str, ber: float, clean: float, rows: Sequence[Row], confidence: float
) -> Cell:
    """The cell of ``rows``. The trial is the unit: images within one share its faults."""
    return Cell(
        variant,
        fault,
        ber,
        mean_interval([row.correct / row.images for row in rows], confidence),
        mean_interval([1.0 - row.agreeing / row.images for row in rows], confidence),
        clean,
        len(rows),
        float(np.mean([row.flips for row in rows])),
        float(np.mean([row.non_finite / row.images for row in rows])),
    )


def paired_difference(rows: Sequence[Row], baseline: Sequence[Row], confidence: float) -> Interval:
    """Mean gain in accuracy over ``baseline``, trial by trial, in [-1, 1].

    Both met the same faults on the same images, which cancels much of the spread.
    """
    other = {row.trial: row for row in baseline}
    gains = [
        row.correct / row.images - other[row.trial].correct / other[row.trial].images
        for row in rows
        if row.trial in other
    ]
    return mean_interval(gains, confidence, lowest=-1.0, highest=1.0)
