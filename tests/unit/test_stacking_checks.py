"""Do models run one by one where a pass of several trials could give other rows?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from trial_runners import NEEDS_EVEN_KERNELS, rows_by_groups, runner, small_cnn

from proact import protect
from proact.campaign import Metric
from proact.campaign.stacked_model import StackedModel
from proact.data import Split
from proact.faults import BitFlip
from proact.nn.forward import Forward

TRIALS = range(11)


class Branching(nn.Module):
    """Looks at its numbers, which a pass of several copies cannot do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = nn.Linear(108, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x.flatten(1))
        if bool((output.abs() > 1e6).any()):
            raise ArithmeticError("too large")
        return output


class Holding(nn.Module):
    """Computes with a tensor that it holds outside of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.weight = nn.Parameter(torch.randn(108, 4))
        self.held = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.held[0]


class Pair(nn.Module):
    """Gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.linear = nn.Linear(108, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x.flatten(1)), x


#: Reads the whole output.
WHOLE = Metric("first of two", lambda output, targets, clean: output[0][:, 0].sigmoid())


_library = torch.library.Library("proact_tests", "FRAGMENT")
_library.define("doubled(Tensor x) -> Tensor")
_library.impl("doubled", lambda x: 2 * x, "CPU")


class Unbatched(nn.Module):
    """Uses an operator without a batching rule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.linear = nn.Linear(108, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.proact_tests.doubled(self.linear(x.flatten(1)))
        return output


@pytest.mark.parametrize("make", [Branching, Holding, Unbatched, Pair])
def test_models_that_run_one_by_one(make: Callable[[], nn.Module]) -> None:
    fault = BitFlip(1e-3)
    metric = WHOLE if make is Pair else "top-1"
    grouped = runner(make(), 4, metric=metric)
    alone = rows_by_groups(runner(make(), 1, metric=metric), fault, TRIALS)
    assert not grouped.can_group(fault)
    assert rows_by_groups(grouped, fault, TRIALS) == alone


@pytest.mark.parametrize(
    "options",
    [
        {"forward": Forward(lambda model, batch: model(batch))},
        {"forward": Forward(output=lambda output: output)},
        {"state": "keep"},
    ],
    ids=["forward", "output", "state"],
)
def test_measurements_that_are_taken_one_by_one(options: dict[str, object]) -> None:
    assert not runner(small_cnn(), 4, **options).can_group(BitFlip(1e-3))


def test_fixed_batches_run_one_by_one() -> None:
    torch.manual_seed(0)
    data = Split(torch.randn(40, 3, 6, 6), torch.randint(0, 4, (40,)))
    batches = runner(small_cnn(), 4, data=data.in_fixed_batches(8))
    assert not batches.can_group(BitFlip(1e-3))


@pytest.mark.parametrize("method", ["weight-range", "ecc"])
def test_guarded_models_run_one_by_one(method: str) -> None:
    guarded = protect.protect(small_cnn(), method)
    grouped = runner(guarded, 4, encoding="native" if method == "ecc" else "float32")
    assert not grouped.can_group(BitFlip(1e-3))
    assert len(rows_by_groups(grouped, BitFlip(1e-3), range(3))) == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_models_run_one_by_one() -> None:
    scripted = torch.jit.trace(small_cnn(), torch.randn(2, 3, 6, 6))
    assert not runner(scripted, 4).can_group(BitFlip(1e-3))


@NEEDS_EVEN_KERNELS
def test_tied_parameters_share_a_pass() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 108), nn.ReLU(), nn.Linear(108, 108))
    model[3].weight = model[1].weight
    grouped = runner(model.eval(), 4, metric="sdc")
    assert grouped.can_group(BitFlip(1e-3))
    rows = rows_by_groups(grouped, BitFlip(1e-3), TRIALS)
    alone = rows_by_groups(runner(model, 1, metric="sdc"), BitFlip(1e-3), TRIALS)
    assert [(r.flips, r.agreeing) for r in rows] == [(r.flips, r.agreeing) for r in alone]


@pytest.mark.parametrize("place", [0, 3])
def test_a_pass_in_which_a_place_matters_is_refused(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = StackedModel.outputs

    def uneven(self: StackedModel, inputs: Tensor, is_shared: bool) -> Tensor:
        found = outputs(self, inputs, is_shared).clone()
        found[place, 0, 0] = torch.nextafter(found[place, 0, 0], torch.tensor(torch.inf))
        return found

    monkeypatch.setattr(StackedModel, "outputs", uneven)
    assert not runner(small_cnn(), 4).can_group(BitFlip(1e-3))


def test_a_pass_in_which_neighbours_matter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = StackedModel.outputs

    def mixing(self: StackedModel, inputs: Tensor, is_shared: bool) -> Tensor:
        found = outputs(self, inputs, is_shared)
        return found + 1e-6 * found.mean(0, keepdim=True)

    monkeypatch.setattr(StackedModel, "outputs", mixing)
    assert not runner(small_cnn(), 4).can_group(BitFlip(1e-3))
