"""Does the recipe train, the same way every time, and go on where it was interrupted?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from proact import ProactError, models
from proact.data import Augmentation, Data, Split
from proact.models import small_cnn
from proact.models.evaluation import check_takes
from proact.models.recipe import Recipe, augmented, recipe_for

SHORT = Recipe(epochs=3, batch=32, peak=0.05)


@pytest.fixture
def few(digits: Data) -> Data:
    train = digits.train.take(torch.arange(100))
    how = Augmentation(shift=1, mirror=True)
    return Data("few", train, digits.validation, digits.test, 10, augmentation=how)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_training_is_seeded_and_leaves_the_global_generator_alone(few: Data) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = models.trained("small-cnn", few, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert same(first, models.trained("small-cnn", few, seed=1))
    assert not same(first, models.trained("small-cnn", few, seed=2))


def test_the_small_network_learns_the_digits(trained_cnn: nn.Module, digits: Data) -> None:
    assert sum(p.numel() for p in trained_cnn.parameters()) == 8378
    assert models.accuracy(trained_cnn, digits.test) > 0.96


class Stop(Exception):  # noqa: N818
    """As if the machine were switched off."""


def stop_at(step: int, steps: list[int] | None = None) -> object:
    def progress(done: int, total: int) -> None:
        if steps is not None:
            steps.append(done)
        if done == step:
            raise Stop

    return progress


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_an_interrupted_training_ends_in_the_same_weights(
    name: str, few: Data, tmp_path: Path
) -> None:
    """Batch statistics, momentum, schedule and augmentation all go on."""
    whole = models.trained(name, few, recipe=SHORT)
    for stopped in (4, 5, 8):  # in the second epoch, and in the third
        with pytest.raises(Stop):
            models.trained(name, few, 0, tmp_path, stop_at(stopped), SHORT)  # type: ignore[arg-type]
    steps: list[int] = []
    resumed = models.trained(name, few, 0, tmp_path, stop_at(-1, steps), SHORT)  # type: ignore[arg-type]
    assert steps == [7, 8, 9]
    assert same(whole, resumed)
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".safetensors"
    steps.clear()
    assert same(models.trained(name, few, 0, tmp_path, stop_at(-1, steps), SHORT), whole)  # type: ignore[arg-type]
    assert not steps
    assert all(p.is_contiguous() for p in resumed.parameters())
    kept.write_bytes(b"broken")
    with pytest.raises(ProactError, match="delete it"):
        models.trained(name, few, 0, tmp_path, recipe=SHORT)


def test_dropout_goes_on_after_an_interruption(few: Data, tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))

    file = tmp_path / "run.safetensors"
    whole = models.train(network(), few, SHORT)
    with pytest.raises(Stop):
        models.train(network(), few, SHORT, 0, stop_at(5), file)  # type: ignore[arg-type]
    assert same(whole, models.train(network(), few, SHORT, resume=file))


def test_a_checkpoint_of_something_else_is_refused(few: Data, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"

    def stopped(seed: int, **options: int) -> None:
        recipe = Recipe(**{"epochs": 3, "batch": 32, **options})  # type: ignore[arg-type]
        models.train(models.create("small-cnn", 10, 1), few, recipe, seed, stop_at(4), file)  # type: ignore[arg-type]

    with pytest.raises(Stop):
        stopped(0)
    kept = file.read_bytes()
    for seed, options in ((1, {}), (0, {"epochs": 4})):
        with pytest.raises(ProactError, match="checkpoint of another training"):
            stopped(seed, **options)
    assert file.read_bytes() == kept
    file.write_bytes(kept[:-10])
    with pytest.raises(ProactError, match="no checkpoint of a training"):
        stopped(0)
    file.unlink()
    file.mkdir()
    with pytest.raises(ProactError, match=r"run.safetensors"):
        stopped(0)


def test_augmentation_moves_and_mirrors_what_it_may() -> None:
    images = torch.arange(2 * 5 * 4, dtype=torch.float32).view(1, 2, 5, 4).expand(400, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    found = augmented(images, torch.arange(400), Augmentation(1, True), generator)
    assert found.is_contiguous(memory_format=torch.channels_last)
    padded = nn.functional.pad(images[:1], (1, 1, 1, 1), mode="replicate")[0]
    possible = {
        tuple((window.flip(2) if mirror else window).flatten().tolist())
        for y in range(3)
        for x in range(3)
        for window in (padded[:, y : y + 5, x : x + 4],)
        for mirror in (False, True)
    }
    assert {tuple(image.flatten().tolist()) for image in found} == possible
    plain = augmented(images + 0.5, torch.arange(3), Augmentation(), generator)
    assert torch.equal(plain, images[:3] + 0.5)


def test_the_recipe_follows_the_data_and_the_network(few: Data) -> None:
    plain = models.create("vgg16", 10, 1)
    assert recipe_for(few, models.create("small-cnn")).peak == 0.1
    assert recipe_for(few, plain).peak == pytest.approx(0.01)
    assert recipe_for(few, models.create("alexnet", 10, 1)).peak == pytest.approx(0.025)
    assert recipe_for(few, models.create("vgg16-bn")).epochs == 40


class Odd(nn.Module):
    """Ties two layers, and has one that nothing runs through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.unused = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(self.b(self.a(x.flatten(1)).relu()).relu())
        return output


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("flat", [True, False])
def test_tied_frozen_and_unused_parameters_are_resumed(
    momentum: float, flat: bool, few: Data, tmp_path: Path
) -> None:
    if flat:
        train = Split(few.train.images.flatten(1), few.train.labels)
        few = Data("flat", train, train, train, 10)
    recipe = Recipe(epochs=2, batch=32, peak=0.05, momentum=momentum)
    trained = []
    for stops in ((), (4,)):
        model, file = Odd(), tmp_path / "run.safetensors"
        model.a.bias.requires_grad_(False)
        for stop in stops:
            with pytest.raises(Stop):
                models.train(model, few, recipe, 0, stop_at(stop), file)  # type: ignore[arg-type]
            assert file.exists()
        trained.append(models.train(model, few, recipe, 0, None, file))
    assert same(*trained)
    assert trained[0].a.weight is trained[0].b.weight


def test_frozen_parameters_stay(few: Data) -> None:
    model = models.create("small-cnn", 10, 1)
    model.get_submodule("conv1").requires_grad_(False)
    before = weights(model)
    models.train(model, few, SHORT)
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {name for name in before if not name.startswith("conv1.")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs is an integer of at least 1, got 0"),
        ({"batch": 1.5}, "batch is an integer"),
        ({"peak": -1}, "peak is a number"),
        ({"momentum": 1.0}, "momentum is a number in .0, 1., got 1.0"),
        ({"weight_decay": float("nan")}, "weight_decay"),
    ],
)
def test_recipes_out_of_range(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**options)  # type: ignore[arg-type]


def test_networks_that_do_not_fit_the_data_are_named(few: Data) -> None:
    for model, words in (
        (models.create("small-cnn", 9, 1), "labels go up to 9, .* the model gives .2, 9."),
        (models.create("small-cnn", 10, 3), "does not take inputs of shape .samples, 1, 8, 8."),
        (nn.Identity(), "gives .2, 1, 8, 8."),
    ):
        model.train()
        with pytest.raises(ValueError, match=words):
            models.train(model, few, SHORT)
        with pytest.raises(ValueError, match=words):
            check_takes(model, few.test)
        assert model.training


def test_an_augmentation_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="shift: expected an integer of at least 0, got -1"):
        Augmentation(shift=-1)
    with pytest.raises(TypeError, match="mirror: expected True or False, got 1"):
        Augmentation(mirror=1)  # type: ignore[arg-type]


def test_the_cache_knows_the_initial_weights(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Recipe(epochs=1, batch=32, peak=0.05)
    models.trained("small-cnn", few, cache=tmp_path, recipe=once)
    build = small_cnn.small_cnn

    def halved(classes: int, channels: int) -> nn.Module:
        model = build(classes, channels)
        with torch.no_grad():
            model.get_submodule("output").weight.mul_(0.5)  # type: ignore[operator, union-attr]
        return model

    monkeypatch.setattr(small_cnn, "small_cnn", halved)
    models.trained("small-cnn", few, cache=tmp_path, recipe=once)
    assert len(list(tmp_path.iterdir())) == 2
