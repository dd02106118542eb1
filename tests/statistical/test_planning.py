"""Do plans ask for as much as it takes? Published figures, simulation and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from proact.results.statistics import (
    Components,
    TrialCost,
    components_of,
    images_per_trial,
    mean_interval,
    single_fault_trials,
    trials_for_margin,
)


@pytest.mark.parametrize(
    ("fault_space", "margin", "confidence", "trials"),
    [
        (10**12, 0.05, 0.95, 385),  # the formula's limit for an unlimited fault space
        (10**12, 0.01, 0.95, 9604),
        (10**12, 0.01, 0.99, 16588),  # with z = 2.5758
        (1000, 0.05, 0.95, 278),  # with the correction for a small one: 277.7
        (1, 0.05, 0.95, 1),
    ],
)
def test_single_faults_as_published(
    fault_space: int, margin: float, confidence: float, trials: int
) -> None:
    assert single_fault_trials(fault_space, margin, confidence) == trials


@pytest.mark.parametrize(("share", "margin"), [(0.3, 0.03), (0.1, 0.02), (0.5, 0.05)])
def test_planned_trials_reach_the_margin(share: float, margin: float) -> None:
    images, rng = 4, np.random.default_rng(1)
    between = share * (1 - share)
    # A trial fails as a whole, or loses each image with one chance in ten.
    within = (1 - share) * 0.9 * 0.1
    components = Components(between * 0.9**2, within, (1 - share) * 0.9)
    trials = trials_for_margin(margin, components=components, images=images)
    widths = []
    for _ in range(40):
        alive = rng.random(trials) >= share
        widths.append(mean_interval(alive * rng.binomial(images, 0.9, trials) / images).half_width)
    assert np.mean(widths) == pytest.approx(margin, rel=0.05)


def test_the_worst_is_assumed_by_default() -> None:
    worst = trials_for_margin(0.01)
    assert worst >= trials_for_margin(0.01, components=Components(0.2, 0.25), images=16)
    assert worst == pytest.approx(9604, rel=0.01)


@pytest.mark.parametrize("cost", [TrialCost(1.0, 0.001), TrialCost(1.0, 0.1), TrialCost(0.1, 1.0)])
@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_images_against_brute_force(cost: TrialCost, margin: float) -> None:
    cells = [Components(0.0, 0.09, 0.1), Components(0.01, 0.05, 0.9), Components(0.1, 0.1, 0.4)]

    def seconds(images: int) -> float:
        return cost.seconds(images) * sum(
            trials_for_margin(margin, components=cell, images=images) for cell in cells
        )

    chosen = images_per_trial(cells, cost, 1000, margin)
    assert 8 <= chosen <= 1000
    # Only powers of two are tried; near the best the curve is flat.
    assert seconds(chosen) <= 1.07 * min(seconds(m) for m in range(8, 1001))


def test_components_of_a_pilot() -> None:
    rng = np.random.default_rng(2)
    clean = (rng.random((40_000, 16)) < 0.9).astype(float)
    alive = rng.random(40_000) < 0.7
    right = np.where(alive[:, None], clean, 0.0)
    components = components_of(right, clean)
    # What clean images explain is the mean slope, 0.7; the rest of an image is 0.3 or 0.7 of it.
    assert components.mean == pytest.approx(0.63, abs=0.03)
    assert components.between == pytest.approx(0.81 * 0.21, rel=0.05)
    slope = 0.7
    rest = (0.7 * (1 - slope) ** 2 + 0.3 * slope**2) * 0.9 * 0.1
    assert components.within == pytest.approx(rest, rel=0.1)
    total = (right.mean(1) - slope * (clean.mean(1) - clean.mean())).var()
    assert components.variance(16) == pytest.approx(total, rel=0.02)
    assert math.isclose(components.variance(10**9), components.between, rel_tol=1e-3)
