"""Does range restriction do what it says, natively and in plain torch, and refuse the rest?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proact import _native
from proact.ops import restrict_range_
from proact.ops.range_plan import ACTIONS, RangePlan
from proact.ops.sweep_log import SweepLog

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INF, NAN = math.inf, math.nan


def by_definition(x: float, low: float, high: float, action: str, finite: float) -> float:
    """What becomes of x; `finite` is the largest number of its dtype."""
    some_pass = low <= high and low <= finite and high >= -finite
    if not some_pass:
        return 0.0
    if abs(x) <= finite and low <= x <= high:
        return x
    if action == "saturate" and x < low and abs(low) <= finite:
        return low
    if action == "saturate" and x > high and abs(high) <= finite:
        return high
    return low if low > 0 else high if high < 0 else 0.0


def values(dtype: torch.dtype, n: int = 600) -> Tensor:
    """Healthy and special numbers in turn."""
    torch.manual_seed(0)
    x = torch.randn(n).to(dtype)
    largest = torch.finfo(dtype).max
    for i, special in enumerate((INF, -INF, NAN, 0.0, -0.0, largest, -largest, 1.0, -1.0, 0.5)):
        x[i * 7 :: 97] = special
    return x


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


BOUNDS = [(-1.0, 1.0), (0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-INF, INF), (-INF, 0.5), (0.5, INF)]
BOUNDS += [(1.0, -1.0), (NAN, 1.0), (-1.0, NAN), (INF, INF), (-INF, -INF), (-0.0, 1e30)]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("engine")
def test_every_value_under_every_bound(dtype: torch.dtype, action: str) -> None:
    finite = torch.finfo(dtype).max
    for low, high in BOUNDS:
        before = values(dtype)
        x = before.clone()
        given = (torch.tensor(low).to(dtype), torch.tensor(high).to(dtype))
        (repairs,) = restrict_range_([x], [given[0]], [given[1]], action).tolist()
        lower, upper = (float(bound) for bound in given)
        expected = [by_definition(float(v), lower, upper, action, finite) for v in before]
        assert x.tolist() == expected, (low, high)
        inside = [abs(v) <= finite and lower <= v <= upper for v in before.tolist()]
        assert repairs == inside.count(False)
        kept = torch.tensor(inside)
        assert torch.equal(bits(x[kept]), bits(before[kept])), "what passes keeps every bit"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("engine")
def test_a_log_puts_every_bit_back(dtype: torch.dtype) -> None:
    before = values(dtype).view(20, 30)
    for layout in (before, before.t(), before[:, ::2]):
        x = layout.clone(memory_format=torch.preserve_format) if layout is before else layout
        memory = bits(before)
        plan = RangePlan([x], [torch.tensor(-0.5)], [torch.tensor(0.5)])
        log = SweepLog(plan)
        assert plan.sweep_into(log, "saturate").read()[0] > 100
        assert x.abs().max() <= 0.5
        log.restore()
        assert torch.equal(bits(before), memory)
        assert torch.equal(bits(x), bits(layout))


@pytest.mark.skipif(_native.module is None, reason="there is no native module")
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("bound_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_code_agrees_with_plain_torch(
    dtype: torch.dtype, bound_dtype: torch.dtype, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each layout of bounds, to the bit, on one thread and more, with every instruction set."""
    shapes = [(), (7,), (6, 5), (4, 3, 3, 3), (2, 0), (3, 9000)]
    random = np.random.default_rng(0)
    tensors = [values(dtype, math.prod(shape)).view(shape) for shape in shapes]
    low, high = [], []
    for tensor in tensors:
        shape = [1] * tensor.dim()
        if tensor.dim() > 1:
            axis = int(random.integers(tensor.dim()))
            shape[axis] = tensor.shape[axis]
        middle = torch.randn(shape).to(bound_dtype)
        low.append(middle - 1)
        high.append(middle + 1)

    def swept(*how: Any) -> tuple[list[int], list[Tensor]]:
        copies = [tensor.clone() for tensor in tensors]
        plan = RangePlan(copies, low, high)
        return plan.sweep_into(SweepLog(plan), action, *how).read(), copies

    with monkeypatch.context() as without:
        without.setattr(_native, "module", None)
        repairs, expected = swept()
    assert sum(repairs) > 10
    for isa in _native.module.isas():
        for threads in (1, 3):
            found, given = swept(threads, isa)
            assert found == repairs
            for a, b in zip(given, expected, strict=True):
                assert torch.equal(bits(a), bits(b))


@pytest.mark.usefixtures("engine")
def test_bounds_for_each_index_of_one_dimension() -> None:
    for axis in range(3):
        x = torch.full((2, 3, 4), 10.0)
        shape = [1, 1, 1]
        shape[axis] = x.shape[axis]
        high = torch.arange(1.0, x.shape[axis] + 1).view(shape)
        repairs = restrict_range_([x], [-high], [high], "saturate")
        assert repairs.tolist() == [24]
        assert torch.equal(x, high.expand_as(x))


@pytest.mark.usefixtures("engine")
def test_memory_that_native_code_does_not_read() -> None:
    torch.manual_seed(0)
    dense = torch.randn(8, 4, 3, 3)
    last = dense.clone().to(memory_format=torch.channels_last)
    sliced = torch.zeros(16, 4, 3, 3)[::2].copy_(dense)
    with torch.inference_mode():
        inference = dense.clone()
    tensors = [dense, last, sliced, inference]
    bounds = [torch.full((8, 1, 1, 1), 0.7)] * 4
    repairs = restrict_range_(tensors, [-b for b in bounds], bounds)
    assert len(set(repairs.tolist())) == 1
    assert repairs[0] > 0
    assert all(torch.equal(tensor, dense) for tensor in tensors)


def test_the_operator_is_well_formed() -> None:
    arguments = ([torch.randn(4, 3), torch.randn(5)], [torch.tensor(-0.5), torch.tensor(-0.1)])
    torch.library.opcheck(
        torch.ops.proact.restrict_range_.default,
        (*arguments, [torch.tensor(0.5), torch.tensor(0.1)], "zero"),
    )


def test_inside_a_compiled_graph() -> None:
    def restricted(x: Tensor) -> Tensor:
        return restrict_range_([x], [torch.tensor(-1.0)], [torch.tensor(1.0)], "saturate")

    x, y = values(torch.float32), values(torch.float32)
    compiled = torch.compile(restricted, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), restricted(y))
    assert torch.equal(bits(x), bits(y))


def test_autograd_notices_the_change() -> None:
    x = torch.randn(9, requires_grad=True)
    kept = x * 1
    y = kept * kept
    restrict_range_([kept.detach()], [torch.tensor(-0.1)], [torch.tensor(0.1)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("tensors", "low", "high", "action", "error", "words"),
    [
        ([torch.ones(3)], [-ONE], [ONE], "clip", ValueError, "zero, saturate, got 'clip'"),
        ([[1.0]], [-ONE], [ONE], "zero", TypeError, "torch.Tensor, got list"),
        ([torch.ones(3)], [-1.0], [ONE], "zero", TypeError, "torch.Tensor, got float"),
        ([torch.ones(3)], [], [ONE], "zero", ValueError, "1 tensors, 0 lower and 1 upper bounds"),
        (
            [torch.ones(3).int()],
            [-ONE],
            [ONE],
            "zero",
            TypeError,
            "tensor 0 must be .*got torch.int32",
        ),
        ([torch.ones(3)], [-ONE.int()], [ONE], "zero", TypeError, "torch.int32"),
        ([torch.ones(3)], [-ONE.half()], [ONE], "zero", TypeError, "one dtype"),
        (
            [torch.ones(3)],
            [torch.ones(2)],
            [torch.ones(2)],
            "zero",
            ValueError,
            r"\(3,\) with bounds of shapes \(2,\)",
        ),
        ([torch.ones(2, 3)], [torch.ones(2, 3)], [torch.ones(2, 3)], "zero", ValueError, "one dim"),
        (
            [torch.ones(3)],
            [torch.ones(1, 3)],
            [torch.ones(1, 3)],
            "zero",
            ValueError,
            "with bounds of shapes",
        ),
        ([torch.ones(3)], [-ONE], [torch.ones(3)], "zero", ValueError, "with bounds of shapes"),
        ([torch.ones(1).expand(3)], [-ONE], [ONE], "zero", ValueError, "share memory"),
        ([torch.ones(3).to_sparse()], [-ONE], [ONE], "zero", TypeError, "must have plain memory"),
        ([torch.ones(3, requires_grad=True)], [-ONE], [ONE], "zero", ValueError, "detach"),
    ],
)
def test_what_is_refused(
    tensors: Any, low: Any, high: Any, action: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        restrict_range_(tensors, low, high, action)


def test_shared_memory_is_refused_and_nothing_changed() -> None:
    memory = torch.full((10,), 5.0)
    with pytest.raises(ValueError, match="must not share memory, and tensor 0 and tensor 1 do"):
        restrict_range_([memory[:6], memory[5:]], [-ONE, -ONE], [ONE, ONE])
    with pytest.raises(ValueError, match="a bound of tensor 0"):
        restrict_range_([memory], [-ONE], [memory[3]])
    assert torch.equal(memory, torch.full((10,), 5.0))
    # Bounds are only read: they may be one.
    assert restrict_range_([memory, torch.ones(2)], [ONE, ONE], [ONE, ONE]).tolist() == [10, 0]
