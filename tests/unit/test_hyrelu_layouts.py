"""Do HyReLU's loops take memory as it lies: any axis order, halves, any number of threads?"""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proact.ops import _hyrelu_native as native
from proact.ops import _hyrelu_reference as reference
from proact.ops import hyrelu
from proact.ops._hyrelu_layout import layout_of

MODES = ["soft", "zero", "saturate"]
CHANNELS_LAST = torch.channels_last


def gradients(function: object, x: Tensor, t: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
    y = function(x, t)  # type: ignore[operator]
    y.backward(grad)
    assert x.grad is not None
    assert t.grad is not None
    return y.detach(), x.grad, t.grad


@pytest.mark.parametrize(
    ("shape", "sample_runs"),
    [
        ((), (1, 1, 6 * 3 * 4 * 5)),
        ((3, 1, 1), (6 * 4 * 5, 3, 1)),  # a channel's elements lie three apart
        ((3, 4, 5), (6, 60, 1)),
        ((1, 4, 5), (6, 20, 3)),  # one for each place, shared by its three channels
        ((5,), (6 * 4, 5, 3)),
        ((1, 4, 1), (6, 4, 15)),
        ((3, 4, 1), (6, 60, 1)),  # written out for a sample: channels and rows lie apart
    ],
)
def test_channels_last_is_taken_as_it_lies(
    shape: tuple[int, ...], sample_runs: tuple[int, int, int]
) -> None:
    x = torch.randn(6, 3, 4, 5).to(memory_format=CHANNELS_LAST)
    t = torch.rand(shape)
    layout = layout_of(x, t)
    assert layout is not None
    assert layout.loops[:3] == sample_runs
    for order in (CHANNELS_LAST, torch.contiguous_format):
        grad = torch.randn(6, 3, 4, 5).to(memory_format=order)
        for mode in MODES:
            mine = gradients(lambda x, t, mode=mode: hyrelu(x, t, mode), x, t, grad)
            expected = (
                reference.forward(x, t, mode, 20.0),
                *reference.backward(grad, x, t, mode, 20.0),
            )
            torch.testing.assert_close(mine, expected)
            assert mine[0].is_contiguous(memory_format=CHANNELS_LAST)
            assert mine[1].is_contiguous(memory_format=CHANNELS_LAST)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    order=st.integers(0, 119),
    broadcast=st.lists(st.booleans(), min_size=4, max_size=4),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    half_threshold=st.booleans(),
    gap=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_axis_order(
    sizes: list[int],
    order: int,
    broadcast: list[bool],
    mode: str,
    dtype: torch.dtype,
    half_threshold: bool,
    gap: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    orders = list(itertools.permutations(range(len(sizes))))
    in_memory = orders[order % len(orders)]
    stored = torch.randn([sizes[axis] for axis in in_memory], generator=generator).to(dtype)
    x = stored.permute(*[in_memory.index(axis) for axis in range(len(sizes))])
    if gap:
        x = torch.cat([x, x], -1)[..., ::2]
    shape = [1 if one else size for one, size in zip(broadcast, x.shape[1:], strict=False)]
    is_half = dtype in (torch.float16, torch.bfloat16)
    t = torch.rand(shape, generator=generator)
    t = t.to(dtype if half_threshold or not is_half else torch.float32)
    grad = torch.randn(x.shape, generator=generator).to(dtype)

    y = hyrelu(x, t, mode)
    torch.testing.assert_close(y, reference.forward(x, t, mode, 20.0))
    assert y.stride() == torch.empty_like(x).stride()
    grad_x, grad_t = native.backward(grad, x, t, mode, 20.0)
    expected_x, expected_t = reference.backward(grad, x, t, mode, 20.0)
    torch.testing.assert_close(grad_x, expected_x)
    # The reference sums a half's gradient in float32 too, but in another order before it rounds.
    torch.testing.assert_close(
        grad_t, expected_t, **({"rtol": 0.01, "atol": 1e-3} if is_half else {})
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saturating_stores_the_threshold_rounded(dtype: torch.dtype) -> None:
    t = torch.tensor(1.0009)
    x = torch.full((40,), 7.0, dtype=dtype)
    for function in (hyrelu, lambda x, t, mode: reference.forward(x, t, mode, 20.0)):
        assert torch.equal(function(x, t, "saturate"), t.to(dtype).expand(40))
        never = function(torch.full((40,), float("inf"), dtype=dtype), torch.tensor(3e38), "zero")
        assert torch.equal(never, torch.zeros(40, dtype=dtype))


def test_float16_saturated_beyond_its_range_stays_finite() -> None:
    x = torch.tensor([float("inf"), 60000.0], dtype=torch.float16)
    expected = torch.tensor([0.0, 60000.0], dtype=torch.float16)
    assert torch.equal(hyrelu(x, torch.tensor(70000.0), "saturate"), expected)
    assert torch.equal(reference.forward(x, torch.tensor(70000.0), "saturate", 20.0), expected)


@pytest.mark.parametrize("shape", [(), (64, 1, 1), (64, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, grad = torch.randn(2, 16, 64, 16, 16).to(dtype)
    t = torch.rand(shape).to(dtype)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(gradients(hyrelu, x, t, grad))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.long
def test_every_instruction_set_passes_the_same_tests() -> None:
    """The baseline's loops from Python; the C++ tests go through all of them."""
    code = """
import torch
from proact import build_info
from proact.ops import _hyrelu_reference as reference, hyrelu
assert build_info()["isa"] == "baseline"
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    x = torch.randn(5, 7, 9).to(dtype)
    for t in (torch.tensor(0.7), torch.rand(7, 1), torch.rand(7, 9)):
        for mode in ("soft", "zero", "saturate"):
            expected = reference.forward(x, t.to(dtype), mode, 20.0)
            torch.testing.assert_close(hyrelu(x, t.to(dtype), mode), expected)
"""
    subprocess.run([sys.executable, "-c", code], env={"PROACT_ISA": "baseline"}, check=True)
