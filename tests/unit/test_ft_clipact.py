"""Does FT-ClipAct search as its paper says, with faults in one layer at a time?"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proact import models, protect
from proact.data import Data
from proact.encodings import encoding_named
from proact.faults import BitFlip, Where
from proact.nn import HyReLU, find_sites, replace_sites
from proact.protect.fault_scoring import FaultScorer
from proact.protect.ft_clipact import RATES, area, search, tensors_of_layers
from proact.protect.objective import Objective


def test_the_search_goes_on_between_the_neighbours_of_the_best_point() -> None:
    asked: list[float] = []

    def score(point: float) -> float:
        asked.append(point)
        return 4.0 - abs(point - 2.1)

    found = search(score, 9.0)
    # 3 is the best of the first four; then 2 in [0, 6], 8/3 in [0, 4], and last [4/3, 4].
    rounds = [[0, 3, 6, 9], [2, 4], [4 / 3, 8 / 3], [20 / 9, 28 / 9]]
    assert asked == pytest.approx([point for points in rounds for point in points])
    assert found == 2.0


def test_scores_that_are_close_end_the_search_after_three_rounds() -> None:
    asked: list[float] = []

    def flat(point: float) -> float:
        asked.append(point)
        return 0.1 if point > 5 else 0.0

    search(flat, 9.0)
    assert len(asked) == 4 + 2 + 2


def test_among_equal_points_the_loosest_is_taken() -> None:
    assert search(lambda point: 1.0, 9.0) == 9.0


def test_the_area_has_the_rates_at_equal_steps() -> None:
    assert area([1.0] * len(RATES)) == len(RATES) - 1
    assert area([1.0, 0.8, 0.6, 0.4, 0.2]) == pytest.approx(4 * 0.6)


def test_the_area_does_not_need_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy 1.26, the oldest allowed version, has no trapezoid."""
    monkeypatch.delattr(np, "trapezoid", raising=False)
    accuracies = np.random.default_rng(0).random(len(RATES)).tolist()
    expected = sum((a + b) / 2 for a, b in pairwise(accuracies))
    assert area(accuracies) == pytest.approx(expected, rel=1e-15)


def test_a_layer_is_what_runs_between_two_sites() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(4, 2)
            self.act2, self.act1 = nn.ReLU(), nn.ReLU()
            self.b, self.norm, self.a = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.norm(self.a(x)))
            out: Tensor = self.output(self.act2(self.b(x)))
            return out

    model, x = Net().eval(), torch.randn(2, 3)
    sites = find_sites(model, x)
    network = replace_sites(model, {site: HyReLU(1.0) for site in sites})
    first, second = tensors_of_layers(network, dict.fromkeys(sites, torch.ones(())), x).values()
    assert set(first) == {
        *(f"a.{n}" for n in ("weight", "bias")),
        *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
    }
    assert set(second) == {"b.weight", "b.bias"}


def test_only_the_layers_own_tensors_are_hit(trained_cnn: nn.Module, digits: Data) -> None:
    sites = find_sites(trained_cnn, digits.train.images[:1])
    network = replace_sites(trained_cnn, {site: HyReLU(1.0) for site in sites})
    layers = tensors_of_layers(
        network, dict.fromkeys(sites, torch.ones(())), digits.train.images[:1]
    )
    assert [set(names) for names in layers.values()] == [
        {f"{layer}.weight", f"{layer}.bias"} for layer in ("conv1", "conv2", "conv3", "hidden")
    ]


def test_candidates_meet_the_same_faults(trained_cnn: nn.Module, digits: Data) -> None:
    """Twice the same candidate: the same accuracy; and the network is as it was between trials."""
    sites = find_sites(trained_cnn, digits.train.images[:1])
    network = replace_sites(trained_cnn, {site: site.clip(20.0) for site in sites})
    scorer = FaultScorer(network, encoding_named("q15.16"), digits.validation, 20, 50, 0)
    fault = BitFlip(1e-3, where=Where(name="conv2.*"))
    before = scorer.accuracy(fault)
    scorer.set_threshold(sites[1], torch.tensor(0.1))
    assert scorer.accuracy(fault) != before
    scorer.set_threshold(sites[1], torch.tensor(20.0))
    assert scorer.accuracy(fault) == before
    assert scorer.accuracy(BitFlip(0.0)) > before


class TiedLayers(nn.Module):
    """Two layers that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first, self.second = nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.act1, self.act2, self.output = nn.ReLU(), nn.ReLU(), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act1(self.first(self.flat(x)))
        out: Tensor = self.output(self.act2(self.second(hidden)))
        return out


@pytest.mark.parametrize(
    ("make", "layer", "has_cut"),
    [
        (lambda: models.create("small-cnn", 10, 1), "conv3", True),
        (lambda: models.create("resnet20", 10, 1), "stage2.1.conv2", True),
        (TiedLayers, "second", False),
    ],
    ids=["cnn", "resnet", "tied"],
)
def test_scores_continue_at_the_first_layer_that_faults_hit(
    digits: Data, make: Callable[[], nn.Module], layer: str, has_cut: bool
) -> None:
    """The accuracies are those of the whole model, and layers before the cut do not run again."""
    torch.manual_seed(0)
    model = make().eval()
    sites = find_sites(model, digits.train.images[:2])
    network = replace_sites(model, {site: site.clip(20.0) for site in sites})
    tensors = tuple(n for n, _ in network.named_parameters(remove_duplicate=False) if layer in n)
    layers = tensors_of_layers(network, dict.fromkeys(sites, torch.ones(())), digits.train.images)
    (site,) = [site for site, names in layers.items() if tensors[0] in names]
    # Probabilities of untrained models tell more than their classes.
    judged = Objective(metric=lambda logits, targets: logits.softmax(1)[:, 3])

    def scores(cache_bytes: int) -> tuple[list[float], bool]:
        """The accuracies, and whether the first layer was left out."""
        scorer = FaultScorer(
            network, encoding_named("q15.16"), digits.validation, 5, 32, 0, judged, cache_bytes
        )
        first = next(m for m in scorer.model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        run, calls, found = first.forward, [0], []

        def counted(x: Tensor) -> Tensor:
            calls[0] += 1
            return run(x)

        with scorer.continued_at(site, tensors):
            first.forward = counted  # type: ignore[method-assign]
            for threshold in (20.0, 0.02):
                scorer.set_threshold(site, torch.tensor(threshold))
                fault = BitFlip(3e-3, where=Where(name=tensors))
                found += [scorer.accuracy(fault), scorer.accuracy(BitFlip(0.0))]
        return found, calls[0] == 0

    expected, _ = scores(cache_bytes=1)
    assert len(set(expected)) == 4
    assert scores(cache_bytes=1 << 30) == (expected, has_cut)


def test_patterns_without_a_flip_run_once_for_each_threshold(
    trained_cnn: nn.Module, digits: Data
) -> None:
    sites = find_sites(trained_cnn, digits.train.images[:1])
    network = replace_sites(trained_cnn, {site: site.clip(20.0) for site in sites})
    scorer = FaultScorer(network, encoding_named("q15.16"), digits.validation, 3, 50, 0)
    calls: list[int] = []
    scorer.model.register_forward_hook(lambda *_: calls.append(1))
    for threshold in (20.0, 0.1):
        scorer.set_threshold(sites[1], torch.tensor(threshold))
        assert scorer.accuracy(BitFlip(0.0)) == scorer.accuracy(BitFlip(1e-12))
    assert len(calls) == 2 * 3


def test_thresholds_are_stored_as_the_encoding_stores_them(
    trained_cnn: nn.Module, digits: Data
) -> None:
    sites = find_sites(trained_cnn, digits.train.images[:1])
    network = replace_sites(trained_cnn, {site: site.clip(3.0) for site in sites})
    scorer = FaultScorer(network, encoding_named("q3.4"), digits.validation, 1, 10, 0)
    scorer.set_threshold(sites[0], torch.tensor(1.0 / 3.0))
    stored = scorer.model.get_submodule(sites[0].name).get_parameter("threshold")
    assert float(stored) == 5 / 16


def test_the_threshold_is_one_of_the_points_looked_at(trained_cnn: nn.Module, digits: Data) -> None:
    maxima = protect.protect(trained_cnn, "ranger", digits)
    lines: list[str] = []
    found = protect.protect(
        trained_cnn,
        "ft-clipact",
        digits,
        encoding="q15.16",
        patterns=4,
        images_per_pattern=20,
        progress=lines.append,
    )
    assert len(lines) == 4
    for name, threshold in found.named_parameters():
        if name.endswith("threshold"):
            share = float(threshold / maxima.get_parameter(name))
            # A round cuts in thirds an interval of up to two thirds of the one before.
            grid = share * 3 * 9 * 27 * 81
            assert math.isclose(grid, round(grid), abs_tol=1e-2)
            assert threshold.dim() == 0
