"""Do trials that skip work give the very rows of those that do not?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from proact import campaign, models, protect
from proact.campaign.prefix_cache import Prefixes
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, Burst, ExactFlips, Fault, StuckAt, inject
from proact.results import Policy, Row

FAULTS: list[Fault] = [
    ExactFlips(1),
    BitFlip(1e-5),
    BitFlip(1e-3, where="output.*"),
    BitFlip(1e-3, where="conv1.*"),
    StuckAt(1, 1e-4, where="hidden.*"),
    Burst(3, 1e-4, where="output.*"),
    ActivationFlip(1e-4),
]


def rows(
    model: nn.Module, data: object, faults: list[Fault], *, prefix_cache: bool
) -> list[tuple[object, ...]]:
    result = campaign.run(
        {"m": model}, data, faults, trials=25, encoding="q15.16", prefix_cache=prefix_cache,
        # What a clock chose could differ, and decides where activations flip.
        policy=Policy(images=None, batch=64, channels_last=False),
    )  # fmt: skip
    return [row[:-1] for fault in faults for row in result.rows("m", fault)]


def test_rows_are_the_same_with_and_without(trained_cnn: nn.Module, digits: Data) -> None:
    assert rows(trained_cnn, digits, FAULTS, prefix_cache=True) == rows(
        trained_cnn, digits, FAULTS, prefix_cache=False
    )


@pytest.mark.parametrize("method", ["ranger", "weight-range"])
def test_rows_of_protected_networks_too(method: str, trained_cnn: nn.Module, digits: Data) -> None:
    model = protect.protect(trained_cnn, method, digits)
    assert rows(model, digits, FAULTS[:2], prefix_cache=True) == rows(
        model, digits, FAULTS[:2], prefix_cache=False
    )


def test_rows_of_a_residual_network() -> None:
    torch.manual_seed(0)
    model = models.create("resnet20", num_classes=10, in_channels=1).eval()
    images = (torch.randn(70, 1, 8, 8), torch.randint(0, 10, (70,)))
    assert rows(model, images, FAULTS[:2], prefix_cache=True) == rows(
        model, images, FAULTS[:2], prefix_cache=False
    )


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        self.calls: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return output


def test_what_lies_before_the_first_fault_does_not_run() -> None:
    torch.manual_seed(0)
    model = Counting().eval()
    batches = [torch.randn(16, 8), torch.randn(4, 8)]
    prefixes = Prefixes(model, batches)
    assert prefixes.cuts == 2
    for name in ("first", "second", "third"):
        model.get_submodule(name).register_forward_hook(lambda *_, n=name: model.calls.append(n))
    ran = {}
    for name in ("first", "second", "third"):
        model.calls.clear()
        with inject(model, ExactFlips(5, where=f"{name}.*")) as record, torch.no_grad():
            found = prefixes.outputs(record)
            ran[name] = list(dict.fromkeys(model.calls))
            assert torch.equal(found, torch.cat([model(batch) for batch in batches]))
    assert ran == {
        "first": ["first", "second", "third"],
        "second": ["second", "third"],
        "third": ["third"],
    }


def test_kept_activations_survive_in_place_functions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    batches = [torch.randn(16, 8)]
    prefixes = Prefixes(model.eval(), batches)
    with inject(model, ExactFlips(1, where="1.*")) as record, torch.no_grad():
        first, second = prefixes.outputs(record), prefixes.outputs(record)
        assert torch.equal(first, second)
        assert torch.equal(first, model(batches[0]))


def test_tied_weights_count_where_they_come_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    batches = [torch.randn(16, 8)]
    prefixes = Prefixes(model.eval(), batches)
    for trial in range(10):
        with inject(model, ExactFlips(1), trial=trial) as record, torch.no_grad():
            assert torch.equal(prefixes.outputs(record), model(batches[0]))


def test_a_trial_that_changes_nothing_is_not_run(digits: Data) -> None:
    class Zero(nn.Module):
        ran = 0

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            Zero.ran += 1
            return x.flatten(1) @ self.weight

    # Bits that are 0 stick at 0.
    fault = StuckAt(0, 0.5)
    run: list[Row] = []
    for trials in (1, 60):
        Zero.ran = 0
        result = campaign.run({"m": Zero()}, digits, [fault], trials=trials, images_per_trial=20)
        run = list(result.rows("m", fault))
        ran = Zero.ran if trials == 1 else ran  # type: ignore[has-type] # noqa: F821
    assert Zero.ran == ran
    assert all(row.flips == 0 and row.value == row.clean and row.seconds == 0 for row in run)
