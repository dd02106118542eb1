"""Do sweeps over layers and bits find what plain campaigns do, and try where it helps?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from proact import campaign, results
from proact.data import Data
from proact.faults import BitFlip, ExactFlips, FaultSpace, Where
from result_rows import rows_of


@pytest.fixture(scope="module")
def by_layer(trained_cnn: nn.Module, digits: Data) -> results.Result:
    return campaign.per_layer(trained_cnn, digits, encoding="q15.16", margin=0.02)


def test_layers_share_out_the_fault_space(by_layer: results.Result, trained_cnn: nn.Module) -> None:
    space = FaultSpace(trained_cnn, "q15.16")
    for stratum in by_layer.strata:
        mine = sum(e.bits for e in space if e.stored.layer == stratum.name)
        assert stratum.share == pytest.approx(mine / space.bits)
    assert sum(stratum.share for stratum in by_layer.strata) == pytest.approx(1.0)
    assert by_layer.whole.half_width <= 0.02


@pytest.mark.long
def test_the_whole_is_that_of_an_unstratified_campaign(
    by_layer: results.Result, trained_cnn: nn.Module, digits: Data
) -> None:
    by_bit = campaign.per_bit(trained_cnn, digits, encoding="q15.16", margin=0.01)
    plain = campaign.run(
        {"m": trained_cnn}, digits, [ExactFlips(1)], encoding="q15.16", margin=0.02, seed=1
    ).cells[0]
    for sweep in (by_layer, by_bit):
        # Two independent estimates; the intervals are 95 % wide, and seeds are fixed.
        assert abs(sweep.whole.estimate - plain.value.estimate) < 0.03
    high = [stratum.loss.estimate for stratum in by_bit.strata[24:]]
    low = [stratum.loss.estimate for stratum in by_bit.strata[:12]]
    assert min(high) > 0.1
    assert max(low) < 0.02
    trials = [stratum.trials for stratum in by_bit.strata]
    assert min(trials[24:]) > max(trials[:12])


def test_bits_of_a_field_together(trained_cnn: nn.Module, digits: Data) -> None:
    options: dict[str, Any] = {"trials": 400, "images_per_trial": 16}
    sweep = campaign.per_bit(trained_cnn, digits, encoding="q15.16", **options)
    assert [field.name for field in sweep.fields] == ["fraction", "integer", "sign"]
    fraction, integer, sign = sweep.fields
    bits = sweep.strata[16:31]
    # All bits of q15.16 have the same share.
    assert integer.share == pytest.approx(15 / 32)
    assert integer.loss.estimate == pytest.approx(sum(bit.loss.estimate for bit in bits) / 15)
    widths = [bit.loss.estimate - bit.loss.low for bit in bits]
    expected = math.sqrt(sum(width**2 for width in widths)) / 15
    assert integer.loss.estimate - integer.loss.low == pytest.approx(expected)
    assert integer.trials == sum(bit.trials for bit in bits)
    assert (sign.loss, sign.value) == (sweep.strata[31].loss, sweep.strata[31].value)
    whole = sum(field.share * field.value.estimate for field in (fraction, integer, sign))
    assert whole == pytest.approx(sweep.whole.estimate)


def test_fields_of_words_of_several_kinds(trained_cnn: nn.Module, digits: Data) -> None:
    weights = ExactFlips(1, where=Where(kind=("weight", "scale")))
    options: dict[str, Any] = {"encoding": "mxfp4", "trials": 60, "images_per_trial": 16}
    sweep = campaign.per_bit(trained_cnn, digits, weights, **options)
    space = FaultSpace(trained_cnn, "mxfp4", weights.where)
    scales = sum(each.bits for each in space if each.stored.kind == "scale") / space.bits
    assert {field.name: field.share for field in sweep.fields} == pytest.approx(
        {
            "mxfp4 mantissa": (1 - scales) / 4,
            "mxfp4 exponent": (1 - scales) / 2,
            "mxfp4 sign": (1 - scales) / 4,
            "e8m0 scale exponent": scales,
        }
    )


def test_layers_have_no_fields(by_layer: results.Result) -> None:
    with pytest.raises(ValueError, match="only per_bit has fields"):
        _ = by_layer.fields


def test_strata_are_cells_of_their_own(by_layer: results.Result) -> None:
    frame = by_layer.to_pandas()
    assert list(frame["layer"]) == ["conv1", "conv2", "conv3", "hidden", "output"]
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()
    (clean,) = by_layer.clean.values()
    assert list(frame["loss"]) == pytest.approx(list(clean - frame["value"]))
    for (_, fault), rows in rows_of(by_layer).items():
        assert all(row.flips == 1 for row in rows), fault
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(by_layer.table())
    assert "conv2" in console.export_text()
    console.file.close()


def test_a_fixed_number_of_trials_is_shared_out(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    store = tmp_path / "rows.sqlite"
    options = {"encoding": "q15.16", "images_per_trial": 16, "store": store}
    first = campaign.per_layer(trained_cnn, digits, trials=400, **options)
    given = [stratum.trials for stratum in first.strata]
    assert 390 < sum(given) <= 400
    assert min(given) >= 32
    again = campaign.per_layer(trained_cnn, digits, trials=400, **options)
    assert again.whole == first.whole
    rates = campaign.per_layer(
        trained_cnn, digits, BitFlip(1e-4, where="conv*"), trials=100, images_per_trial=16
    )
    assert [stratum.name for stratum in rates.strata] == ["conv1", "conv2", "conv3"]


def test_bits_of_different_words_are_strata_of_their_own(digits: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10).double(), nn.Linear(10, 10))
    model[1].float()
    model[2].half().float()
    sweep = campaign.per_bit(
        model, digits, encoding="int8", trials=1000, images_per_trial=16,
    )  # fmt: skip
    # Weights are int8 with a float32 scale for each channel; biases keep float32.
    expected = [f"int8 {bit}" for bit in range(8)]
    expected += [f"float32 scale {bit}" for bit in range(32)]
    expected += [f"float32 {bit}" for bit in range(32)]
    assert [stratum.name for stratum in sweep.strata] == expected
    total = (640 + 100) * 8 + (10 + 10) * 32 * 2
    assert sweep.strata[0].share == pytest.approx((640 + 100) / total)
    assert sweep.strata[8].share == pytest.approx(20 / total)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"margin": 0.0}, "margin"),
        ({"trials": 0}, "trials: expected an integer"),
        ({"trials": 4}, "at least one for each of the"),
        ({"confidence": 1.0}, "confidence"),
        ({"fault": ExactFlips(1, where="nothing")}, "'nothing' matches no"),
    ],
)
def test_bad_input(
    options: dict[str, object], words: str, trained_cnn: nn.Module, digits: Data
) -> None:
    for sweep in (campaign.per_layer, campaign.per_bit):
        with pytest.raises(ValueError, match=words):
            sweep(trained_cnn, digits, **options)
