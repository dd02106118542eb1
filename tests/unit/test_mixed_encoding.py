"""Encodings by tensor: the first selector that matches a tensor gives its encoding."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import proact
from proact.config.parsing import variants_from
from proact.config.reading import read_experiment
from proact.encodings import Encoding, encoding_named
from proact.faults import (
    BitFlip,
    FaultSpace,
    Injector,
    MixedEncoding,
    Where,
    encode,
    encoding_report,
    inject,
    verify,
)
from proact.faults.mixed_encoding import checked_encoding
from proact.protect.ft_clipact import FtClipactOptions
from proact.yaml_text import dump

STRONG: dict[Any, Any] = {"*.running_*": "float32+tmr", "*": "float32+bch2"}
BY_KIND: dict[Any, Any] = {
    Where(kind="statistics"): "float32+tmr",
    ("*.bias", Where(layer="BatchNorm2d")): "bfloat16",
    "*": "int8+secded",
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    ).eval()


def words_of(encoding: Any) -> dict[str, str]:
    return {tensor.name: tensor.word.name for tensor in FaultSpace(network(), encoding)}


def test_the_first_match_gives_the_encoding() -> None:
    found = words_of(STRONG)
    assert found == {name: "float32+tmr" if "running" in name else "float32+bch2" for name in found}
    assert len(found) == 8
    found = words_of(BY_KIND)
    assert found["1.running_var"] == "float32+tmr"
    assert found["0.bias"] == found["1.weight"] == "bfloat16"
    assert found["0.weight"] == found["4.weight"] == "int8+secded"
    assert set(words_of({"1.*": "float32", **STRONG}).values()) == {"float32", "float32+bch2"}


@pytest.mark.parametrize("mapping", [STRONG, BY_KIND])
def test_names_are_stable_and_read_back(mapping: dict[Any, Any]) -> None:
    encoding = checked_encoding(mapping)
    assert isinstance(encoding, MixedEncoding)
    plain = json.loads(encoding.name)
    assert checked_encoding(encoding.name) == checked_encoding(plain) == encoding
    assert hash(checked_encoding(plain)) == hash(encoding)
    assert pickle.loads(pickle.dumps(encoding)).parts == encoding.parts
    reversed_mapping = dict(reversed(mapping.items()))
    assert checked_encoding(reversed_mapping) != encoding
    assert encoding.is_coded
    assert not checked_encoding({"*.bias": "float32", "*": "q3.4"}).is_coded


def test_a_name_and_an_encoding_are_read_as_before() -> None:
    assert checked_encoding("q15.16") == encoding_named("q15.16")
    own = encoding_named("int8")
    assert checked_encoding(own) is own
    given: dict[str, Encoding] = {"*": own}
    assert words_of(given)["0.weight"] == "int8"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one selector"),
        ([], "at least one selector"),
        ({"*": "float31"}, "an encoding is one of"),
        ([["*", "float32"], ["*", "int8"]], r"'\*' is given twice"),
        ('{"*": "float32", "*": "int8"}', r"'\*' is given twice"),
        ('{"*": ', "must be JSON such as"),
        ([[{"sort": "bias"}, "float32"]], "the fields of a Where are"),
        ([["*"]], "pairs of a selector and its encoding"),
        ({3: "float32"}, "a pattern of names"),
        ({"*": {"*": "float32"}}, "an encoding is one of"),
    ],
)
def test_bad_encodings_are_refused(given: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        checked_encoding(given)


def test_a_tensor_without_a_match_is_named() -> None:
    for call in (
        lambda model: FaultSpace(model, {"*.weight": "float32"}),
        lambda model: encode(model, {"*.weight": "float32"}),
        lambda model: encoding_report(model, {"*.weight": "float32"}),
        lambda model: inject(model, BitFlip(0.1), {"*.weight": "float32"}).__enter__(),
        lambda model: Injector(model, {"*.weight": "float32"}).exposed_bits(BitFlip(0.1)),
    ):
        with pytest.raises(ValueError, match=r"no selector of the encoding matches 0\.bias: add"):
            call(network())
    assert len(FaultSpace(network(), {"*.weight": "float32"}, "*.weight")) == 3


def test_flips_of_a_tensor_do_not_depend_on_the_encodings_of_others() -> None:
    """Each tensor meets the flips, and the decoder, of its own encoding."""
    mixed, model = {"*.weight": "float32+secded", "*": "float32"}, network()
    with inject(model, BitFlip(2e-2), mixed, seed=1) as record:
        found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert record.corrected > 0
    clean = encode(network(), mixed).state_dict()
    for pattern, encoding in (("*.weight", "float32+secded"), ("*.bias", "float32")):
        alone, changed = network(), 0
        with inject(alone, BitFlip(2e-2, where=pattern), encoding, seed=1):
            for name, tensor in alone.state_dict().items():
                if name.endswith(pattern.removeprefix("*")):
                    torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
                    changed += not torch.equal(clean[name], tensor)
        assert changed


def test_faults_are_replayed_and_words_restored() -> None:
    model = network()
    encoded = encode(model, BY_KIND)
    with inject(encoded, BitFlip(1e-2), BY_KIND, seed=2) as record:
        faulty = {name: tensor.clone() for name, tensor in encoded.state_dict().items()}
        replay = record.replay()
    for name, tensor in encode(model, BY_KIND).state_dict().items():
        torch.testing.assert_close(encoded.state_dict()[name], tensor, rtol=0, atol=0)
    assert replay.encoding == checked_encoding(BY_KIND).name
    with inject(encoded, replay, BY_KIND):
        for name, tensor in encoded.state_dict().items():
            torch.testing.assert_close(faulty[name], tensor, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="was recorded in the encoding"):
        inject(encoded, replay, "float32").__enter__()


def test_bounds_can_have_an_encoding_of_their_own() -> None:
    guarded = proact.protect.protect(network(), "weight-range")
    strong = {Where(kind="bound"): "float32+tmr", "*": "q3.12+bch2"}
    encoded = encode(guarded, strong)
    before = {name: tensor.clone() for name, tensor in encoded.state_dict().items()}
    encoded(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    for name, tensor in encoded.state_dict().items():
        torch.testing.assert_close(before[name], tensor, rtol=0, atol=0)
    weak = {Where(kind="bound"): "q7.1", "*": "float32"}
    with pytest.raises(ValueError, match="with less precision than the values it bounds"):
        encode(guarded, weak)


def test_parts_of_one_name_and_different_classes_differ() -> None:
    class Own(type(encoding_named("int8"))):  # type: ignore[misc]
        """An encoding that has the name of another."""

    own, built_in = MixedEncoding([("*", Own(8))]), MixedEncoding([("*", "int8")])
    assert own.name == built_in.name
    assert own != built_in
    assert own == MixedEncoding([("*", Own(8))])


def test_sweeps_take_encodings_by_tensor() -> None:
    torch.manual_seed(1)
    data = torch.randn(8, 1, 8, 8), torch.arange(8) % 10
    options: dict[str, Any] = {"images_per_trial": "all", "progress": False, "trials": 120}
    mixed = {"[04].weight": "int4", "*": "bfloat16"}
    swept = proact.campaign.per_bit(network(), data, BitFlip(0.1), encoding=mixed, **options)
    bits = {"int4": 4, "float32 scale": 32, "bfloat16": 16}
    expected = [f"{word} {bit}" for word, count in bits.items() for bit in range(count)]
    assert [stratum.name for stratum in swept.strata] == expected
    space = FaultSpace(network(), mixed)
    words = {name: sum(e.elements for e in space if e.word.name == name) for name in bits}
    for stratum in swept.strata:
        word = stratum.name.rpartition(" ")[0]
        assert stratum.share == pytest.approx(words[word] / space.bits)
    for cell in swept.spec.cells:  # the fault of a position hits the words of one kind alone
        word = str(cell.part).rpartition(" ")[0]
        assert cell.bits == words[word]


def test_the_price_counts_check_words() -> None:
    model = network()
    numbers = sum(tensor.elements for tensor in FaultSpace(model, "float32"))
    report = encoding_report(model, STRONG)
    bits = {loss.tensor: loss.bits for loss in report.tensors}
    assert bits["1.running_var"] == 4 * 96
    assert bits["0.weight"] == 36 * 32
    assert sum(bits.values()) == numbers * 32 + 8 * 64
    assert report.bits_per_parameter == sum(bits.values()) / numbers
    assert f", {report.bits_per_parameter:.4g} bits a parameter" in str(report)
    assert encoding_report(model, "q15.16").bits_per_parameter == 32.0
    assert encoding_report(model, "q15.16+secded32").bits_per_parameter == 39.0


def test_numbers_that_the_payload_cannot_hold_are_counted_and_named() -> None:
    """q0.15+secded keeps 11 bits: 0.9999 fits q0.15 and not 1 - 2^-10; 3 fits neither."""
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.9999, 3.0, -0.5, 0.25]]))
    (loss,) = encoding_report(model, "q0.15+secded").tensors
    assert (loss.saturated, loss.saturated_by_code) == (2, 1)
    reason = r"1 of them because the payload .* is too small \(q0.15\+secded\); the largest error"
    with pytest.warns(UserWarning, match=reason):
        encode(model, "q0.15+secded")
    with pytest.warns(UserWarning, match=r"of q0.15 and were saturated; the largest error"):
        encode(model, "q0.15")


def test_verify_takes_encodings_by_tensor() -> None:
    assert verify(network(), {"*.bias": "bfloat16", "*": "float32"}, trials=50).passed


def test_a_campaign_takes_encodings_by_tensor_and_refuses_unused_selectors(tmp_path: Path) -> None:
    torch.manual_seed(1)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 10
    options: dict[str, Any] = {"trials": 3, "images_per_trial": "all", "progress": False}
    store = tmp_path / "rows.sqlite"
    result = proact.campaign.run(
        {"net": network()}, (images, labels), [BitFlip(1e-2)], encoding=STRONG, store=store,
        **options,
    )  # fmt: skip
    assert result.spec.encoding == checked_encoding(STRONG).name
    memory = result.spec.variants[0].memory["statistics"]
    assert (memory.numbers, memory.bits) == (8, 8 * 96)
    assert [run.spec.encoding for run in proact.results.read(store)] == [result.spec.encoding]
    with pytest.raises(ValueError, match=r"float32\+tmr for '\*\.runing_\*' applies to no stored"):
        proact.campaign.run(
            {"net": network()}, (images, labels), [BitFlip(1e-2)],
            encoding={"*.runing_*": "float32+tmr", "*": "float32"}, **options,
        )  # fmt: skip


FILES = {
    "mapping": 'encoding: {"*.running_*": float32+tmr, "*": float32+bch2}',
    "pairs": 'encoding: [[{kind: [threshold, bound]}, float32+tmr], ["*", float32+bch2]]',
    "text": """encoding: '{"*.running_*": "float32+tmr", "*": "float32+bch2"}'""",
}


@pytest.mark.parametrize("form", FILES)
def test_files_hold_encodings_by_tensor(tmp_path: Path, form: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(FILES[form])
    experiment = read_experiment(file)
    first = Where(kind=("threshold", "bound")) if form == "pairs" else "*.running_*"
    expected = checked_encoding({first: "float32+tmr", "*": "float32+bch2"})
    assert checked_encoding(experiment.encoding) == expected
    assert experiment.encoding_name == expected.name
    file.write_text(dump(experiment.to_plain()))
    assert read_experiment(file).encoding_name == expected.name
    assert read_experiment(None, {"encoding": expected.name}).encoding_name == expected.name


@pytest.mark.parametrize(
    "line", ["encoding: {}", "encoding: 3", 'encoding: {"*": q99.1}', "encoding: [[a, b, c]]"]
)
def test_files_with_bad_encodings_name_the_key(tmp_path: Path, line: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(line)
    with pytest.raises(ValueError, match=r"experiment.yaml: encoding: "):
        read_experiment(file)


def test_methods_take_encodings_by_tensor() -> None:
    described = {"method": "ft-clipact", "encoding": {"*.bias": "float32+tmr", "*": "float32"}}
    (recipe,) = variants_from({"mine": described}).values()
    plain = recipe.to_plain()
    assert plain["encoding"] == checked_encoding(described["encoding"]).name
    assert json.loads(json.dumps(plain)) == plain
    assert variants_from({"mine": plain})["mine"].to_plain() == plain
    options = FtClipactOptions(encoding=STRONG)
    assert options.encoding == checked_encoding(STRONG)
    assert FtClipactOptions(encoding="int8").encoding == "int8"
    with pytest.raises(ValueError, match="an encoding is one of"):
        FtClipactOptions(encoding={"*": "int9"})
