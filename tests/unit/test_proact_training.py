"""Does ProAct's training do what the paper says, and none of what existing code gets wrong?"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from proact import models, protect
from proact.data import Data, Split
from proact.models import Recipe
from proact.nn import HyReLU
from proact.nn.graph_cut import TracedModel
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.protect import proact as proact_module
from proact.protect.model_suffix import ModelSuffix
from proact.protect.proact import ProactOptions, SiteTraining
from proact.protect.threshold_trainer import ThresholdTrainer

FAST: dict[str, Any] = {"epochs": 2, "decays": (1.0, 0.1)}


def thresholds(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: module.threshold.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, HyReLU)
    }


@pytest.fixture
def optimisers(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The learning rates of the steps of each optimiser that is made."""
    made: list[list[float]] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            assert not self.state
            made.append([])

        def step(self, *args: Any, **kwargs: Any) -> Any:
            made[-1].append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(proact_module, "AdamW", Watched)
    return made


def test_each_decay_has_a_fresh_optimiser_and_schedule(
    trained_cnn: nn.Module, digits: Data, optimisers: list[list[float]]
) -> None:
    """A cosine that went on from where the layer before ended would train with a rate of 0."""
    lines: list[str] = []
    protect.protect(trained_cnn, "proact", digits, progress=lines.append, **FAST)
    # One for each decay of the neurons at the last site, one for all decays of each other site.
    assert len(optimisers) == sum(line.startswith("relu4") for line in lines) + 3
    for rates in optimisers:
        steps = len(rates)
        cosine = [0.005 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
        assert rates == pytest.approx(cosine)


def test_a_frozen_threshold_does_not_move_by_a_bit(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimiser state (momentum, decay) must not reach thresholds that were trained before."""
    order: list[str] = []
    kept: dict[str, Tensor] = {}

    class Watched(SiteTraining):
        def train(self, decay: float) -> None:
            trainer, site = self._trainer, self._site
            before = thresholds(trainer.model)
            super().train(decay)
            after = thresholds(trainer.model)
            assert all(torch.equal(after[n], before[n]) for n in before if n != site.name)
            assert not torch.equal(after[site.name], before[site.name])
            order.append(site.name)
            kept[site.name] = after[site.name]

    monkeypatch.setattr(proact_module, "SiteTraining", Watched)
    hardened = protect.protect(
        trained_cnn, "proact", digits, tolerance=1.0, epochs=2, decays=(1.0,)
    )
    assert order == ["relu4", "relu3", "relu2", "relu1"]
    assert all(torch.equal(found, kept[name]) for name, found in thresholds(hardened).items())


def test_a_step_runs_the_student_once(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"steps": 0, "passes": 0}
    gradient, forward = ThresholdTrainer.gradient, PrefixCache.outputs_at

    def counted_gradient(*args: Any) -> Any:
        calls["steps"] += 1
        monkeypatch.setattr(PrefixCache, "outputs_at", counted_forward)
        found = gradient(*args)
        monkeypatch.setattr(PrefixCache, "outputs_at", forward)
        return found

    def counted_forward(self: Any, indices: Tensor) -> Tensor:
        calls["passes"] += 1
        return forward(self, indices)

    monkeypatch.setattr(ThresholdTrainer, "gradient", counted_gradient)
    protect.protect(trained_cnn, "proact", digits, **FAST)
    assert calls["steps"] == calls["passes"] > 0


def test_the_tolerance_is_one_sided(trained_cnn: nn.Module, digits: Data) -> None:
    """A network that clipping mends by far more than the tolerance: the decay is accepted,
    although the accuracy has changed."""

    class CriesOut(nn.Module):
        """One more hidden unit is huge for the brighter half of the images, and speaks for class 0.

        It has one value there, which is the profile's maximum. For images of other classes the loss
        falls with its threshold, and one step takes the threshold below that value.
        """

        def __init__(self) -> None:
            super().__init__()
            self.features = copy.deepcopy(trained_cnn)[:-2]  # type: ignore[index]
            self.relu4, self.output = nn.ReLU(), nn.Linear(65, 10)
            before = trained_cnn.get_submodule("output")
            with torch.no_grad():
                voice = F.one_hot(torch.tensor(0), 10)[:, None]
                self.output.weight.copy_(torch.cat([before.get_parameter("weight"), voice], 1))
                self.output.bias.copy_(before.get_parameter("bias"))

        def forward(self, x: Tensor) -> Tensor:
            loud = 1e3 * (x.mean((1, 2, 3)) > 0).to(x.dtype)[:, None]
            hidden = self.relu4(torch.cat([self.features(x), loud], 1))
            out: Tensor = self.output(hidden)
            return out

    broken = CriesOut().eval()
    clean = models.accuracy(broken, digits.validation)
    assert clean < 0.8
    lines: list[str] = []
    protect.protect(broken, "proact", digits, decays=(0.1,), progress=lines.append)
    assert lines[0].startswith("relu4: decay 0.1: ")
    assert "accepted" in lines[0]
    assert float(lines[0].split()[3]) > clean + 0.1


def test_order_is_that_of_execution_not_of_registration(digits: Data) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"late": nn.ReLU(), "early": nn.ReLU()})
            self.second, self.first = nn.Linear(12, 10), nn.Linear(64, 12)
            self.output = nn.Linear(10, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner["early"](self.first(x.flatten(1)))
            return self.output(self.inner["late"](self.second(x)))

    torch.manual_seed(0)
    lines: list[str] = []
    model = nn.Sequential(Backwards())
    few = Data("few", digits.train.take(torch.arange(300)), digits.validation, digits.test, 10)
    hardened = protect.protect(model, "proact", few, tolerance=1.0, progress=lines.append, **FAST)
    assert [line.split(":")[0] for line in lines] == ["0.inner.late", "0.inner.early"]
    # The last executed one is the neuron-wise one, under its nested name.
    assert {n: tuple(t.shape) for n, t in thresholds(hardened).items()} == {
        "0.inner.late": (10,),
        "0.inner.early": (),
    }


@pytest.mark.long
@pytest.mark.parametrize("granularity", ["hybrid", "channel", "neuron"])
def test_caches_change_speed_only(
    double_cnn: nn.Module,
    double_digits: Data,
    granularity: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In memory, over the budget, and where the network cannot be cut: the same thresholds."""

    def trained(**options: Any) -> tuple[list[str], dict[str, Tensor]]:
        lines: list[str] = []
        hardened = protect.protect(
            double_cnn,
            "proact",
            double_digits,
            granularity=granularity,
            progress=lambda line: lines.append(line.partition(" (")[0]),
            **FAST,
            **options,
        )
        return lines, thresholds(hardened)

    kept = trained()
    recomputed = trained(cache_bytes=1)
    monkeypatch.setattr(TracedModel, "cut_at", lambda *_: None)
    whole = trained()
    assert "cannot cut the model" in whole[0].pop(0)
    for lines, found in (recomputed, whole):
        assert lines == kept[0]
        for name, value in found.items():
            torch.testing.assert_close(value, kept[1][name], rtol=1e-7, atol=1e-9)


def test_a_branch_beside_a_site_keeps_its_trained_threshold(digits: Data) -> None:
    """The later of two parallel activations is trained first, and reaches the cut at the other."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 32), nn.Linear(64, 32)
            self.output = nn.Linear(64, 10)
            self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            one, two = self.relu1(self.first(x)), self.relu2(self.second(x))
            return self.output(self.relu3(torch.cat([one, two], 1)))

    torch.manual_seed(0)
    model = models.train(Branches(), digits, Recipe(epochs=5, batch=64, peak=0.05))
    options: dict[str, Any] = {"tolerance": 1.0, "granularity": "layer", "decays": (1.0,)}
    kept = thresholds(protect.protect(model, "proact", digits, **options))
    recomputed = thresholds(protect.protect(model, "proact", digits, cache_bytes=1, **options))
    for name, value in kept.items():
        torch.testing.assert_close(value, recomputed[name], rtol=1e-4, atol=1e-6)


def test_a_model_may_write_to_its_inputs(trained_cnn: nn.Module, digits: Data) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(trained_cnn)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.mul_(2.0).sub_(1.0))

    given = {part: getattr(digits, part).images.clone() for part in ("train", "validation")}
    options = ProactOptions()
    bounds = options.profiled(Scales(), digits, "layer")
    trainer = ThresholdTrainer(Scales(), bounds, digits, options)
    for part, images in given.items():
        assert torch.equal(getattr(digits, part).images, images)
        own = getattr(trainer, part).images
        assert torch.equal(
            own.flatten(1).sum(1).sort().values, images.flatten(1).sum(1).sort().values
        )


@pytest.mark.parametrize("method", ["proact", "resilience-aware-proact", "fitact"])
def test_too_few_validation_samples_leave_the_start(
    trained_cnn: nn.Module, digits: Data, method: str
) -> None:
    few = Data("few", digits.train, digits.validation.take(torch.arange(100)), digits.test, 10)
    with pytest.warns(UserWarning, match="100 validation samples cannot show that a drop"):
        found = protect.protect(trained_cnn, method, few, granularity="layer")
    start = protect.protect(trained_cnn, "ranger", few, mode="zero", granularity="layer")
    # The two profiles may sum in another order.
    torch.testing.assert_close(thresholds(found), thresholds(start), rtol=1e-5, atol=0.0)


def test_what_is_kept_stays_within_the_budget(trained_cnn: nn.Module, digits: Data) -> None:
    options = ProactOptions()
    bounds = options.profiled(trained_cnn, digits, "hybrid")
    trainer = ThresholdTrainer(copy.deepcopy(trained_cnn), bounds, digits, options)
    site = trainer.sites[1]
    needs = 16 * 4 * 4 * 4  # bytes an image at conv2's output
    room = needs * (512 + len(digits.validation) + len(digits.train))
    budget = MemoryBudget(room)
    suffix = ModelSuffix(trainer, site, budget)
    assert (suffix.train.bytes, budget.left) == (needs * len(digits.train), 0)
    suffix.close()
    assert (suffix.train.bytes, budget.left) == (0, room)
    assert ModelSuffix(trainer, site, MemoryBudget(room - 1)).train.bytes == 0


def test_each_site_returns_its_memory(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches of one site are freed before those of the next are built."""
    budgets: list[MemoryBudget] = []

    class Watched(MemoryBudget):
        def __init__(self, limit: int) -> None:
            super().__init__(limit)
            self.limit, self.most = limit, 0
            if limit:
                budgets.append(self)

        def reserve(self, wanted: int) -> bool:
            had_enough = super().reserve(wanted)
            self.most = max(self.most, self.limit - self.left)
            return had_enough

    monkeypatch.setattr(proact_module, "MemoryBudget", Watched)
    needs = 8 * 8 * 8 * 4 * (512 + len(digits.validation))  # at the first site
    protect.protect(trained_cnn, "proact", digits, cache_bytes=needs, **FAST)
    (budget,) = budgets
    assert budget.left == needs == budget.most  # type: ignore[attr-defined]


def test_the_model_is_traced_once_for_all_sites(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[nn.Module] = []
    trace = fx.Tracer.trace

    def counted(self: fx.Tracer, root: nn.Module, *rest: Any) -> fx.Graph:
        traces.append(root)
        return trace(self, root, *rest)

    monkeypatch.setattr(fx.Tracer, "trace", counted)
    protect.protect(trained_cnn, "proact", digits, **FAST)
    assert len(traces) == 1


def test_few_samples_have_the_same_share_of_every_class(
    trained_cnn: nn.Module, digits: Data
) -> None:
    options = ProactOptions(samples=200)
    trainer = ThresholdTrainer(
        copy.deepcopy(trained_cnn), options.profiled(trained_cnn, digits, "layer"), digits, options
    )
    shares = torch.bincount(trainer.train.labels) / len(trainer.train)
    whole = torch.bincount(digits.train.labels) / len(digits.train)
    assert 195 <= len(trainer.train) <= 205
    assert (shares - whole).abs().max() < 0.01


def test_the_gradient_is_that_of_the_plain_formula(
    double_cnn: nn.Module, double_digits: Data
) -> None:
    """Of 0.8 CE + 0.1 KD by eager torch, weights free to move and nothing cached."""
    options = ProactOptions()
    bounds = options.profiled(double_cnn, double_digits, "hybrid")
    trainer = ThresholdTrainer(copy.deepcopy(double_cnn), bounds, double_digits, options)
    site = trainer.sites[-1]
    threshold = trainer.clip(site).threshold
    threshold.data.mul_(0.5)
    batch = torch.arange(64)
    suffix = ModelSuffix(trainer, site, MemoryBudget(1 << 30))
    (found,) = trainer.gradient(suffix.train, [threshold], batch, proact_module.distillation_loss)

    plain = copy.deepcopy(trainer.model).requires_grad_(True)
    images, labels = trainer.train.images[batch], trainer.train.labels[batch]
    output = plain(images)
    soft = double_cnn(images).detach().softmax(1)
    ce = -output.log_softmax(1)[torch.arange(64), labels].mean()
    kd = -(soft * output.log_softmax(1)).sum(1).mean()
    (0.8 * ce + 0.1 * kd).backward()
    expected = plain.get_submodule(site.name).get_parameter("threshold").grad
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("decay", [0.3, 3.0])
def test_training_is_that_of_a_plain_loop(
    double_cnn: nn.Module, double_digits: Data, number: int, decay: float
) -> None:
    """AdamW on T in units of its start, a cosine, 0.8 CE + 0.1 KD, written out in eager torch
    through the plain formula of the soft clip, with no cache and no native operator."""
    options = ProactOptions(epochs=1, granularity="channel")
    trainer = ThresholdTrainer(
        copy.deepcopy(double_cnn),
        options.profiled(double_cnn, double_digits, "channel"),
        double_digits,
        options,
    )
    site = trainer.sites[number]
    start = trainer.clip(site).threshold.detach().clone()
    suffix = ModelSuffix(trainer, site, MemoryBudget(1 << 30))
    SiteTraining(trainer, site, suffix, options).train(decay)
    found = trainer.clip(site).threshold

    relative = torch.ones_like(start, requires_grad=True)
    optimizer = torch.optim.AdamW([relative], lr=0.01, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trainer.steps_per_epoch)
    for batch in trainer.batches(torch.Generator().manual_seed(0)):
        loss = plain_loss(trainer, double_cnn, {site.name: relative * start}, batch)
        (relative.grad,) = torch.autograd.grad(loss, relative)
        optimizer.step()
        schedule.step()
        relative.data.clamp_(min=0)
    expected = (relative * start).detach()
    assert (expected - start).abs().mean() > 0.001 * start.mean()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def plain_loss(
    trainer: ThresholdTrainer, model: nn.Module, moved: dict[str, Tensor], batch: Tensor
) -> Tensor:
    """0.8 CE + 0.1 KD by the plain formula of the soft clip, the mean over a batch of ``train``."""
    limits = {**{s.name: trainer.clip(s).threshold.detach() for s in trainer.sites}, **moved}
    x = trainer.train.images[batch]
    soft = model(x).detach().softmax(1)
    for name, layer in model.named_children():
        limit = limits.get(name)
        x = layer(x) if limit is None else x.relu() * torch.sigmoid(20 * (limit - x))
    return 0.8 * F.cross_entropy(x, trainer.train.labels[batch]) + 0.1 * F.cross_entropy(x, soft)


def test_the_table_holds_the_gradients_of_the_first_images(
    double_cnn: nn.Module, double_digits: Data
) -> None:
    options = ProactOptions(granularity="layer")
    bounds = options.profiled(double_cnn, double_digits, "layer")
    trainer = ThresholdTrainer(copy.deepcopy(double_cnn), bounds, double_digits, options)
    site = trainer.sites[1]
    suffix = ModelSuffix(trainer, site, MemoryBudget(1 << 30))
    training = SiteTraining(trainer, site, suffix, options)
    for level in (1.0, 0.5, 0.2):
        relative = torch.tensor(level, dtype=torch.float64, requires_grad=True)
        found = training._gradients(level)
        assert len(found) == 8
        for number, value in enumerate(found):
            batch = torch.arange(64 * number, 64 * (number + 1))
            moved = {site.name: relative * bounds[site]}
            loss = plain_loss(trainer, double_cnn, moved, batch)
            (expected,) = torch.autograd.grad(loss, relative)
            torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-12)


@pytest.fixture(scope="module")
def centroid_cnn(double_digits: Data) -> nn.Module:
    """An untrained network in float64 whose output layer compares with the mean of each class.

    Unlike a trained network it is the same on every machine, up to 1e-15.
    """
    torch.manual_seed(0)
    network = models.create("small-cnn", 10, 1).double().eval()
    *layers, output = network.children()
    train = double_digits.train
    with torch.no_grad():
        features = nn.Sequential(*layers)(train.images)
        means = torch.stack([features[train.labels == label].mean(0) for label in range(10)])
        scale = 1 / features.var(0).mean()
        output.weight.copy_(scale * means)
        output.bias.copy_(-0.5 * scale * (means**2).sum(1))
    return network


@pytest.mark.parametrize("batch", [64, 128, 200])
@pytest.mark.parametrize("number", [1, 2])
def test_a_scalar_threshold_ends_where_gradients_take_it(
    centroid_cnn: nn.Module, double_digits: Data, number: int, batch: int
) -> None:
    """AdamW on gradients from the table against AdamW on gradients of all images.

    Eight batches tell the mean gradient up to a third of its scatter, by which AdamW divides.
    """
    options = ProactOptions(granularity="layer", batch=batch)
    bounds = options.profiled(centroid_cnn, double_digits, "layer")
    trainer = ThresholdTrainer(copy.deepcopy(centroid_cnn), bounds, double_digits, options)
    site = trainer.sites[number]
    suffix = ModelSuffix(trainer, site, MemoryBudget(1 << 30))
    SiteTraining(trainer, site, suffix, options).train(3.0)
    found = float(trainer.clip(site).threshold / bounds[site])
    trainer.set_threshold(site, bounds[site])
    SiteTraining(trainer, site, suffix, options, tabulate=False).train(3.0)
    expected = float(trainer.clip(site).threshold / bounds[site])
    assert expected < 0.8
    assert found == pytest.approx(expected, abs=0.1)


def test_too_few_images_for_a_batch_still_train(trained_cnn: nn.Module, digits: Data) -> None:
    few = Data("few", digits.train.take(torch.arange(5)), digits.validation, digits.test, 10)
    lines: list[str] = []
    with pytest.warns(UserWarning, match=r"\d+% of 269 held-out samples .* profile of 5 samples"):
        protect.protect(
            trained_cnn, "proact", few, tolerance=1.0, progress=lines.append, batch=64, **FAST
        )
    assert {line.split(":")[0] for line in lines} == {"relu1", "relu2", "relu3", "relu4"}


def test_labels_that_the_network_has_no_class_for_are_refused(digits: Data) -> None:
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 9))
    with pytest.raises(ValueError, match="labels go up to 9"):
        protect.protect(small, "proact", digits)
    shown = digits.train.take(torch.nonzero(digits.train.labels < 9).squeeze(1))
    hidden = Data("hidden", shown, digits.validation, digits.test, 9)
    with pytest.raises(ValueError, match="labels go up to 9"):
        protect.protect(small, "proact", hidden)


def test_an_empty_validation_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
