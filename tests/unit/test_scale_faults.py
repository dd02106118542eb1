"""Flips in scales: what they change, what they cost nothing of, and how they are undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact import ProactError, campaign
from proact.campaign import criticality, worst_case
from proact.data import Data
from proact.encodings.scaled_words import ScaledWord, StoredScale
from proact.faults import (
    ActivationFlip,
    BitFlip,
    ExactFlips,
    FaultSpace,
    Injector,
    Replay,
    StuckAt,
    Where,
    encode,
    inject,
)
from proact.faults.mixed_encoding import checked_encoding

SCALES = Where(kind="scale")
ENCODINGS = ["int8", "int8-tensor", "mxfp4", "mxfp8_e5m2", "mxint8", "nvfp4", "int4-group32-zero"]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 10), nn.ReLU()
    )


@pytest.fixture(params=["native", "plain"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Numbers are read again by native code, or by numpy."""
    if request.param == "plain":
        from proact.faults import target_memory

        monkeypatch.setattr(target_memory, "scale_plan", lambda *_: None)
    return request.param


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def expected_weights(
    model: nn.Module, encoding: str, sites: list[tuple[str, int, int]]
) -> dict[str, Tensor]:
    """The parameters after flips, word by word: elements and scales are flipped and then read."""
    space = list(FaultSpace(model, encoding))
    masks = {each.name: np.zeros(each.elements, np.uint64) for each in space}
    for name, element, bit in sites:
        masks[name][element] ^= np.uint64(1 << bit)
    found = {}
    for exposed in space:
        if isinstance(exposed.stored, StoredScale):
            continue
        elements = np.arange(exposed.elements, dtype=np.uint64)
        values = exposed.tensor.detach().reshape(-1).double().numpy()
        plain = exposed.word.values(
            exposed.word.words(values, elements) ^ masks[exposed.name], elements
        )
        if isinstance(exposed.word, ScaledWord):
            word = exposed.word
            clean = word.scales[word.layout.numbers(elements)]
            factor, shift = np.ones(len(elements)), np.zeros(len(elements))
            for part in word.parts:
                numbers = part.layout.numbers(elements)
                before = part.word.words(part.values(np.arange(part.memory.numel())), elements[:0])
                name = f"{exposed.name}:{part.name}"
                words = before ^ masks[name]
                now = part.word.values(words, np.zeros(len(words), np.uint64))[numbers]
                then = part.word.values(before, np.zeros(len(before), np.uint64))[numbers]
                if part.is_zero_point:
                    shift = then - now
                else:
                    factor = factor * (now / then)
            with np.errstate(all="ignore"):
                plain = (plain / clean + shift) * (clean * factor)
        found[exposed.name] = torch.from_numpy(plain).view(exposed.tensor.shape)
    return found


def agree(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        got, wanted = parameter.detach().double(), expected[name].float().double()
        assert torch.equal(got.isnan(), wanted.isnan()), name
        assert torch.allclose(got, wanted, rtol=1e-6, atol=0.0, equal_nan=True), name


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.usefixtures("engine")
def test_flips_in_elements_and_scales(model: nn.Module, encoding: str) -> None:
    """Many flips, so that blocks have several in their elements, scales and tensor scale."""
    model = encode(model, encoding)
    before = bits_of(model)
    for trial, ber in enumerate([1e-3, 0.02, 0.2]):
        with inject(model, BitFlip(ber), encoding, trial=trial) as record:
            rows = record.faults()
            sites = [(str(r["tensor"]), int(r["element"]), int(r["bit"])) for r in rows]
            assert record.flips == len(sites)
        assert same_bits(before, model)
        expected = expected_weights(model, encoding, sites)
        with inject(model, Replay(sites), encoding):
            agree(model, expected)
        assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_both_engines_give_the_same_bits(
    model: nn.Module, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proact.faults import target_memory

    model = encode(model, encoding)
    found = []
    for _ in range(2):
        with inject(model, BitFlip(0.01), encoding, seed=4):
            found.append(weights(model))
        monkeypatch.setattr(target_memory, "scale_plan", lambda *_: None)
        model = encode(model, encoding)
    for name, values in found[0].items():
        assert torch.equal(values.nan_to_num(nan=7.0), found[1][name].nan_to_num(nan=7.0))


def test_a_scale_of_int8_changes_its_channel(model: nn.Module) -> None:
    model = encode(model, "int8")
    before = model[3].weight.detach().clone()
    with inject(model, Replay([("3.weight:scale", 2, 23)]), "int8") as record:
        ratio = model[3].weight[2] / before[2]
        assert ratio.isfinite().any()
        assert set(ratio[before[2] != 0].tolist()) <= {0.5, 2.0}
        others = [row for row in range(10) if row != 2]
        assert torch.equal(model[3].weight[others], before[others])
        assert record.changed == ["3.weight"]
        assert record.counts("kind") == {"scale": 1}
        assert record.counts("layer") == {"3": 1}
    assert torch.equal(model[3].weight, before)


def test_scales_are_chosen_and_spared(model: nn.Module) -> None:
    model = encode(model, "nvfp4")
    whole = FaultSpace(model, "nvfp4")
    parts = {each.name: each.bits for each in whole}
    chosen = FaultSpace(model, "nvfp4", SCALES)
    assert {each.name for each in chosen} == {n for n in parts if ":" in n}
    spared = FaultSpace(model, "nvfp4", Where(exclude=SCALES))
    assert chosen.bits + spared.bits == whole.bits
    assert {each.stored.layer for each in chosen} == {"0", "3"}
    assert [e.name for e in FaultSpace(model, "nvfp4", "*:tensor_scale")] == [
        "0.weight:tensor_scale",
        "3.weight:tensor_scale",
    ]
    assert {e.name for e in FaultSpace(model, "nvfp4", "*.weight")} == {"0.weight", "3.weight"}


def test_scales_that_lack_a_bit_field_are_left_out(model: nn.Module) -> None:
    model = encode(model, "int8")
    names = {each.name for each in FaultSpace(model, "int8", "*weight*", bits="integer")}
    assert names == {"0.weight", "3.weight"}
    with pytest.raises(ValueError, match=r"0\.weight:scale: the bit fields of float32 scale are"):
        FaultSpace(model, "int8", SCALES, bits="integer")


def test_different_rates_for_elements_and_scales(model: nn.Module) -> None:
    """Scales that are flipped in the first part, and elements in the second."""
    model = encode(model, "mxfp8_e4m3")
    before = bits_of(model)
    rates = {SCALES: 0.05, "*": 0.01}
    with inject(model, BitFlip(rates), "mxfp8_e4m3") as record:  # type: ignore[arg-type]
        rows = record.faults()
        faulty = weights(model)
        assert record.counts("kind").keys() == {"scale", "weight", "bias"}
        assert "outcome" not in (rows.dtype.names or ())
        assert record.corrected == record.detected == record.miscorrected == 0
    assert same_bits(before, model)
    sites = [(str(r["tensor"]), int(r["element"]), int(r["bit"])) for r in rows]
    agree_with = expected_weights(model, "mxfp8_e4m3", sites)
    with inject(model, Replay(sites), "mxfp8_e4m3"):
        agree(model, agree_with)
        for name, values in weights(model).items():
            assert torch.equal(values.nan_to_num(nan=7.0), faulty[name].nan_to_num(nan=7.0))


def test_several_faults_are_made_together(model: nn.Module) -> None:
    """A bit that two faults flip has its original value; scales come last, in any order."""
    model = encode(model, "mxfp4")
    before = bits_of(model)
    scale, element = ("3.weight:scale", 4, 1), ("3.weight", 140, 2)
    found = []
    for faults in (
        [Replay([scale]), Replay([element])],
        [Replay([element]), Replay([scale])],
        [Replay([scale, element])],
        [Replay([scale]), Replay([element, ("0.bias", 0, 3)]), Replay([("0.bias", 0, 3)])],
    ):
        with inject(model, faults, "mxfp4") as record:
            found.append(weights(model))
            assert record.flips == sum(len(fault.faults) for fault in faults)
        assert same_bits(before, model)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_stuck_scales(model: nn.Module) -> None:
    model = encode(model, "mxfp4")
    before = bits_of(model)
    for value in (0, 1):
        with inject(model, StuckAt(value, 1.0, where=SCALES), "mxfp4") as record:
            assert record.changed == ["0.weight", "3.weight"]
            if value:  # 255 is NaN
                assert model[3].weight.isnan().all()
            else:
                assert model[3].weight.abs().max() <= 6 * 2.0**-127
        assert same_bits(before, model)


def test_words_are_restored_after_an_error(model: nn.Module) -> None:
    model = encode(model, "nvfp4")
    before = bits_of(model)
    with pytest.raises(ZeroDivisionError), inject(model, BitFlip(0.1), "nvfp4"):
        raise ZeroDivisionError
    assert same_bits(before, model)
    with inject(model, BitFlip(0.1), "nvfp4"), torch.no_grad():
        model[3].weight.zero_()  # also where numbers were read again
    kept = FaultSpace(encode(model, "nvfp4"), "nvfp4")
    assert kept.bits


def test_a_second_injection_into_changed_scales_is_refused(model: nn.Module) -> None:
    model = encode(model, "mxfp4")
    before = bits_of(model)
    with (
        inject(model, ExactFlips(1, where=SCALES), "mxfp4"),
        pytest.raises(ProactError, match="hold faults of another injection"),
        inject(model, BitFlip(0.1), "mxfp4"),
    ):
        pass
    assert same_bits(before, model)
    with (
        inject(model, BitFlip(0.1, where=Where(exclude=SCALES)), "mxfp4"),
        inject(model, ExactFlips(1), "mxfp4", seed=1),
    ):
        pass
    assert same_bits(before, model)


def test_an_injection_without_flips_in_scales_allows_another(model: nn.Module) -> None:
    model = encode(model, "int8")
    with inject(model, BitFlip(0.0), "int8"), inject(model, BitFlip(0.5), "int8") as record:
        assert record.flips > 0


def test_scales_of_weights_that_cannot_be_faulted_are_refused(model: nn.Module) -> None:
    """Numbers are read again in the order of memory, and are written."""
    for encoding in ("mxfp4", "int8"):
        other = encode(model, encoding).to(memory_format=torch.channels_last)
        with pytest.raises(ValueError, match=r"0\.weight must be contiguous"):
            FaultSpace(other, encoding, SCALES)
        with pytest.raises(ValueError, match=r"0\.weight must be contiguous"):
            inject(other, Replay([("0.weight:scale", 0, 1)]), encoding).__enter__()
    halves = nn.Sequential(nn.Linear(32, 4).bfloat16(), nn.Linear(4, 4))
    with pytest.raises(TypeError, match=r"0\.weight is torch\.bfloat16"):
        FaultSpace(halves, "mxfp4", SCALES)
    assert FaultSpace(halves, "mxfp4", "1.*").bits == 16 * 4 + 4 * 8 + 4 * 32


def test_a_model_that_is_not_rounded_gets_its_values_back(model: nn.Module) -> None:
    before = bits_of(model)
    with inject(model, BitFlip(0.05), "int4-group32-zero") as record:
        assert record.counts("kind")["scale"] > 0
    assert same_bits(before, model)


@pytest.mark.parametrize("form", ["mxfp8_e4m3", "nvfp4", "int4-group32-zero", "int8"])
@pytest.mark.parametrize("code", ["tmr", "secded64"])
def test_a_code_protects_scales(model: nn.Module, code: str, form: str) -> None:
    """Single flips are corrected; without the code, the same flips change weights."""
    encoding: Any = {SCALES: f"native+{code}", "*": form}
    coded = encode(model, encoding)
    clean = weights(coded)
    plain = encode(model, form)
    names = {each.name: each.word.name for each in FaultSpace(plain, form, SCALES)}
    assert {each.name: each.word.name for each in FaultSpace(coded, encoding, SCALES)} == {
        name: f"{word}+{code}" for name, word in names.items()
    }
    for trial in range(20):
        with inject(coded, ExactFlips(1, where=SCALES), encoding, trial=trial) as record:
            assert record.corrected == 1
            assert all(torch.equal(clean[name], now) for name, now in weights(coded).items())
            (row,) = record.faults()
            scales = {s.name: s.part for s in Injector(plain, form).scales}
            assert row["before"] in scales[row["tensor"]].values(
                np.arange(len(scales[row["tensor"]].memory))
            )
        with inject(plain, ExactFlips(1, where=SCALES), form, trial=trial) as record:
            assert len(record.changed) == 1
    with inject(coded, BitFlip(0.05), encoding) as record:  # scales and elements, many flips
        sites = {(str(r["tensor"]), int(r["element"])) for r in record.faults()}
        assert any(":scale" in name for name, _ in sites)
    assert all(torch.equal(clean[name], now) for name, now in weights(coded).items())


def test_what_the_code_does_not_correct_changes_weights(model: nn.Module) -> None:
    encoding: Any = {SCALES: "native+tmr", "*": "int8"}
    coded = encode(model, encoding)
    twice = Replay([("3.weight:scale", 1, 23), ("3.weight:scale", 1, 23 + 32)])
    before = coded[3].weight.detach().clone()
    with inject(coded, twice, encoding) as record:
        assert record.miscorrected == 1
        ratio = (coded[3].weight[1] / before[1])[before[1] != 0]
        assert set(ratio.tolist()) <= {0.5, 2.0}
        rows = record.faults()
        assert rows["before"].tolist() == rows["before"].tolist()[:1] * 2
    assert torch.equal(coded[3].weight, before)


@pytest.mark.parametrize("own", ["float32+bch2", "q15.16", "float16", "native+secded"])
def test_encodings_that_would_change_scales_are_refused(model: nn.Module, own: str) -> None:
    encoding: Any = {SCALES: own, "*": "int8"}
    with pytest.raises(ValueError, match=r"0\.weight:scale is stored as float32 scale, which .*"):
        FaultSpace(encode(model, encoding), encoding)


def test_a_selector_without_scales_counts_as_unused(model: nn.Module, digits: Data) -> None:
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    used: Any = {SCALES: "native+tmr", "*": "int8"}
    result = campaign.run({"m": small}, digits, [BitFlip(1e-3)], encoding=used, trials=2)
    assert len(result.cells) == 1
    unused: Any = {SCALES: "native+tmr", "*": "float32"}
    with pytest.raises(ValueError, match="applies to no stored tensor"):
        campaign.run({"m": small}, digits, [BitFlip(1e-3)], encoding=unused, trials=2)
    assert checked_encoding(json.loads(checked_encoding(used).name)) == checked_encoding(used)


def test_scales_beside_coded_words_are_protected_unless_named(model: nn.Module) -> None:
    coded = encode(model, "int8+secded64")
    assert not any(":" in each.name for each in FaultSpace(coded, "int8+secded64"))
    named: Any = {SCALES: "native", "*": "int8+secded64"}
    both = encode(model, named)
    before = bits_of(both)
    assert any(":scale" in each.name for each in FaultSpace(both, named))
    sites = [("3.weight:scale", 1, 23), ("3.weight", 180, 6), ("3.weight", 181, 5)]
    with inject(both, Replay(sites), named) as record:
        rows = {(r["tensor"], r["element"]): r for r in record.faults()}
        assert record.detected == 1
        assert rows["3.weight", 180]["before"] == before_value(model, named, 180)
    assert same_bits(before, both)


def before_value(model: nn.Module, encoding: Any, element: int) -> float:
    return float(encode(model, encoding).get_parameter("3.weight").detach().reshape(-1)[element])


def test_an_injector_flips_the_scales_that_it_lists(model: nn.Module) -> None:
    injector = Injector(encode(model, "mxfp4"), "mxfp4")
    memory = {scale.name: scale.tensor.clone() for scale in injector.scales}
    with injector.trial(ExactFlips(3, where=SCALES)):
        changed = sum(int((s.tensor != memory[s.name]).sum()) for s in injector.scales)
        assert 1 <= changed <= 3
    assert all(torch.equal(scale.tensor, memory[scale.name]) for scale in injector.scales)


@pytest.mark.parametrize("encoding", ["mxfp8_e4m3", "nvfp4", "int8"])
def test_activations_and_their_scales(model: nn.Module, encoding: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    fault = ActivationFlip(0.0, where="3", encoding=encoding)
    with torch.no_grad():
        plain = model[:4](x)
        with inject(model, fault, log_activations=True) as record:
            rounded = model[:4](x)
        assert (rounded - plain).abs().max() <= 0.13 * plain.abs().max()
        blocks = {"mxfp8_e4m3": 2 * 8, "nvfp4": 2 * 8 + 32, "int8": 0}[encoding]
        assert record.activation_bits == 20 * (4 if encoding == "nvfp4" else 8) + blocks
        faulty = ActivationFlip(1.0, where="3", encoding=encoding)
        with inject(model, faulty, log_activations=True) as record:
            model[:4](x)
        assert record.activation_flips == record.activation_bits
        names = set(record.faults()["tensor"].tolist())
        assert any(name.endswith(":scale") for name in names) == (encoding != "int8")


@pytest.mark.parametrize("encoding", ["int8", "mxfp4"])
def test_scales_are_among_the_worst_flips_and_ranked(digits: Data, encoding: str) -> None:
    """A flip of the highest exponent bit of a scale moves the whole block, so it is the worst."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (site,) = worst_case(model, digits, 1, encoding=encoding, where="1.weight*").faults
    assert site.tensor == "1.weight:scale"
    ranked = criticality(model, digits, encoding, where="1.weight*")
    harms = {each.name: each.mean for each in ranked.tensors}
    assert not ranked.not_estimated
    assert harms["1.weight:scale"] > harms["1.weight"]
