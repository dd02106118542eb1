"""Is a damaged or forged file refused in one sentence, and never read as other content?"""

from __future__ import annotations

import copy
import gzip
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import cifar10_binary, idx, md5, random_parts, write_tar
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from fuzz import files as fuzz
from proact import data, protect
from proact.config.reading import read_experiment
from proact.data import Data, cifar, mnist
from proact.models import checkpoint
from proact.models.code_digest import ModelDigest
from proact.yaml_text import dump

EXPERIMENT = """\
proact: 1
model: resnet20
data: mine.py:data
variants:
  relu: unprotected
  ranger: {method: ranger, mode: zero}
  both: [{method: proact, granularity: layer, decays: [1, 0.1]}, weight-range]
  short: "ranger:granularity=neuron"
  saved: {thresholds: thresholds.safetensors}
ber: [1e-6, 1E-5]
faults:
  - {kind: BitFlip, ber: {"conv1.*": 1e-4, "*": 1e-7}}
  - {kind: ExactFlips, n: 3, where: "*.weight", bits: [31, exponent]}
encoding: {conv1.weight: float32, "*": q15.16}
margin: 2e-2
trials: 1000
images_per_trial: 16
seed: 7
sweeps: bit
"""


@dataclass(frozen=True)
class Case:
    """A valid file, its reader, and the mutators after which it must be refused or unchanged."""

    valid: bytes
    load: Callable[[bytes], object]
    strict: tuple[fuzz.Mutator, ...] = ()
    deep: tuple[fuzz.Mutator, ...] = ()

    def tried(self, seeds: range) -> Counter[str]:
        expected = self.load(self.valid)
        strict = fuzz.tried(self.valid, self.strict, seeds, self.load, expected)
        return strict + fuzz.tried(self.valid, self.deep, seeds, self.load)


class Calls(nn.Module):
    """Its activations are calls, so that clips rewrite its forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(F.relu(self.a(F.relu(x))))
        return out


def thresholds(folder: Path, model: nn.Module, samples: Any) -> Case:
    path = folder / "t.safetensors"
    guarded = protect.protect(model, "weight-range", samples)
    protect.save(protect.protect(guarded, "ranger", samples), path)

    def load(content: bytes) -> object:
        path.write_bytes(content)
        return ModelDigest(protect.load(model, path)).of_content

    return Case(path.read_bytes(), load, (fuzz.bytes_mutated,), (fuzz.tensors_mutated,))


def network(folder: Path) -> Case:
    path = folder / "n.safetensors"
    checkpoint.write(path, Calls().state_dict())

    def load(content: bytes) -> object:
        path.write_bytes(content)
        return str(checkpoint.read_weights(path, Calls()))

    return Case(path.read_bytes(), load, (fuzz.bytes_mutated,), (fuzz.tensors_mutated,))


def unfinished_training(folder: Path) -> Case:
    path = folder / "c.safetensors"

    def parts() -> tuple[nn.Module, torch.optim.SGD, OneCycleLR]:
        model = Calls()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=False)

    model, optimizer, schedule = parts()
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    schedule.step()
    checkpoint.save(path, 1, "mine", model, optimizer, schedule)

    def load(content: bytes) -> object:
        path.write_bytes(content)
        other, its_optimizer, its_schedule = parts()
        before = copy.deepcopy(other.state_dict())
        try:
            checkpoint.load(path, "mine", other, its_optimizer, its_schedule)
        except Exception:
            assert str(before) == str(other.state_dict()), "a refused file has changed the model"
            raise
        its_schedule.step()
        return str([other.state_dict(), its_optimizer.state_dict(), its_schedule.state_dict()])

    return Case(path.read_bytes(), load, (fuzz.bytes_mutated,), (fuzz.tensors_mutated,))


def experiment(folder: Path) -> Case:
    def load(content: bytes) -> object:
        path = folder / "e.yaml"
        path.write_bytes(content)
        return dump(read_experiment(path).to_plain())

    return Case(EXPERIMENT.encode(), load, (), (fuzz.text_mutated, fuzz.bytes_mutated))


def packed_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, Case]:
    """Images of MNIST as a case with the known checksum, and as one that trusts every content."""
    draw, names = np.random.default_rng(0), tuple(mnist.SETS["mnist"].md5)
    arrays = [draw.integers(0, 256, (n, 3, 3), dtype=np.uint8) for n in (40, 20)]
    arrays[1:1] = [(np.arange(40) % 2).astype(np.uint8)]
    arrays.append((np.arange(20) % 2).astype(np.uint8))
    for name, array in zip(names, arrays, strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
    known = {name: md5(idx(array)) for name, array in zip(names, arrays, strict=True)}
    first = folder / f"{names[0]}.gz"

    def load(content: bytes, trusted: bool = False) -> object:
        first.write_bytes(content)
        sums = dict(known)
        if trusted:
            with suppress(Exception):
                sums[names[0]] = md5(gzip.decompress(content))
        monkeypatch.setitem(mnist.SETS, "mnist", mnist.SETS["mnist"]._replace(md5=sums))
        return data.load("mnist", folder).digest

    valid, mutators = first.read_bytes(), (fuzz.bytes_mutated, fuzz.gzip_mutated)
    return Case(valid, load, mutators), Case(valid, lambda c: load(c, True), (), mutators)


def archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, Case]:
    """An archive of CIFAR-10 in the same two forms."""
    path = folder / "cifar-10-binary.tar.gz"
    write_tar(path, cifar10_binary(random_parts([100, 20], 10), [f"c{i}" for i in range(10)]))
    valid = path.read_bytes()

    def load(content: bytes, trusted: bool = False) -> object:
        path.write_bytes(content)
        sums = {path.name: md5(content if trusted else valid)}
        monkeypatch.setitem(cifar.SETS, "cifar10", cifar.SETS["cifar10"]._replace(md5=sums))
        return data.load("cifar10", folder).digest

    mutators = (fuzz.bytes_mutated, fuzz.gzip_mutated)
    return Case(valid, load, mutators), Case(valid, lambda c: load(c, True), (), mutators)


def image(folder: Path) -> Case:
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(4):
            pixels = draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    path = folder / "a" / "0.png"
    valid = path.read_bytes()

    def load(content: bytes) -> object:
        path.write_bytes(content)
        return data.load("imagefolder", folder, image_size=4).digest

    return Case(valid, load, (), (fuzz.bytes_mutated, fuzz.png_mutated))


def cases(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, model: nn.Module, samples: Data
) -> tuple[Case, ...]:
    if kind == "thresholds":
        pair = (
            torch.randn(60, 6, generator=torch.Generator().manual_seed(0)),
            torch.arange(60) % 3,
        )
        return thresholds(folder, model, samples), thresholds(folder, Calls().eval(), pair)
    if kind == "network":
        return network(folder), unfinished_training(folder)
    if kind == "experiment":
        return (experiment(folder),)
    if kind == "idx":
        return packed_images(folder, monkeypatch)
    return archive(folder, monkeypatch) if kind == "tar" else (image(folder),)


KINDS = ("thresholds", "network", "experiment", "idx", "tar", "png")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_refused_in_one_sentence_or_read_as_it_was(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_cnn: nn.Module,
    digits: Data,
) -> None:
    found = cases(kind, tmp_path, monkeypatch, trained_cnn, digits)
    mutators = sum(len(case.strict) + len(case.deep) for case in found)
    counts = sum((case.tried(range(150 // mutators)) for case in found), Counter[str]())
    assert counts["refused"] >= 40, "the mutations reach what is checked"
