"""Does a pass of several copies overflow where a pass of one model does?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from trial_runners import NEEDS_EVEN_KERNELS

from proact.campaign.stacked_model import StackedModel

pytestmark = NEEDS_EVEN_KERNELS


def settled(norm: nn.Module) -> nn.Module:
    """With weights other than 1 and, if it has them, statistics other than 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0) if "bias" not in name else tensor.normal_()
    return norm.eval()


NORMS = {
    "batch norm of rows": (lambda: nn.BatchNorm1d(8), (5, 8)),
    "batch norm of maps": (lambda: nn.BatchNorm2d(8), (5, 8, 3, 3)),
    "batch norm without weights": (lambda: nn.BatchNorm2d(8, affine=False), (5, 8, 3, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 8), (5, 8, 3, 3)),
    "group norm of rows": (lambda: nn.GroupNorm(4, 8), (5, 8)),
    "layer norm": (lambda: nn.LayerNorm(8), (5, 3, 8)),
}


def alone_and_stacked(norm: nn.Module, inputs: Tensor, **changed: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of a norm with other numbers, and those of a copy with them among others."""
    names = [name for name, tensor in norm.state_dict().items() if tensor.is_floating_point()]
    stacked = StackedModel(norm, names, 4, lambda output: output)
    with torch.inference_mode():
        stacked.set(2, changed)
        found = stacked.outputs(inputs.clone(), is_shared=True)[2]
        for name, value in changed.items():
            norm.state_dict()[name].copy_(value)
        return norm(inputs), found


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38, 1e30, 0.0, -1.0])
@pytest.mark.parametrize("form", NORMS)
def test_faulty_numbers_give_what_they_give_alone(form: str, value: float) -> None:
    make, shape = NORMS[form]
    inputs = 20 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for name, tensor in settled(make()).state_dict().items():
        if not tensor.is_floating_point():
            continue
        changed = tensor.clone()
        changed[3] = value
        alone, stacked = alone_and_stacked(settled(make()), inputs, **{name: changed})
        torch.testing.assert_close(stacked, alone, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", NORMS)
def test_other_dtypes(form: str, dtype: torch.dtype) -> None:
    make, shape = NORMS[form]
    norm = settled(make()).to(dtype)
    alone, stacked = alone_and_stacked(norm, torch.randn(shape).to(dtype))
    tolerance = 1e-10 if dtype == torch.float64 else 0.02
    torch.testing.assert_close(stacked, alone, rtol=tolerance, atol=tolerance)


def test_an_infinite_weight_meets_a_ceiling_as_it_does_alone() -> None:
    """With NaN as one formula has it, every output is lost; with infinity, none."""
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(norm, nn.ReLU6()).eval()
    weight = torch.tensor([1.0, math.inf, 1.0, 1.0])
    names = [name for name, _ in model.named_parameters()]
    stacked = StackedModel(model, names, 4, lambda output: output)
    inputs = torch.randn(6, 4)
    with torch.inference_mode():
        stacked.set(0, {"0.weight": weight})
        found = stacked.outputs(inputs, is_shared=True)[0]
        norm.weight.copy_(weight)
        assert torch.equal(found.isnan(), model(inputs).isnan())
