"""Do rates that share trials have the rows that each of them has alone?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import run_and_interrupt
from torch import nn

from conftest import slow
from proact import campaign
from proact.data import Data
from proact.faults import BitFlip, BitFlipStratum, Injector, encode
from proact.protect import protect
from proact.results import Result
from proact.results.store import Row

RATES = [1e-10, 1e-8, 1e-6]
OPTIONS: dict[str, Any] = {
    "images_per_trial": 32,
    "executor": 1,
    "margin": "30%",
    "trials": 400,
    "strata": True,
}


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return {"relu": trained_cnn, "ranger": protect(trained_cnn, "ranger", digits)}


@pytest.fixture(scope="module")
def result(variants: dict[str, nn.Module], digits: Data) -> Result:
    return campaign.run(variants, digits, [BitFlip(ber) for ber in RATES], **OPTIONS)


def rows(result: Result, ber: float) -> dict[tuple[str, str | None], list[Row]]:
    """By variant and stratum."""
    return {
        (name, stratum): list(result.rows(name, BitFlip(ber), stratum))
        for name in result.clean
        for stratum in result.cell(name, BitFlip(ber)).sampled_strata
    }


def untimed(found: list[Row]) -> list[Row]:
    return [row._replace(seconds=0.0) for row in found]


def ran(found: list[Row]) -> int:
    """The number of trials that were run. Those without a flip never are."""
    return sum(row.seconds > 0.0 for row in found if row.flips)


@pytest.mark.long
@pytest.mark.parametrize("ber", RATES)
def test_rows_are_those_of_each_rate_alone(
    ber: float, result: Result, variants: dict[str, nn.Module], digits: Data
) -> None:
    alone = campaign.run(variants, digits, [BitFlip(ber)], policy=result.policy, **OPTIONS)
    shared = rows(result, ber)
    for names, expected in rows(alone, ber).items():
        assert untimed(shared[names]) == untimed(expected)
        assert ran(expected) == len(expected)
    for name in variants:
        assert result.cell(name, BitFlip(ber)) == alone.cell(name, BitFlip(ber))
    assert result.difference("ranger", "relu")[str(BitFlip(ber))] == next(
        iter(alone.difference("ranger", "relu").values())
    )


def test_rates_run_few_trials_that_a_higher_rate_has(result: Result) -> None:
    for found in rows(result, 1e-6).values():
        assert ran(found) == len(found)
    # At 1e-6, at most every fourth pattern of a stratum has a flip more than at 1e-8.
    for found in rows(result, 1e-8).values():
        assert ran(found) <= 0.35 * len(found)
    # At 1e-8, 0.3 % of the patterns have a flip more than at 1e-10.
    for found in rows(result, 1e-10).values():
        assert ran(found) <= 0.05 * len(found) + 1


@pytest.mark.long
@pytest.mark.parametrize("more", [{"executor": 2}, *slow({"stop_after": 300}, {"stop_after": 900})])
def test_workers_and_interruptions_change_nothing(
    more: dict[str, int],
    result: Result,
    variants: dict[str, nn.Module],
    digits: Data,
    tmp_path: Path,
) -> None:
    faults = [BitFlip(ber) for ber in RATES]
    options = {**OPTIONS, "policy": result.policy, "store": tmp_path / "rows.sqlite"}
    if "stop_after" in more:
        run_and_interrupt(more["stop_after"], variants, digits, faults, **options)
    else:
        options |= more
    again = campaign.run(variants, digits, faults, **options)
    assert again.cells == result.cells
    for ber in RATES:
        for names, found in rows(again, ber).items():
            assert untimed(found) == untimed(rows(result, ber)[names])


def test_rows_that_depend_on_their_order_are_not_shared(
    trained_cnn: nn.Module, digits: Data
) -> None:
    options = {**OPTIONS, "trials": 100, "state": "keep"}
    found = campaign.run({"m": trained_cnn}, digits, [BitFlip(1e-10), BitFlip(1e-9)], **options)
    for ber in (1e-10, 1e-9):
        for mine in rows(found, ber).values():
            assert ran(mine) == len(mine)


def test_the_number_of_flips_is_known_without_injecting(trained_cnn: nn.Module) -> None:
    injector = Injector(encode(trained_cnn, "float32"))
    name = next(name for name, _ in trained_cnn.named_parameters())
    stratum = BitFlipStratum(1e-5, (30,), (name,), in_field=(1, 2), elsewhere=(0, None))
    seen = set()
    for fault in (stratum, BitFlip(1e-5)):
        for trial in range(30):
            with injector.trial(fault, 3, trial) as record:
                assert injector.number_of_flips(fault, 3, trial) == record.flips
            seen.add(record.flips)
    assert len(seen) > 3
