"""Are the paper's networks what the literature counts?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from proact import models
from proact.nn import find_sites
from proact.protect import GRANULARITIES, threshold_counts


def parameters(name: str) -> int:
    return sum(p.numel() for p in models.create(name).parameters())


def counts(name: str) -> dict[str, int]:
    return threshold_counts(find_sites(models.create(name), torch.randn(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", 14_719_818),
        ("vgg16-bn", 14_728_266),
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
    ],
)
def test_parameters_for_ten_classes_of_colour_images(name: str, expected: int) -> None:
    assert parameters(name) == expected


@pytest.mark.parametrize(
    ("name", "neurons", "layers", "hybrid"),
    [
        ("vgg16", 276_480, 13, 12 + 512 * 2 * 2),
        ("resnet50", 2_940_928, 49, 32_816),
        ("alexnet", 51_200, 7, 6 + 4_096),
        ("resnet20", 188_416, 19, 18 + 64 * 8 * 8),
        ("mobilenetv2", 1_502_208, 35, 34 + 1280 * 4 * 4),
    ],
)
def test_thresholds_at_3x32x32(name: str, neurons: int, layers: int, hybrid: int) -> None:
    found = counts(name)
    assert (found["neuron"], found["layer"], found["hybrid"]) == (neurons, layers, hybrid)
    assert layers < found["channel"] < neurons
    assert tuple(found) == GRANULARITIES


def test_published_figures_leave_the_stem_out() -> None:
    sites = find_sites(models.create("resnet50"), torch.randn(1, 3, 32, 32))
    without = threshold_counts(sites[1:])
    assert (without["neuron"], without["hybrid"]) == (2_875_392, 32_815)


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 13), (1, 4, 4)])
def test_any_channels_size_and_classes(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = models.create(name, num_classes=7, in_channels=shape[0]).eval()
    with torch.no_grad():
        output = model(torch.randn(2, *shape))
    assert output.shape == (2, 7)
    assert torch.isfinite(output).all()
    assert not torch.equal(output[0], output[1])


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in models.names() if n not in ("resnet34", "resnet56")])
def test_networks_learn_and_copy(name: str) -> None:
    """A step down the gradient reaches every parameter and lowers the loss."""
    torch.manual_seed(0)
    # float64: the step is too small to show in float32.
    model = models.create(name, num_classes=3).double()
    images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6) % 3
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    before = nn.functional.cross_entropy(model(images), labels)
    before.backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert nn.functional.cross_entropy(model(images), labels) < before
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        assert torch.equal(twin(images), model.eval()(images))


def test_bad_arguments_are_sentences() -> None:
    with pytest.raises(ValueError, match="got 'ResNet-20'; did you mean 'resnet20'") as error:
        models.create("ResNet-20")
    assert all(name in str(error.value) for name in models.names())
    with pytest.raises(ValueError, match="num_classes is at least 1, got 0"):
        models.create("vgg16", num_classes=0)
    with pytest.raises(TypeError, match="in_channels is an integer, got 3.0"):
        models.create("vgg16", in_channels=3.0)  # type: ignore[arg-type]
