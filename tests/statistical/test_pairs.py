"""Do differences cover the true gain when further pairs run until they reach the margin?

Simulated on recorded trials (campaigns.py): both cells stop by their own rule, and the difference
goes on from the pairs that both have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from campaigns import CELLS, Stream, stopped
from numpy.typing import NDArray

from conftest import slow
from proact.results.statistics import Interval, Prior, StoppingRule, StratifiedRule, Trials

pytestmark = pytest.mark.long

CONFIDENCE, COVERED, SIGMAS, SEED, IMAGES = 0.95, 0.94, 4.0, 12, 16


@dataclass(frozen=True)
class PairedCells:
    """Two cells whose trials are drawn together.

    Attributes:
        names: of the distributions of the variant and the baseline in `campaigns.CELLS`, for each
            kind of fault pattern.
        chances: of the kinds; within a kind, the two cells are independent.
        margin: of cells and differences.
    """

    names: Sequence[tuple[str, str]]
    chances: Sequence[float]
    margin: float

    @property
    def gain(self) -> float:
        means = [CELLS[mine]().mean - CELLS[theirs]().mean for mine, theirs in self.names]
        return float(np.dot(self.chances, means))


PAIRED = {
    "one collapses": PairedCells([("half-collapsed", "collapsed")], [1.0], 0.03),
    "independent": PairedCells([("half-collapsed", "half-collapsed")], [1.0], 0.03),
    "rare, together": PairedCells(
        [("intact", "intact"), ("collapsed", "collapsed")], [0.98, 0.02], 0.01
    ),
    "rare, one survives": PairedCells(
        [("intact", "intact"), ("intact", "collapsed")], [0.98, 0.02], 0.01
    ),
    "rare, either": PairedCells(
        [("intact", "intact"), ("intact", "collapsed"), ("collapsed", "intact")],
        [0.97, 0.02, 0.01],
        0.01,
    ),
    "intact": PairedCells([("intact", "intact")], [1.0], 0.01),
    "no effect": PairedCells([("constant", "constant")], [1.0], 0.01),
}


class PairedStream:
    """One campaign's trials of both cells, drawn as far as they are asked for."""

    def __init__(self, cells: PairedCells, rng: np.random.Generator) -> None:
        self._cells, self._rng = cells, rng
        self._streams = [
            tuple(Stream(CELLS[name](), IMAGES, rng) for name in names) for names in cells.names
        ]
        self._kinds = np.zeros(0, dtype=np.int64)

    def first(self, trials: int) -> NDArray[np.float64]:
        """(2, 2, trials): of the variant and the baseline, accuracies with faults and without."""
        if len(self._kinds) < trials:
            kinds = len(self._cells.chances)
            more = self._rng.choice(kinds, max(trials, 512), p=self._cells.chances)
            self._kinds = np.concatenate([self._kinds, more])
        kinds = self._kinds[:trials]
        found = np.zeros((2, 2, trials))
        for kind, streams in enumerate(self._streams):
            (here,) = np.nonzero(kinds == kind)
            for side, stream in enumerate(streams):
                found[side][:, here] = stream.first(len(here))
        return found

    def grouped(self, side: int, trials: int) -> Trials:
        return alike_together(self.first(trials)[side])

    def differences(self, trials: int) -> Trials:
        mine, theirs = self.first(trials)
        return alike_together(mine - theirs)


def alike_together(values: NDArray[np.float64]) -> Trials:
    unique, counts = np.unique(values, axis=1, return_counts=True)
    return Trials(unique[0], unique[1], counts.astype(np.float64))


class OneSide:
    """The trials of one of the two cells."""

    def __init__(self, stream: PairedStream, side: int) -> None:
        self._stream, self._side = stream, side

    def grouped(self, trials: int) -> Trials:
        return self._stream.grouped(self._side, trials)


def campaign(cells: PairedCells, rng: np.random.Generator) -> tuple[int, int, Interval]:
    """The numbers of pairs that the cells leave and that the difference needs, and its interval, as
    the engine runs them."""
    stream = PairedStream(cells, rng)
    rule = StoppingRule(cells.margin, CONFIDENCE)
    priors = [Prior(CELLS[name]().prior.clean) for name in cells.names[0]]
    left = min(
        stopped(rule, prior, OneSide(stream, side))[0]  # type: ignore[arg-type]
        for side, prior in enumerate(priors)
    )
    paired = StratifiedRule(cells.margin, CONFIDENCE)
    prior = Prior(priors[0].clean - priors[1].clean, None, -1.0, 1.0)
    targets: list[int] | None = [left]
    while targets is not None:
        (pairs,) = targets
        trials = [stream.differences(pairs)]
        targets = paired.next([1.0], trials, [prior])
    return left, pairs, paired.interval([1.0], trials, [prior])


@cache
def simulated(name: str, campaigns: int) -> tuple[float, float, float, float, float]:
    """The share of campaigns whose interval holds the gain, the mean numbers of pairs before and
    after, and the mean of the estimates with its standard error."""
    cells, rng = PAIRED[name], np.random.default_rng(SEED)
    covered = before = after = 0
    estimates = np.zeros(campaigns)
    for i in range(campaigns):
        left, pairs, interval = campaign(cells, rng)
        assert interval.half_width <= cells.margin
        assert pairs >= left
        estimates[i] = interval.estimate
        covered += interval.low <= cells.gain <= interval.high
        before += left
        after += pairs
    error = float(estimates.std(ddof=1)) / math.sqrt(campaigns)
    return (
        covered / campaigns,
        before / campaigns,
        after / campaigns,
        float(estimates.mean()),
        error,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRED)
def test_2000_campaigns_cover_the_gain(name: str) -> None:
    coverage, _, _, estimate, error = simulated(name, 2000)
    assert coverage >= COVERED
    # What the correction for sequential stopping leaves is small beside the margin.
    assert abs(estimate - PAIRED[name].gain) <= SIGMAS * error + 0.05 * PAIRED[name].margin


@pytest.mark.parametrize("name", ["rare, together", "no effect", *slow("independent", "intact")])
def test_40_campaigns_cover_the_gain(name: str) -> None:
    campaigns = 40
    coverage, *_ = simulated(name, campaigns)
    assert coverage >= COVERED - SIGMAS * math.sqrt(COVERED * (1 - COVERED) / campaigns)
