"""State that a forward pass writes is found once and put back after each forward pass."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization

from proact.faults import BitFlip, inject
from proact.nn.module_copy import copy_model
from proact.nn.written_state import (
    find_written_state,
    keep_written_state,
    preserved,
    written_state,
)

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))


class Cache:
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.seen = 0


class Stateful(nn.Module):
    """Keeps state in every form that people use."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(4, 4)
        self.register_buffer("running", torch.zeros(4))
        self.plain = torch.zeros(4)
        self.count, self.hidden = 0, None
        self.items: list[Any] = [torch.zeros(4)]
        self.table: dict[str, Tensor] = {}
        self.recent: deque[Tensor] = deque(maxlen=2)
        self.cache = Cache()

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        state = torch.zeros(4)
        if self.kind == "buffer in place":
            self.running.mul_(0.9).add_(x.detach().mean(0))
            state = self.running
        elif self.kind == "buffer":
            self.running = self.running * 0.9 + x.detach().mean(0)
            state = self.running
        elif self.kind == "tensor":
            self.plain += x.detach().mean(0)
            state = self.plain
        elif self.kind == "number":
            self.count += 1
            state = state + self.count
        elif self.kind == "hidden":
            self.hidden = x.detach() if self.hidden is None else self.hidden * 0.5 + x.detach()
            state = self.hidden
        elif self.kind == "list":
            self.items[0] = self.items[0] + 1
            self.items.append(x.detach().mean(0))
            state = self.items[0] + len(self.items)
        elif self.kind == "tensor in a list":
            self.items[0].add_(1.0)
            state = self.items[0]
        elif self.kind == "dict":
            self.table["sum"] = self.table.get("sum", state) + 1
            state = self.table["sum"]
        elif self.kind == "deque":
            self.recent.append(x.detach().mean(0))
            state = sum(self.recent, state)
        elif self.kind == "object":
            self.cache.keys.append(x.detach().mean(0))
            self.cache.seen += 1
            state = state + self.cache.seen + len(self.cache.keys)
        elif self.kind == "new attribute":
            self.fresh = getattr(self, "fresh", 0) + 1
            state = state + self.fresh
        return x + state


KINDS = {
    "buffer in place": "running",
    "buffer": "running",
    "tensor": "plain",
    "number": "count",
    "hidden": "hidden",
    "list": "items",
    "tensor in a list": "items",
    "dict": "table",
    "deque": "recent",
    "object": "cache",
    "new attribute": "fresh",
}


def run(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(X.clone()).clone()


@pytest.mark.parametrize(("kind", "attribute"), KINDS.items())
def test_state_is_found_and_put_back(kind: str, attribute: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), Stateful(kind))
    expected = run(copy_model(model))
    assert find_written_state(model, lambda: run(model)) == (("1", attribute),)
    first, second = run(copy_model(model)), None
    assert torch.equal(first, expected)  # the search left no trace
    with torch.no_grad():
        stateful = copy_model(model)
        run(stateful)
        second = run(stateful)
    assert not torch.equal(second, expected)
    keep_written_state(model, (("1", attribute),))
    for candidate in (model, copy_model(model), pickle.loads(pickle.dumps(model))):
        assert written_state(candidate) == (("1", attribute),)
        for _ in range(3):
            with preserved(candidate):
                assert torch.equal(run(candidate), expected)


def test_state_is_put_back_after_an_error() -> None:
    model = Stateful("number")
    keep_written_state(model, find_written_state(model, lambda: run(model)))

    def interrupted() -> None:
        with preserved(model):
            run(model)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        interrupted()
    assert model.count == 0


def test_faults_in_written_buffers_stay_for_the_whole_trial() -> None:
    """State is put back to what it was before the forward pass, faults included."""
    torch.manual_seed(0)
    model = Stateful("buffer in place")
    model.running.fill_(1.0)
    keep_written_state(model, find_written_state(model, lambda: run(model)))
    clean = model.running.clone()
    outputs = []
    with inject(model, BitFlip(0.9, where="running", bits=[22])) as record:
        assert record.flips
        faulty = model.running.clone()
        for _ in range(2):
            with preserved(model):
                outputs.append(run(model))
            assert torch.equal(model.running, faulty)
    assert torch.equal(*outputs)
    assert torch.equal(model.running, clean)
    assert not torch.equal(faulty, clean)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout()),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.LSTM(2, 3, batch_first=True)),
    ],
)
def test_ordinary_models_write_nothing(make: Callable[[], nn.Module]) -> None:
    model = make().eval()

    def forward() -> object:
        with torch.inference_mode():
            return model(X.clone() if isinstance(model, nn.Sequential) else X[None])

    assert find_written_state(model, forward) == ()


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
def test_observers_are_found() -> None:
    net = nn.Sequential(quantization.QuantStub(), nn.Linear(4, 4), quantization.DeQuantStub())
    net.train().qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(net, inplace=True)
    net(X)
    net.eval()
    changed = {name for _, name in find_written_state(net, lambda: net(3 * X))}
    assert {"min_val", "max_val"} <= changed
