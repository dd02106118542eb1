"""Does a recorded or hand-written list of flips make exactly these, and only where it fits?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact import ProactError
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSite,
    Injector,
    Replay,
    StuckAt,
    encode,
    inject,
)
from proact.nn import HyReLU

ENCODINGS = ["float32", "float16", "bfloat16", "q15.16", "q3.4", "int8", "int4", "native"]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), HyReLU(1.5), nn.Linear(7, 5))


@pytest.fixture
def tied() -> nn.Sequential:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "fault",
    [
        BitFlip(0.02),
        BitFlip({"*.weight": 0.5, "*": 0.01}),
        ExactFlips(9),
        ExactFlips(1, where="2.threshold"),
        StuckAt(1, 0.05),
        Burst(2, 0.05),
        Burst(5, 0.05, within="tensor"),
    ],
    ids=str,
)
def test_what_was_recorded_happens_again(
    model: nn.Module, fault: Fault, encoding: str, tmp_path: Path
) -> None:
    model = encode(model, encoding)
    before = bits_of(model)
    with inject(model, fault, encoding, seed=1, trial=2) as record:
        faulty, rows, replay = bits_of(model), record.faults(), record.replay()
    assert same_bits(before, model)
    assert len(replay.faults) == len(rows) == record.flips > 0
    assert replay.encoding == encoding
    by_hand = list(zip(rows["tensor"], rows["element"], rows["bit"], strict=True))[::-1]
    replay.save(tmp_path / "faults.json")
    for again in (
        replay,
        Replay(rows),
        Replay([(str(name), int(element), int(bit)) for name, element, bit in by_hand]),
        Replay.load(tmp_path / "faults.json"),
        Replay.load(str(tmp_path / "faults.json")),
    ):
        assert again.faults == replay.faults
        with inject(model, again, encoding, seed=77, trial=88) as repeated:
            assert same_bits(faulty, model)
            assert repeated.flips == record.flips
            assert repeated.counts() == record.counts()
            assert repeated.replay() == replay
        assert same_bits(before, model)
    assert Replay.load(tmp_path / "faults.json") == replay


def test_a_hand_written_list_flips_these_bits_and_no_other(model: nn.Module) -> None:
    element, before = 53, bits_of(model)
    old = model.get_parameter("0.weight").flatten()[element].item()
    replay = Replay([("0.weight", element, 31), FaultSite("2.threshold", 0, 22)])
    with inject(model, replay) as record:
        assert model.get_parameter("0.weight").flatten()[element].item() == -old
        assert model.get_parameter("2.threshold").item() == 1.0  # 1.5 is 1 and this bit of a half
        after = bits_of(model)
        assert record.counts() == {"0.weight": 1, "2.threshold": 1}
        assert record.faults()["bit"].tolist() == [31, 22]
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["0.weight", "2.threshold"]
    assert sum(int((before[name] != after[name]).sum()) for name in changed) == 2
    assert same_bits(before, model)


def test_numbers_of_a_replay(model: nn.Module) -> None:
    replay = Replay([("0.weight", 0, 31), ("0.weight", 1, 31), ("0.bias", 0, 31)])
    injector = Injector(model)
    assert injector.exposed_bits(replay) == 32 * (54 + 3)
    assert injector.expected_ber(replay) == 3 / (32 * 57)
    with injector.trial(replay) as record:
        assert record.ber == 3 / (32 * 57)


def test_a_replay_beside_other_faults(model: nn.Module) -> None:
    before = bits_of(model)
    whole = Replay([("2.threshold", 0, bit) for bit in range(32)])
    with inject(model, [whole, StuckAt(1, 1.0, where="2.*")]) as record:
        assert model.get_parameter("2.threshold").view(torch.int32).item() == -1
        ones = np.float32(1.5).view(np.uint32).item().bit_count()
        assert record.flips == 32 + ones
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ["float32", "q7.8", "int8"])
def test_a_trial_without_flips_can_be_replayed(model: nn.Module, encoding: str) -> None:
    """Most trials of a low rate are such."""
    model = encode(model, encoding)
    before = bits_of(model)
    with inject(model, BitFlip(0.0), encoding) as record:
        replay, rows = record.replay(), record.faults()
    assert replay.faults == Replay(rows).faults == ()
    for again in (replay, Replay(rows), Replay([])):
        with inject(model, again, encoding) as record:
            assert (record.flips, record.ber) == (0, 0.0)
            assert same_bits(before, model)
    assert same_bits(before, model)


@pytest.mark.parametrize("name", ["0.weight", "1.weight"])
def test_a_tied_tensor_is_hit_once_by_either_name(tied: nn.Sequential, name: str) -> None:
    before = tied[0].weight.detach().clone()
    with inject(tied, Replay([(name, 4, 31)], {name: (3, 3)})) as record:
        assert record.flips == 1
        expected = before.clone()
        expected[1, 1] *= -1
        assert torch.equal(tied[0].weight, expected)
        assert tied[1].weight is tied[0].weight
    assert torch.equal(tied[0].weight, before)


@pytest.mark.parametrize("encoding", ["float32", "q7.8"])
def test_one_bit_under_two_names_is_listed_twice(tied: nn.Sequential, encoding: str) -> None:
    before = bits_of(tied)
    replay = Replay([("0.weight", 4, 3), ("1.weight", 4, 3)])
    with pytest.raises(ValueError, match="bit 3 of element 4"), inject(tied, replay, encoding):
        pass
    assert same_bits(before, tied)


@pytest.mark.parametrize(
    ("replay", "encoding", "words"),
    [
        (Replay([("9.weight", 0, 0)]), "float32", "'9.weight', which this model does not have"),
        (Replay([("0.weight", 0, 0), ("weight", 0, 0)]), "float32", "'weight', which"),
        (Replay([("1.num_batches_tracked", 0, 0)]), "float32", "'1.num_batches_tracked'"),
        (Replay([("0.weight", 54, 0)]), "float32", "0.weight has 54 elements.*element 54"),
        (Replay([("2.threshold", 1, 0)]), "float32", "2.threshold has 1 elements.*element 1"),
        (Replay([("0.weight", 0, 32)]), "float32", "0.weight .*32 bits in float32.*bit 32"),
        (Replay([("0.weight", 0, 8)]), "int8", "0.weight .*8 bits in int8.*bit 8 "),
        (Replay([("0.weight", 0, 16)]), "q7.8", "0.weight .*16 bits in q7.8.*bit 16"),
        (Replay([("0.weight", 0, 0)], encoding="int8"), "float32", "int8.*float32"),
        (Replay([("0.weight", 0, 0)], encoding="float32"), "native", "float32.*native"),
        (
            Replay([("0.weight", 0, 0)], {"0.weight": (54,)}),
            "float32",
            r"0.weight has the shape \(3, 2, 3, 3\).*\(54,\)",
        ),
        (
            Replay([("3.weight", 0, 0)], {"3.weight": (7, 5)}),
            "float32",
            r"3.weight has the shape \(5, 7\).*\(7, 5\)",
        ),
    ],
    ids=str,
)
def test_a_list_of_another_network_is_refused(
    model: nn.Module, replay: Replay, encoding: str, words: str
) -> None:
    before = bits_of(model)
    for faults in (replay, [BitFlip(1.0), replay], [replay, BitFlip(1.0)]):
        with pytest.raises(ValueError, match=words), inject(model, faults, encoding):
            pass
        assert same_bits(before, model)
    injector = Injector(encode(model, encoding), encoding)
    with pytest.raises(ValueError, match=words):
        injector.exposed_bits(replay)
    with pytest.raises(ValueError, match=words), injector.trial(replay):
        pass


def test_the_record_of_one_network_does_not_fit_another(model: nn.Module, mlp: nn.Module) -> None:
    with inject(model, BitFlip(0.1)) as record:
        replay = record.replay()
    before = bits_of(mlp)
    with pytest.raises(ValueError, match=r"0.bias has the shape \(8,\)"), inject(mlp, replay):
        pass
    wider = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), HyReLU(1.5), nn.Linear(7, 5))
    with pytest.raises(ValueError, match=r"has the shape \("), inject(wider, replay):
        pass
    assert same_bits(before, mlp)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (FaultSite("0.weight", -1, 0), "element"),
        (FaultSite("0.weight", 0, -1), "bit"),
        (FaultSite("0.weight", 0, 256), "bit"),
        (FaultSite("0.weight", 1.5, 0), "element"),  # type: ignore[arg-type]
        (FaultSite("0.weight", 0, 0.5), "bit"),  # type: ignore[arg-type]
        (FaultSite("0.weight", True, 0), "element"),
        (FaultSite(3, 0, 0), "tensor"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_named_site_is_checked_like_a_plain_one(site: FaultSite, words: str) -> None:
    for entry in (tuple(site), site):
        with pytest.raises((ValueError, TypeError), match=words):
            Replay([entry])


def test_flips_of_activations_are_no_stored_bits(model: nn.Module) -> None:
    """`Record.replay` leaves them out; in the array they are refused by name."""
    model.eval()
    images = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    both = [BitFlip(0.01), ActivationFlip(0.05, where="0")]
    before = bits_of(model)
    with inject(model, both, log_activations=True) as record:
        model(images)
        rows, replay = record.faults(), record.replay()
    assert len(replay.faults) == len(rows) - record.activation_flips < len(rows)
    with inject(model, replay) as repeated:
        assert repeated.flips == len(replay.faults)
    with pytest.raises(ValueError, match=r"0:output\[0\]:0"), inject(model, Replay(rows)):
        pass
    assert same_bits(before, model)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "expected a list of faults"),
        ("", "not a list of faults"),
        ("[[1]]", "not a list of faults"),
        ('{"kind": "Replay"}', "not a list of faults"),
        ('{"kind": "Replay", "faults": [["a", -1, 0]]}', "not a list of faults: element"),
        ('{"kind": "Replay", "faults": [["a", 1, 0], ["a", 1, 0]]}', "listed twice"),
        ('{"kind": "Replay", "faults": [], "shapes": [1]}', "not a list of faults"),
        (BitFlip(0.1).to_json(), "holds a BitFlip, expected a Replay"),
        (b"\xff\xfe\x00", "not a list of faults"),
    ],
)
def test_a_file_that_is_no_list_is_named(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProactError, match=f"list.json.*{words}"):
        Replay.load(path)


def test_a_saved_list_is_one_line_with_any_names(tmp_path: Path) -> None:
    sites = [("schicht.gewicht_ü", 1, 2), ("層\n.weight", 2**32 - 1, 63)]
    replay = Replay(sites, {"schicht.gewicht_ü": (), "unused": (3, 0)}, "q7.8")
    replay.save(tmp_path / "x")
    text = (tmp_path / "x").read_text(encoding="utf-8")
    assert text == replay.to_json() + "\n"
    assert text.count("\n") == 1
    assert Replay.load(tmp_path / "x") == replay
