"""How many codewords have more flips than their code corrects? Compared with binomial tails.

The flips of a codeword with n exposed bits follow Binomial(n, BER), whatever words hold the bits.
Seeds are fixed; the bounds are five standard deviations of the number of codewords.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from proact.ops.codeword_plan import CodewordPlan

SIGMAS = 5.0


@pytest.mark.parametrize(
    ("word_bits", "words", "check_bits", "corrects", "ber"),
    [
        (32, 1, 0, 2, 1e-2),
        (32, 1, 0, 3, 0.1),
        (32, 1, 7, 1, 1e-3),
        (32, 2, 8, 1, 1e-3),
        (8, 8, 0, 1, 1e-2),
        (8, 8, 8, 1, 3e-3),
        (16, 4, 64, 2, 2e-2),
        (64, 1, 1, 0, 1e-3),
        (2, 16, 7, 2, 0.05),
        (4, 4, 5, 10, 0.5),
    ],
)
def test_the_rates_of_left_and_dropped_codewords_are_binomial_tails(
    word_bits: int, words: int, check_bits: int, corrects: int, ber: float
) -> None:
    trials, codewords = 50, 20_000
    plan = CodewordPlan()
    plan.add(
        codewords * words,
        5,
        (1 << word_bits) - 1,
        word_bits=word_bits,
        words=words,
        corrects=corrects,
        check_stream=6,
        check_mask=(1 << check_bits) - 1,
    )
    left = dropped = 0
    sizes = np.zeros(word_bits * words + check_bits + 1)
    for trial in range(trials):
        drawn = plan.draw(ber, 11, trial)
        _, flips = np.unique(drawn.places.element // np.uint64(words), return_counts=True)
        left += len(flips)
        dropped += drawn.dropped
        sizes += np.bincount(flips, minlength=len(sizes))
    law = stats.binom(word_bits * words + check_bits, ber)
    tries = trials * codewords
    for seen, chance in (
        (left, law.sf(corrects)),
        (dropped, law.cdf(corrects) - law.pmf(0)),
        *((sizes[k], law.pmf(k)) for k in range(corrects + 1, len(sizes))),
    ):
        # Very rare counts are discrete, so that one codeword more than expected is allowed.
        spread = math.sqrt(tries * chance * (1 - chance))
        assert abs(seen - tries * chance) <= SIGMAS * spread + 1
