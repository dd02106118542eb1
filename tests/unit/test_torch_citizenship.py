"""Do the operators keep to torch's rules: modes, autocast, DDP, forks, inference mode, hooks?"""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn import HyReLU
from proact.ops import _hyrelu_reference as reference
from proact.ops import flip_bits_, hyrelu, hyrelu_


class Watcher(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_operators() -> None:
    x, t = torch.randn(40, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    plain = hyrelu(x, t)
    with Watcher() as watcher:
        y = hyrelu(x, t)
        y.sum().backward()
        hyrelu_(torch.randn(40), torch.tensor(1.0))
    assert torch.equal(y, plain)
    for operator in ("hyrelu.default", "hyrelu_backward.default", "hyrelu_.default"):
        assert f"proact.{operator}" in watcher.seen


def test_the_profiler_sees_the_operator() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        hyrelu(torch.randn(40), torch.tensor(1.0))
    assert any(event.key == "proact::hyrelu" for event in profile.key_averages())


def test_both_ways_to_the_operator_give_the_same_gradients() -> None:
    x, t, grad = torch.randn(5, 60), torch.rand(60), torch.randn(5, 60)

    def gradients(function: Any) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), t.clone().requires_grad_()
        y = function(*leaves, "soft", 20.0)
        return (y, *torch.autograd.grad(y, leaves, grad))

    direct, dispatched = gradients(hyrelu), gradients(torch.ops.proact.hyrelu)
    assert all(torch.equal(a, b) for a, b in zip(direct, dispatched, strict=True))


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_gradients_of_one_input_alone(needs: tuple[bool, bool]) -> None:
    x, t = torch.randn(30).requires_grad_(needs[0]), torch.tensor(0.5).requires_grad_(needs[1])
    hyrelu(x, t).sum().backward()
    assert (x.grad is not None, t.grad is not None) == needs


def test_second_derivatives_through_the_module() -> None:
    x = torch.rand(12, dtype=torch.float64, requires_grad=True)
    module = HyReLU(torch.tensor(0.6, dtype=torch.float64), "soft", slope=5.0)
    (first,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    step = 1e-5
    (ahead,) = torch.autograd.grad(module(x + step).sum(), x)
    (behind,) = torch.autograd.grad(module(x - step).sum(), x)
    torch.testing.assert_close(second, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_saved_tensor_hooks_are_called() -> None:
    packed: list[Tensor] = []
    x = torch.randn(9, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        hyrelu(x, torch.tensor(0.5)).sum().backward()
    assert any(t.shape == x.shape for t in packed)


def test_changing_an_input_before_backward_is_noticed() -> None:
    x = torch.randn(9, requires_grad=True)
    kept = x * 1
    y = hyrelu(kept, torch.tensor(0.5))
    kept.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_meets_half_activations() -> None:
    network = nn.Sequential(nn.Linear(8, 16), HyReLU(torch.rand(16), "soft"), nn.Linear(16, 2))
    network[1].threshold.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(torch.randn(4, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    grad = network[1].threshold.grad
    assert grad is not None
    assert grad.dtype == torch.float32
    assert torch.isfinite(grad).all()


def test_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(40)
        y = hyrelu(x, torch.tensor(0.5), "zero")
        assert torch.equal(hyrelu_(x, torch.tensor(0.5), "zero"), y)


def test_data_parallel_training_averages_threshold_gradients(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        network = nn.Sequential(nn.Linear(4, 6), HyReLU(torch.rand(6), "soft"))
        network[1].threshold.requires_grad_()
        x = torch.randn(5, 4)
        network(x).sum().backward()
        expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        network.zero_grad()
        nn.parallel.DistributedDataParallel(network)(x).sum().backward()
        for parameter, grad in zip(network.parameters(), expected, strict=True):
            assert torch.equal(parameter.grad, grad)  # type: ignore[arg-type]
    finally:
        torch.distributed.destroy_process_group()


def in_a_child(x: Tensor, expected: Tensor) -> None:
    # No loop of torch's own: a child of a process that has OpenMP threads waits for ever in them.
    torch.set_num_threads(2)
    assert np.array_equal(hyrelu(x, torch.tensor(1.0), "zero").numpy(), expected.numpy())
    assert flip_bits_(x, 0.01) > 0


def test_a_forked_process_computes_too() -> None:
    x = torch.randn(200_000)
    expected = x.clamp(min=0) * (x <= 1)
    torch.set_num_threads(2)
    try:
        hyrelu(x, torch.tensor(1.0), "zero")  # the pool has threads, which a child does not get
        child = multiprocessing.get_context("fork").Process(target=in_a_child, args=(x, expected))
        child.start()
        child.join(60)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(1)


def test_python_threads_call_at_the_same_time() -> None:
    torch.set_num_threads(2)
    x = torch.randn(4, 150_000)
    expected = x.clamp(min=0) * (x <= 1)
    wrong: list[int] = []

    def work(row: int) -> None:
        for _ in range(20):
            if not torch.equal(hyrelu(x[row], torch.tensor(1.0), "zero"), expected[row]):
                wrong.append(row)

    try:
        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(1)
    assert wrong == []


@pytest.mark.slow
def test_inductor_compiles_the_whole_graph() -> None:
    x, t = torch.randn(64, 32, requires_grad=True), torch.rand(32, requires_grad=True)
    compiled = torch.compile(hyrelu, fullgraph=True)
    for mode in ("soft", "zero", "saturate"):
        mine = torch.autograd.grad(hyrelu(x, t, mode).sum(), (x, t))
        theirs = torch.autograd.grad(
            compiled(x, t, mode).sum(), (x, t), allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(mine, theirs)


def test_batched_gradients() -> None:
    x, t = torch.randn(6, requires_grad=True), torch.tensor(0.5, requires_grad=True)

    def jacobian(function: Any) -> tuple[Tensor, ...]:
        y = function(x, t)
        grads: tuple[Tensor, ...] = torch.autograd.grad(
            y, (x, t), torch.eye(6), is_grads_batched=True
        )
        return grads

    torch.testing.assert_close(
        jacobian(hyrelu), jacobian(lambda x, t: reference.forward(x, t, "soft", 20.0))
    )


def test_tensors_whose_memory_says_something_else() -> None:
    negative = torch._neg_view(torch.tensor([-2.0, -1.0]))  # reads as 2 and 1
    x = torch.tensor([[1.0, 1.5]])
    assert torch.equal(hyrelu(x, negative, "zero"), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(hyrelu(negative, torch.tensor(1.5), "zero"), torch.tensor([0.0, 1.0]))
    assert torch.equal(hyrelu(torch._efficientzerotensor(3), torch.tensor(1.0)), torch.zeros(3))
    leaf = torch.tensor([1.0, 1.2], requires_grad=True)
    hyrelu(leaf, torch.tensor(5.0), "zero").backward(torch._neg_view(torch.tensor([-3.0, -4.0])))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [3.0, 4.0]


def test_hooks_that_save_in_another_dtype() -> None:
    for dtype in (torch.float64, torch.float16):
        x = torch.full((8,), 0.5, requires_grad=True)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, dtype=dtype: t.to(dtype), lambda t: t
        )
        with hooks:
            y = hyrelu(x, torch.tensor(5.0))
        y.backward(torch.arange(1.0, 9.0))
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.arange(1.0, 9.0))


@pytest.mark.parametrize(
    ("x", "threshold", "slope", "error", "words"),
    [
        (
            torch.eye(3).to_sparse(),
            torch.tensor(1.0),
            20.0,
            TypeError,
            "x must have plain memory, got a tensor of layout torch.sparse",
        ),
        (
            torch.eye(3),
            torch.ones(3).to_sparse(),
            20.0,
            TypeError,
            "threshold must have plain memory",
        ),
        (torch.eye(3), torch.tensor(1.0), 10**400, ValueError, "slope"),
        (torch.eye(3), torch.tensor(1.0), "a", TypeError, "slope must be a number, got 'a'"),
    ],
)
def test_unusual_input_is_named(
    x: Tensor, threshold: Tensor, slope: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        hyrelu(x, threshold, slope=slope)
