"""Does whatever decides a row tell tasks and variants apart, and nothing else?"""

from __future__ import annotations

import copy
import functools
import math
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proact import ProactError, campaign, protect
from proact.campaign import Metric
from proact.data import Data
from proact.faults import BitFlip, inject
from proact.models.code_digest import behaviour_of, content_of
from proact.results import Policy
from proact.results.store import Store

FAULT = BitFlip(1e-3)


class Limited(nn.Module):
    """A limit that no clean activation reaches."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.limit = nn.Linear(64, 16), nn.Linear(16, 10), limit

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x.flatten(1)).clamp(-self.limit, self.limit))
        return output


def test_what_shows_under_faults_alone_is_part_of_a_network(digits: Data, tmp_path: Path) -> None:
    def values(limit: float, store: Path | None) -> list[float]:
        result = campaign.run(
            {"m": Limited(limit)}, digits, [FAULT], trials=10, images_per_trial="all", store=store
        )
        return [row.value for row in result.rows("m", FAULT)]

    store = tmp_path / "rows.sqlite"
    wide, narrow = values(1e30, store), values(20.0, store)
    assert wide != narrow
    assert narrow == values(20.0, None)
    assert behaviour_of(Limited(1.0)) == behaviour_of(Limited(1.0))
    hooked = Limited(1.0)
    hooked.first.register_forward_hook(lambda module, inputs, output: output.relu())
    assert behaviour_of(hooked) != behaviour_of(Limited(1.0))


def closing_over(threshold: float) -> Metric:
    def large(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
        return (output.abs().amax(1) > threshold).double()

    return Metric("large", large, needs_targets=False)


class Callable:
    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
        return (output.abs().amax(1) > self.threshold).double()


def with_a_default(
    output: Tensor, targets: Tensor | None, clean: Tensor, threshold: float = 1.0
) -> Tensor:
    return (output.abs().amax(1) > threshold).double()


def test_what_a_metric_holds_is_part_of_it() -> None:
    assert closing_over(1.0).identity == closing_over(1.0).identity
    assert closing_over(1.0).identity != closing_over(2.0).identity
    assert content_of(Callable(1.0)) != content_of(Callable(2.0))
    assert content_of(Callable(1.0)) == content_of(Callable(1.0))
    assert content_of(Callable(1.0).__call__) != content_of(Callable(2.0).__call__)
    halves = functools.partial(with_a_default, threshold=0.5)
    assert content_of(halves) != content_of(functools.partial(with_a_default, threshold=0.6))
    assert content_of(halves) != content_of(with_a_default)
    assert content_of(torch.relu) != content_of(torch.abs)
    assert content_of(nn.GELU("none")) != content_of(nn.GELU("tanh"))
    weighted = (nn.CrossEntropyLoss(torch.full((3,), weight)) for weight in (1.0, 1.0, 2.0))
    first, same, other = map(content_of, weighted)
    assert first == same != other
    smooth = functools.partial(nn.CrossEntropyLoss.forward, nn.CrossEntropyLoss())
    sharp = functools.partial(smooth.func, nn.CrossEntropyLoss(label_smoothing=0.1))
    assert content_of(smooth) != content_of(sharp)


@dataclass(slots=True)
class Slotted:
    limit: float


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.ones(3), np.full(3, 0.1)),
        (np.array([1, "a"], object), np.array([2, "a"], object)),
        (np.float32(1.0), np.float32(2.0)),
        (torch.float32, torch.float16),
        (torch.device("cpu"), torch.device("meta")),
        (range(3), range(4)),
        (deque([1]), deque([2])),
        (bytearray(b"a"), bytearray(b"b")),
        (Slotted(1.0), Slotted(2.0)),
        (math, functools),
    ],
)
def test_whatever_a_function_holds_tells_it_apart(one: Any, other: Any) -> None:
    assert holding(one) == holding(copy.deepcopy(one) if one is not math else math)
    assert holding(one) != holding(other)


def holding(value: Any) -> str:
    def function(output: Tensor) -> Any:
        return output, value

    return content_of(function)


def test_a_module_that_a_function_holds_is_described_by_its_name() -> None:
    """Its content is large, and addresses in it differ from process to process."""
    module = ModuleType("constants")
    before = holding(module)
    vars(module)["address"] = object()
    assert holding(module) == before


SCALE: float = 1.0
SCALES: tuple[float, ...] = (1.0, 2.0)
COLLECTED: list[float] = []


def test_global_constants_are_part_of_a_function(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(output: Tensor, targets: Tensor, clean: Tensor) -> Tensor:
        COLLECTED.append(SCALE)
        right: Tensor = (output.argmax(1) == targets) * SCALE * SCALES[0]
        return right

    def values(store: Path | None) -> list[float]:
        metric = Metric("scaled", scaled)
        found = campaign.run(
            {"m": Limited(20.0)}, digits, [FAULT], trials=4, metric=metric, store=store
        )
        return [row.value for row in found.rows("m", FAULT)]

    store = tmp_path / "rows.sqlite"
    before, digest = values(store), content_of(scaled)
    assert content_of(scaled) == digest, "what a function collects is not part of it"
    monkeypatch.setitem(globals(), "SCALE", 0.5)
    assert content_of(scaled) != digest
    after = values(store)
    assert after == values(None) != before
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    monkeypatch.setitem(globals(), "SCALES", (0.5, 2.0))
    assert content_of(scaled) != digest


def test_lambdas_of_one_line_are_different_functions() -> None:
    functions = [lambda x: x, lambda x: 2 * x, lambda x: x in {1, 2}, lambda x: x in {1, 3}]
    inner = [lambda: lambda x: x + 1, lambda: lambda x: x + 2]
    assert len({content_of(each) for each in (*functions, *inner)}) == len(functions) + len(inner)


def test_a_name_stands_for_its_own_networks(digits: Data, tmp_path: Path) -> None:
    options = {"trials": 2, "images_per_trial": 16, "store": tmp_path / "rows.sqlite"}
    one, other = Limited(1.0), Limited(2.0)
    campaign.run({"m": one}, digits, [FAULT], name="a", **options)
    campaign.run({"m": other}, digits, [FAULT], name="b", **options)
    campaign.run({"m": one}, digits, [FAULT], name="a", **options)
    with pytest.raises(ProactError, match="'a' whose variants m are other models"):
        campaign.run({"m": other}, digits, [FAULT], name="a", **options)


def test_a_result_finds_its_store_from_anywhere(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = campaign.run(
        {"m": Limited(9.0)}, digits, [FAULT], trials=5, images_per_trial=16, store="rows.sqlite"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert result.cells[0].trials == 5
    assert not list((tmp_path / "elsewhere").iterdir())
    os.remove(tmp_path / "rows.sqlite")
    with pytest.raises(ProactError, match="is gone"):
        result.to_pandas(with_details=True)


def test_networks_that_write_to_their_inputs(digits: Data) -> None:
    class Halving(Limited):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    images, labels = digits.test.images.clone(), digits.test.labels
    result = campaign.run(
        {"m": Halving(1e9)}, (images, labels), [FAULT], trials=3, images_per_trial="all"
    )
    assert torch.equal(images, digits.test.images)
    with torch.no_grad():
        right = Halving(1e9)(images.clone()).argmax(1) == labels
    assert result.clean["m"] == pytest.approx(float(right.double().mean()))


@pytest.mark.parametrize(
    "policy", [Policy(1000, 64, False), Policy(0, 64, False), Policy(5, 0, False)]
)
def test_policies_that_do_not_fit(policy: Policy, digits: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy: expected"):
        campaign.run(
            {"m": Limited(1.0)}, digits, [FAULT], policy=policy, store=tmp_path / "rows.sqlite"
        )
    assert not (tmp_path / "rows.sqlite").exists()


@pytest.mark.parametrize("method", ["weight-range", "ranger"])
def test_a_protection_from_a_file_is_the_same_network(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, method: str
) -> None:
    chosen = protect.protect(trained_cnn, method, digits)
    protect.save(chosen, tmp_path / "chosen.safetensors")
    nn.ReLU().register_forward_hook(lambda *_: None).remove()  # hooks are numbered in a process
    loaded = protect.load(trained_cnn, tmp_path / "chosen.safetensors")
    # Nor does it matter what a network has been through.
    with torch.no_grad(), inject(chosen, BitFlip(1e-2)):
        chosen(digits.test.images[:8])
    assert behaviour_of(loaded) == behaviour_of(chosen)
    store = tmp_path / "rows.sqlite"
    options = {"trials": 3, "images_per_trial": 8, "store": store, "executor": 1}
    first, again = (
        campaign.run({"m": network}, digits, [BitFlip(1e-4)], **options)
        for network in (chosen, loaded)
    )
    assert again.number == first.number
    with Store(store) as opened:
        assert opened.number("SELECT count(*) FROM row") == 3
