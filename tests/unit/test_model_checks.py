"""A campaign checks that answers are functions of the faulted memory and the input, or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_model_copies import by_closure, plain
from test_model_state import KINDS, Stateful
from torch import Tensor, nn

from proact import campaign
from proact.campaign.built_in_metrics import metric_named
from proact.campaign.measurement import Measurement
from proact.campaign.model_checks import ModelFindings, check_model
from proact.data import as_evaluation
from proact.faults import ActivationFlip, BitFlip, Fault, Injector, Where, encode
from proact.nn.forward import Forward

X = torch.randn(24, 8, generator=torch.Generator().manual_seed(5))
FAULT = BitFlip(1e-3)


def findings(
    model: nn.Module,
    fault: Fault = FAULT,
    x: Any = X,
    *,
    forward: Forward | None = None,
    state: str = "restore",
    encoding: str = "float32",
) -> ModelFindings:
    encoded = encode(model, encoding).eval()
    data = as_evaluation((x, torch.zeros(len(x), dtype=torch.int64)))
    metric = campaign.Metric("mean", lambda out, targets, clean: out.flatten(1).sigmoid().mean(1))
    measurement = Measurement(data, metric, forward or Forward(), state=state)
    injector = Injector(encoded, encoding)
    before = {name: tensor.clone() for name, tensor in encoded.state_dict().items()}
    found = check_model("net", model, injector, [fault], measurement)
    for name, tensor in encoded.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return found


def test_an_ordinary_model_needs_few_passes_and_has_no_findings() -> None:
    samples: list[int] = []
    model = plain()
    model.register_forward_pre_hook(lambda module, args: samples.append(len(args[0])))
    state = torch.random.get_rng_state()
    assert not findings(model)
    assert sum(samples) <= 20
    assert torch.equal(torch.random.get_rng_state(), state)


# 1. The faulted memory computes


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


def test_tensors_that_no_input_reads_are_listed() -> None:
    assert findings(Unused()).unread == ("head.weight", "head.bias")
    result = campaign.run({"net": Unused()}, (X, torch.arange(24) % 4), [FAULT], trials=2)
    assert result.spec.notes["checks"] == {"net": {"unread": ["head.weight", "head.bias"]}}


def test_faults_in_unread_tensors_alone_are_refused() -> None:
    fault = BitFlip(1e-3, where="head.*")
    with pytest.raises(ValueError, match="no output of net depends on the parameters that faults"):
        findings(Unused(), fault)


class Frozen(nn.Module):
    """Computes with values that it read when it was made, as a frozen graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        weight = self.linear.weight.detach().clone()
        self.values = weight.tolist()

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.tensor(self.values).t() + 0 * self.linear(x).nan_to_num(0, 0, 0)


def test_a_model_that_computes_with_kept_values_is_refused() -> None:
    with pytest.raises(ValueError, match="would be measured as harmless"):
        findings(Frozen())
    model = Frozen()
    with pytest.raises(ValueError, match=r"because the forward of the whole model \(Frozen\) was"):
        findings(by_closure(model))


_shared = nn.Linear(8, 4)


class ByGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(GlobalLinear())

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class GlobalLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = _shared, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.own(_shared(x))


def test_memory_of_the_original_is_named_with_the_module_that_reads_it() -> None:
    message = (
        r"'inner.0.?.*' \(\w+\) of the copy computes with inner.0.shared.weight of the original"
        r"|'inner.0' \(GlobalLinear\) of the copy computes with inner.0.shared.weight of the"
    )
    with pytest.raises(ValueError, match=message):
        findings(ByGlobal())


def test_wrapped_layers_are_followed_and_have_no_findings() -> None:
    model = plain()
    for layer in model:
        by_closure(layer)
    assert not findings(model)


def test_compiled_models_are_read() -> None:
    model = torch.compile(plain(), backend="eager")
    assert not findings(model)
    torch._dynamo.reset()


@pytest.mark.parametrize("encoding", ["float32", "int8", "q7.8", "bfloat16"])
def test_all_encodings_are_checked_alike(encoding: str) -> None:
    assert not findings(plain().to(torch.float32), encoding=encoding)


def test_activation_faults_that_hit_nothing_are_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.linear.weight)

    with pytest.raises(ValueError, match="no activation that ActivationFlip.* can hit occurs"):
        findings(Functional(), ActivationFlip(1e-2))
    assert not findings(plain(), ActivationFlip(1e-2))


# 2. Asked twice


@pytest.mark.parametrize(("kind", "attribute"), KINDS.items())
def test_written_state_is_put_back_and_listed(kind: str, attribute: str) -> None:
    class Body(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x[:, :4])

    model = Body(nn.Identity(), Stateful(kind))
    if kind in ("buffer in place", "buffer", "tensor", "deque"):
        # Their first answer is made of the mean of the batch.
        with pytest.raises(ValueError, match="depends on the other inputs of its batch"):
            findings(model)
    else:
        assert findings(model).written == (f"1.{attribute}",)


class Counting(nn.Module):
    """Its answers drift with every call, as those of a membrane that is never reset."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.register_buffer("drift", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.drift += 0.5
        return self.linear(x) + self.drift * torch.arange(4.0)


@pytest.mark.long
def test_trials_do_not_depend_on_the_trials_before_them() -> None:
    torch.manual_seed(0)
    model = Counting()
    labels = encode(model, "float32")(X).argmax(1)
    expected = []
    for trial in range(10):
        fresh = encode(model, "float32").eval()
        with Injector(fresh).trial(BitFlip(1e-2), 0, trial), torch.no_grad():
            expected.append(float((fresh(X).argmax(1) == labels).double().mean()))
    options = {"trials": 10, "images_per_trial": "all"}
    for executor in (1, 2):
        result = campaign.run(
            {"net": model}, (X, labels), [BitFlip(1e-2)], executor=executor, **options
        )
        assert result.cells[0].clean == 1.0
        assert values(result) == pytest.approx(expected)
    kept = campaign.run(
        {"net": model}, (X, labels), [BitFlip(1e-2)], executor=1, state="keep", **options
    )
    assert values(kept) != pytest.approx(expected)


def values(result: campaign.Result) -> list[float]:
    return [row.value for row in result.rows("net", "BitFlip(0.01)")]


def test_random_answers_are_refused_with_the_module() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True)

    model = nn.Sequential(nn.Linear(8, 4), nn.Sequential(nn.ReLU(), Noisy()), nn.Linear(4, 4))
    message = r"because '1.1' \(Noisy\) draws at random in eval mode: .* state='keep'"
    with pytest.raises(ValueError, match=message):
        findings(model)
    found = findings(model, state="keep")
    assert (found.unread, found.written) == ((), ())
    assert "because it answers differently when it is asked twice" in found.undecided[0]


def test_a_functional_dropout_is_put_down_to_the_module_that_calls_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            return self.last(F.dropout(self.first(x), 0.5))

    with pytest.raises(ValueError, match=r"because '0' \(Block\) draws at random"):
        findings(nn.Sequential(Block(), nn.ReLU()))


def test_state_outside_of_the_model_is_refused() -> None:
    calls = 0

    class Outside(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x) + calls

    with pytest.raises(ValueError, match=r"'0' \(Outside\) keeps state from call to call outside"):
        findings(nn.Sequential(Outside(8, 4)))


# 3. An answer does not depend on its batch


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x).squeeze()


class Positional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(float(len(x)))[:, None]


class Neighbours(nn.Module):
    """Attention over the batch instead of over the sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x @ x.t(), 1) @ x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm1d(8, track_running_stats=False),
        Centred,
        Positional,
        Neighbours,
    ],
)
def test_batch_dependence_is_refused_with_the_module(layer: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), layer(), nn.Linear(8, 4))
    kind = type(model[2]).__name__
    message = rf"net: the answer .* depends on .*another output is '2' \({kind}\).*unit='batch'"
    with pytest.raises(ValueError, match=message):
        findings(model)


def test_batches_as_units_accept_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Centred(), nn.Linear(8, 4))
    options = {"trials": 3, "unit": "batch", "executor": 1}
    result = campaign.run({"net": model}, X, [FAULT], metric="sdc", **options)
    assert result.cells[0].trials == 3


def test_a_model_that_takes_no_single_image_is_accepted() -> None:
    assert not findings(Squeezing())


def test_the_refusal_says_what_happens_for_one_image() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(ValueError, match="for one image the model raises ValueError"):
        findings(model)


def test_rounding_is_no_dependence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(12)))

    class Rounding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + 1e-6 * len(x))

    assert not findings(nn.Sequential(model, Rounding()))


def test_a_threshold_that_rounding_crosses_once_is_no_dependence() -> None:
    class Edge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            out = self.linear(x)
            is_on_edge = (x == X[0]).all(1, keepdim=True) & (len(x) > 2)
            return torch.where(is_on_edge, torch.zeros(()), out)

    assert not findings(Edge())


def test_checks_that_cannot_decide_say_so() -> None:
    (sentence,) = findings(plain(), x=X[:1]).undecided
    assert "depends on its batch, because there are fewer than three samples" in sentence


def test_a_batch_size_that_the_model_does_not_take_is_named() -> None:
    class Pairs(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 2:
                raise RuntimeError("no pairs")
            return super().forward(x)

    with pytest.raises(ValueError, match="net raises an error for 2 samples: RuntimeError: no pa"):
        findings(Pairs(8, 4))


def test_where_limits_the_check() -> None:
    assert metric_named("top-1")
    assert not findings(plain(), BitFlip(1e-3, where=Where(kind="bias")))
