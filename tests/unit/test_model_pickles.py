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
