"""Optimisers and gradients inside an injection: what is refused, kept, and seen by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from conftest import bits_of, same_bits
from proact import ProactError
from proact.faults import ActivationFlip, BitFlip, Injector, inject

LOW = tuple(range(7))  # bits that every word has, and that make no NaN
OPTIMISERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: Adam(p, lr=0.1),
    "foreach": lambda p: Adam(p, lr=0.1, foreach=True),
    "fused": lambda p: Adam(p, lr=0.1, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1),
}


def x_of() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, optimiser: Optimizer) -> None:
    def closure() -> Tensor:
        optimiser.zero_grad()
        loss: Tensor = model(x_of()).square().mean()
        loss.backward()
        return loss

    closure()
    optimiser.step(closure)


def state_of(optimiser: Optimizer) -> dict[str, Any]:
    return copy.deepcopy(optimiser.state_dict())


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same_state(u, v) for u, v in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("encoding", ["float32", "q7.8", "int8"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_step_inside_is_refused_and_changes_nothing(
    mlp: nn.Sequential, name: str, encoding: str
) -> None:
    optimiser = OPTIMISERS[name](mlp.parameters())
    train(mlp, optimiser)
    before, state = bits_of(mlp), state_of(optimiser)
    with inject(mlp, BitFlip(0.1, bits=LOW), encoding):
        inside = bits_of(mlp)
        with pytest.raises(ProactError, match=r"update 0\.weight.*allow_training=True"):
            train(mlp, optimiser)
        assert same_bits(inside, mlp)
        assert same_state(state, state_of(optimiser))
        with inject(mlp, BitFlip(0.1, bits=LOW)):
            pass
        with pytest.raises(ProactError, match="after the block"):  # the inner block is over
            optimiser.step(lambda: 0.0)
    assert same_bits(before, mlp)
    twin = copy.deepcopy(mlp)
    other = OPTIMISERS[name](twin.parameters())
    other.load_state_dict(state)
    train(mlp, optimiser)
    train(twin, other)
    assert same_bits(bits_of(twin), mlp)


def test_a_refused_step_ends_the_block_and_restores(mlp: nn.Sequential) -> None:
    optimiser, before = SGD(mlp.parameters(), lr=0.1), bits_of(mlp)
    with pytest.raises(ProactError, match="optimizer"), inject(mlp, BitFlip(0.1, bits=LOW)):
        train(mlp, optimiser)
    assert same_bits(before, mlp)
    train(mlp, optimiser)
    assert not same_bits(before, mlp)


def test_one_parameter_of_the_network_is_enough(mlp: nn.Sequential) -> None:
    stranger = nn.Linear(6, 2)
    optimiser = SGD([{"params": stranger.parameters()}, {"params": [mlp[2].bias]}], lr=0.1)
    for use in (inject(mlp, BitFlip(0.1)), Injector(mlp).trial(BitFlip(0.1, where="0.*"))):
        with use, pytest.raises(ProactError, match=r"2\.bias"):
            optimiser.step()
    optimiser.step()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_of_other_models_step(mlp: nn.Sequential, name: str) -> None:
    other, alone = copy.deepcopy(mlp), copy.deepcopy(mlp)
    train(alone, OPTIMISERS[name](alone.parameters()))
    before = bits_of(mlp)
    with inject(mlp, BitFlip(0.1, bits=LOW), "q7.8"):
        train(other, OPTIMISERS[name](other.parameters()))
    assert same_bits(before, mlp)
    assert same_bits(bits_of(alone), other)
    assert not same_bits(before, other)


def sharing(mlp: nn.Sequential, name: str, element: int) -> range:
    """The elements that an element of a stored tensor stands for: of a scale, its whole row."""
    if not name.endswith(":scale"):
        return range(element, element + 1)
    row = mlp.get_parameter(name.removesuffix(":scale")).shape[1]
    return range(element * row, (element + 1) * row)


@pytest.mark.parametrize("name", ["SGD", "Adam", "fused"])
@pytest.mark.parametrize("encoding", ["float32", "q7.8", "int8", "float16"])
def test_training_that_is_allowed_keeps_all_but_flipped_words(
    mlp: nn.Sequential, name: str, encoding: str
) -> None:
    before = {key: p.detach().clone() for key, p in mlp.named_parameters()}
    optimiser = OPTIMISERS[name](mlp.parameters())
    with inject(mlp, BitFlip(0.02, bits=LOW), encoding, allow_training=True) as record:
        faulted = {key: p.detach().clone() for key, p in mlp.named_parameters()}
        train(mlp, optimiser)
        trained = {key: p.detach().clone() for key, p in mlp.named_parameters()}
        hit = {
            (str(f["tensor"]).removesuffix(":scale"), element)
            for f in record.faults()
            for element in sharing(mlp, str(f["tensor"]), int(f["element"]))
        }
    assert 0 < len(hit) < sum(p.numel() for p in mlp.parameters())
    assert any(not torch.equal(faulted[key], trained[key]) for key in trained)
    for key, parameter in mlp.named_parameters():
        for element, now in enumerate(parameter.detach().flatten().tolist()):
            stepped = faulted[key].flatten()[element] != trained[key].flatten()[element]
            source = trained if stepped and (key, element) not in hit else before
            assert now == source[key].flatten()[element].item(), (key, element)


@pytest.mark.parametrize("encoding", ["float32", "q7.8", "float16"])
def test_batch_statistics_of_the_block_stay(encoding: str) -> None:
    """ "What else the block changes (batch statistics) is its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    model(x_of())
    with inject(model, BitFlip(0.1, where="0.weight", bits=LOW), encoding):
        model(3 * x_of())
        inside = model[1].running_mean.clone(), model[1].running_var.clone()
    assert torch.equal(model[1].running_mean, inside[0])
    assert torch.equal(model[1].running_var, inside[1])
    assert model[1].num_batches_tracked == 2


def test_gradients_inside_are_those_of_the_faulted_network(mlp: nn.Sequential) -> None:
    with inject(mlp, BitFlip(0.1, bits=LOW), "q7.8", seed=1):
        twin = copy.deepcopy(mlp)
        mlp(x_of()).sum().backward()
    twin(x_of()).sum().backward()
    for mine, its in zip(mlp.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, its.grad)


@pytest.mark.parametrize("encoding", ["float32", "q7.8"])
def test_a_backward_pass_across_the_end_of_a_block_is_noticed(
    mlp: nn.Sequential, encoding: str
) -> None:
    """The weights that autograd saved are not those of the forward pass any more."""
    clean = mlp(x_of()).sum()
    with (
        inject(mlp, BitFlip(0.1, bits=LOW), encoding),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        clean.backward()
    with inject(mlp, BitFlip(0.1, bits=LOW), encoding):
        faulty = mlp(x_of()).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        faulty.backward()
    with inject(mlp, ActivationFlip(0.1, bits=LOW)):
        transient = mlp(x_of()).sum()
    transient.backward()
