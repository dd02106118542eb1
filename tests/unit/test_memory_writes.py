"""Do cached trials have the outputs of the whole model where its forward writes in place?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.faults import ExactFlips, inject
from proact.nn.prefix_cache import MemoryBudget, MultiCutCache


class Layers(nn.Module):
    def __init__(self, forward: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.limit = nn.Parameter(torch.tensor(4.0))
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def by_statement(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    h.clamp_(-4.0, 4.0)
    return net.last(net.third(net.second(h).relu()).relu() + h)


def by_function(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    F.hardtanh(h, -4.0, 4.0, inplace=True)
    return net.last(net.third(net.second(h).relu()).relu() + h)


def by_a_stored_limit(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    torch.clamp_(h, max=net.limit)
    return net.last(net.third(net.second(h).relu()).relu() + h)


def through_a_view(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    h[:, :4].clamp_(-4.0, 4.0)
    return net.last(net.third(net.second(h).relu()).relu() + h)


def after_a_view(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    view = h[:, :4]
    h = h.clamp_(-4.0, 4.0)
    return net.last(net.third(net.second(h).relu()) + torch.cat([view, view], 1))


def to_the_input(net: Layers, x: Tensor) -> Tensor:
    x.clamp_(-4.0, 4.0)
    return net.last(net.third(net.second(net.first(x)).relu()).relu() + x)


def after_another_reader(net: Layers, x: Tensor) -> Tensor:
    h = net.first(x)
    y = net.second(h).relu()
    h = h.clamp_(-4.0, 4.0)
    return net.last(net.third(y).relu() + h)


def of_the_result_alone(net: Layers, x: Tensor) -> Tensor:
    h = F.relu(net.first(x), inplace=True).clamp_(max=4.0)
    y = net.second(h)
    y += h
    return net.last(net.third(y.relu_()).relu_())


FORWARDS = [
    by_statement,
    by_function,
    by_a_stored_limit,
    through_a_view,
    after_a_view,
    to_the_input,
    after_another_reader,
    of_the_result_alone,
]


@pytest.mark.parametrize("forward", FORWARDS)
def test_writes_in_place_change_no_output(forward: Callable[[Layers, Tensor], Tensor]) -> None:
    """The first inputs, by which a cut is checked, hold nothing that the writes change."""
    torch.manual_seed(0)
    model, inputs = Layers(forward).eval(), torch.randn(20, 8)
    inputs[2:] *= 20
    cache = MultiCutCache(model, inputs, MemoryBudget(1 << 20), 20)
    with torch.no_grad():
        clean = model(inputs.clone())
        for where in ("second.*", "third.*", "last.*", "limit"):
            differing = 0
            for trial in range(5):
                fault = ExactFlips(3, where=where, bits=(21, 22, 23, 27, 31))
                with inject(model, fault, trial=trial) as record:
                    expected = model(inputs.clone())
                    found = cache.outputs(record.changed)
                    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
                    differing += not torch.equal(expected, clean)
            assert differing > 0 or where == "limit"


def test_writes_to_results_that_nothing_else_reads_leave_the_cuts() -> None:
    torch.manual_seed(0)
    model = Layers(of_the_result_alone).eval()
    assert MultiCutCache(model, torch.randn(20, 8), MemoryBudget(1 << 20), 20).cuts > 0
