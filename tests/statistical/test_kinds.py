"""Do stuck cells, exact numbers of flips and rates by selector follow the laws that they state?

Bounds and seeds as in test_sampler.py: five standard deviations of the tested statistic under the
stated law, or a chi-square quantile of equal chance. Bursts: test_burst_rates.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from proact.faults import (
    BitFlip,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    StuckAt,
    Where,
    encode,
)

SIGMAS = 5.0
CHANCE = 6e-7


class Memory(nn.Module):
    """Named tensors."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def check_binomial(seen: NDArray[Any], n: int, p: float, what: str = "") -> None:
    """Mean and variance of independent counts, the latter by its own variance (test_sampler.py)."""
    trials, variance = len(seen), n * p * (1 - p)
    assert abs(seen.mean() - n * p) < SIGMAS * math.sqrt(variance / trials), what
    fourth = 3 * variance**2 + variance * (1 - 6 * p * (1 - p))
    spread = math.sqrt((fourth - variance**2 * (trials - 3) / (trials - 1)) / trials)
    assert abs(seen.var(ddof=1) - variance) < SIGMAS * spread, what


def check_uniform(seen: NDArray[Any], expected: float, relative_variance: float) -> None:
    """Chi-square of counts with one expectation; its cells' variance is a multiple of it."""
    statistic = ((seen - expected) ** 2 / (expected * relative_variance)).sum()
    assert statistic < stats.chi2.isf(CHANCE, len(seen) - 1)
    assert statistic > stats.chi2.ppf(CHANCE, len(seen) - 1), "too even to be random"


#: Scales are neither all zeros nor all ones, and tests with counts for elements spare them.
ELEMENTS = Where(exclude=Where(kind="scale"))
STUCK: list[tuple[Callable[[], nn.Module], str, Any, int, int, float]] = [
    # Memory of which every word is zero, encoding, bits, value, number of cells, BER.
    (lambda: Memory(weight=torch.zeros(20, 10)), "float32", None, 1, 6400, 1e-3),
    (lambda: Memory(weight=torch.zeros(20, 10)), "float32", "exponent", 1, 1600, 0.02),
    (lambda: Memory(weight=torch.zeros(20, 10)), "q7.8", (0, 5, 15), 1, 600, 0.7),
    (lambda: Memory(weight=torch.zeros(20, 10)), "int8", None, 1, 1600, 0.01),
    (lambda: Memory(weight=torch.zeros(9, 1), bias=torch.zeros(1)), "int8", "sign", 1, 10, 0.3),
    # And of which every word is all ones.
    (lambda: Memory(w=torch.full((90,), -1, dtype=torch.int16)), "native", 0xFF0, 0, 720, 0.02),
    (lambda: Memory(w=torch.full((2,), 255, dtype=torch.uint8)), "native", None, 0, 16, 0.5),
]


@pytest.mark.parametrize(("make", "encoding", "bits", "value", "cells", "ber"), STUCK)
def test_stuck_cells_are_binomial(
    make: Callable[[], nn.Module], encoding: str, bits: Any, value: int, cells: int, ber: float
) -> None:
    """Where no bit has the value yet, every stuck cell shows; where all have it, none does."""
    trials, injector = 1000, Injector(make(), encoding)
    stuck, other = (StuckAt(v, ber, bits=bits, where=ELEMENTS) for v in (value, 1 - value))
    assert injector.exposed_bits(stuck) == cells
    seen = np.zeros(trials)
    for trial in range(trials):
        with injector.trial(stuck, 21, trial) as record:
            seen[trial] = record.flips
    check_binomial(seen, cells, ber)
    for trial in range(20):
        with injector.trial(other, 21, trial) as record:
            assert record.flips == 0


@pytest.mark.parametrize("value", [0, 1])
def test_changes_of_stuck_bits_are_binomial_over_the_bits_of_the_other_value(value: int) -> None:
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(-(2**31), 2**31, (100,), generator=generator).to(torch.int32)
    others = sum((int(w) & 0xFFFFFFFF).bit_count() for w in words)
    others = others if value == 0 else 3200 - others
    assert 0 < others < 3200
    injector, trials, ber = Injector(Memory(w=words), "native"), 1500, 0.03
    seen = np.zeros(trials)
    for trial in range(trials):
        with injector.trial(StuckAt(value, ber), 22, trial) as record:
            seen[trial] = record.flips
    check_binomial(seen, others, ber)


def mixed(encoding: str) -> nn.Module:
    """Weights, of few bits under an integer encoding, beside biases of 32."""
    weight, bias = torch.linspace(-1, 1, 96).view(24, 4), torch.linspace(1, 2, 24)
    return encode(Memory(weight=weight, bias=bias), encoding)


@pytest.mark.parametrize(
    ("encoding", "bits", "n"),
    [
        ("float32", None, 60),
        ("float32", "mantissa", 60),
        ("int8", None, 25),
        ("int8", "sign", 7),
        ("int8", None, 1200),
        ("int8-tensor", (0, 7), 20),
        ("int4", None, 40),
    ],
)
def test_exact_flips_hit_every_bit_alike(encoding: str, bits: Any, n: int) -> None:
    """A bit counts, not a word or a tensor.

    Of N bits each trial takes n: counts have covariance proportional to I - 1/N, so that the sum of
    squares over n/N (1 - n/N) trials N / (N - 1) is a chi-square of N - 1 degrees of freedom.
    """
    model, trials = mixed(encoding), 800 if n < 100 else 200
    space, injector = FaultSpace(model, encoding, bits=bits), Injector(model, encoding)
    seen = {exposed.name: np.zeros((exposed.elements, 32)) for exposed in space}
    for trial in range(trials):
        with injector.trial(ExactFlips(n, bits=bits), 23, trial) as record:
            rows = record.faults()
        assert len(rows) == n
        for name, counts in seen.items():
            mine = rows[rows["tensor"] == name]
            counts[mine["element"].astype(int), mine["bit"]] += 1
    masks = {exposed.name: [b for b in range(32) if exposed.mask >> b & 1] for exposed in space}
    per_bit = np.concatenate([seen[name][:, masks[name]].ravel() for name in seen])
    assert len(per_bit) == space.bits
    assert per_bit.sum() == trials * n
    share = n / space.bits
    check_uniform(per_bit, trials * share, (1 - share) * space.bits / (space.bits - 1))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_every_set_of_n_bits_is_equally_likely(encoding: str, n: int) -> None:
    """Six exposed bits in two tensors: 3 weights, of eight bits in int8, and 3 biases."""
    weight, bias = torch.linspace(-1, 1, 3).view(3, 1), torch.linspace(0.5, 1, 3)
    model = encode(Memory(weight=weight, bias=bias), encoding)
    injector, trials = Injector(model, encoding), 1500
    seen: Counter[frozenset[tuple[str, int]]] = Counter()
    for trial in range(trials):
        with injector.trial(ExactFlips(n, bits=(1,), where=ELEMENTS), 24, trial) as record:
            rows = record.faults()
        seen[frozenset(zip(rows["tensor"].tolist(), rows["element"].tolist(), strict=True))] += 1
    bits = [(name, element) for name in ("weight", "bias") for element in range(3)]
    sets = [frozenset(chosen) for chosen in combinations(bits, n)]
    assert set(seen) <= set(sets)
    counts = np.array([seen[chosen] for chosen in sets])
    statistic = ((counts - trials / len(sets)) ** 2 / (trials / len(sets))).sum()
    assert statistic < stats.chi2.isf(CHANCE, len(sets) - 1)


@pytest.mark.parametrize("kind", [BitFlip, lambda ber: StuckAt(1, ber)], ids=["BitFlip", "StuckAt"])
def test_each_tensor_has_the_counts_of_its_own_rate(kind: Callable[..., Fault]) -> None:
    """Memories of zeros, in which every stuck-at-1 cell shows; no two of them move together."""
    sizes = {"fast": 40, "slow": 200, "rest": 7, "more": 100}
    model = Memory(**{name: torch.zeros(size) for name, size in sizes.items()})
    rates = {"fast": 0.05, "slow": 1e-3, "*": 0.6}
    fault, trials = kind(rates), 1000
    injector = Injector(model)
    seen = {name: np.zeros(trials) for name in sizes}
    for trial in range(trials):
        with injector.trial(fault, 25, trial) as record:
            for name, flips in record.counts().items():
                seen[name][trial] = flips
    for name, size in sizes.items():
        check_binomial(seen[name], 32 * size, rates.get(name, rates["*"]), name)
    correlation = np.corrcoef(np.stack(list(seen.values())))[np.triu_indices(len(sizes), 1)]
    assert np.abs(correlation).max() < stats.norm.isf(CHANCE / len(correlation)) / math.sqrt(trials)
    total = np.sum(list(seen.values()), axis=0)
    expected = sum(32 * size * rates.get(name, rates["*"]) for name, size in sizes.items())
    exposed = 32 * sum(sizes.values())
    assert math.isclose(injector.expected_ber(fault), expected / exposed, rel_tol=1e-12)
    spread = sum(
        32 * size * (p := rates.get(name, rates["*"])) * (1 - p) for name, size in sizes.items()
    )
    assert abs(total.mean() - expected) < SIGMAS * math.sqrt(spread / trials)


@pytest.mark.parametrize("apart", ["trial", "seed", "tensor"])
@pytest.mark.parametrize(
    ("fault", "expected", "variance"),
    [
        # Independent bits meet where both patterns have them: a binomial count.
        (StuckAt(1, 0.02), 12800 * 0.02**2, 12800 * 0.02**2 * (1 - 0.02**2)),
        # Of two sets of 300 out of 12,800 the second's share of the first is hypergeometric.
        (
            ExactFlips(300),
            300**2 / 12800,
            300 * (300 / 12800) * (1 - 300 / 12800) * (12800 - 300) / 12799,
        ),
    ],
    ids=str,
)
def test_patterns_are_independent(
    fault: Fault, expected: float, variance: float, apart: str
) -> None:
    """Coincidences of two trials', two seeds' and two tensors' patterns are as chance has them."""
    pairs, together = 400, 0
    models = [Memory(w=torch.zeros(400, dtype=torch.int32)) for _ in range(2)]
    if apart == "tensor":
        models[1] = Memory(v=torch.zeros(400, dtype=torch.int32))
    first, second = (Injector(model, "native") for model in models)
    for pair in range(pairs):
        trial, seed = 2 * pair, 26
        with first.trial(fault, seed, trial):
            one = bits_now(models[0])
        with second.trial(fault, seed + (apart == "seed"), trial + (apart == "trial")):
            together += int((one & bits_now(models[1])).sum())
    assert abs(together - pairs * expected) < SIGMAS * math.sqrt(pairs * variance)


def bits_now(model: nn.Module) -> NDArray[np.uint8]:
    (memory,) = model.parameters()
    return np.unpackbits(memory.detach().numpy().view(np.uint8))
