"""Does acceptance leave room for the validation set's own error, and do early verdicts hold?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.stats import beta
from scipy.stats import t as student
from torch import Tensor

from proact.protect.distributed import DistributedContext
from proact.protect.tolerance import ToleranceTest, Verdict, upper_bound

ALONE = DistributedContext()
BATCH = 64


def judge(test: ToleranceTest, values: Tensor) -> Verdict:
    return test.judge(iter(values.split(BATCH)))


def drawn(samples: int, losses: float, gains: float, seed: int) -> tuple[Tensor, Tensor]:
    """The metric without and with clips, where shares of the samples are lost and won."""
    share = torch.rand(samples, generator=torch.Generator().manual_seed(seed)).double()
    clean = (share >= gains).double()
    clipped = torch.where(share < gains, 1.0, torch.where(share > 1 - losses, 0.0, clean))
    return clean, clipped


def test_the_bound_is_students_with_a_drop_and_a_half_more() -> None:
    drops = np.array([0.0, 1.0, 0.0, -1.0, 1.0, 0.25, 0.0])
    more = np.append(drops, 1.0)
    error = student.ppf(0.95, 7) * more.std(ddof=1) / np.sqrt(8)
    expected = (drops.sum() + 1.5) / 8 + error
    assert upper_bound(7, drops.sum(), (drops**2).sum()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("samples", [180, 1000, 10_000])
@pytest.mark.parametrize("dropped", [0, 1, 2, 5, 20, 60])
def test_the_bound_is_that_of_the_binomial_where_nothing_is_gained(
    samples: int, dropped: int
) -> None:
    exact = beta.ppf(0.95, dropped + 1, samples - dropped)
    assert 0.985 * exact <= upper_bound(samples, dropped, dropped) <= 1.06 * exact


def test_no_drop_among_few_samples_proves_nothing() -> None:
    ones = torch.ones(100, dtype=torch.float64)
    test = ToleranceTest(ones, 0.015, ALONE)
    assert not test.can_accept
    assert not judge(test, ones).accepted
    many = torch.ones(1000, dtype=torch.float64)
    test = ToleranceTest(many, 0.015, ALONE)
    assert test.can_accept
    assert judge(test, many).accepted


@pytest.mark.parametrize("tolerance", [0.005, 0.015])
@pytest.mark.parametrize("has_reference", [False, True])
def test_an_early_verdict_is_that_of_all_samples(tolerance: float, has_reference: bool) -> None:
    early = accepted = 0
    for seed in range(300):
        clean, clipped = drawn(4000, 0.04 * (seed % 30) / 30, 0.003, seed)
        test = ToleranceTest(clean, tolerance, ALONE)
        if has_reference:  # a candidate that drops or wins other samples on top
            _, before = drawn(4000, 0.01 * (seed % 10) / 10, 0.003, seed)
            test.set_reference(clean - before)
        found = judge(test, clipped)
        drops = clean - clipped
        bound = upper_bound(4000, float(drops.sum()), float(drops.square().sum()))
        assert found.accepted == (bound <= tolerance)
        accepted += found.accepted
        early += found.samples < 4000
        if found.samples == 4000:
            assert found.kept == pytest.approx(float(clipped.mean()), rel=1e-12)
    assert early > 50
    assert accepted > 20


def test_processes_judge_as_one_does() -> None:
    """Each has every other sample; sums are added up at a barrier."""
    clean, clipped = drawn(4000, 0.02, 0.003, seed=3)
    alone = ToleranceTest(clean, 0.01, ALONE).judge(iter(clipped.split(256)))
    together, sums = threading.Barrier(2, timeout=30), [torch.zeros(0), torch.zeros(0)]

    class Process(DistributedContext):
        def all_reduce_sum(self, tensor: Tensor) -> Tensor:
            sums[self.rank] = tensor
            together.wait()
            total = sums[0] + sums[1]
            together.wait()
            return total

    def run(rank: int) -> Verdict:
        context = Process(rank, 2)
        test = ToleranceTest(context.shard(clean), 0.01, context)
        return test.judge(iter(context.shard(clipped).split(128)))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, range(2)))
    for each in found:
        assert (each.accepted, each.samples) == (alone.accepted, alone.samples)
        assert each.kept == pytest.approx(alone.kept, rel=1e-12)
    assert alone.samples < 4000


def test_few_samples_reject_what_costs_more_than_the_current_candidate() -> None:
    """Close to the tolerance, only the changes against the current candidate are unknown."""
    clean, current = drawn(8000, 0.02, 0.0, seed=1)
    worse = current.clone()
    worse[torch.arange(0, 8000, 150)] = 0.0  # 0.7 % more
    alone, pairing = (ToleranceTest(clean, 0.024, ALONE) for _ in range(2))
    first = judge(pairing, current)
    assert first.accepted
    assert first.samples == 8000
    assert torch.equal(first.drops, pairing.drops(current.split(BATCH)))
    pairing.set_reference(first.drops)
    assert not judge(pairing, worse).accepted
    assert judge(pairing, worse).samples < judge(alone, worse).samples


def test_no_more_batches_are_computed_than_needed() -> None:
    clean = torch.ones(64 * BATCH, dtype=torch.float64)
    taken = 0

    def values() -> Iterator[Tensor]:
        nonlocal taken
        for batch in torch.zeros_like(clean).split(BATCH):
            taken += 1
            yield batch

    found = ToleranceTest(clean, 0.015, ALONE).judge(values())
    assert not found.accepted
    assert found.samples == BATCH * taken <= 4 * BATCH


def test_a_gain_is_accepted_at_any_tolerance() -> None:
    clean, clipped = drawn(2000, 0.0, 0.05, seed=2)
    assert judge(ToleranceTest(clean, 0.0, ALONE), clipped).accepted


def test_every_drop_is_allowed_at_a_tolerance_of_1() -> None:
    ones = torch.ones(2, dtype=torch.float64)
    assert judge(ToleranceTest(ones, 1.0, ALONE), torch.tensor([1.0, 0.0]).double()).accepted
