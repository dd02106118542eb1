"""Is weight-range a method like the others, alone and together with them?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact import campaign, models, protect
from proact.data import Data
from proact.faults import BitFlip, Injector, Where, encode
from proact.models.code_digest import ModelDigest
from proact.nn import HyReLU, WeightRange, weight_range_of, without_weight_range
from proact.nn.tensor_inventory import stored_tensors

FAST = {"epochs": 1, "decays": (1.0,)}


@pytest.fixture(scope="module")
def guarded(trained_cnn: nn.Module, digits: Data) -> nn.Module:
    return protect.protect(trained_cnn, "weight-range", digits)


def guard_of(model: nn.Module) -> WeightRange:
    guard = weight_range_of(model)
    assert guard is not None
    return guard


def faulty_accuracy(model: nn.Module, data: Data, ber: float, encoding: str, trials: int) -> float:
    """Average over so many patterns, which spare the guard's own bounds."""
    injector = Injector(encode(model, encoding), encoding)
    fault = BitFlip(ber, where=Where(exclude=Where(kind="bound")))
    total = 0.0
    for trial in range(trials):
        with injector.trial(fault, seed=0, trial=trial):
            total += models.accuracy(injector.model, data.test)
    return total / trials


def test_the_given_network_is_untouched_and_the_copy_computes_the_same(
    trained_cnn: nn.Module, digits: Data
) -> None:
    trained_cnn.train()
    before, lines = bits_of(trained_cnn), []
    guarded = protect.protect(trained_cnn, "weight-range", digits, progress=lines.append)
    assert same_bits(before, trained_cnn)
    assert trained_cnn.training
    assert weight_range_of(trained_cnn) is None
    trained_cnn.eval()
    assert not guarded.training
    assert lines == ["10 tensors guarded by 20 bounds"]
    images = digits.test.images
    assert torch.equal(models.logits(guarded, images), models.logits(trained_cnn, images))
    assert guard_of(guarded).repairs == 0


@pytest.mark.parametrize("encoding", ["float32", "q15.16"])
def test_it_keeps_accuracy_under_faults(
    trained_cnn: nn.Module, guarded: nn.Module, digits: Data, encoding: str
) -> None:
    """Averages over 24 patterns, the same for both: without a guard a tenth or more is lost.

    In float32 2.5 top exponent bits flip on average, and about half of the accuracy is lost with a
    deviation of at most 0.5 a pattern: a tenth is nearly four deviations of the average away.
    """
    clean = models.accuracy(trained_cnn, digits.test)
    bare = faulty_accuracy(trained_cnn, digits, 3e-4, encoding, 24)
    assert bare < clean - 0.1
    assert faulty_accuracy(guarded, digits, 3e-4, encoding, 24) > clean - 0.02


@pytest.mark.parametrize("options", [{}, {"granularity": "channel", "action": "saturate"}])
def test_it_composes_with_methods_for_activations_in_either_order(
    trained_cnn: nn.Module, digits: Data, options: dict[str, str]
) -> None:
    for method, fast in (("ranger", {}), ("proact", FAST)):
        clipped = protect.protect(trained_cnn, method, digits, **fast)
        last = protect.protect(clipped, "weight-range", digits, **options)
        first = protect.protect(
            protect.protect(trained_cnn, "weight-range", digits, **options), method, digits, **fast
        )
        assert same_bits(bits_of(last), first)
        for model in (last, first):
            guard = guard_of(model)
            assert {n for n in guard.names if n.endswith("threshold")} == {
                f"relu{i}.threshold" for i in range(1, 5)
            }
            images = digits.test.images
            assert torch.equal(models.logits(model, images), models.logits(clipped, images))
            assert guard.repairs == 0
            with torch.no_grad():
                model.get_submodule("relu1").get_parameter("threshold").fill_(float("nan"))
            assert torch.equal(models.logits(model, images), models.logits(clipped, images)), (
                "a layer's only threshold has its own value for both bounds"
            )
            assert guard.repairs > 0


def test_every_stored_number_but_bounds_is_guarded(guarded: nn.Module) -> None:
    stored = {s.name for s in stored_tensors(guarded) if s.kind != "bound"}
    assert set(guard_of(guarded).names) == stored


def test_counters_and_integers_are_left_out(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    model.register_buffer("levels", torch.ones(3, dtype=torch.int8))
    names = guard_of(protect.protect(model, "weight-range", digits)).names
    assert {n.rpartition(".")[2] for n in names} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
    }


def test_floats_of_8_bits_are_left_out_with_a_warning_that_names_them() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    model.register_buffer("table", torch.ones(8).to(torch.float8_e4m3fn))
    with pytest.warns(UserWarning, match=r"does not guard table \(torch.float8_e4m3fn\)"):
        guarded = protect.protect(model, "weight-range")
    assert guard_of(guarded).names == ("0.weight", "0.bias")
    with pytest.raises(ValueError, match="16 to 64 bits, and table is torch.float8_e4m3fn"):
        WeightRange(model, ["0.weight", "table"])
    alone = nn.Module()
    alone.register_buffer("table", torch.ones(8).to(torch.float8_e5m2))
    with pytest.raises(ValueError, match="got none"), pytest.warns(UserWarning, match="table"):
        protect.protect(alone, "weight-range")


def test_a_guard_replaces_the_one_before(guarded: nn.Module, digits: Data) -> None:
    again = protect.protect(guarded, "weight-range", digits, granularity="channel")
    assert len([m for m in again.modules() if isinstance(m, WeightRange)]) == 1
    assert guard_of(again).granularity == "channel"
    assert not any(s.kind == "bound" for s in stored_tensors(without_weight_range(again)))
    assert guard_of(guarded).granularity == "tensor"
    assert len(again._forward_pre_hooks) == len(again._forward_hooks) == 1


def test_a_network_without_relu_can_be_guarded(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    guard_of(protect.protect(model, "weight-range", digits))


def test_cost_counts_bounds(trained_cnn: nn.Module, guarded: nn.Module, digits: Data) -> None:
    cost = protect.cost(guarded, digits.test, "q15.16")
    parameters = sum(p.numel() for p in trained_cnn.parameters())
    assert (cost.thresholds, cost.bounds, cost.bytes) == (0, 20, 80)
    assert cost.percent == pytest.approx(100 * 20 / parameters)
    clipped = protect.protect(guarded, "ranger", digits)
    cost = protect.cost(clipped, digits.test, "float16")
    assert (cost.thresholds, cost.bounds, cost.bytes) == (4, 28, 64)
    assert protect.cost(trained_cnn, digits.test).bounds == 0


def test_a_campaign_tells_guards_apart(
    trained_cnn: nn.Module, guarded: nn.Module, digits: Data
) -> None:
    """Two actions store the same bytes and compute the same without faults."""
    saturating = protect.protect(trained_cnn, "weight-range", digits, action="saturate")
    assert same_bits(bits_of(guarded), saturating)
    clean = str(models.logits(guarded, digits.test.images).argmax(1).tolist())
    one, other = ModelDigest(guarded), ModelDigest(saturating)
    assert one.with_outputs(clean) != other.with_outputs(clean)
    result = campaign.run(
        {"bare": trained_cnn, "zero": guarded, "saturate": saturating},
        (digits.test.images[:100], digits.test.labels[:100]),
        [BitFlip(1e-4, where=Where(exclude=Where(kind="bound")))],
        encoding="q15.16",
        trials=3,
    )
    accuracy = result.to_pandas().set_index("variant")["accuracy"]
    assert accuracy["zero"] > accuracy["bare"] + 0.1
    assert accuracy["saturate"] > accuracy["bare"] + 0.1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"granularity": "layer"}, ValueError, "tensor or channel, got 'layer'"),
        ({"action": "clip"}, ValueError, "zero, saturate, got 'clip'"),
        ({"mode": "zero"}, TypeError, "granularity, action; got 'mode'"),
    ],
)
def test_bad_options_are_named(
    mlp: nn.Sequential, options: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        protect.protect(mlp, "weight-range", (torch.randn(20, 6), torch.arange(20) % 2), **options)


def test_networks_that_cannot_be_guarded(mlp: nn.Sequential) -> None:
    data = (torch.randn(20, 6), torch.arange(20) % 2)
    broken = copy.deepcopy(mlp)
    with torch.no_grad():
        broken[2].bias[0] = float("inf")
    with pytest.raises(ValueError, match=r"2.bias holds NaN or infinity"):
        protect.protect(broken, "weight-range", data)
    clipped = copy.deepcopy(mlp)
    clipped[1] = HyReLU(float("inf"))  # an open clip has no range
    with pytest.raises(ValueError, match=r"1.threshold holds NaN or infinity"):
        protect.protect(clipped, "weight-range", data)
    with pytest.raises(ValueError, match="no parameters"):
        protect.protect(nn.Sequential(nn.Flatten()), "weight-range", data)
