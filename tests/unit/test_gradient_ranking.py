"""Does the estimate from gradients rank flips as injecting them does?"""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from proact import campaign
from proact.campaign import criticality
from proact.campaign.bit_search import BitSearch
from proact.data import Data, Split
from proact.faults import FaultSite
from proact.protect import protect


@pytest.fixture
def tiny() -> tuple[nn.Module, Split]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    inputs = torch.randn(64, 4)
    return model, Split(inputs, model(inputs).argmax(1))


def test_the_estimate_is_the_formula() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0.75)  # type: ignore[operator]
    inputs = torch.tensor([[1.0], [2.0]])

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return (output - targets).square().sum(1) / 2

    found = criticality(model, (inputs, torch.zeros(2, 1)), bits=(22, 31), loss=loss)
    (tensor,) = found.tensors
    # The loss of a sample is (w x)^2 / 2, with the gradient w x^2.
    gradients = [0.75 * x * x for x in (1.0, 2.0)]
    mean, square = sum(gradients) / 2, sum(g * g for g in gradients) / 2
    (word,) = struct.unpack("<I", struct.pack("<f", 0.75))
    for bit in (22, 31):
        (after,) = struct.unpack("<f", struct.pack("<I", word ^ 1 << bit))
        step = abs(after - 0.75)
        expected = 1.0 - math.exp(-(mean * step + square * step * step / 2))
        assert tensor.of_bits[bit] == pytest.approx(expected, rel=1e-9)
    assert tensor.mean == pytest.approx(sum(tensor.of_bits.values()) / 2, rel=1e-6)
    assert tensor.bits == 2


@pytest.mark.parametrize("encoding", ["q3.4", "int8-tensor"])
def test_flips_are_ranked_as_trying_all_of_them_ranks_them(
    tiny: tuple[nn.Module, Split], encoding: str
) -> None:
    model, split = tiny
    found = criticality(model, split, encoding, where="*.weight")
    search = BitSearch(model, split, encoding, where="*.weight")
    clean = search.harm(())
    estimated: dict[str, list[float]] = {"words": [], "bits": []}
    measured: dict[str, list[float]] = {"words": [], "bits": []}
    for tensor in found.tensors:
        changes = np.array(
            [
                [
                    abs(search.harm((FaultSite(tensor.name, element, bit),)) - clean)
                    for bit in range(8)
                ]
                for element in range(tensor.of_words.size)
            ]
        )
        estimated["words"] += tensor.of_words.reshape(-1).tolist()
        measured["words"] += changes.mean(1).tolist()
        estimated["bits"] += tensor.of_bits.values()
        measured["bits"] += changes.mean(0).tolist()
    # Bits differ by powers of 2; words of one tensor differ by their gradients alone.
    for part, least in (("bits", 0.9), ("words", 0.4)):
        assert spearmanr(estimated[part], measured[part]).statistic > least


def test_bits_and_layers_agree_with_sweeps(trained_cnn: nn.Module, digits: Data) -> None:
    found = criticality(trained_cnn, digits, "q15.16")
    assert not found.not_estimated
    assert list(found.by_bit()) == [str(bit) for bit in range(32)]
    sweep = campaign.per_bit(
        trained_cnn, digits, encoding="q15.16", trials=600, images_per_trial=50, executor=1
    )
    assert found.rank_correlation(sweep) > 0.7
    layers = campaign.per_layer(
        trained_cnn, digits, encoding="q15.16", trials=50, images_per_trial=50, executor=1
    )
    assert -1.0 <= found.rank_correlation(layers) <= 1.0
    assert set(found.by_layer()) == {stratum.name for stratum in layers.strata}


def test_words_channels_and_tensors_are_parts_of_one_estimate(
    trained_cnn: nn.Module, digits: Data
) -> None:
    found = criticality(trained_cnn, digits, "int8", where="conv*")
    weight = next(each for each in found.tensors if each.name == "conv2.weight")
    channels = found.by_channel("conv2.weight")
    assert channels.shape == (weight.shape[0],)
    assert channels.mean() == pytest.approx(weight.mean)
    words = found.words(5)
    assert words["harm"].is_monotonic_decreasing
    assert words["harm"][0] == max(float(each.of_words.max()) for each in found.tensors)
    bits = {each.name: each.bits for each in found.tensors}
    chosen = found.most_critical(0.2)
    assert 0 < sum(bits[name] for name in chosen) <= 0.2 * sum(bits.values())
    assert set(found.most_critical(1.0)) == set(bits)


def test_bits_of_words_of_several_kinds_are_kept_apart(
    trained_cnn: nn.Module, digits: Data
) -> None:
    found = criticality(trained_cnn, digits, "int8")
    bits = found.by_bit()
    # A trial for each bit of int8, of its float32 scales and of the float32 biases.
    trials = 8 + 32 + 32
    sweep = campaign.per_bit(trained_cnn, digits, encoding="int8", trials=trials, executor=1)
    assert set(bits) == {stratum.name for stratum in sweep.strata}
    weights = [each for each in found.tensors if each.word == "int8"]
    whole = sum(each.of_bits[7] * each.of_words.size for each in weights)
    assert bits["int8 7"] == pytest.approx(whole / sum(each.of_words.size for each in weights))


def test_what_cannot_be_estimated_is_named(tiny: tuple[nn.Module, Split]) -> None:
    model, split = tiny
    clipped = protect(model, "ranger", split.inputs)
    assert criticality(clipped, split).not_estimated == ("1.threshold",)
    with pytest.raises(ValueError, match=r"an encoding without a code, got float32\+bch2"):
        criticality(model, split, "float32+bch2")
    with pytest.raises(ValueError, match="without guards, and Sequential has weight_range"):
        criticality(protect(model, "weight-range"), split)
    with pytest.raises(ValueError, match="samples is at least 1, got 0"):
        criticality(model, split, samples=0)
    found = criticality(model, split)
    with pytest.raises(ValueError, match="'2.height' is not among the tensors"):
        found.by_channel("2.height")
    with pytest.raises(ValueError, match=r"share is a number in \(0, 1\], got 2"):
        found.most_critical(2)
