"""Are writes without check bits told apart from errors, instead of being corrected?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from guard_models import guard_of, run
from torch import nn

from conftest import bits_of, same_bits
from proact import ProactError, protect
from proact.faults import BitFlip, inject
from proact.nn import without_error_correction

IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(2))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(384, 7)
    return nn.Sequential(*layers).eval()


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(IMAGES).square().mean().backward()
    optimizer.step()


def scale(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("4.weight").mul_(1.001)


def load_a_part(model: nn.Module) -> None:
    model.get_submodule("4").load_state_dict(nn.Linear(384, 7).state_dict())


def assign(model: nn.Module) -> None:
    model[4] = nn.Linear(384, 7)  # type: ignore[index,operator]


def recalibrate(model: nn.Module) -> None:
    model.get_submodule("1").train()
    with torch.no_grad():
        model(IMAGES)
    model.eval()


WRITES = [step, scale, load_a_part, assign, recalibrate]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("code", ["secded", "bch2", "bch3", "parity", "mset", "cep"])
def test_a_write_is_an_error_and_stays(code: str, write: Callable[[nn.Module], None]) -> None:
    protected = protect.protect(network(), "ecc", code=code)
    write(protected)
    before = bits_of(protected)
    with pytest.raises(ProactError, match=r"(0|1|4)\.\w+ was written after ecc wrote its check"):
        run(protected)
    again = protect.protect(without_error_correction(protected), "ecc", code=code)
    run(again)
    assert guard_of(again).last_scrub == {}
    # Tensors that were not written may have been scrubbed, and had no errors.
    assert same_bits(before, protected)


@pytest.mark.parametrize("code", ["secded", "bch2", "parity"])
def test_frequent_errors_are_no_write(code: str) -> None:
    protected = protect.protect(network(), "ecc", code=code)
    with inject(protected, BitFlip(0.3), "native"):
        run(protected)
    words = protected.get_parameter("4.weight").detach().view(torch.int32).view(-1)
    words[::5] ^= 1 << 20
    run(protected)
    assert sum(guard_of(protected).last_scrub["4.weight"]) == len(words[::5])


def test_a_part_with_a_guard_of_its_own_is_refused() -> None:
    inner = protect.protect(network(), "ecc", code="bch3")
    whole = nn.Sequential(inner, nn.Linear(7, 2)).eval()
    before = bits_of(whole)
    with pytest.raises(ValueError, match="0 has an ecc guard of its own"):
        protect.protect(whole, "ecc", code="secded")
    assert same_bits(before, whole)


def test_masks_stay_without_check_bits() -> None:
    model = network()
    model.register_buffer("mask", torch.tensor([1, 0, 1] * 8, dtype=torch.int8))
    with pytest.warns(UserWarning, match="ecc leaves mask without check bits"):
        protected = protect.protect(model, "ecc", code="secded")
    assert "mask" not in guard_of(protected).names
    assert torch.equal(protected.get_buffer("mask"), model.get_buffer("mask"))


class Averaging(nn.Module):
    """Adds a running average of its outputs, which it keeps in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        self.mean = 0.5 * self.mean + 0.5 * out.mean(0).detach()
        return out + self.mean


class InPlace(Averaging):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        self.mean.mul_(0.5).add_(0.5 * out.mean(0).detach())
        return out + self.mean


@pytest.mark.parametrize("kind", [Averaging, InPlace])
@pytest.mark.parametrize("has_bounds", [False, True])
def test_a_buffer_that_the_forward_writes_is_an_error(
    kind: type[nn.Module], has_bounds: bool
) -> None:
    torch.manual_seed(0)
    model, batch = kind().eval(), torch.randn(5, 6)
    expected = copy.deepcopy(model)
    protected = protect.protect(model, "ecc")
    if has_bounds:
        protected = protect.protect(protected, "weight-range")
    with torch.no_grad(), pytest.raises(ProactError, match="the forward pass writes to mean"):
        protected(batch)
    left = protect.protect(model, "ecc", code={"mean": "none", "*": "bch2"})
    with torch.no_grad():
        for _ in range(4):
            assert torch.allclose(left(batch), expected(batch), atol=1e-2)
    assert guard_of(left).corrected == guard_of(left).detected == 0
