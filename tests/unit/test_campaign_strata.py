"""Do campaigns with strata give the same numbers as plain ones, with fewer trials?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import run_and_interrupt
from torch import nn

from conftest import slow
from proact import campaign
from proact.config.config_errors import ConfigError
from proact.config.experiment import Experiment
from proact.data import Data
from proact.faults import BitFlip, BitFlipStratum, Burst, ExactFlips, Injector, fault_from_json
from proact.protect import protect
from proact.results import Result, read
from proact.results.cells import NO_FLIPS, OWN

FAULTS = [BitFlip(1e-7), BitFlip(1e-6), BitFlip(1e-5)]
OPTIONS: dict[str, Any] = {"images_per_trial": 50, "executor": 1, "margin": 0.006}
SIGMAS = 4.0


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return {"relu": trained_cnn, "ranger": protect(trained_cnn, "ranger", digits)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strata") / "rows.sqlite"


@pytest.fixture(scope="module")
def result(variants: dict[str, nn.Module], digits: Data, path: Path) -> Result:
    return campaign.run(variants, digits, FAULTS, strata=True, store=path, **OPTIONS)


@pytest.fixture(scope="module")
def plain(variants: dict[str, nn.Module], digits: Data) -> Result:
    return campaign.run(variants, digits, FAULTS, strata=False, **OPTIONS)


def test_strata_that_never_occur_are_left_out(tmp_path: Path) -> None:
    """At this rate, the probability that no flip hits the field is below the least double."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 4))
    data = (torch.randn(60, 40), torch.randint(0, 4, (60,)))
    store = tmp_path / "rows.sqlite"
    found = campaign.run(
        {"m": model}, data, [BitFlip(0.2)], strata=True, margin=0.3, trials=200, store=store,
        executor=1,
    )  # fmt: skip
    (cell,) = found.cells
    assert cell.is_finished
    assert all(0.0 < stratum.weight <= 1.0 for stratum in cell.strata if stratum.name != NO_FLIPS)
    assert [each.cells for each in read(store)] == [found.cells]


def test_a_stratum_without_a_trial_has_the_clean_top_5(
    trained_cnn: nn.Module, digits: Data
) -> None:
    fault = BitFlip(1e-5)
    options: dict[str, Any] = {**OPTIONS, "margin": 0.2, "trials": 1}
    found = campaign.run({"m": trained_cnn}, digits, [fault], strata=True, **options)
    assert any(stratum.trials == 0 for stratum in found.cells[0].strata[:-1])
    top5 = found.details()["m", str(fault)].shares["top5"]
    assert top5.estimate > 0.9
    assert top5.low < 0.9


def test_strata_agree_with_plain_trials(result: Result, plain: Result) -> None:
    for mine, other in zip(result.cells, plain.cells, strict=True):
        assert mine.value.half_width <= 0.006
        assert mine.clean == other.clean
        # Half-widths at 95 % are about two standard errors.
        error = math.hypot(mine.value.half_width, other.value.half_width) / 2
        assert abs(mine.value.estimate - other.value.estimate) <= SIGMAS * error
        assert mine.sdc is not None
        assert other.sdc is not None
        error = math.hypot(mine.sdc.half_width, other.sdc.half_width) / 2
        assert abs(mine.sdc.estimate - other.sdc.estimate) <= SIGMAS * error
    for fault, gain in result.difference("ranger", "relu").items():
        other_gain = plain.difference("ranger", "relu")[fault]
        error = math.hypot(gain.half_width, other_gain.half_width) / 2
        assert abs(gain.estimate - other_gain.estimate) <= SIGMAS * error


def test_strata_save_trials(result: Result, plain: Result) -> None:
    saved = [
        other.trials / mine.trials
        for mine, other in zip(result.cells, plain.cells, strict=True)
        if mine.variant == "relu" and other.trials
    ]
    assert min(saved) > 1.0


def test_a_cell_is_the_weighted_sum_of_its_strata(result: Result) -> None:
    bits = {name: _bits(result, name) for name in result.clean}
    for cell in result.cells:
        weights = [stratum.weight for stratum in cell.strata]
        assert math.fsum(weights) == pytest.approx(1.0)
        assert cell.strata[-1].name == NO_FLIPS
        unflipped = (1.0 - cell.ber) ** bits[cell.variant]
        assert cell.strata[-1].weight == pytest.approx(unflipped, rel=1e-9)
        assert sum(stratum.trials for stratum in cell.strata) == cell.trials
        estimate = sum(s.weight * s.value.estimate for s in cell.strata)
        # The stop moves the interval of a cell by less than its margin.
        assert abs(cell.value.estimate - estimate) <= 0.006
        # Thresholds belong to one variant alone.
        assert (OWN in cell.sampled_strata) == (cell.variant == "ranger")


def _bits(result: Result, variant: str) -> int:
    spec = next(cell for cell in result.spec.cells if cell.variant == variant)
    assert spec.bits is not None
    return spec.bits


def test_rows_name_their_stratum(result: Result) -> None:
    cell = result.cell("relu", FAULTS[2])
    for name in cell.sampled_strata:
        rows = result.rows("relu", FAULTS[2], name)
        assert [row.trial for row in rows] == list(range(len(rows)))
    with pytest.raises(ValueError, match="were drawn in strata: name one of 0, 1"):
        result.rows("relu", FAULTS[2])
    with pytest.raises(ValueError, match="stratum"):
        result.rows("relu", FAULTS[2], "17")


def fault_of(result: Result, variant: str, fault: BitFlip, stratum: str) -> BitFlipStratum:
    """The fault of a stratum, as the store describes it."""
    cells = (cell for cell in result.spec.cells if cell.stratum and cell.stratum.name == stratum)
    spec = next(c for c in cells if (c.variant, c.fault) == (variant, str(fault)))
    with result._store.again() as store:
        ((described,),) = store.execute(
            "SELECT description FROM fault WHERE id = ?", (spec.key[1],)
        )
    found = fault_from_json(described)
    assert isinstance(found, BitFlipStratum)
    return found


def flips_of(model: nn.Module, fault: BitFlipStratum, trial: int) -> list[tuple[str, int, int]]:
    with Injector(model, "float32").trial(fault, 0, trial) as record:
        sites = record.faults()
    return [(str(site["tensor"]), int(site["element"]), int(site["bit"])) for site in sites]


def test_a_row_can_be_replayed_alone(result: Result, variants: dict[str, nn.Module]) -> None:
    """From the fault, the seed and the number of the trial; its flips lie where they should."""
    for name in result.cell("relu", FAULTS[2]).sampled_strata:
        assert name is not None
        fault = fault_of(result, "relu", FAULTS[2], name)
        # The highest bit of the exponent, whose flip multiplies small weights by 2^128.
        assert 30 in fault.critical  # type: ignore[operator]
        lowest, highest = fault.in_field
        for row in result.rows("relu", FAULTS[2], name)[:20]:
            flips = flips_of(variants["relu"], fault, row.trial)
            assert len(flips) == row.flips
            critical = sum(bit in fault.critical for _, _, bit in flips)  # type: ignore[operator]
            assert lowest <= critical <= (critical if highest is None else highest)


def test_variants_meet_the_same_faults_in_a_stratum(
    result: Result, variants: dict[str, nn.Module]
) -> None:
    for name in result.cell("relu", FAULTS[1]).sampled_strata:
        assert name is not None
        fault = fault_of(result, "relu", FAULTS[1], name)
        assert fault_of(result, "ranger", FAULTS[1], name) == fault
        for trial in range(20):
            mine, theirs = (flips_of(model, fault, trial) for model in variants.values())
            assert mine == [site for site in theirs if site[0] in fault.shared]


def test_all_trials_that_both_variants_have_are_pairs(result: Result, plain: Result) -> None:
    for found in (result, plain):
        for fault, pairs in found.pairs("ranger", "relu").items():
            cells = [found.cell(name, fault) for name in ("ranger", "relu")]
            trials = [
                {s.name: s.trials for s in cell.strata if s.name != OWN} or {"all": cell.trials}
                for cell in cells
            ]
            assert pairs >= sum(min(trials[0][name], trials[1][name]) for name in trials[0])


def test_the_distribution_of_trials_is_weighted(result: Result) -> None:
    for names in result.states:
        values = result.values(*names)
        assert math.fsum(share for _, share in values) == pytest.approx(1.0)
        mean = math.fsum(value * share for value, share in values)
        assert mean == pytest.approx(result.cell(*names).value.estimate, abs=0.02)
    for found in result.details().values():
        assert 0.0 <= found.critical.low <= found.critical.estimate <= found.critical.high <= 1.0
        # Most patterns at these rates change nothing.
        assert found.quantiles[0.5].estimate == pytest.approx(result.clean["relu"], abs=0.02)


def test_a_stored_campaign_gives_the_same(result: Result, path: Path) -> None:
    (stored,) = read(path)
    assert stored.cells == result.cells
    assert stored.details() == result.details()
    assert stored.difference("ranger", "relu") == result.difference("ranger", "relu")


@pytest.mark.long
@pytest.mark.parametrize("after", [*slow(1, 60), 150])
def test_an_interrupted_campaign_ends_in_the_same_table(
    after: int, result: Result, variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    options = {**OPTIONS, "strata": True, "store": tmp_path / "rows.sqlite"}
    run_and_interrupt(after, variants, digits, FAULTS, **options)
    (begun,) = read(tmp_path / "rows.sqlite")
    assert not begun.is_finished
    for cell in begun.cells:
        assert cell.value.low <= cell.value.estimate <= cell.value.high
    again = campaign.run(variants, digits, FAULTS, **options)
    assert again.to_pandas().equals(result.to_pandas())


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_executor(
    result: Result, variants: dict[str, nn.Module], digits: Data
) -> None:
    other = campaign.run(variants, digits, FAULTS, strata=True, **{**OPTIONS, "executor": 2})
    assert other.to_pandas().equals(result.to_pandas())


def test_strata_are_used_where_they_save_trials(trained_cnn: nn.Module, digits: Data) -> None:
    faults = [BitFlip(1e-6), BitFlip(1e-3), Burst(2, 1e-6), ExactFlips(1)]
    found = campaign.run(
        {"m": trained_cnn}, digits, faults, margin=0.02, images_per_trial=16, executor=1
    )
    strict = campaign.run(
        {"m": trained_cnn}, digits, faults[:1], margin=0.004, images_per_trial=50, executor=1
    )
    assert not any(cell.strata for cell in found.cells[1:])
    assert strict.cells[0].strata
    off = campaign.run(
        {"m": trained_cnn}, digits, faults[:1], margin=0.02, images_per_trial=16, strata=False
    )
    assert not off.cells[0].strata


@pytest.mark.parametrize(
    ("options", "faults", "error"),
    [
        (
            {"margin": 0.02},
            [Burst(2, 1e-6)],
            r"Burst\(2.* cannot have strata: .* need the fault BitFlip",
        ),
        ({"margin": 0.02}, [BitFlip({"*.weight": 1e-6, "*": 1e-7})], "one bit error rate"),
        ({"trials": 10}, FAULTS, "needs a margin, got only trials=10"),
        (
            {"margin": 0.02, "encoding": "float32+bch2"},
            FAULTS,
            r"BitFlip\(.*\) cannot have strata: .* encoding without a code; strata='auto' leaves",
        ),
        (
            {"margin": 0.02, "encoding": {"output.*": "int8", "*": "float32"}},
            FAULTS,
            "one kind of words, and these tensors have float32, float32 scale, int8;",
        ),
    ],
    ids=str,
)
def test_strata_that_are_not_possible_are_refused(
    options: dict[str, Any],
    faults: list[Any],
    error: str,
    trained_cnn: nn.Module,
    digits: Data,
) -> None:
    with pytest.raises(ValueError, match=error):
        campaign.run({"m": trained_cnn}, digits, faults, strata=True, **options)


def test_sweeps_have_strata_of_their_own(trained_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(ValueError, match="per_layer and per_bit have strata of their own"):
        campaign.per_bit(trained_cnn, digits, trials=100, strata=True)


@pytest.mark.long
@pytest.mark.parametrize("ber", [1e-12, *slow(1e-9)])
def test_a_share_of_the_loss_is_reached_at_any_rate(
    ber: float, trained_cnn: nn.Module, digits: Data
) -> None:
    options = {**OPTIONS, "margin": "25%"}
    (cell,) = campaign.run({"m": trained_cnn}, digits, [BitFlip(ber)], **options).cells
    loss = cell.clean - cell.value.estimate
    assert 0.0 < loss < 1e5 * ber
    # The correction for stopping moves the estimate after the margin was reached.
    assert cell.value.half_width <= 0.27 * loss
    (other,) = campaign.run({"m": trained_cnn}, digits, [BitFlip(100 * ber)], **options).cells
    # So rare flips do harm in proportion to their rate.
    assert (other.clean - other.value.estimate) / loss == pytest.approx(100.0, rel=0.6)


def test_a_share_of_no_loss_ends_at_the_largest_number_of_trials(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    """Flips of the lowest bits of the mantissa change no class."""
    faults = [BitFlip(1e-4, bits=(0, 1)), BitFlip(0.0)]
    options = {**OPTIONS, "margin": "10%", "trials": 60}
    found = campaign.run({"m": trained_cnn}, digits, faults, **options)
    assert [cell.trials for cell in found.cells] == [60, 0]
    assert found.cells[0].value.low < found.cells[0].clean
    page = found.report(tmp_path).read_text()
    assert "The largest number of trials ended m at" in page


@pytest.mark.parametrize("margin", ["0%", "100%", "ten%", "10", "-5 %", "%"])
def test_other_shares_are_refused(margin: str, trained_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(ValueError, match="margin: expected a number above 0, or a share"):
        campaign.run({"m": trained_cnn}, digits, FAULTS, margin=margin)


def test_sweeps_need_a_number_as_their_margin(trained_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(ValueError, match="a sweep needs a number, in the metric's unit, got '10%'"):
        campaign.per_layer(trained_cnn, digits, margin="10%")
    with pytest.raises(ConfigError, match="because the margin of the cells, 10%"):
        Experiment(margin="10%", sweeps=("layer",))


@pytest.mark.parametrize("wish", ["yes", 1])
def test_other_wishes_are_refused(wish: Any, trained_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(ValueError, match="strata: expected 'auto', True or False"):
        campaign.run({"m": trained_cnn}, digits, FAULTS, strata=wish)


def test_a_model_that_nothing_harms_has_no_strata(digits: Data) -> None:
    """Its class never changes, so the pilot finds no critical bit, and plain trials follow."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(200, 200))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, 3] = 2.0 + torch.tanh(self.weight.mean()).nan_to_num()
            return logits

    found = campaign.run(
        {"m": Constant()}, digits, [BitFlip(1e-6)], strata=True, margin=0.01, images_per_trial=8
    )
    assert not found.cells[0].strata
    assert found.cells[0].value.half_width <= 0.01
