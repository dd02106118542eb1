"""Does a campaign run the pairs that differences need, and only those?"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from interrupted_runs import run_and_interrupt
from torch import Tensor, nn

from conftest import slow
from proact import campaign
from proact.config.experiment import Experiment
from proact.config.reading import read_experiment
from proact.data import Data
from proact.faults import BitFlip
from proact.protect import protect
from proact.results import Result, read
from proact.results.store import Store

FAULTS = [BitFlip(1e-12), BitFlip(1e-5), BitFlip(1e-4)]
OPTIONS: dict[str, Any] = {"images_per_trial": 50, "executor": 1, "margin": 0.03, "strata": False}


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return {
        "relu": trained_cnn,
        "ranger": protect(trained_cnn, "ranger", digits),
        "weight-range": protect(trained_cnn, "weight-range", digits),
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differences") / "rows.sqlite"


@pytest.fixture(scope="module")
def result(variants: dict[str, nn.Module], digits: Data, path: Path) -> Result:
    return campaign.run(variants, digits, FAULTS, store=path, **OPTIONS)


@pytest.fixture(scope="module")
def without(variants: dict[str, nn.Module], digits: Data) -> Result:
    return campaign.run(variants, digits, FAULTS, difference_margin=False, **OPTIONS)


def trials(result: Result) -> dict[tuple[str, str], int]:
    return {(cell.variant, cell.fault): cell.trials for cell in result.cells}


def test_differences_to_the_first_variant_reach_the_margin(result: Result) -> None:
    for name in ("ranger", "weight-range"):
        gains = result.difference(name, "relu")
        # The rarest faults need no trial, so that there are no pairs.
        assert list(gains) == [str(fault) for fault in FAULTS[1:]]
        assert all(gain.half_width <= 0.03 for gain in gains.values())


def test_cells_do_not_use_the_trials_of_pairs(result: Result, without: Result) -> None:
    assert result.cells == without.cells
    assert result.details() == without.details()


def test_without_a_margin_pairs_are_those_of_the_cells(result: Result, without: Result) -> None:
    needed, more = trials(without), 0
    for name in ("ranger", "weight-range"):
        for fault, pairs in without.pairs(name, "relu").items():
            assert pairs == min(needed[name, fault], needed["relu", fault])
            assert result.pairs(name, "relu")[fault] >= pairs
            more += result.pairs(name, "relu")[fault] - pairs
    assert more > 0


def test_a_difference_is_the_mean_over_all_pairs(result: Result, path: Path) -> None:
    """By plain arithmetic: up to what the clean results on the drawn images explain."""
    keys = {(cell.variant, cell.fault): cell.key for cell in result.spec.cells}
    store = Store(path)
    for name in ("ranger", "weight-range"):
        for fault, gain in result.difference(name, "relu").items():
            rows = [
                store.rows(keys[each, fault], result.pairs(name, "relu")[fault])
                for each in (name, "relu")
            ]
            gains = [mine.value - other.value for mine, other in zip(*rows, strict=True)]
            error = np.std(gains) / math.sqrt(len(gains))
            # A rule that stops at a width moves the mean by about one trial.
            assert gain.estimate == pytest.approx(np.mean(gains), abs=4 * error + 1 / len(gains))
    store.close()


def test_a_stored_campaign_gives_the_same(result: Result, path: Path) -> None:
    (stored,) = read(path)
    for name in ("ranger", "weight-range"):
        assert stored.difference(name, "relu") == result.difference(name, "relu")
        assert stored.pairs(name, "relu") == result.pairs(name, "relu")
    assert stored.pairs("ranger", "weight-range") == result.pairs("ranger", "weight-range")


@pytest.mark.long
@pytest.mark.parametrize("more", [*slow({"executor": 2}, {"stop_after": 40}), {"stop_after": 600}])
def test_pairs_depend_on_rows_alone(
    more: dict[str, int],
    result: Result,
    variants: dict[str, nn.Module],
    digits: Data,
    tmp_path: Path,
) -> None:
    """Not on the number of workers, nor on interruptions in the cells or in the pairs."""
    options = {**OPTIONS, "store": tmp_path / "rows.sqlite", "policy": result.policy}
    if "stop_after" in more:
        run_and_interrupt(more["stop_after"], variants, digits, FAULTS, **options)
    else:
        options |= more
    again = campaign.run(variants, digits, FAULTS, **options)
    assert again.cells == result.cells
    for name in ("ranger", "weight-range"):
        assert again.pairs(name, "relu") == result.pairs(name, "relu")
        assert again.difference(name, "relu") == result.difference(name, "relu")


def test_differences_have_a_margin_of_their_own(
    variants: dict[str, nn.Module], digits: Data, without: Result
) -> None:
    narrow = campaign.run(variants, digits, FAULTS[1:2], difference_margin=0.02, **OPTIONS)
    (gain,) = narrow.difference("weight-range", "relu").values()
    assert gain.half_width <= 0.02
    fault = str(FAULTS[1])
    assert narrow.cell("relu", fault) == without.cell("relu", fault)


@pytest.mark.long
def test_pairs_in_strata_reach_the_margin(variants: dict[str, nn.Module], digits: Data) -> None:
    options = {**OPTIONS, "strata": True, "margin": 0.006}
    found = campaign.run(variants, digits, [BitFlip(3e-6)], **options)
    cells = {cell.variant: cell for cell in found.cells}
    assert all(cell.strata for cell in cells.values())
    for name in ("ranger", "weight-range"):
        (gain,) = found.difference(name, "relu").values()
        assert gain.half_width <= 0.006
        # The two means were estimated from fewer trials, each to the margin.
        apart = cells[name].value.estimate - cells["relu"].value.estimate
        assert abs(gain.estimate - apart) <= 4 / 2 * math.hypot(0.006, 0.006, 0.006)


class Failing(nn.Module):
    """Answers like a model, but raises while any of its numbers is changed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self._intact = [parameter.detach().clone() for parameter in self.model.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        now = self.model.parameters()
        if not all(torch.equal(a, b) for a, b in zip(now, self._intact, strict=True)):
            raise RuntimeError("a number has changed")
        answer: Tensor = self.model(x)
        return answer


def test_a_variant_that_always_fails_does_not_change_other_differences() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    images = torch.randn(200, 8)
    data = images, base(images).argmax(1)
    options: dict[str, Any] = {
        **OPTIONS, "margin": 0.05, "difference_margin": 0.03, "on_error": "exclude"
    }  # fmt: skip
    models = {"base": base, "good": copy.deepcopy(base)}
    expected = campaign.run(models, data, [BitFlip(1e-3)], **options)
    found = campaign.run({**models, "bad": Failing(base)}, data, [BitFlip(1e-3)], **options)
    assert found.difference("good", "base") == expected.difference("good", "base")
    assert found.pairs("good", "base") == expected.pairs("good", "base")
    (gain,) = found.difference("good", "base").values()
    assert gain.half_width <= 0.03
    # Nothing is known of a variant whose trials all failed, and no further ones ran.
    bad = found.cell("bad", BitFlip(1e-3))
    assert found.pairs("bad", "base") == {bad.fault: bad.failed}
    assert bad.trials == 0


@pytest.mark.long
def test_a_difference_does_not_depend_on_the_other_variants(
    variants: dict[str, nn.Module], digits: Data, result: Result
) -> None:
    for name in ("ranger", "weight-range"):
        two = {key: variants[key] for key in ("relu", name)}
        alone = campaign.run(two, digits, FAULTS, policy=result.policy, **OPTIONS)
        assert alone.difference(name, "relu") == result.difference(name, "relu")
        assert alone.pairs(name, "relu") == result.pairs(name, "relu")


def test_differences_to_other_variants_use_the_trials_of_cells(result: Result) -> None:
    needed = trials(result)
    for fault, pairs in result.pairs("weight-range", "ranger").items():
        assert pairs == min(needed["weight-range", fault], needed["ranger", fault])


def test_a_margin_relative_to_the_loss_needs_no_further_pairs(
    variants: dict[str, nn.Module], digits: Data
) -> None:
    options = {**OPTIONS, "margin": "50%", "trials": 200}
    found = campaign.run(variants, digits, FAULTS[2:], **options)
    needed, fault = trials(found), str(FAULTS[2])
    assert found.pairs("ranger", "relu")[fault] == min(
        needed["ranger", fault], needed["relu", fault]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 10, "difference_margin": 0.1}, "needs a margin, got only trials=10"),
        (
            {"margin": 0.1, "difference_margin": 2.0},
            "difference_margin: a margin is at most 1, the width",
        ),
        ({"margin": 0.1, "difference_margin": 0.0}, "above 0, or False"),
        ({"margin": 0.1, "difference_margin": True}, "above 0, or False"),
        ({"margin": 0.1, "difference_margin": "10%"}, "above 0, or False"),
    ],
)
def test_other_margins_are_refused(
    options: dict[str, Any], message: str, variants: dict[str, nn.Module], digits: Data
) -> None:
    with pytest.raises(ValueError, match=message):
        campaign.run(variants, digits, FAULTS, **options)


def reread(tmp_path: Path, line: str) -> tuple[Experiment, Experiment]:
    """An experiment file with one line, and the file that its run writes."""
    given, written = tmp_path / "given.yaml", tmp_path / "written.yaml"
    given.write_text(f"proact: 1\n{line}\n")
    experiment = read_experiment(given)
    written.write_text(yaml.safe_dump(experiment.to_plain()))
    return experiment, read_experiment(written)


@pytest.mark.parametrize(("text", "margin"), [("off", False), ("0.02", 0.02), ("false", False)])
def test_files_turn_further_pairs_off(text: str, margin: object, tmp_path: Path) -> None:
    for experiment in reread(tmp_path, f"difference_margin: {text}"):
        assert experiment.difference_margin == margin


@pytest.mark.parametrize(
    ("text", "strata"), [("off", False), ("on", True), ("false", False), ("auto", "auto")]
)
def test_files_turn_strata_off(text: str, strata: object, tmp_path: Path) -> None:
    for experiment in reread(tmp_path, f"strata: {text}"):
        assert experiment.strata == strata


def test_other_words_are_refused_in_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="strata: expected 'auto', True or False, got 'of'"):
        reread(tmp_path, "strata: of")
