"""Does a guard repair what a forward computes with, and leave everything else alone?"""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact import ProactError
from proact.nn import (
    HyReLU,
    WeightRange,
    add_weight_range,
    find_sites,
    observed,
    remove_weight_range,
    replace_sites,
    weight_range_of,
    without_weight_range,
)


class Network(nn.Module):
    """All kinds of tensors, a transposed convolution and a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = HyReLU(2.5)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.relu(self.norm(self.conv(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def floats(model: nn.Module) -> list[str]:
    return [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(images: Tensor) -> Network:
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        network(images)  # statistics that are not all alike
    return network.eval()


@pytest.fixture
def guarded(model: Network) -> Network:
    add_weight_range(model, floats(model))
    return model


def set_number(model: nn.Module, name: str, value: float, element: int = 0) -> None:
    with torch.no_grad():
        model.state_dict()[name].view(-1)[element] = value


def run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(images)
    return out


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_bounds_are_the_smallest_and_largest_values(model: Network, granularity: str) -> None:
    before, names = bits_of(model), floats(model)
    guard = add_weight_range(model, names, granularity)
    assert guard.names == tuple(names)
    for name, (low, high) in guard.by_tensor(guard.low, guard.high).items():
        tensor = model.state_dict()[name]
        axis = 1 if name == "up.weight" else 0
        if granularity == "tensor" or tensor.dim() < 2:
            assert low.numel() == 1
            assert (low.item(), high.item()) == (tensor.min().item(), tensor.max().item())
        else:
            rows = tensor.transpose(0, axis).flatten(1)
            assert low.shape[axis] == tensor.shape[axis]
            assert torch.equal(low.flatten(), rows.amin(1))
            assert torch.equal(high.flatten(), rows.amax(1))
    assert 2 * guard.low.numel() == 2 * (
        len(names) if granularity == "tensor" else len(names) - 3 + 4 + 3 + 5
    )
    assert all(torch.equal(bits_of(model)[name], memory) for name, memory in before.items())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_healthy_network_computes_the_same(
    model: Network, images: Tensor, granularity: str
) -> None:
    clean = run(model, images)
    guard = add_weight_range(model, floats(model), granularity)
    before = bits_of(model)
    assert torch.equal(run(model, images), clean)
    assert guard.repairs == 0
    assert guard.last_repairs == {}
    assert same_bits(before, model)


FAULTS = [("conv.weight", 1e30), ("head.bias", math.nan), ("norm.running_var", math.inf)]
FAULTS += [("norm.weight", -math.inf), ("up.weight", -5.0), ("relu.threshold", -1.0)]


@pytest.mark.parametrize("action", ["zero", "saturate"])
@pytest.mark.parametrize(("name", "value"), FAULTS)
@pytest.mark.usefixtures("engine")
def test_a_forward_computes_with_repaired_numbers(
    model: Network, images: Tensor, name: str, value: float, action: str
) -> None:
    low, high = (getattr(model.state_dict()[name], side)().item() for side in ("min", "max"))
    add_weight_range(model, floats(model), action=action)
    expected = without_weight_range(model)
    neutral = low if low > 0 else high if high < 0 else 0.0
    bound = neutral if math.isnan(value) else low if value < low else high
    set_number(expected, name, bound if action == "saturate" else neutral)
    set_number(model, name, value)
    before = bits_of(model)
    for forwards in (1, 2):
        assert torch.equal(run(model, images), run(expected, images))
        assert model.weight_range.repairs == forwards
        assert model.weight_range.last_repairs == {name: 1}
        assert same_bits(before, model)


def test_channels_are_held_to_their_own_range(model: Network, images: Tensor) -> None:
    with torch.no_grad():
        model.conv.weight[0] *= 1e-3
        model.up.weight[:, 1] *= 1e-3
    guard = add_weight_range(model, floats(model), "channel")
    set_number(model, "conv.weight", 0.05)  # far outside of channel 0, inside of the tensor
    set_number(model, "up.weight", 0.05, element=4)
    run(model, images)
    assert guard.last_repairs == {"conv.weight": 1, "up.weight": 1}


def test_thresholds_and_variances_are_never_repaired_to_zero(
    guarded: Network, images: Tensor
) -> None:
    """A threshold of 0 would close its layer, a variance of 0 multiply it by 300."""
    seen: list[tuple[float, float]] = []
    guarded.relu.register_forward_pre_hook(
        lambda *_: seen.append(
            (guarded.relu.threshold.item(), guarded.norm.running_var.min().item())
        )
    )
    smallest = guarded.norm.running_var.min().item()
    set_number(guarded, "relu.threshold", math.nan)
    set_number(guarded, "norm.running_var", -3.0)
    run(guarded, images)
    assert seen == [(2.5, pytest.approx(smallest, rel=1e-6))]


@pytest.mark.parametrize(("side", "value"), [("low", math.nan), ("high", -9.0), ("low", 1e30)])
def test_a_faulted_bound_zeroes_its_tensor_for_the_forward_alone(
    guarded: Network, images: Tensor, side: str, value: float
) -> None:
    guard = weight_range_of(guarded)
    assert guard is not None
    set_number(guarded, f"weight_range.{side}", value, element=guard.names.index("head.weight"))
    expected = without_weight_range(guarded)
    with torch.no_grad():
        expected.head.weight.zero_()
    before = bits_of(guarded)
    assert torch.equal(run(guarded, images), run(expected, images))
    assert guard.last_repairs == {"head.weight": 15}
    assert same_bits(before, guarded)


@pytest.mark.parametrize("at", ["before", "inside", "after"])
def test_every_bit_comes_back_where_the_forward_raises(
    guarded: Network, images: Tensor, at: str
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    set_number(guarded, "conv.weight", math.nan)
    before = bits_of(guarded)
    if at == "inside":
        guarded.up.register_forward_hook(fail)
    elif at == "before":
        guarded.register_forward_pre_hook(fail)
    else:
        guarded.register_forward_hook(fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            run(guarded, images)
        assert same_bits(before, guarded)


def test_a_forward_that_calls_the_network_again(images: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.5, -0.5]))
            self.seen: list[list[float]] = []

        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            y: Tensor = self(x, False) if again else x
            self.seen.append(self.weight.tolist())  # the outer forward still is repaired
            return y * self.weight.sum()

    model = Twice()
    guard = add_weight_range(model, ["weight"])
    set_number(model, "weight", 7.0)
    run(model.eval(), torch.ones(2))
    assert model.seen == [[0.0, -0.5], [0.0, -0.5]]
    assert model.weight.tolist() == [7.0, -0.5]
    assert guard.repairs == 1


def test_threads_share_a_network(guarded: Network, images: Tensor) -> None:
    """While one thread is inside, another one's end does not undo its repair."""
    entered, leave = threading.Event(), threading.Event()
    expected = run(without_weight_range(guarded), images)
    set_number(guarded, "conv.weight", 1e30)
    set_number(expected_network := without_weight_range(guarded), "conv.weight", 0.0)
    expected = run(expected_network, images)
    before = bits_of(guarded)
    first = threading.current_thread()

    def wait(*_: Any) -> None:
        if threading.current_thread() is not first:
            entered.set()
            assert leave.wait(30)

    guarded.conv.register_forward_pre_hook(wait)
    outputs: list[Tensor] = []
    other = threading.Thread(target=lambda: outputs.append(run(guarded, images)))
    other.start()
    assert entered.wait(30)
    outputs.append(run(guarded, images))
    leave.set()
    other.join(30)
    assert [torch.equal(output, expected) for output in outputs] == [True, True]
    assert same_bits(before, guarded)


def by_deepcopy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def by_pickle(model: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(model))
    return loaded


def by_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def by_state_dict(model: nn.Module) -> nn.Module:
    other = Network().eval()
    add_weight_range(other, floats(other))
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("copied", [by_deepcopy, by_pickle, by_file, by_state_dict])
def test_a_copy_guards_its_own_tensors(guarded: Network, images: Tensor, copied: Any) -> None:
    clean = run(guarded, images)
    twin = copied(guarded)
    assert twin.state_dict().keys() == guarded.state_dict().keys()
    guard = weight_range_of(twin)
    assert guard is not None
    assert torch.equal(run(twin, images), clean)
    set_number(twin, "head.bias", math.inf)
    before = bits_of(twin)
    assert torch.isfinite(run(twin, images)).all()
    assert (guard.repairs, guarded.weight_range.repairs) == (1, 0)
    assert same_bits(before, twin)
    set_number(guarded, "head.bias", math.inf)
    run(guarded, images)
    assert (guard.repairs, guarded.weight_range.repairs) == (1, 1)


def test_a_loaded_guard_survives_the_hooks_of_others(guarded: Network, images: Tensor) -> None:
    """Hooks are numbered in each process: those of a file must not be overwritten."""
    from torch.utils.hooks import RemovableHandle

    file = pickle.dumps(guarded)
    count, RemovableHandle.next_id = RemovableHandle.next_id, 0  # as in a new process
    try:
        twin = pickle.loads(file)
        for _ in range(count + 1):
            twin.register_forward_pre_hook(lambda *_: None).remove()
            twin.register_forward_hook(lambda *_: None).remove()
    finally:
        RemovableHandle.next_id = max(count, RemovableHandle.next_id)
    set_number(twin, "head.bias", math.inf)
    before = bits_of(twin)
    assert torch.isfinite(run(twin, images)).all()
    assert same_bits(before, twin)


def test_it_follows_moved_and_replaced_tensors(guarded: Network, images: Tensor) -> None:
    for change in (
        guarded.double,
        guarded.float,
        lambda: setattr(guarded.head, "bias", nn.Parameter(guarded.head.bias.detach().clone())),
        lambda: setattr(guarded, "head", copy.deepcopy(guarded.head)),
        lambda: guarded.to(memory_format=torch.channels_last),
    ):
        change()
        given = images.to(guarded.head.bias.dtype)
        repairs = guarded.weight_range.repairs
        run(guarded, given)
        assert guarded.weight_range.repairs == repairs
        healthy = guarded.head.bias[0].item()
        set_number(guarded, "head.bias", 1e30)
        assert run(guarded, given).abs().max() < 1e20
        assert guarded.weight_range.repairs == repairs + 1
        set_number(guarded, "head.bias", healthy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_networks_of_other_dtypes(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(dtype)
    add_weight_range(model, floats(model))
    assert model.get_buffer("weight_range.low").dtype == dtype
    x = torch.ones(2, 4, dtype=dtype)
    clean = run(model.eval(), x)
    set_number(model, "1.bias", math.inf)
    assert torch.isfinite(run(model, x)).all()
    set_number(model, "1.bias", without_weight_range(model).get_parameter("1.bias")[1].item())
    assert clean.shape == run(model, x).shape
    assert model.get_submodule("weight_range").repairs == 1


def test_bounds_of_mixed_precision_hold_every_number_exactly() -> None:
    model = nn.Sequential(nn.Linear(4, 4).half(), nn.Linear(4, 4).bfloat16(), nn.Linear(4, 2))
    model.eval()
    guard = WeightRange(model, floats(model))
    assert guard.low.dtype == torch.float32
    model.add_module("weight_range", guard)
    guard.begin(model)
    guard.end()
    assert guard.repairs == 0


def test_a_sequential_network_keeps_computing(mlp: nn.Sequential) -> None:
    x = torch.randn(5, 6)
    clean = run(mlp, x)
    add_weight_range(mlp.eval(), floats(mlp))
    assert torch.equal(run(mlp, x), clean)
    assert [site.name for site in find_sites(mlp, x)] == ["1", "3"]
    set_number(mlp, "0.weight", math.nan)
    assert torch.isfinite(run(mlp, x)).all()


def test_off_again(guarded: Network, images: Tensor) -> None:
    set_number(guarded, "head.bias", math.inf)
    bare = without_weight_range(guarded)
    assert not torch.isfinite(run(bare, images)).all()
    assert torch.isfinite(run(guarded, images)).all(), "the given network keeps its guard"
    assert without_weight_range(bare) is bare
    remove_weight_range(guarded)
    assert bits_of(guarded).keys() == bits_of(bare).keys()
    assert not guarded._forward_pre_hooks
    assert not guarded._forward_hooks
    assert not guarded._forward_hooks_always_called
    remove_weight_range(guarded)  # nothing to do


def test_measured_again_after_a_change(guarded: Network, images: Tensor) -> None:
    with torch.no_grad():
        guarded.head.weight.mul_(3)
    run(guarded, images)
    guard = guarded.weight_range
    assert guard.last_repairs["head.weight"] > 0
    guard.measure(guarded)
    run(guarded, images)
    assert guard.last_repairs == {}
    set_number(guarded, "conv.bias", math.nan)
    before = bits_of(guarded)
    with pytest.raises(ValueError, match="conv.bias holds NaN or infinity"):
        guard.measure(guarded)
    assert same_bits(before, guarded)


def test_training_is_refused_by_name(guarded: Network, images: Tensor) -> None:
    with pytest.raises(ProactError, match="cannot be trained.*without_weight_range"):
        guarded.train()(images)
    loss = guarded.eval()(images.requires_grad_()).sum()
    loss.backward()  # a healthy network's gradients are its own
    assert images.grad is not None
    images.requires_grad_(False)


def test_no_wrong_gradient_passes_a_repair(guarded: Network, images: Tensor) -> None:
    """Autograd saved the repaired weight, and the faulty one is back in its place."""
    set_number(guarded, "head.weight", 1e30)
    loss = guarded(images.requires_grad_()).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiled_networks_are_guarded(guarded: Network, images: Tensor) -> None:
    compiled = torch.compile(guarded, backend="eager")
    clean = run(guarded, images)
    torch.testing.assert_close(run(compiled, images), clean)
    set_number(guarded, "head.bias", math.inf)
    before = bits_of(guarded)
    torch.testing.assert_close(run(compiled, images), run(guarded, images))
    assert guarded.weight_range.repairs == 2
    assert same_bits(before, guarded)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_an_export_would_lose_the_guard_and_is_refused(guarded: Network, images: Tensor) -> None:
    with pytest.raises(ProactError, match="without_weight_range"):
        torch.export.export(guarded, (images,), strict=False)
    exported = torch.export.export(without_weight_range(guarded), (images,), strict=False)
    torch.testing.assert_close(exported.module()(images), run(guarded, images))
    with pytest.raises(ProactError, match="without_weight_range"):
        torch.jit.trace(guarded, images)


def test_other_parameters_for_one_call(guarded: Network, images: Tensor) -> None:
    parameters = dict(guarded.named_parameters())
    swapped = {**parameters, "head.bias": torch.full((5,), 1e30)}
    with torch.no_grad():
        output = torch.func.functional_call(guarded, swapped, (images,))
    assert output.abs().max() < 1e20
    assert torch.equal(swapped["head.bias"], torch.full((5,), 1e30))

    def loss(head: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(guarded, {**parameters, "head.bias": head}, images)
        return out.sum()

    with pytest.raises(ProactError, match="torch.func"):
        torch.func.grad(loss)(guarded.head.bias.detach())


def test_shapes_alone_are_computed_without_memory(guarded: Network) -> None:
    assert guarded.to("meta")(torch.empty(3, 2, 6, 6, device="meta")).shape == (3, 5)


def test_sites_are_found_and_not_replaced(guarded: Network, images: Tensor) -> None:
    sites = find_sites(guarded, images)
    assert [site.name for site in sites] == ["relu"]
    seen: list[float] = []
    run(observed(guarded, sites, lambda _, output: seen.append(output.max().item())), images)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="apply weight-range last"):
        replace_sites(guarded, {sites[0]: HyReLU(1.0)})


def test_a_lost_tensor_is_named(guarded: Network, images: Tensor) -> None:
    nn.utils.parametrizations.weight_norm(guarded.head)
    before = bits_of(guarded)
    with pytest.raises(ProactError, match="guards head.weight, which the model no longer has"):
        run(guarded, images)
    assert same_bits(before, guarded)


def test_what_cannot_be_guarded(model: Network) -> None:
    words = "granularity of weight-range is tensor or channel, got 'neuron'"
    with pytest.raises(ValueError, match=words):
        add_weight_range(model, floats(model), "neuron")
    with pytest.raises(ValueError, match="zero, saturate, got 'clip'"):
        add_weight_range(model, floats(model), action="clip")
    with pytest.raises(ValueError, match="at least one floating-point tensor to guard, got none"):
        add_weight_range(model, [])
    set_number(model, "conv.bias", math.inf)
    with pytest.raises(ValueError, match="conv.bias holds NaN or infinity"):
        add_weight_range(model, floats(model))
    assert weight_range_of(model) is None
    model.weight_range = nn.Identity()
    with pytest.raises(
        ValueError, match="attribute 'weight_range', which is the name of the guard"
    ):
        add_weight_range(model, ["head.bias"])
