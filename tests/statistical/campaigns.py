"""Campaigns on recorded trials: what a real network did under real faults, drawn again and again.

A recorded trial is a table of 1,000 images, right or wrong with and without faults. A simulated
trial draws one of the recorded ones and a few of its images without putting them back, which is
what the engine does; the mean over all of it is known, so that intervals can be judged by it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from proact.results.statistics import Interval, Prior, StoppingRule, Trials

RECORDED = Path(__file__).parents[1] / "data" / "trials_resnet20.csv"
_COLUMNS = ("both", "lost", "gained", "neither")
#: Trials are drawn this many at a time.
_PORTION = 128


@dataclass(frozen=True, eq=False)
class KnownCell:
    """A cell whose distribution of trials is known.

    Attributes:
        tables: (k, 4) counts of images: right with and without faults, lost, gained, neither.
        chances: (k,), of each table, adding up to 1.
    """

    tables: NDArray[np.int64]
    chances: NDArray[np.float64]

    @property
    def images(self) -> int:
        """Of each table."""
        return int(self.tables[0].sum())

    @property
    def prior(self) -> Prior:
        """Accuracy without faults, the same in every table, in [0, 1]."""
        return Prior(float(self.tables[0, 0] + self.tables[0, 1]) / self.images)

    @property
    def mean(self) -> float:
        """Mean accuracy over trials and images, in [0, 1]."""
        return float(self.chances @ (self.tables[:, 0] + self.tables[:, 2])) / self.images

    def variance(self, images: int) -> float:
        """Of a trial's accuracy on so many images, less what the network without faults explains
        of it with the best slope in [0, 1]. Exact: Cochran, Sampling Techniques, theorem 2.2."""
        right = (self.tables[:, 0] + self.tables[:, 2]) / self.images
        clean = self.prior.clean
        within = (self.images - images) / (images * (self.images - 1))
        faulty = self.chances @ (right - self.mean) ** 2
        faulty += within * (self.chances @ (right * (1.0 - right)))
        control = within * clean * (1.0 - clean)
        common = within * float(self.chances @ (self.tables[:, 0] / self.images - right * clean))
        slope = min(max(common / control, 0.0), 1.0) if control > 0.0 else 0.0
        return float(max(faulty - 2.0 * slope * common + slope**2 * control, 0.0))

    def draw(
        self, rng: np.random.Generator, trials: int, images: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images right with faults, and without, of so many drawn: (trials,) each."""
        tables = self.tables[rng.choice(len(self.tables), trials, p=self.chances)]
        left = np.full(trials, images)
        rest = tables.sum(1)
        drawn = np.zeros((trials, 3), dtype=np.int64)
        for column in range(3):  # multivariate hypergeometric, one kind after the other
            rest = rest - tables[:, column]
            drawn[:, column] = rng.hypergeometric(tables[:, column], rest, left)
            left = left - drawn[:, column]
        return drawn[:, 0] + drawn[:, 2], drawn[:, 0] + drawn[:, 1]


class Stream:
    """One campaign's trials of a cell, drawn as far as they are asked for."""

    def __init__(self, cell: KnownCell, images: int, rng: np.random.Generator) -> None:
        self._cell, self._images, self._rng = cell, images, rng
        self._right = np.zeros((2, 0), dtype=np.int64)

    def first(self, trials: int) -> NDArray[np.float64]:
        """(2, trials): accuracies in [0, 1] with faults and without, in the order of numbers."""
        while self._right.shape[1] < trials:
            more = np.stack(self._cell.draw(self._rng, _PORTION, self._images))
            self._right = np.concatenate([self._right, more], axis=1)
        return self._right[:, :trials] / self._images

    def grouped(self, trials: int) -> Trials:
        """The same, as the store gives them: like ones together."""
        self.first(trials)
        side = self._images + 1
        seen = np.bincount(self._right[0, :trials] * side + self._right[1, :trials])
        (codes,) = np.nonzero(seen)
        return Trials(
            codes // side / self._images,
            codes % side / self._images,
            seen[codes].astype(np.float64),
        )


@cache
def recorded() -> dict[str, NDArray[np.int64]]:
    """The tables of each recorded distribution, (k, 4)."""
    tables: dict[str, list[list[int]]] = {}
    with RECORDED.open(newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        for row in csv.DictReader(lines):
            tables.setdefault(row["distribution"], []).append([int(row[c]) for c in _COLUMNS])
    return {name: np.array(rows) for name, rows in tables.items()}


def _mixed(collapsed: float) -> KnownCell:
    """Trials that collapse with this probability, and else stay intact."""
    whole, broken = recorded()["intact"], recorded()["collapsed"]
    return KnownCell(
        np.concatenate([whole, broken]),
        np.concatenate(
            [
                np.full(len(whole), (1.0 - collapsed) / len(whole)),
                np.full(len(broken), collapsed / len(broken)),
            ]
        ),
    )


def mixed_in(cells: Sequence[KnownCell], weights: Sequence[float]) -> KnownCell:
    """Trials of several cells, with these relative weights."""
    tables = np.concatenate([cell.tables for cell in cells])
    chances = np.concatenate([w * cell.chances for w, cell in zip(weights, cells, strict=True)])
    return KnownCell(tables, chances / chances.sum())


def _alike(tables: NDArray[np.int64]) -> KnownCell:
    return KnownCell(tables, np.full(len(tables), 1.0 / len(tables)))


def _unchanged() -> KnownCell:
    whole = recorded()["intact"]
    return _alike(whole[(whole[:, 1] == 0) & (whole[:, 2] == 0)])


#: Cells by name: "constant" never changes an image, "rare" has 1 % of collapsed trials, "rare 3 %"
#: three, and of "rare survivors" 98 % collapse.
CELLS: dict[str, Callable[[], KnownCell]] = {
    "collapsed": lambda: _alike(recorded()["collapsed"]),
    "intact": lambda: _alike(recorded()["intact"]),
    "half-collapsed": lambda: _alike(recorded()["half-collapsed"]),
    "rare": lambda: _mixed(0.01),
    "constant": _unchanged,
    "rare 3 %": lambda: _mixed(0.03),
    "rare survivors": lambda: _mixed(0.98),
}


def stopped(rule: StoppingRule, prior: Prior, stream: Stream) -> tuple[int, Interval]:
    """Number of trials and interval of one campaign, as the engine runs it: the first target, then
    from target to target until the rule has enough."""
    target: int | None = rule.first(prior)
    enough = 0
    while target:
        enough = target
        target = rule.next(stream.grouped(enough), prior)
    return enough, rule.interval(stream.grouped(enough), prior)


def variance_oracle(cell: KnownCell, images: int, margin: float, confidence: float = 0.95) -> float:
    """Trials of one who knows the variance and trusts the normal interval: (z sd / margin)^2."""
    z = float(norm.ppf(0.5 + 0.5 * confidence))
    return z**2 * cell.variance(images) / margin**2


def zero_failure_trials(margin: float, confidence: float = 0.95) -> float:
    """Trials, all without a failure, after which the exact interval of Clopper and Pearson,
    [0, 1 - (alpha / 2)^(1 / n)], is as narrow as the margin to each side."""
    return math.log(0.5 * (1.0 - confidence)) / math.log1p(-2.0 * margin)


def guarded_oracle(cell: KnownCell, images: int, margin: float, confidence: float = 0.95) -> float:
    """Trials of one who knows the variance, and yet stops no earlier than somebody could who saw
    no failure at all and wants to exclude that there are any."""
    return max(
        variance_oracle(cell, images, margin, confidence), zero_failure_trials(margin, confidence)
    )
