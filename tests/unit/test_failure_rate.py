"""Do rates of failures follow from the probability of a critical trial, and are budgets kept?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proact import campaign
from proact.data import Data
from proact.faults import BitFlip, ExactFlips
from proact.results import (
    BUDGETS,
    FailureRate,
    Interval,
    MemoryConditions,
    Result,
    bit_error_rate,
    hours_until,
)

FIT, HOURS = 500.0, 24.0
BER = bit_error_rate(FIT, HOURS)
OPTIONS: dict[str, Any] = {"images_per_trial": 50, "executor": 1}


@pytest.fixture(scope="module")
def result(trained_cnn: nn.Module, digits: Data) -> Result:
    faults = [BitFlip(BER), BitFlip(1e-6)]
    return campaign.run({"m": trained_cnn}, digits, faults, margin="30%", trials=800, **OPTIONS)


@pytest.fixture(scope="module")
def single(trained_cnn: nn.Module, digits: Data) -> Result:
    return campaign.run({"m": trained_cnn}, digits, [ExactFlips(1)], trials=800, **OPTIONS)


def test_bit_error_rates_are_those_of_toggled_bits() -> None:
    rate = FIT / 1e9 / 2**20
    assert pytest.approx(rate * HOURS, rel=1e-9) == BER
    # An odd number of upsets, each with the probability of the Poisson distribution.
    mean = 0.7
    odd = sum(mean**k * math.exp(-mean) / math.factorial(k) for k in range(1, 40, 2))
    assert bit_error_rate(1e9 * 2**20, mean) == pytest.approx(odd)
    for hours in (1e-3, 1.0, 1e6):
        assert hours_until(bit_error_rate(FIT, hours), FIT) == pytest.approx(hours)


def test_a_rate_is_the_probability_of_a_critical_trial_per_period(result: Result) -> None:
    found = result.failure_rate(FIT, HOURS, critical=0.1)["m"]
    critical = result.details(limit=0.1)["m", str(BitFlip(BER))].critical
    assert found.critical == critical
    assert found.fit.estimate == pytest.approx(1e9 * critical.estimate / HOURS)
    assert found.fit.low < found.fit.estimate < found.fit.high
    assert found.upsets == pytest.approx(FIT * found.bits / 2**20)
    # A flip is critical in a few of a hundred cases at most.
    assert 0.0 < found.fit.estimate < 0.2 * found.upsets


def test_single_flips_give_the_same_rate(result: Result, single: Result) -> None:
    found, other = (each.failure_rate(FIT, HOURS)["m"] for each in (result, single))
    assert other.fault == "ExactFlips(1)"
    assert other.bits == found.bits
    error = math.hypot(found.fit.high - found.fit.low, other.fit.high - other.fit.low) / 4
    assert abs(found.fit.estimate - other.fit.estimate) <= 4 * error


def test_several_upsets_count_as_critical_where_only_single_ones_were_measured(
    single: Result,
) -> None:
    often = single.failure_rate(FIT, 1e8)["m"]
    several = 1.0 - (1.0 - often.ber) ** often.bits
    several -= often.bits * often.ber * (1.0 - often.ber) ** (often.bits - 1)
    assert several > 0.5
    assert often.critical.high >= several


def test_a_rate_close_to_a_measured_one_is_scaled(result: Result) -> None:
    exact = result.failure_rate(FIT, HOURS)["m"].critical
    near = result.failure_rate(1.005 * FIT, HOURS)["m"].critical
    assert near.estimate == pytest.approx(1.005 * exact.estimate)


def test_a_rate_that_was_not_measured_is_refused(result: Result) -> None:
    with pytest.raises(
        ValueError, match=r"is 1\.14441e-10, and the campaign has 1\.14441e-11, 1e-06"
    ):
        result.failure_rate(FIT, 10 * HOURS)


def test_a_rate_of_zero_is_no_measured_rate(trained_cnn: nn.Module, digits: Data) -> None:
    found = campaign.run({"m": trained_cnn}, digits, [BitFlip(0.0)], trials=2, **OPTIONS)
    with pytest.raises(ValueError, match="and the campaign has 0: run a campaign at this rate"):
        found.failure_rate(FIT, HOURS)


def test_faults_in_a_part_of_the_memory_are_no_rate_of_it(
    trained_cnn: nn.Module, digits: Data
) -> None:
    faults = [BitFlip(1e-4, where="*.bias"), BitFlip(1e-4, bits="sign")]
    found = campaign.run({"m": trained_cnn}, digits, faults, trials=2, **OPTIONS)
    with pytest.raises(ValueError, match="has no BitFlip with one rate in all stored bits: run a"):
        found.failure_rate(FIT, HOURS)


def test_a_rate_without_a_flip_is_not_a_rate_of_zero(trained_cnn: nn.Module, digits: Data) -> None:
    """The probability of no flip is then 1 in double precision."""
    ber = bit_error_rate(1e-6, 1e-6)
    faults = [BitFlip(ber), ExactFlips(1)]
    rare = campaign.run({"m": trained_cnn}, digits, faults[:1], trials=2, **OPTIONS)
    with pytest.raises(ValueError, match=r"lost in rounding: .* the fault ExactFlips\(1\)"):
        rare.failure_rate(1e-6, 1e-6)
    both = campaign.run({"m": trained_cnn}, digits, faults, trials=300, **OPTIONS)
    found = both.failure_rate(1e-6, 1e-6)["m"]
    critical = both.details()["m", "ExactFlips(1)"].critical
    assert found.fault == "ExactFlips(1)"
    assert found.fit.high == pytest.approx(found.upsets * critical.high, rel=1e-6)


@pytest.mark.parametrize("images", [20, 100])
def test_a_loss_of_the_limit_is_not_critical(images: int, digits: Data) -> None:
    """Whatever binary fractions make of 1 - 0.95 and 0.05: one image of 20 is not more than 5 %."""

    class LosesOne(nn.Module):
        """Wrong about a twentieth of the images under faults, and about some anyway."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            number = x[:, 0].long()
            lost = images // 20 if not torch.equal(self.weight, torch.ones(64)) else 0
            is_right = number < images - 3 - lost
            return torch.stack([is_right.float(), 1.0 - is_right.float()], dim=1) + lost

    data = (torch.arange(float(images))[:, None], torch.zeros(images, dtype=torch.long))
    found = campaign.run(
        {"m": LosesOne()}, data, [BitFlip(0.5)], trials=10, images_per_trial="all", executor=1
    )
    assert found.cells[0].value.estimate == pytest.approx((images - 3) / images - 0.05)
    assert found.details(limit=0.05)["m", str(BitFlip(0.5))].critical.estimate == 0.0
    assert found.details(limit=0.049)["m", str(BitFlip(0.5))].critical.estimate == 1.0
    with pytest.raises(ValueError, match="limit: expected a finite number of at least 0, got -1"):
        found.details(limit=-1)


def test_a_cell_that_needs_no_trial_bounds_the_rate(trained_cnn: nn.Module, digits: Data) -> None:
    known = campaign.run({"m": trained_cnn}, digits, [BitFlip(BER)], margin=0.01, **OPTIONS)
    found = known.failure_rate(FIT, HOURS)["m"]
    assert known.cells[0].needs_no_trial
    assert found.critical.low == found.critical.estimate == 0.0
    assert found.critical.high == pytest.approx(found.bits * BER, rel=1e-3)


@pytest.mark.parametrize(
    ("fit", "verdict"),
    [
        ((2.0, 1.0, 5.0), "within"),
        ((20.0, 11.0, 50.0), "above"),
        ((9.0, 5.0, 10.5), "undecided"),
        ((5.0, 1.0, 10.0), "within"),
    ],
)
def test_a_budget_is_kept_by_the_whole_interval(
    fit: tuple[float, float, float], verdict: str
) -> None:
    rate = FailureRate("m", "f", 1, 1e-9, Interval(*fit), Interval(*fit), 1.0)
    assert rate.verdict(BUDGETS["asil-d"]) == verdict


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0.0, 1.0), "fit_per_mbit: expected a finite number above 0"),
        ((-1.0, 1.0), "fit_per_mbit: expected a finite number above 0"),
        ((1.0, 0.0), "reload_hours: expected a finite number above 0"),
        ((1.0, math.inf), "reload_hours: expected a finite number above 0"),
        ((1.0, 1.0, "asil-e"), "'asil-e'"),
        ((1.0, 1.0, 0.0), "budget: expected a finite number above 0"),
    ],
    ids=str,
)
def test_unsuitable_conditions(arguments: tuple[Any, ...], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        MemoryConditions(*arguments)


def test_the_page_has_a_section(result: Result, tmp_path: Path) -> None:
    page = result.report(tmp_path, conditions=MemoryConditions(FIT, HOURS, "asil-d")).read_text()
    assert 'id="failures-per-hour"' in page
    assert "budget of 10 FIT" in page
    assert "1.14e-11" in page
    assert 'id="failures-per-hour"' not in result.report(tmp_path).read_text()
