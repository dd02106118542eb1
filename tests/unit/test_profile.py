"""Are the profile's maxima and quantiles exact, for every batch and granularity?"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import protect
from proact.nn import Site
from proact.protect.activation_profile import profile_quantiles


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2)
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(103, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def all_activations(net: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        first = net[:2](images)  # type: ignore[index]
        return [first, net[2:5](first)]  # type: ignore[index]


def by_name(found: dict[Site, Tensor]) -> list[Tensor]:
    return list(found.values())


@pytest.mark.parametrize("quantile", [1.0, 0.999, 0.95, 0.9, 0.5, 0.01])
@pytest.mark.parametrize("granularity", protect.GRANULARITIES)
def test_quantiles_equal_a_sort_of_everything(
    net: nn.Module, images: Tensor, quantile: float, granularity: str
) -> None:
    (found,) = profile_quantiles(net, images, granularity, (quantile,))
    rank = int((1 - quantile) * 103 + 1e-9)
    for index, (threshold, x) in enumerate(
        zip(by_name(found), all_activations(net, images), strict=True)
    ):
        groups = x
        if granularity == "layer" or (granularity == "hybrid" and index == 0):
            groups = x.flatten(1).amax(1)
        elif granularity == "channel" and x.dim() == 4:
            groups = x.amax((2, 3), keepdim=True)
        expected = groups.sort(0, descending=True).values[rank]
        torch.testing.assert_close(threshold, expected, rtol=1e-5, atol=1e-6)
        above = (groups > threshold).sum(0)
        assert (above <= rank).all()


@pytest.mark.parametrize(
    ("quantile", "expected"),
    [(1.0, 10.0), (0.95, 10.0), (0.9, 9.0), (0.89, 9.0), (0.8, 8.0), (0.7, 7.0), (0.1, 1.0)],
)
def test_ranks_by_hand(quantile: float, expected: float) -> None:
    """Ten images with the activations 1 to 10: at 0.9 one image may lie above, so 9 is it."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.ones_(net[0].weight)  # type: ignore[arg-type]
    images = torch.tensor([3.0, 1, 10, 4, 2, 6, 5, 9, 7, 8])[:, None]
    (found,) = profile_quantiles(net, images, "layer", (quantile,))
    assert by_name(found)[0].item() == expected


@pytest.mark.parametrize("batch", [1, 7, 50, 103, 1000])
def test_the_batch_changes_nothing(net: nn.Module, images: Tensor, batch: int) -> None:
    """Activations differ in the last digits with the batch that computes them: no more."""
    quantiles = (1.0, 0.97, 0.4)
    found = profile_quantiles(net, images, "channel", quantiles, batch)
    whole = profile_quantiles(net, images, "channel", quantiles)
    for one, other in zip(found, whole, strict=True):
        for a, b in zip(by_name(one), by_name(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_quantile_1_is_the_profile(net: nn.Module, images: Tensor) -> None:
    maxima = protect.profile(net, images)
    for granularity in protect.GRANULARITIES:
        (found,) = profile_quantiles(net, images, granularity, (1.0,))
        for site, maximum in maxima.items():
            # The largest activation of each layer or channel is that of its neurons.
            dims = [d for d in range(maximum.dim()) if d >= found[site].dim()]
            dims += [
                d for d in range(found[site].dim()) if found[site].shape[d] != maximum.shape[d]
            ]
            reduced = maximum.amax(dims, keepdim=True) if dims else maximum
            assert torch.equal(found[site], reduced.view(found[site].shape))


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan"), "high"])
def test_a_quantile_is_a_share(net: nn.Module, images: Tensor, value: Any) -> None:
    with pytest.raises(ValueError, match="share of the images in .0, 1."):
        profile_quantiles(net, images, "layer", (value,))
    with pytest.raises(ValueError, match="share of the images in .0, 1."):
        protect.protect(net, "ranger", (images, torch.arange(103) % 2), quantile=value)


def test_what_would_fill_the_memory_is_refused(
    net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[profile_quantiles.__module__], "_MOST_BYTES", 28 * 10 * 53)
    profile_quantiles(net, images, "neuron", (0.91,))
    with pytest.raises(ValueError, match="51 of 103 images exceed needs more than"):
        profile_quantiles(net, images, "neuron", (0.5,))


def test_nan_is_seen_wherever_it_stands(net: nn.Module, images: Tensor) -> None:
    class Seldom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.amax((1, 2, 3), keepdim=True) > 3.0, torch.nan, x)

    broken = nn.Sequential(Seldom(), net)
    calm = images.clamp(max=2.0)
    calm[50, 0, 0, 0] = 9.0
    for quantile in (1.0, 0.5):
        with pytest.raises(ValueError, match="not finite on the training images"):
            profile_quantiles(broken, calm, "layer", (quantile,), batch=10)


def test_a_lower_quantile_gives_tighter_thresholds(net: nn.Module, images: Tensor) -> None:
    data = (images, torch.arange(103) % 2)
    loose = protect.protect(net, "ranger", data, granularity="channel")
    tight = protect.protect(net, "ranger", data, granularity="channel", quantile=0.8)
    for name, threshold in loose.named_parameters():
        if name.endswith("threshold"):
            assert (tight.get_parameter(name) < threshold).all()


def test_a_site_that_never_runs_on_the_training_images_is_named() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.act = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(self.act(x) if len(x) == 2 else x)
            return out

    with pytest.raises(
        ValueError, match="'act' ran for the first training images but not for the batches"
    ):
        protect.profile(Branching(), torch.randn(10, 3))
