"""Does HyReLU inside torch.func.vmap give what a loop over the map gives?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from proact import _native
from proact.ops import hyrelu, hyrelu_

MODES = ("soft", "zero", "saturate")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZE = 5
#: Shapes of a threshold for samples of (3, 4, 5): per layer, channel and neuron, and one that
#: lacks the first dimensions of a sample.
THRESHOLDS = [(), (3, 1, 1), (3, 4, 5), (5,)]
PLACES = [(0, 0), (1, None), (None, -1), (3, 0), (4, -1), (2, 0)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = 2 * torch.randn(SIZE, *shape, dtype=dtype)
    hostile = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, 0.0], dtype=dtype)
    values.view(SIZE, -1)[:, 0] = hostile
    return values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", THRESHOLDS, ids=str)
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_a_map_is_a_loop(
    mode: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    places: tuple[int | None, int | None],
    engine: None,
) -> None:
    of_x, of_threshold = places
    xs, thresholds = mapped((2, 3, 4, 5), dtype), mapped(shape, dtype).abs()
    x = xs[1] if of_x is None else xs.movedim(0, of_x)
    threshold = thresholds[3] if of_threshold is None else thresholds.movedim(0, of_threshold)
    expected = [
        hyrelu(
            xs[1] if of_x is None else xs[i],
            thresholds[3] if of_threshold is None else thresholds[i],
            mode,
        )
        for i in range(SIZE)
    ]
    for is_inference in (False, True):
        with torch.inference_mode(is_inference):
            found = vmap(lambda a, b: hyrelu(a, b, mode), in_dims=places)(x, threshold)
        # torch's sigmoid has another last digit in the last elements of a tensor.
        is_exact = mode != "soft" or _native.module is not None
        tolerances = {} if not is_exact else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(found, torch.stack(expected), **tolerances)


def test_thresholds_of_other_precision_and_channels_last() -> None:
    xs = mapped((2, 3, 4, 4), torch.float16).contiguous()
    thresholds = torch.rand(SIZE, 3, 1, 1)
    expected = torch.stack([hyrelu(xs[i], thresholds[i], "zero") for i in range(SIZE)])
    spread = xs.movedim(2, -1).contiguous().movedim(-1, 2)
    found = vmap(lambda a, b: hyrelu(a, b, "zero"))(spread, thresholds)
    assert found.dtype == torch.float16
    assert torch.equal(found, expected)


def test_maps_inside_maps_and_in_place() -> None:
    xs, thresholds = mapped((2, 3), torch.float32), torch.rand(SIZE, 3)
    expected = torch.stack([hyrelu(xs[i], thresholds[i], "zero") for i in range(SIZE)])
    rows = vmap(lambda a, b: hyrelu(a[None], b, "zero")[0], in_dims=(0, None))
    assert torch.equal(vmap(rows)(xs, thresholds), expected)
    written = xs.clone()
    assert torch.equal(vmap(lambda a, b: hyrelu_(a, b, "zero"))(written, thresholds), expected)


def test_gradients_through_and_inside_a_map() -> None:
    xs = torch.randn(SIZE, 2, 3, dtype=torch.float64, requires_grad=True)
    thresholds = torch.rand(SIZE, 3, dtype=torch.float64, requires_grad=True)
    looped = torch.stack([hyrelu(xs[i], thresholds[i]) for i in range(SIZE)])
    expected = torch.autograd.grad(looped.sum(), (xs, thresholds))
    through = torch.autograd.grad(vmap(hyrelu)(xs, thresholds).sum(), (xs, thresholds))
    torch.testing.assert_close(through, expected)
    inside = torch.func.grad(lambda a, b: hyrelu(a, b).sum(), argnums=(0, 1))
    torch.testing.assert_close(vmap(inside)(xs.detach(), thresholds.detach()), expected)


def test_a_compiled_map() -> None:
    xs, thresholds = mapped((2, 3), torch.float32), torch.rand(SIZE, 3)
    mapped_clip = vmap(lambda x, t: hyrelu(x, t, "zero"))
    compiled = torch.compile(mapped_clip, backend="aot_eager")
    assert torch.equal(compiled(xs, thresholds), mapped_clip(xs, thresholds))


def test_errors_inside_a_map() -> None:
    with pytest.raises(ValueError, match="threshold must broadcast against one sample"):
        vmap(lambda a, b: hyrelu(a, b, "zero"))(torch.rand(2, 3, 4), torch.rand(2, 3))
