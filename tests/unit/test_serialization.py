"""Does a saved protection come back to the bit, onto its own network alone?"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import bits_of, same_bits
from proact import ProactError, models, protect
from proact.data import Data
from proact.models import checkpoint
from proact.nn import HyReLU, weight_range_of
from proact.protect import serialization

FAST: dict[str, Any] = {"epochs": 1, "decays": (1.0,)}


class Calls(nn.Module):
    """Functions, a module that is called twice, a ceiling: sites that need a rewritten forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        x = F.relu6(self.b(x))
        out: Tensor = self.d(self.act(self.c(x)))
        return out


def same(one: nn.Module, other: nn.Module, images: Tensor) -> bool:
    return same_bits(bits_of(one), other) and torch.equal(
        models.logits(one, images), models.logits(other, images)
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ranger", {"granularity": "neuron"}),
        ("ranger", {"mode": "zero", "quantile": 0.9}),
        ("proact", {"mode": "soft", "slope": 10.0, **FAST}),
        ("ft-clipact", {"patterns": 1, "images_per_pattern": 5}),
        ("weight-range", {"granularity": "channel", "action": "saturate"}),
    ],
)
def test_what_is_saved_is_loaded_to_the_bit(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "some" / "thresholds.safetensors"
    hardened = protect.protect(trained_cnn, method, digits, **options)
    protect.save(hardened, path)
    before = bits_of(trained_cnn)
    loaded = protect.load(trained_cnn, path)
    assert same_bits(before, trained_cnn)
    assert not loaded.training
    assert same(loaded, hardened, digits.test.images)
    for name, module in hardened.named_modules():
        if isinstance(module, HyReLU):
            other = loaded.get_submodule(name)
            assert isinstance(other, HyReLU)
            assert (other.mode, other.slope) == (module.mode, module.slope)
    assert protect.protection_of(loaded) == protect.protection_of(hardened)


def test_methods_that_were_composed_come_back_together(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    both = protect.protect(
        protect.protect(trained_cnn, "weight-range", digits), "ranger", digits, mode="zero"
    )
    again = protect.protect(both, "ranger", digits, granularity="channel")
    protect.save(again, tmp_path / "both")
    loaded = protect.load(trained_cnn, tmp_path / "both")
    assert same(loaded, again, digits.test.images)
    assert weight_range_of(loaded) is not None
    found = protect.protection_of(loaded)
    assert found is not None
    assert [method for method, _ in found.applied] == ["weight-range", "ranger", "ranger"]


def test_calls_of_functions_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Calls().eval(), (torch.randn(200, 6), torch.arange(200) % 6)
    once = protect.protect(model, "ranger", data)
    # A second method finds the first one's modules, and the file still fits the bare network.
    twice = protect.protect(once, "ranger", data, mode="zero", granularity="neuron")
    for number, hardened in enumerate((once, twice)):
        path = tmp_path / str(number)
        protect.save(hardened, path)
        assert same(protect.load(model, path), hardened, data[0])


def test_methods_for_different_activations_are_saved_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3))
    data = (torch.randn(60, 6), torch.arange(60) % 3)
    both = protect.protect(
        protect.protect(net, "ranger", data, mode="zero"), "ranger", data, activations=("gelu",)
    )
    protect.save(both, tmp_path / "both")
    loaded = protect.load(net, tmp_path / "both")
    assert [type(m).__name__ for m in loaded][1::2] == ["HyReLU", "ClippedActivation"]
    assert same(loaded, both, data[0])


def test_copies_and_pickles_can_be_saved(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    hardened = protect.protect(trained_cnn, "ranger", digits)
    for number, other in enumerate((copy.deepcopy(hardened), pickle.loads(pickle.dumps(hardened)))):
        protect.save(other, tmp_path / str(number))
        assert same(protect.load(trained_cnn, tmp_path / str(number)), hardened, digits.test.images)


def test_the_header_says_what_it_is(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    protect.save(protect.protect(trained_cnn, "proact", digits, **FAST), path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["proact.protection"])
        assert set(file.keys()) == {f"relu{n}.threshold" for n in (1, 2, 3, 4)}
    assert header["format"] == 2
    assert header["applied"][0]["method"] == "proact"
    assert header["applied"][0]["options"]["granularity"] == "hybrid"
    assert header["applied"][0]["options"]["decays"] == [1.0]
    assert [site["name"] for site in header["sites"]] == ["relu1", "relu2", "relu3", "relu4"]
    assert header["fingerprint"] == serialization.fingerprint(trained_cnn)


def test_another_network_is_refused(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    hardened = protect.protect(trained_cnn, "ranger", digits)
    protect.save(hardened, path)
    with pytest.raises(ValueError, match="threshold for the relu 'relu1', which Seq"):
        protect.load(models.create("vgg16", 10, 1), path)
    retrained = copy.deepcopy(trained_cnn)
    with torch.no_grad():
        retrained.get_submodule("conv2").get_parameter("bias")[0] += 1e-3
    with pytest.raises(ValueError, match="saved for other weights than those of Sequential"):
        protect.load(retrained, path)
    with pytest.raises(ValueError, match="protected already"):
        protect.load(hardened, path)


def test_what_cannot_be_saved(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_text("precious")
    with pytest.raises(ValueError, match="got Sequential without a protection"):
        protect.save(trained_cnn, path)
    hardened = protect.protect(trained_cnn, "ranger", digits)
    with torch.no_grad():
        hardened.get_submodule("conv2").get_parameter("bias")[0] += 1e-3
    with pytest.raises(ValueError, match="have changed since it was protected"):
        protect.save(hardened, path)
    assert path.read_text() == "precious"
    (tmp_path / "folder").mkdir()
    hardened = protect.protect(trained_cnn, "ranger", digits)
    with pytest.raises(ProactError, match="cannot be written"):
        protect.save(hardened, tmp_path / "folder")


def test_other_files_are_refused(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    text, tensors, newer = (tmp_path / name for name in ("text", "tensors", "newer"))
    text.write_text("no tensors")
    save_file({"x": torch.zeros(1)}, tensors)
    for path, words in (
        (text, "is no saved protection"),
        (tensors, "is no saved protection"),
        (tmp_path / "missing", "there is no file .*: expected a saved protection"),
        (tmp_path, "is a folder: expected a saved protection"),
    ):
        with pytest.raises(ProactError, match=words):
            protect.load(trained_cnn, path)
    protect.save(protect.protect(trained_cnn, "ranger", digits), newer)
    with safe_open(newer, "pt") as file:
        header = json.loads(file.metadata()["proact.protection"])
    thresholds = load_file(newer)
    save_file(thresholds, newer, {"proact.protection": json.dumps(header)})
    with pytest.raises(ProactError, match="has no digest of its content, because an older version"):
        protect.load(trained_cnn, newer)
    for version, advice in ((3, "update proact"), (1, "protect the model again")):
        text = json.dumps({**header, "format": version})
        checkpoint.write(newer, thresholds, {"proact.protection": text})
        with pytest.raises(ProactError, match=f"reads format 2: {advice}"):
            protect.load(trained_cnn, newer)
