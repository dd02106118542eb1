"""Activation faults and what layers do: aliases, tuples, in-place writes, gradients."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from conftest import bits_of, same_bits
from proact.faults import ActivationFlip, inject
from proact.ops import _flip_reference as reference

FINITE = (*range(23), 31)  # flips of these bits make no NaN


class Layer(nn.Module):
    """One layer with a parameter, of which subclasses say what it puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("table", torch.arange(42.0).view(7, 6))


def x_of(rows: int = 7) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))


def faulty(clean: Tensor, name: str, ber: float, mask: int = 0xFFFFFFFF, seed: int = 0) -> Tensor:
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    flat = clean.detach().contiguous().clone().view(-1)
    for element, bit in reference.flipped_bits(flat.numel(), mask, ber, seed, 0, stream):
        flat.view(torch.int32)[element] ^= np.uint32(1 << bit).astype(np.int32).item()
    return flat.view(clean.shape)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


class Input(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x


class View(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x[1:, ::2]


class Transposed(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).t()


class Buffer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.table[: len(x)]


class Parameter(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight


class Broadcast(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x)


class BroadcastParameter(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand_as(x)


class InPlace(Layer):
    inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "layer",
    [Input, View, Transposed, Buffer, Parameter, Broadcast, BroadcastParameter],
)
@pytest.mark.parametrize("encoding", ["native", "q7.8"])
def test_outputs_of_every_origin(layer: type[Layer], grad: bool, encoding: str) -> None:
    model, x = nn.Sequential(layer()), x_of()
    before = bits_of(model)
    with torch.set_grad_enabled(grad):
        with inject(model, ActivationFlip(0.0, encoding=encoding)):
            rounded = model(x).detach().clone()
        with inject(model, ActivationFlip(0.05, encoding=encoding, bits=0b111)) as record:
            got = model(x)
        if encoding == "native":
            assert same(rounded, model(x))
            assert same(got, faulty(rounded, "0:output[0]:0", 0.05, 0b111))
        assert not same(got, rounded)
    assert record.activation_bits == got.numel() * 3
    assert same_bits(before, model)
    assert same(x, x_of())


def test_a_buffer_that_was_replaced_inside_is_no_output_s_own_memory() -> None:
    """A layer keeps its state and puts it out: the state is no copy."""

    class Membrane(Layer):
        def forward(self, x: Tensor) -> Tensor:
            self.table = self.table + x
            return self.table

    model = nn.Sequential(Membrane())
    clean = model[0].table + x_of()
    with torch.no_grad(), inject(model, ActivationFlip(0.1)):
        got = model(x_of())
    assert same(got, faulty(clean, "0:output[0]:0", 0.1))
    assert same(model[0].table, clean)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("layer", [InPlace, lambda: nn.ReLU(inplace=True)])
def test_layers_that_write_over_their_input(layer: Any, grad: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), layer(), nn.Linear(6, 3))
    with torch.set_grad_enabled(grad):
        expected = model[2](faulty(model[1](model[0](x_of())), "1:output[0]:0", 0.05))
        with inject(model, ActivationFlip(0.05, where="1")):
            got = model(x_of())
        assert same(got, expected)
        with inject(model, ActivationFlip(0.05, where="1", at="input")):
            got = model(x_of())
        assert same(got, model[2](model[1](faulty(model[0](x_of()), "1:input[0]:0", 0.05))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.act = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) + x


@pytest.mark.parametrize("encoding", ["native", "q3.4"])
@pytest.mark.parametrize("grad", [False, True])
def test_other_readers_of_an_input_see_no_fault(encoding: str, grad: bool) -> None:
    model, x, seen = Residual(), x_of(), []
    model.fc.register_forward_hook(lambda _, args, out: seen.append((*args, out)))
    fault = ActivationFlip(0.1, where="fc", at="input", encoding=encoding, bits=0b1111)
    with torch.set_grad_enabled(grad):
        with inject(model, fault) as record:
            got = model(x)
        ((read, put_out),) = seen
        assert record.activation_flips > 0
        assert not same(read, x)
        assert same(put_out, model.fc(read))
        assert same(got, torch.relu(put_out) + x)
        assert same(x, x_of())
        if encoding == "native":
            assert same(read, faulty(x, "fc:input[0]:0", 0.1, 0b1111))


def test_sparse_arguments_stay_as_they_are() -> None:
    """A layer of a graph network reads an adjacency matrix beside the activations."""

    class Graph(Layer):
        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return adjacency @ (x * self.weight)

    model, adjacency = Graph(), torch.eye(7).to_sparse()
    with torch.no_grad():
        clean = model(x_of(), adjacency)
        with inject(model, ActivationFlip(0.05)):
            assert same(model(x_of(), adjacency), faulty(clean, ":output[0]:0", 0.05))
    assert torch.equal(adjacency.to_dense(), torch.eye(7))


def test_tuples_have_a_name_for_each_tensor() -> None:
    model, x = nn.LSTM(6, 5), x_of()
    with torch.no_grad():
        output, (h, c) = model(x)
        with inject(model, ActivationFlip(0.05), log_activations=True) as record:
            got = model(x)
        for index, (clean, now) in enumerate(((output, got[0]), (h, got[1][0]), (c, got[1][1]))):
            assert same(now, faulty(clean, f":output[{index}]:0", 0.05))
        assert record.activation_bits == 32 * (output.numel() + h.numel() + c.numel())
        assert set(record.faults()["tensor"]) == {f":output[{i}]:0" for i in range(3)}
        with inject(model, ActivationFlip(0.05, at="input")) as record:
            read = model(x, (h, c))[0]
        hit = [faulty(v, f":input[{i}]:0", 0.05) for i, v in enumerate((x, h, c))]
        assert same(read, model(hit[0], (hit[1], hit[2]))[0])


def test_dictionaries_keywords_integers_and_nothing() -> None:
    class Mixed(Layer):
        def forward(self, x: Tensor, *, scale: Tensor, index: Tensor) -> dict[str, Any]:
            return {"y": x * scale, "index": index + 1, "none": None, "z": scale + 1}

    model, index = Mixed(), torch.arange(7)
    arguments = {"scale": torch.full((6,), 2.0), "index": index}
    with torch.no_grad(), inject(model, ActivationFlip(0.1)):
        got = model(x_of(), **arguments)
    assert same(got["y"], faulty(x_of() * 2, ":output[0]:0", 0.1))
    assert same(got["z"], faulty(torch.full((6,), 3.0), ":output[3]:0", 0.1))
    assert got["none"] is None
    assert torch.equal(got["index"], index + 1)
    with torch.no_grad(), inject(model, ActivationFlip(0.1, at="input")) as record:
        got = model(x_of(), **arguments)
    assert record.activation_bits == 48 * 32
    assert torch.equal(got["index"], index + 1)
    assert same(arguments["scale"], torch.full((6,), 2.0))


def test_packed_sequences_are_hit() -> None:
    model = nn.LSTM(6, 5)
    packed = pack_padded_sequence(torch.randn(7, 3, 6), torch.tensor([7, 5, 2]))
    assert isinstance(packed, PackedSequence)
    with torch.no_grad(), inject(model, ActivationFlip(0.05)) as record:
        model(packed)
    assert record.activation_bits == (14 * 5 + 2 * 3 * 5) * 32


def test_gradients_do_not_decide_what_a_tensor_put_out_twice_holds() -> None:
    class Pair(Layer):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x * self.weight
            return y, y

    model, seen = nn.Sequential(Pair()), []
    for grad in (False, True):
        with torch.set_grad_enabled(grad), inject(model, ActivationFlip(0.05)):
            seen.append(model(x_of()))
    assert same(seen[0][0], seen[1][0])
    assert same(seen[0][1], seen[1][1])


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, now: Tensor) -> Tensor:
        return now.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0], None


@pytest.mark.parametrize("at", ["output", "input"])
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.ReLU(), nn.Sigmoid(), nn.Softmax(1)])
def test_gradients_pass_as_if_nothing_had_changed(at: str, act: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 3), nn.LogSoftmax(1))
    x, mask = x_of().requires_grad_(), (1 << 31) | ((1 << 23) - 1)
    value: Tensor = x
    for index, layer in enumerate(model):
        for side in ("input", "output"):
            value = layer(value) if side == "output" else value
            if side == at:
                now = faulty(value, f"{index}:{at}[0]:0", 0.1, mask)
                value = _Replaced.apply(value, now)
    wanted = torch.autograd.grad(value[:, 0].sum(), [x, *model.parameters()])
    with inject(model, ActivationFlip(0.1, at=at, bits=FINITE)):
        got = model(x)
        assert same(got, value)
        gradients = torch.autograd.grad(got[:, 0].sum(), [x, *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
    with inject(model, ActivationFlip(0.1, at=at, bits=FINITE)):
        loss = model(x)[:, 0].sum()
    loss.backward()  # after the block
    assert x.grad is not None
    assert torch.equal(x.grad, wanted[0])


@pytest.mark.parametrize("at", ["output", "input"])
@pytest.mark.parametrize("encoding", ["native", "q7.8", "int8", "float16"])
def test_inference_mode_changes_nothing(mlp: nn.Sequential, at: str, encoding: str) -> None:
    fault = ActivationFlip(0.05, at=at, encoding=encoding)
    with torch.no_grad(), inject(mlp, fault, "int8", seed=1):
        usual = mlp(x_of())
    with torch.inference_mode():
        with inject(mlp, fault, "int8", seed=1):
            inside = mlp(x_of())
        made_inside = x_of()
    with inject(mlp, fault, "int8", seed=1), torch.inference_mode():
        assert same(mlp(x_of()), usual)
    with torch.no_grad(), inject(mlp, fault, "int8", seed=1):
        assert same(mlp(made_inside), usual)
    assert same(inside, usual)
    assert same(made_inside, x_of())


class Table(nn.Module):
    """Hands out a table that it keeps in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.table


def test_what_a_layer_keeps_in_an_attribute_stays() -> None:
    model = nn.Sequential(Table())
    with inject(model, ActivationFlip(0.5), seed=1) as record:
        assert not torch.equal(model(torch.zeros(1)), torch.ones(4, 4))
    assert record.activation_flips > 0
    assert torch.equal(model[0].table, torch.ones(4, 4))
