"""Runners of small models, which tests of groups of trials compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from proact.campaign import Metric
from proact.campaign.built_in_metrics import metric_named
from proact.campaign.clean_results import clean_results
from proact.campaign.measurement import Measurement
from proact.campaign.scoring import DetectedError
from proact.campaign.trial_runner import TrialRunner
from proact.data import Split
from proact.faults import Fault, encode
from proact.faults.mixed_encoding import checked_encoding
from proact.nn import HyReLU
from proact.results import Policy, Row


def images(count: int = 40) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(
        torch.randn(count, 3, 6, 6, generator=generator),
        torch.randint(0, 4, (count,), generator=generator),
    )


def small_cnn(is_hardened: bool = False) -> nn.Sequential:
    torch.manual_seed(2)
    clips = [HyReLU(2.0 * torch.rand(5, 1, 1)), HyReLU(torch.rand(12))]
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        clips[0] if is_hardened else nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 12),
        clips[1] if is_hardened else nn.ReLU(inplace=True),
        nn.Linear(12, 4),
    ).eval()


def runner(
    model: nn.Module,
    at_once: int,
    per_trial: int | None = 8,
    *,
    encoding: str = "float32",
    metric: str | Metric = "top-1",
    data: Split | None = None,
    seed: int = 3,
    **options: Any,
) -> TrialRunner:
    """A runner of a copy of a model; ``options`` are those of `Measurement`."""
    word = checked_encoding(encoding)
    encoded = encode(model, word).eval()
    policy = Policy(per_trial, 16, False, at_once)
    measurement = Measurement(data or images(), metric_named(metric), **options)
    clean = clean_results(measurement, encoded, policy)
    return TrialRunner(encoded, word, measurement, clean, policy, seed)


def rows_by_groups(
    by: TrialRunner, fault: Fault, trials: range | list[int]
) -> list[Row | tuple[int, str]]:
    """The rows of `run_many` without their times, and (trial, reason) for excluded trials."""
    return [
        (found.trial, str(found)) if isinstance(found, DetectedError) else found._replace(seconds=0)
        for found in by.run_many(fault, trials)
    ]


def _passes_of_equal_copies() -> Iterator[Tensor]:
    """The outputs, (copies, ...), of passes in which all copies of a model are equal."""
    for model in (small_cnn(), small_cnn(is_hardened=True)):
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for copies in (2, 3, 4, 16):
            stacked = {n: t.detach().expand(copies, *t.shape).clone() for n, t in tensors.items()}
            for count in (8, 16):
                batch = images(count).images

                def one(own: dict[str, Tensor], x: Tensor, model: nn.Module = model) -> Tensor:
                    output: Tensor = functional_call(model, own, (x,))
                    return output

                with torch.no_grad():
                    yield vmap(one, in_dims=(0, None))(stacked, batch.clone())
                    yield vmap(one)(stacked, batch.expand(copies, *batch.shape).clone())


#: Where torch's own kernels give a copy other last digits at another place, models run one by one.
NEEDS_EVEN_KERNELS = pytest.mark.skipif(
    not all(torch.equal(copy, every[0]) for every in _passes_of_equal_copies() for copy in every),
    reason="on this CPU torch's kernels give other last digits at another place of a pass",
)


class Reordering(nn.Module):
    """Takes its inputs in a stored order; a flip in the order can make it raise an error."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.register_buffer("order", torch.arange(100, dtype=torch.uint8))
        self.linear = nn.Linear(100, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x.flatten(1)[:, self.order.long()])
        return output
