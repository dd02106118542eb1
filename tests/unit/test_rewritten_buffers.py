"""Does a rewritten forward read parameters and buffers whenever it runs, as the original does?"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.faults import BitFlip, inject
from proact.nn import HyReLU, find_sites, replace_sites


class Reader(nn.Module):
    """Calls a functional ReLU, so that its forward is rewritten, on what ``read`` returns."""

    def __init__(self, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.read = nn.Linear(6, 6), read
        self.register_buffer("mean", 0.1 * torch.randn(6))
        self.register_buffer("var", 0.5 + torch.rand(6), persistent=False)
        self.register_buffer("table", 1 + torch.rand(3, 6))
        self.register_buffer("count", torch.tensor(3))
        self.alias, self.holder = self.var.view(6), [self.first.weight.data]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.read(self, self.first(x)))


#: The reader's own tensors, without the thresholds of a copy.
STORED = [f"reader.{name}" for name in ("mean", "var", "table", "first.*")]


class Net(nn.Module):
    def __init__(self, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.reader, self.last = Reader(read), nn.Linear(6, 4)
        self.reader.of_last = self.last.bias.data  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.reader(x))
        return output


def network(read: Callable[[Any, Tensor], Tensor]) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net(read).eval(), torch.randn(5, 6)


def replaced(model: nn.Module, x: Tensor) -> nn.Module:
    return replace_sites(model, {site: HyReLU(float("inf")) for site in find_sites(model, x)})


def frozen_norm(self: Any, x: Tensor) -> Tensor:
    scale = (self.var + 1e-5).rsqrt()
    return (x - self.mean) * scale.reshape(1, -1)


def with_item(self: Any, x: Tensor) -> Tensor:
    return x * self.var[0].item() + self.mean.tolist()[0]


def with_shapes(self: Any, x: Tensor) -> Tensor:
    for row in self.table:
        x = x * row
    steps = torch.arange(self.table.size(0) + len(self.mean) - 3, device=self.mean.device)
    for number in range(self.table.shape[1] - self.table.ndim - self.table.numel() // 6):
        x = x + self.mean[number]
    return x + steps.to(self.mean.dtype) * self.var


def of_int(self: Any, x: Tensor) -> Tensor:
    return x + self.table[self.count % 3] * self.mean


def through_other_doors(self: Any, x: Tensor) -> Tensor:
    return (x - self._buffers["mean"]) / self.get_buffer("var") + self.alias


def by_index(self: Any, x: Tensor) -> Tensor:
    picked = torch.ones(4, 6)[self.count] + torch.select(self.table, 0, self.count % 3)
    try:
        size = int(x.shape[0])
    except TypeError:
        size = x.shape[0]
    return x * picked + torch.narrow(self.mean, 0, self.count % 3, 1) * size


def if_tensor(self: Any, x: Tensor) -> Tensor:
    scale = self.mean if isinstance(self.mean, Tensor) and torch.is_tensor(self.var) else 1.0
    return x * scale + torch.cat([self.mean[:3], torch.stack([self.var, self.mean])[0, 3:]])


def when_training(self: Any, x: Tensor) -> Tensor:
    if self.training:
        self.count += 1
    return x * self.mean


READS = [
    frozen_norm,
    with_item,
    with_shapes,
    of_int,
    through_other_doors,
    if_tensor,
    by_index,
    when_training,
]


@pytest.mark.parametrize("read", READS)
def test_a_change_of_a_buffer_shows(read: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = network(read)
    other = replaced(model, x)
    with torch.no_grad():
        before = model(x)
        assert torch.equal(other(x), before)
        for name, _ in model.reader.named_buffers():
            for each in (model, other):
                buffer = each.get_buffer(f"reader.{name}")
                buffer.copy_(1 if name == "count" else buffer * 3)
            assert torch.equal(other(x), model(x))
        assert not torch.equal(model(x), before)


@pytest.mark.parametrize("read", READS)
def test_faults_in_buffers_hurt_as_much(read: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = network(read)
    other = replaced(model, x)
    differing = 0
    with torch.no_grad():
        clean = model(x)
        for trial in range(20):
            fault = BitFlip(0.03, where=STORED, bits=range(10, 26))
            with inject(model, fault, trial=trial), inject(other, fault, trial=trial):
                assert torch.equal(other(x), model(x))
                differing += not torch.equal(model(x), clean)
    assert differing > 10


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    found: nn.Module = pickle.loads(pickle.dumps(model))
    return found


def loaded(model: nn.Module) -> nn.Module:
    state = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


def halved(model: nn.Module) -> nn.Module:
    return model.half().float()


@pytest.mark.parametrize("change", [copied, pickled, loaded, halved])
@pytest.mark.parametrize("read", [frozen_norm, with_item, with_shapes, of_int])
def test_buffers_are_read_after_they_were_replaced(
    read: Callable[[Any, Tensor], Tensor], change: Callable[[nn.Module], nn.Module]
) -> None:
    model, x = network(read)
    other = change(replaced(model, x))
    model = change(model)  # type: ignore[assignment]
    with torch.no_grad():
        for each in (model, other):
            each.get_buffer("reader.var").mul_(2)
            each.get_buffer("reader.mean").mul_(2)
        assert torch.equal(other(x), model(x))


def test_a_model_in_half_precision() -> None:
    model, x = network(frozen_norm)
    other = replaced(model, x).half()
    for site in find_sites(model, x):
        other.get_submodule(site.name).half()
    assert torch.equal(other(x.half()), model.half()(x.half()))


def test_a_buffer_that_the_forward_counts_in() -> None:
    def counting(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count

    model, x = network(counting)
    other = replaced(model, x)
    for _ in range(3):
        assert torch.equal(other(x), model(x))
    assert int(other.get_buffer("reader.count")) == int(model.reader.count) > 3


def swallows(self: Any, x: Tensor) -> Tensor:
    try:
        return x * float(self.mean[0])
    except Exception:
        return x


def assigns(self: Any, x: Tensor) -> Tensor:
    self.mean = self.table[0]
    return x * self.mean


def assigns_constant(self: Any, x: Tensor) -> Tensor:
    self.mean = torch.ones(6)
    return x * self.mean


def counts(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    return x * self.count


def writes(self: Any, x: Tensor) -> Tensor:
    self.mean[0] = 1.0
    return x * self.mean


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "float": (lambda self, x: x * float(self.count), "a Python number of count"),
    "int": (lambda self, x: x * int(self.count), "a Python number of count"),
    "index": (lambda self, x: x * [1, 2, 3, 4][self.count], "a Python number of count"),
    "range": (lambda self, x: x * len(range(self.count)), "a Python number of count"),
    "derived": (lambda self, x: x * float(self.var.sum() / 2), "a Python number of var"),
    "of the input": (lambda self, x: x * float(x.sum()), "a Python number of"),
    "branch": (lambda self, x: x if self.count > 2 else -x, "control flow"),
    "other door": (lambda self, x: x * (2 * self._buffers["mean"]), "it reads .*mean in a way"),
    "other door, float": (lambda self, x: x * float(self._buffers["count"]), "it reads .*count"),
    "other door, list": (lambda self, x: x * self._buffers["var"].tolist()[0], "it reads .*var"),
    "parameters": (lambda self, x: x * sum(p.sum() for p in self.first.parameters()), "it reads"),
    "alias": (lambda self, x: x * self.alias[0], "it reads .*var in a way"),
    "alias, float": (lambda self, x: x * float(self.alias.sum()), "it reads .*var in a way"),
    "list": (lambda self, x: F.linear(x, self.holder[0]), "reads .*weight other than as"),
    "of another layer": (lambda self, x: x * self.of_last.sum(), "it reads last.bias in a way"),
    "in a try": (swallows, "a Python number of mean"),
    "counter": (counts, "it assigns the buffer count"),
    "elements": (writes, "it assigns the buffer mean or elements of it"),
    "assigned": (assigns, "mean"),
    "assigned constant": (assigns_constant, "it assigns self.mean"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_would_be_fixed_is_named(case: str) -> None:
    read, words = REFUSED[case]
    model, x = network(read)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"(?s)'reader' .*{words}.*skip=\('reader',\)"):
        find_sites(model, x)
    if "assigned" not in case and case not in ("counter", "elements"):
        assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_tensors_that_are_not_stored_may_be_computed_with() -> None:
    def constants(self: Any, x: Tensor) -> Tensor:
        zeros = next(self.parameters()).new_zeros(6)
        return x * torch.ones(6).mul(2) + self.plain / 4 + zeros

    model, x = network(constants)
    model.reader.plain = torch.rand(6)  # type: ignore[assignment]
    other = replaced(model, x)
    assert torch.equal(other(x), model(x))
    assert torch.equal(copied(other)(x), model(x))
