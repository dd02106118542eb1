"""Do trials that skip the unchanged part of a model give the rows of those that run all of it?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from proact import campaign, models, protect
from proact.campaign import jobs
from proact.campaign.jobs import Job
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, Burst, ExactFlips, Fault, StuckAt, Where, inject
from proact.faults.record import Record
from proact.nn.forward import Forward
from proact.nn.graph_cut import TracedModel
from proact.nn.prefix_cache import MemoryBudget, MultiCutCache, PrefixCache
from proact.results import Policy, Row

FAULTS: list[Fault] = [
    ExactFlips(1),
    BitFlip(1e-5),
    BitFlip(1e-3, where="output.*"),
    BitFlip(1e-3, where="conv1.*"),
    StuckAt(1, 1e-4, where="hidden.*"),
    Burst(3, 1e-4, where="output.*"),
    ActivationFlip(1e-4),
]


def rows(
    model: nn.Module,
    data: object,
    faults: list[Fault],
    *,
    prefix_cache: bool,
    channels_last: bool = True,
) -> list[tuple[object, ...]]:
    # Activations are faulted batch by batch, and a warm-up may measure another batch each time.
    policy = Policy(None, 128, channels_last)
    result = campaign.run(
        {"m": model}, data, faults, trials=25, encoding="q15.16",
        prefix_cache=prefix_cache, policy=policy,
    )  # fmt: skip
    return [row[:-1] for fault in faults for row in result.rows("m", fault)]


@pytest.mark.long
@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_are_the_same_with_and_without(
    trained_cnn: nn.Module, digits: Data, channels_last: bool
) -> None:
    found, expected = (
        rows(trained_cnn, digits, FAULTS, prefix_cache=prefix_cache, channels_last=channels_last)
        for prefix_cache in (True, False)
    )
    assert found == expected


@pytest.mark.parametrize("method", ["ranger", "weight-range"])
def test_rows_of_protected_networks_too(method: str, trained_cnn: nn.Module, digits: Data) -> None:
    model = protect.protect(trained_cnn, method, digits)
    assert rows(model, digits, FAULTS[:2], prefix_cache=True) == rows(
        model, digits, FAULTS[:2], prefix_cache=False
    )


def test_rows_of_a_residual_network() -> None:
    torch.manual_seed(0)
    model = models.create("resnet20", num_classes=10, in_channels=1).eval()
    images = (torch.randn(70, 1, 8, 8), torch.randint(0, 10, (70,)))
    assert rows(model, images, FAULTS[:2], prefix_cache=True) == rows(
        model, images, FAULTS[:2], prefix_cache=False
    )


def cached(model: nn.Module, inputs: Tensor, batch: int) -> MultiCutCache:
    return MultiCutCache(model.eval(), inputs, MemoryBudget(1 << 30), batch)


def outputs(cache: MultiCutCache, record: Record) -> Tensor:
    return cache.outputs(record.counts("tensor").keys())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        self.calls: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return output


def test_what_lies_before_the_first_fault_does_not_run() -> None:
    torch.manual_seed(0)
    model = Counting().eval()
    inputs = torch.randn(20, 8)
    cache = cached(model, inputs, 16)
    assert cache.cuts == 2
    for name in ("first", "second", "third"):
        model.get_submodule(name).register_forward_hook(lambda *_, n=name: model.calls.append(n))
    ran = {}
    for name in ("first", "second", "third"):
        model.calls.clear()
        with inject(model, ExactFlips(5, where=f"{name}.*")) as record, torch.no_grad():
            found = outputs(cache, record)
            ran[name] = list(dict.fromkeys(model.calls))
            assert torch.equal(found, torch.cat([model(batch) for batch in inputs.split(16)]))
    assert ran == {
        "first": ["first", "second", "third"],
        "second": ["second", "third"],
        "third": ["third"],
    }


def test_kept_activations_survive_in_place_functions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    inputs = torch.randn(16, 8)
    cache = cached(model, inputs, 16)
    with inject(model, ExactFlips(1, where="1.*")) as record, torch.no_grad():
        first, second = outputs(cache, record), outputs(cache, record)
        assert torch.equal(first, second)
        assert torch.equal(first, model(inputs))


def test_tied_weights_count_where_they_come_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    inputs = torch.randn(16, 8)
    cache = cached(model, inputs, 16)
    for trial in range(10):
        with inject(model, ExactFlips(1), trial=trial) as record, torch.no_grad():
            assert torch.equal(outputs(cache, record), model(inputs))


class Strides(nn.Module):
    """Records the strides that its second layer sees."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.change = change
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.change(self.first(x))).sum((2, 3))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "transposed": lambda x: x.transpose(2, 3),
    "samples last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 6, -1),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("change", CHANGES)
def test_kept_batches_have_the_values_and_strides_of_fresh_ones(
    change: str, layout: torch.memory_format
) -> None:
    """A kernel may depend on strides and on the batch size, and so may the last bit of a sum."""
    torch.manual_seed(0)
    model = Strides(CHANGES[change]).eval()
    inputs = torch.randn(10, 3, 5, 6).contiguous(memory_format=layout)
    cut = TracedModel(model, inputs[:2]).cut_at(model.second)
    assert cut is not None
    cache = PrefixCache(model, cut, inputs, MemoryBudget(1 << 20), batch=4)
    assert cache.bytes > 0
    seen: list[tuple[torch.Size, tuple[int, ...]]] = []
    model.second.register_forward_pre_hook(lambda _, a: seen.append((a[0].shape, a[0].stride())))
    with torch.no_grad():
        found = list(cache.outputs())
        from_cache = seen.copy()
        seen.clear()
        for batch in inputs.split(4):
            model.second(CHANGES[change](model.first(batch)).clone())
        assert from_cache == seen
        assert torch.equal(torch.cat(found), torch.cat([model(batch) for batch in inputs.split(4)]))


def test_indices_and_batches_give_the_same_outputs(trained_cnn: nn.Module, digits: Data) -> None:
    images = digits.test.images[:50]
    layer = trained_cnn.get_submodule("conv3")
    cut = TracedModel(trained_cnn, images[:2]).cut_at(layer)
    with torch.no_grad():
        expected = trained_cnn(images)
        for where in (cut, None):
            for limit in (1 << 30, 0):
                cache = PrefixCache(trained_cnn, where, images, MemoryBudget(limit), batch=20)
                assert (cache.bytes > 0) == (where is not None and limit > 0)
                order = torch.randperm(50)
                torch.testing.assert_close(cache.outputs_at(order), expected[order])
                torch.testing.assert_close(torch.cat(list(cache.outputs())), expected)


def test_caches_share_one_budget_and_return_it() -> None:
    torch.manual_seed(0)
    models_ = [nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval() for _ in range(3)]
    inputs = torch.randn(16, 8)
    each = 16 * 8 * 4
    budget = MemoryBudget(5 * each)
    caches = [MultiCutCache(model, inputs, budget, 16) for model in models_]
    assert [cache.cuts for cache in caches] == [3, 2, 0]
    assert [cache.bytes for cache in caches] == [3 * each, 2 * each, 0]
    assert budget.left == 0
    for cache, model in zip(caches, models_, strict=True):
        cache.close()
        assert torch.equal(cache.outputs([]), model(inputs))
    assert budget.left == 5 * each
    assert MultiCutCache(models_[2], inputs, budget, 16).cuts == 3


def test_a_shape_that_depends_on_the_batch_is_not_kept() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second((x @ x.T) @ x)

    torch.manual_seed(0)
    model, inputs, budget = Gram().eval(), torch.randn(10, 8), MemoryBudget(1 << 20)
    for batch in (4, 10):
        with torch.no_grad():
            found = MultiCutCache(model, inputs, budget, batch).outputs([])
            assert torch.equal(found, torch.cat([model(part) for part in inputs.split(batch)]))


def test_a_campaign_divides_its_memory_among_variants_and_workers_and_frees_it(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[Job, int, int]] = []
    close = Job.close

    def watched(self: Job) -> None:
        for runner in self._runners.values():
            assert runner._cache is not None
            built.append((self, runner.cache_bytes, runner._cache.bytes))
        close(self)

    monkeypatch.setattr(Job, "close", watched)
    variants = {"one": trained_cnn, "two": copy.deepcopy(trained_cnn)}
    campaign.run(variants, digits, [ExactFlips(1)], trials=25, images_per_trial="all", executor=1)
    job = built[0][0]
    assert len(built) == 2
    assert all(0 < kept <= share == jobs.CACHE_BYTES // 2 for _, share, kept in built)
    assert not job._runners
    assert cloudpickle.loads(job.for_workers(4)).cache_bytes == jobs.CACHE_BYTES // 4


def test_a_trial_that_changes_nothing_is_not_run(digits: Data) -> None:
    class Zero(nn.Module):
        ran = 0

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            Zero.ran += 1
            return x.flatten(1) @ self.weight

    # Bits that are 0 stick at 0.
    fault = StuckAt(0, 0.5)
    run: list[Row] = []
    for trials in (1, 60):
        Zero.ran = 0
        policy = Policy(20, 64, False)
        result = campaign.run({"m": Zero()}, digits, [fault], trials=trials, policy=policy)
        run = list(result.rows("m", fault))
        ran = Zero.ran if trials == 1 else ran  # type: ignore[has-type] # noqa: F821
    assert Zero.ran == ran
    assert all(row.flips == 0 and row.value == row.clean and row.seconds == 0 for row in run)


class Named(nn.Module):
    """Takes two tensors by name, and returns an object with more than the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, a: Tensor, b: Tensor | None = None) -> Any:
        hidden = self.second(torch.relu(self.first(a)))
        hidden = hidden if b is None else hidden * b
        return SimpleNamespace(logits=self.third(torch.relu(hidden)), hidden=hidden)


@pytest.mark.parametrize("form", ["mapping", "tuple", "function"])
def test_inputs_of_any_form_are_cached(form: str) -> None:
    torch.manual_seed(0)
    model, a, b = Named().eval(), torch.randn(10, 8), torch.rand(10, 8)
    inputs: Any = {"a": a, "b": b} if form == "mapping" else (a, b)
    forward = Forward(output="logits")
    if form == "function":
        inputs = (b, a)
        forward = Forward(lambda network, pair: network(pair[1], b=pair[0]), "logits")
    cache = MultiCutCache(model, inputs, MemoryBudget(1 << 20), 4, forward)
    assert cache.cuts == 2
    with torch.no_grad():
        model.third.weight.mul_(2)
        expected = torch.cat([model(a[i : i + 4], b[i : i + 4]).logits for i in (0, 4, 8)])
        assert torch.equal(cache.outputs(["third.weight"]), expected)
        model.first.weight.mul_(2)
        expected = torch.cat([model(a[i : i + 4], b[i : i + 4]).logits for i in (0, 4, 8)])
        assert torch.equal(cache.outputs(["third.weight", "first.weight"]), expected)


class Frozen(nn.Module):
    """As torchvision's FrozenBatchNorm2d: all numbers are buffers, one not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", 0.1 * torch.randn(8))
        self.register_buffer("running_var", 0.5 + torch.rand(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.running_var + 1e-5).rsqrt().reshape(1, -1) + self.bias


class Quantised(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.05))
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x / self.read(self.scale)) * self.read(self.scale)


class Layered(nn.Module):
    """Runs `between` after each of its layers, and first `start` on the input."""

    def __init__(self, between: Callable[[], nn.Module], start: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.one, self.two, self.three = between(), between(), between()
        self.alias, self.holder = self.last.weight.data, [self.last.weight.data]
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(self.first(self.start(self, x))))
        x = torch.tanh(self.two(self.second(x)))
        output: Tensor = self.last(torch.tanh(self.three(self.third(x))))
        return output


def plain(_: Any, x: Tensor) -> Tensor:
    return x


READS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], bool]] = {
    "frozen batch norm": (Frozen, plain, True),
    "item": (lambda: Quantised(lambda scale: scale.item()), plain, True),
    "buffer": (lambda: Quantised(lambda scale: scale), plain, True),
    "float": (lambda: Quantised(float), plain, False),
    "alias": (nn.Identity, lambda net, x: nn.functional.linear(x, net.alias), True),
    "alias in a list": (nn.Identity, lambda net, x: nn.functional.linear(x, net.holder[0]), True),
    "view of an alias": (nn.Identity, lambda net, x: x @ net.alias.T, False),
    "sum of parameters": (
        nn.Identity,
        lambda net, x: x * sum(float(p.sum()) for p in net.last.parameters()),
        False,
    ),
}


@pytest.mark.parametrize("read", READS)
def test_every_way_to_read_a_stored_tensor_has_the_rows_of_the_plain_loop(read: str) -> None:
    between, start, is_cut = READS[read]
    torch.manual_seed(0)
    model, inputs = Layered(between, start).eval(), torch.randn(20, 8)
    cache = cached(model, inputs, 16)
    assert (cache.cuts > 0) == is_cut
    differing = 0
    with torch.no_grad():
        clean = torch.cat([model(batch) for batch in inputs.split(16)])
        for where in ("one.*", "two.*", "three.*", "first.*", "second.*", "last.*"):
            if not any(name.startswith(where[:-1]) for name in model.state_dict()):
                continue
            for trial in range(5):
                with inject(model, ExactFlips(9, where=where), trial=trial) as record:
                    expected = torch.cat([model(batch) for batch in inputs.split(16)])
                    assert torch.equal(outputs(cache, record).nan_to_num(), expected.nan_to_num())
                    differing += not torch.equal(expected, clean)
    assert differing > 10


def test_a_layer_of_torch_may_hold_the_memory_of_another_one() -> None:
    """torch.fx does not look into layers of torch.nn, and so finds no attribute there."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval()
    inputs = torch.randn(16, 8)
    tied = model[3].weight.data
    del model[0].weight
    model[0].weight = tied  # type: ignore[assignment]
    cache = cached(model, inputs, 16)
    assert cache.cuts > 0
    with inject(model, ExactFlips(5, where="3.*")) as record, torch.no_grad():
        assert torch.equal(outputs(cache, record).nan_to_num(), model(inputs).nan_to_num())


def test_a_campaign_with_faults_in_buffers_has_the_rows_of_the_plain_loop(digits: Data) -> None:
    torch.manual_seed(0)
    images = digits.test.images[:50]
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), Frozen(), nn.ReLU(), nn.Linear(8, 8), Frozen(), nn.ReLU(),
        nn.Linear(8, 10),
    ).eval()  # fmt: skip
    data = (images, model(images).argmax(1))
    faults: list[Fault] = [BitFlip(1e-2, where=Where(layer="Frozen"))]
    found, expected = (rows(model, data, faults, prefix_cache=cache) for cache in (True, False))
    assert found == expected
    assert len({row[3:] for row in found}) > 1
