"""Is the sampler right? Counts binomial, bits uniform, trials and tensors independent.

Seeds are fixed, so a test passes or fails for good; the bounds are five standard deviations of
the tested statistic under the stated law (or a chi-square quantile of equal chance, 6e-7),
which a right sampler would miss once in two million seeds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from proact.faults import BitFlip, Injector, encode
from proact.ops import flip_bits_
from proact.ops.plan import FlipPlan

SIGMAS = 5.0
CHANCE = 6e-7


def counts(words: int, ber: float, trials: int, mask: int = 0xFFFFFFFF) -> np.ndarray:
    plan = FlipPlan()
    plan.add(torch.zeros(words, dtype=torch.int32), 77, mask, None)
    return np.array([plan.flip_unlogged(ber, 11, trial) for trial in range(trials)])


@pytest.mark.parametrize(
    ("words", "ber", "mask"),
    [
        (1, 0.03, 0xFFFFFFFF),
        (7, 1e-3, 0xFFFFFFFF),
        (1000, 1e-5, 0xFFFFFFFF),
        (1000, 1e-2, 0x7F800000),
        (5000, 1e-3, 0xFFFFFFFF),
        (333, 0.2, 0x007FFFFF),
        (100, 0.5, 0xFFFFFFFF),
        (100, 0.9, 0xFFFFFFFF),
        (1 << 20, 1e-6, 0xFFFFFFFF),
    ],
)
def test_flip_counts_are_binomial(words: int, ber: float, mask: int) -> None:
    trials = 4000
    n = words * mask.bit_count()
    seen = counts(words, ber, trials, mask)
    variance = n * ber * (1 - ber)
    assert abs(seen.mean() - n * ber) < SIGMAS * math.sqrt(variance / trials)
    # Var(s^2) = (mu4 - sigma^4 (N - 3) / (N - 1)) / N, and mu4 = 3 sigma^4 + sigma^2 (1 - 6 p q).
    fourth = 3 * variance**2 + variance * (1 - 6 * ber * (1 - ber))
    spread = math.sqrt((fourth - variance**2 * (trials - 3) / (trials - 1)) / trials)
    assert abs(seen.var(ddof=1) - variance) < SIGMAS * spread


@pytest.mark.parametrize(("words", "ber"), [(40, 1e-3), (512, 3e-4), (3, 0.5), (64, 0.99)])
def test_the_whole_distribution_of_counts_is_binomial(words: int, ber: float) -> None:
    trials, n = 20000, 32 * words
    seen = counts(words, ber, trials)
    law = stats.binom(n, ber)
    low, high = int(law.ppf(0.005)), int(law.ppf(0.995))
    expected = trials * np.array(
        [law.cdf(low), *law.pmf(np.arange(low + 1, high)), law.sf(high - 1)]
    )
    observed = np.bincount(np.clip(seen, low, high) - low, minlength=high - low + 1)
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.isf(CHANCE, len(expected) - 1)


def test_every_word_and_every_bit_is_hit_alike() -> None:
    words, trials, ber = 1500, 3000, 2e-3
    per_word, per_bit = np.zeros(words), np.zeros(32)
    plan = FlipPlan()
    plan.add(torch.zeros(words, dtype=torch.int32), 5, 0xFFFFFFFF, None)
    for trial in range(trials):
        log = plan.flip(ber, 1, trial)
        columns = log.columns()
        per_word += np.bincount(columns.element.astype(np.int64), minlength=words)
        per_bit += np.bincount(columns.bit, minlength=32)
    for seen in (per_word, per_bit):
        expected = trials * ber * 32 * words / len(seen)
        assert seen.min() > 0
        statistic = ((seen - expected) ** 2 / (expected * (1 - ber))).sum()
        assert statistic < stats.chi2.isf(CHANCE, len(seen))
        assert statistic > stats.chi2.ppf(CHANCE, len(seen)), "too even to be random"


def test_bits_of_one_word_flip_independently() -> None:
    trials, ber = 3000, 0.3
    flips = np.zeros((trials, 64))
    for trial in range(trials):
        pair = torch.zeros(2, dtype=torch.int32)
        flip_bits_(pair, ber, seed=2, trial=trial)
        flips[trial] = np.unpackbits(pair.numpy().view(np.uint8), bitorder="little")
    correlation = np.corrcoef(flips.T)[np.triu_indices(64, 1)]
    assert np.abs(correlation).max() < stats.norm.isf(CHANCE / len(correlation)) / math.sqrt(trials)


def test_trials_and_tensors_are_independent() -> None:
    """Coincidences between two patterns are as frequent as chance makes them."""
    words, ber, trials = 4000, 0.01, 300
    n = 32 * words
    rng_pairs = [("trial", 0), ("stream", 1), ("seed", 2)]
    for kind, _ in rng_pairs:
        together = 0
        for i in range(trials):
            patterns = []
            for j in (0, 1):
                names = {"seed": 9, "trial": 2 * i, "stream": 4}
                names[kind] += j
                tensor = torch.zeros(words, dtype=torch.int32)
                flip_bits_(tensor, ber, **names)
                patterns.append(np.unpackbits(tensor.numpy().view(np.uint8)))
            together += int((patterns[0] & patterns[1]).sum())
        expected, variance = trials * n * ber**2, trials * n * ber**2 * (1 - ber**2)
        assert abs(together - expected) < SIGMAS * math.sqrt(variance), kind


def test_every_tensor_of_a_model_gets_its_share(trained_cnn: nn.Module) -> None:
    trials, ber = 2000, 1e-3
    injector = Injector(encode(trained_cnn, "q15.16"), "q15.16")
    hits: dict[str, int] = {}
    for trial in range(trials):
        with injector.trial(BitFlip(ber), 1, trial) as record:
            for name in record.faults()["tensor"]:
                hits[str(name)] = hits.get(str(name), 0) + 1
    for name, parameter in trained_cnn.named_parameters():
        n = 32 * parameter.numel() * trials
        assert abs(hits[name] - n * ber) < SIGMAS * math.sqrt(n * ber * (1 - ber)), name
