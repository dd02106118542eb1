"""Which modules are layers, what errors say, and that hooks are gone when a block ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact.faults import ActivationFlip, Where, inject
from proact.ops import flip_bits_


def batch(rows: int = 7, columns: int = 6) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ({"where": "conv*"}, ValueError, r"'conv\*' matches no layer: there are '0'"),
        ({"where": Where(layer="Conv2d")}, ValueError, "no layer: there are layers Linear, ReLU"),
        ({"encoding": "int8", "largest": {"0": 1.0}}, ValueError, "no magnitude for the layer '1'"),
        ({"encoding": "int9"}, ValueError, "'int9'"),
        ({"encoding": None}, TypeError, "the name of an encoding, got None"),
        ({"at": "weight"}, ValueError, "'output' or 'input', got 'weight'"),
        ({"ber": 1.5}, ValueError, r"\[0, 1\]"),
        ({"bits": 1.5}, TypeError, "bits"),
        ({"where": 3}, TypeError, "where"),
        ({"bits": "fraction"}, ValueError, "sign, exponent, mantissa, got 'fraction'"),
        ({"bits": 1 << 32}, ValueError, "bit mask for float32"),
    ],
)
def test_errors_are_named_and_leave_nothing_behind(
    mlp: nn.Sequential, fault: dict[str, object], error: type[Exception], message: str
) -> None:
    before = bits_of(mlp)
    with (
        pytest.raises(error, match=message),
        inject(mlp, [ActivationFlip(0.1), ActivationFlip(**{"ber": 0.1, **fault})], "q3.4"),  # type: ignore[arg-type]
    ):
        mlp(batch())
    assert hooks_of(mlp) == 0
    assert same_bits(before, mlp)


def _body_fails(model: nn.Module) -> None:
    model(batch())
    raise KeyboardInterrupt


def _pass_fails(model: nn.Module) -> None:
    model(torch.zeros(1, 2))


@pytest.mark.parametrize("at", ["output", "input"])
@pytest.mark.parametrize(
    ("body", "error"),
    [(lambda model: model(batch()), None), (_body_fails, KeyboardInterrupt),
     (_pass_fails, RuntimeError)],
)  # fmt: skip
def test_hooks_are_gone_after_the_block(
    mlp: nn.Sequential, at: str, body: Callable[[nn.Module], object], error: type | None
) -> None:
    mine = mlp[0].register_forward_hook(lambda *_: None)
    clean = mlp(batch())
    with nullcontext() if error is None else pytest.raises(error):  # noqa: SIM117
        with inject(mlp, ActivationFlip(0.5, at=at)):
            assert hooks_of(mlp) == 6
            body(mlp)
    assert hooks_of(mlp) == 1
    assert torch.equal(mlp(batch()), clean)
    mine.remove()


def test_hooks_are_gone_after_a_generator_that_was_closed_early(mlp: nn.Sequential) -> None:
    def passes() -> Iterator[Tensor]:
        with inject(mlp, ActivationFlip(0.5)):
            while True:
                yield mlp(batch())

    running = passes()
    next(running)
    assert hooks_of(mlp) == 5
    running.close()
    assert hooks_of(mlp) == 0


def test_a_parametrised_layer_is_a_layer_and_its_weight_no_activation() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU())
    with torch.no_grad():
        clean = model[0](batch())
        with inject(model, ActivationFlip(0.05, where="0*"), log_activations=True) as record:
            got = model[0](batch())
    assert set(record.faults()["tensor"]) == {"0:output[0]:0"}
    flip_bits_(clean, 0.05, stream="0:output[0]:0")
    assert torch.equal(got.view(torch.int32), clean.view(torch.int32))


def test_a_layer_of_two_names_is_found_by_either(mlp: nn.Sequential) -> None:
    shared = nn.ModuleDict({"a": nn.Linear(6, 6)})
    shared["b"] = shared["a"]
    for name in ("a", "b"):
        with inject(shared, ActivationFlip(1.0, where=name)) as record:
            shared["b"](batch())
        assert record.ber == 1.0


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.ReLU(), nn.Sigmoid()),
        nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last),
    ],
    ids=["no parameters", "channels_last weights"],
)
def test_activations_are_hit_whatever_the_parameters_are(model: nn.Module) -> None:
    with inject(model, ActivationFlip(1.0)) as record:
        model(torch.ones(1, 3, 5, 5))
    assert record.ber == 1.0


def test_a_copy_that_was_made_inside_is_not_hit_after_the_block(mlp: nn.Sequential) -> None:
    with torch.no_grad(), inject(mlp, ActivationFlip(0.5)) as record:
        twin = copy.deepcopy(mlp)
        mlp(batch())
    flips = record.activation_flips
    assert torch.equal(twin(batch()), mlp(batch()))
    assert record.activation_flips == flips


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_modes_do_not_decide_who_sees_a_fault_of_an_in_place_layer(
    memory_format: torch.memory_format,
) -> None:
    """The layer's output and its input are one memory: its other readers see all of it or none."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.conv(x)
            return self.act(hidden), hidden

    model, seen = Both(), []
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    for grad, form in (
        (False, torch.contiguous_format),
        (False, memory_format),
        (True, memory_format),
    ):
        with torch.set_grad_enabled(grad), inject(model, ActivationFlip(0.1, where="act")):
            output, hidden = model(x.contiguous(memory_format=form))
        seen.append(torch.equal(output.nan_to_num(), hidden.nan_to_num()))
    assert len(set(seen)) == 1, seen
