"""Does the table of gradients interpolate, and grow no further than it is read?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from proact.protect.gradient_table import LOWEST, RATIO, GradientTable, significant_mean

DRAWS, SPREAD = 1000, 0.01


class Computed:
    """Gradients of two batches that are known everywhere, and where they were asked for."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, relative: float) -> Tensor:
        self.at.append(relative)
        return torch.tensor([relative**2, relative**2 + SPREAD])


@pytest.mark.parametrize("relative", [0.95, 0.6, 0.2])
def test_the_mean_over_draws_is_interpolated_linearly(relative: float) -> None:
    table = GradientTable(Computed())
    power = math.floor(math.log(relative, RATIO))
    high, low = RATIO**power, RATIO ** (power + 1)
    share = (relative - low) / (high - low)
    mean = share * high**2 + (1 - share) * low**2
    # The mean is moved by its standard error, SPREAD / 2.
    for batch, expected in enumerate((mean - SPREAD / 2, mean + SPREAD / 2)):
        found = [table.read(relative, batch, draw / DRAWS) for draw in range(DRAWS)]
        assert len(set(found)) == 2
        assert sum(found) / DRAWS == pytest.approx(expected, rel=2e-3)


def test_thresholds_above_the_start_have_its_gradient() -> None:
    table = GradientTable(Computed())
    assert table.read(1.3, 0, 0.5) == pytest.approx(1.0 - SPREAD / 2, rel=1e-6)
    assert table.batches == 2


def test_gradients_are_computed_once_and_only_as_far_as_needed() -> None:
    computed = Computed()
    table = GradientTable(computed)
    for relative in (1.0, 0.8, 0.75, 0.8, 0.5, 0.9):
        table.read(relative, 0, 0.5)
    assert computed.at == pytest.approx([1.0, RATIO, RATIO**2])


def test_the_table_ends_at_its_lowest_threshold() -> None:
    computed = Computed()
    table = GradientTable(computed)
    found = table.read(0.0, 0, 0.5)
    # The mean is below its error and counts as 0; the batches lie on both sides of it.
    assert found == pytest.approx(-SPREAD / 2, rel=1e-3)
    assert RATIO * LOWEST < computed.at[-1] <= LOWEST


def test_a_mean_within_its_error_counts_as_0() -> None:
    rough = torch.tensor([3.0, -1.0, 2.0, -2.0])
    assert float(significant_mean(rough)) == 0.0
    clear = torch.tensor([-5.0, -6.0, -7.0, -6.0])
    error = float(clear.std()) / 2
    assert float(significant_mean(clear)) == pytest.approx(-6.0 + error)
    table = GradientTable(lambda _: rough)
    assert [table.read(1.0, batch, 0.0) for batch in range(4)] == [2.5, -1.5, 1.5, -2.5]
