"""Models that are sent to workers compute there as they do here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_model_copies import COMPUTED, WRAPPERS, X, fault_effect, plain
from torch import nn

from proact import campaign
from proact.campaign.pickling import pickled
from proact.faults import BitFlip
from proact.nn.module_copy import copy_model
from proact.nn.written_state import (
    find_written_state,
    keep_written_state,
    preserved,
    written_state,
)

FAULT = BitFlip(0.3, bits=[22, 31])


def sent(value: Any) -> Any:
    import pickle

    return pickle.loads(pickled(value))


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_wrapped_forwards_survive(wrap: Any) -> None:
    model = copy_model(wrap(plain()))
    arrived = sent(model)
    assert torch.equal(fault_effect(arrived, X, FAULT)[1], fault_effect(model, X, FAULT)[1])


@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED.keys())
def test_computed_tensors_survive(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    model(X)
    arrived = sent(copy_model(model))
    assert torch.equal(fault_effect(arrived, X, FAULT)[1], fault_effect(model, X, FAULT)[1])


def test_shared_memory_stays_shared() -> None:
    model: Any = plain()
    model.view = model[0].weight.detach()[1:]
    arrived = sent(model)
    with torch.no_grad():
        arrived[0].weight.fill_(3.0)
    assert arrived.view.eq(3.0).all()
    assert isinstance(arrived[0].weight, nn.Parameter)
    assert arrived[0].weight.requires_grad
    assert not arrived.view.requires_grad


@pytest.mark.long
def test_workers_give_the_rows_of_one_process() -> None:
    model = plain()
    for layer in model:
        original = layer.forward
        layer.forward = lambda x, original=original: original(x)
    whole = model.forward
    model.forward = lambda x: whole(x)  # noqa: PLW0108
    data = (X, model(X).argmax(1))
    tables = [
        campaign.run(
            {"wrapped": each},
            data,
            [BitFlip(3e-2)],
            trials=12,
            images_per_trial="all",
            executor=executor,
        ).to_pandas()
        for each, executor in ((plain(), 1), (model, 1), (model, 2))
    ]
    columns = ["accuracy", "low", "high", "flips", "trials", "sdc"]
    for table in tables[1:]:
        assert table[columns].equals(tables[0][columns])
    assert tables[0]["accuracy"].item() < 0.9


def test_compiled_models_keep_their_hooks() -> None:
    model = torch.compile(plain(), backend="eager")
    model.register_forward_hook(lambda module, args, output: output + 1)
    arrived = sent(copy_model(model))
    assert torch.equal(fault_effect(arrived, X, FAULT)[1], fault_effect(model, X, FAULT)[1])
    torch._dynamo.reset()


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1.0)
        return self.linear(x) + self.count


def test_torchscript_arrives_with_its_written_state() -> None:
    model = copy_model(torch.jit.script(Counted()))
    with torch.no_grad():
        keep_written_state(model, find_written_state(model, lambda: model(X)))
        assert written_state(model) == (("", "count"),)
        arrived = sent(model)
        with preserved(arrived):
            first = arrived(X)
        assert torch.equal(arrived(X), first)
    assert torch.equal(model.count, torch.zeros(1))
