"""The statistical tests of `verify`: are the flips of many trials independent and uniform?

The null hypothesis of every test: the flips are K ~ Binomial(bits x trials, ber) draws without
repetition within a trial. The counts in disjoint sets of bits are then independent binomials, and
Pearson's statistic over such sets, given K, is chi-square after division by 1 - ber.
"""

from __future__ import annotations

from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from proact.faults._check import Check
from proact.faults.target_memory import Target
from proact.ops.number_formats import bit_numbers
from proact.ops.plan import FlipColumns

_SLICES = 64
_BIT_NUMBERS = 256  # a bit number has eight bits
_LEAST_EXPECTED = 10.0  # flips in each cell, for the chi-square approximation to hold


class Sample:
    """The flips of many trials, as indices of exposed bits in the whole fault space."""

    def __init__(self, target: Target, ber: float) -> None:
        self.ber, self.bits = ber, target.bits
        self.trials: list[NDArray[np.uint64]] = []
        self.beyond = 0  # number of flips of bits that are not exposed
        #: The words of tensors, and the check words that some codes add.
        self.memories = [memory for tensor in target.exposed for memory in tensor.memories]
        self.words = np.array([memory.words for memory in self.memories], np.uint64)
        self.sizes = [memory.words * memory.mask.bit_count() for memory in self.memories]
        self.first_bit = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.uint64)
        self.per_word = np.array([m.mask.bit_count() for m in self.memories], np.uint64)
        # For each bit number of each tensor: the memory that has the bit, the rank of the bit in
        # this memory, and the number of elements that share a word of it. -1 is no memory.
        shape = (len(target.exposed), _BIT_NUMBERS)
        self._memory, self._rank = np.full(shape, -1), np.zeros(shape, np.uint64)
        self._elements = np.ones(shape, np.uint64)
        number = 0
        for index, tensor in enumerate(target.exposed):
            for memory in tensor.memories:
                bits = np.array(bit_numbers(memory.mask)) + memory.first_bit
                self._memory[index, bits] = number
                self._rank[index, bits] = np.arange(len(bits))
                if memory.first_bit:
                    self._elements[index, bits] = tensor.words_per_check
                number += 1

    def add(self, columns: FlipColumns) -> None:
        """Adds the flips of one trial."""
        place = columns.tensor, columns.bit
        memory, rank = self._memory[place], self._rank[place]
        word, beside = np.divmod(columns.element, self._elements[place])
        inside = (memory >= 0) & (word < self.words[memory]) & (beside == 0)
        self.beyond += int((~inside).sum())
        memory, rank, word = memory[inside], rank[inside], word[inside]
        number = self.first_bit[memory] + word * self.per_word[memory] + rank
        self.trials.append(np.asarray(number, np.uint64))

    @property
    def counts(self) -> NDArray[np.int64]:
        """The number of flips in each trial."""
        return np.array([len(trial) for trial in self.trials], np.int64)


def statistical_checks(sample: Sample, other: Sample) -> list[Check]:
    """All statistical checks; ``other`` is a sample of the same size with another seed."""
    return [
        _distinct(sample),
        _mean(sample),
        _variance(sample),
        *_uniform(sample),
        _neighbours(sample),
        _overlaps(sample),
        _other_seed(sample, other),
    ]


def _distinct(sample: Sample) -> Check:
    repeated = sum(len(trial) - len(np.unique(trial)) for trial in sample.trials)
    return Check(
        "only exposed bits, each at most once",
        f"{repeated} repeated, {sample.beyond} beyond",
        "0 and 0",
        holds=repeated == 0 and sample.beyond == 0,
    )


def _mean(sample: Sample) -> Check:
    counts = sample.counts
    law = stats.binom(sample.bits * len(counts), sample.ber)
    return Check(
        "flips per trial, mean",
        f"{counts.mean():.6g}",
        f"{sample.bits * sample.ber:.6g}",
        _two_sided(law, int(counts.sum())),
    )


def _variance(sample: Sample) -> Check:
    """Tests the sum of squared deviations from the expected mean.

    Its variance follows from the fourth central moment of the binomial distribution:
    mu_4 = v^2 (3 + (1 - 6 p q) / v).
    """
    counts = sample.counts
    q = 1.0 - sample.ber
    variance = sample.bits * sample.ber * q
    squares = float(((counts - sample.bits * sample.ber) ** 2).sum())
    spread = variance * sqrt(len(counts) * (2.0 + (1.0 - 6.0 * sample.ber * q) / variance))
    z = (squares - len(counts) * variance) / spread
    return Check(
        "flips per trial, variance",
        f"{squares / len(counts):.6g}",
        f"{variance:.6g}",
        _two_sided_normal(z),
    )


def _uniform(sample: Sample) -> list[Check]:
    flips = np.concatenate(sample.trials)
    memories = np.searchsorted(sample.first_bit, flips, side="right") - 1
    found = np.bincount(memories, None, len(sample.sizes))
    checks = [_chi_square("flips over tensors", sample, found, sample.sizes)]

    edges = np.linspace(0, sample.bits, min(_SLICES, sample.bits) + 1).astype(np.uint64)
    slices = np.searchsorted(edges, flips, side="right") - 1
    widths = np.diff(edges.astype(np.float64)).tolist()
    found = np.bincount(slices, None, len(widths))
    checks.append(_chi_square("flips over elements", sample, found, widths))

    ranks = (flips - sample.first_bit[memories]) % sample.per_word[memories]
    bit_of = np.zeros((len(sample.memories), _BIT_NUMBERS), np.int64)
    exposed_words = np.zeros(_BIT_NUMBERS)
    for index, memory in enumerate(sample.memories):
        bits = np.array(bit_numbers(memory.mask)) + memory.first_bit
        bit_of[index, : len(bits)] = bits
        exposed_words[bits] += memory.words
    hit = bit_of[memories, ranks]
    used = exposed_words > 0
    checks.append(
        _chi_square(
            "flips over bit positions",
            sample,
            np.bincount(hit, None, _BIT_NUMBERS)[used],
            exposed_words[used].tolist(),
        )
    )
    return checks


def _chi_square(
    name: str, sample: Sample, found: NDArray[np.int64], sizes: list[float] | list[int]
) -> Check:
    """Pearson's test of counts against sizes; small cells are merged, in order of size."""
    total = int(found.sum())
    cells: list[list[float]] = [[0.0, 0.0]]
    for n, size in sorted(zip(found.tolist(), sizes, strict=True), key=lambda cell: cell[1]):
        if cells[-1][1] * total >= _LEAST_EXPECTED * sum(sizes):
            cells.append([0.0, 0.0])
        cells[-1][0] += n
        cells[-1][1] += size
    if len(cells) > 1 and cells[-1][1] * total < _LEAST_EXPECTED * sum(sizes):
        n, size = cells.pop()
        cells[-1][0] += n
        cells[-1][1] += size
    observed = np.array([n for n, _ in cells])
    expected = np.array([size for _, size in cells]) * total / sum(sizes)
    degrees = len(cells) - 1
    if degrees == 0:
        return Check(name, f"{len(sizes)} cells", "too few flips to test")
    statistic = float(((observed - expected) ** 2 / expected).sum()) / (1.0 - sample.ber)
    return Check(
        name,
        f"chi-square {statistic:.1f}",
        f"{degrees} +- {sqrt(2 * degrees):.0f}",
        float(stats.chi2.sf(statistic, degrees)),
    )


def _neighbours(sample: Sample) -> Check:
    """Spearman's rank correlation of the counts of consecutive trials."""
    counts, name = sample.counts, "counts of consecutive trials"
    if len(set(counts[1:].tolist())) == 1 or len(set(counts[:-1].tolist())) == 1:
        return Check(name, "all the same", "too few flips to test")
    found = stats.spearmanr(counts[1:], counts[:-1])
    return Check(
        name,
        f"rank correlation {found.statistic:.3f}",
        f"0 +- {1 / sqrt(len(counts) - 2):.3f}",
        float(found.pvalue),
    )


def _overlaps(sample: Sample) -> Check:
    """Tests the number of bits that two trials share, over all pairs of trials.

    A bit is hit by m ~ Binomial(trials, ber) trials and adds C(m, 2) pairs; C(m, 2)^2 =
    6 C(m, 4) + 6 C(m, 3) + C(m, 2), and E C(m, k) = C(trials, k) ber^k.
    """
    n, p = len(sample.trials), sample.ber
    times = np.unique(np.concatenate(sample.trials), return_counts=True)[1].astype(np.float64)
    shared = float((times * (times - 1.0) / 2.0).sum())
    mean = comb(n, 2) * p**2
    square = 6.0 * comb(n, 4) * p**4 + 6.0 * comb(n, 3) * p**3 + mean
    return _count_check(
        "bits shared by two trials", shared, sample.bits * mean, sample.bits * (square - mean**2)
    )


def _other_seed(sample: Sample, other: Sample) -> Check:
    """Tests the number of bits that the same trial of another seed shares."""
    shared = sum(
        len(np.intersect1d(a, b)) for a, b in zip(sample.trials, other.trials, strict=True)
    )
    chance, places = sample.ber**2, sample.bits * len(sample.trials)
    return _count_check(
        "bits shared with another seed", shared, places * chance, places * chance * (1.0 - chance)
    )


def _count_check(name: str, found: float, mean: float, variance: float) -> Check:
    """Tests a count: under the Poisson distribution if the mean is small, else the normal one."""
    if mean < 1000.0:
        p = _two_sided(stats.poisson(mean), found)
    else:
        p = _two_sided_normal((found - mean) / sqrt(variance))
    return Check(name, f"{found:.0f}", f"{mean:.4g} +- {sqrt(variance):.2g}", p)


def _two_sided(law: Any, found: float) -> float:
    """The two-sided p-value of a count under a discrete distribution."""
    return min(1.0, 2.0 * float(min(law.cdf(found), law.sf(found - 1))))


def _two_sided_normal(z: float) -> float:
    return 2.0 * float(stats.norm.sf(abs(z)))
