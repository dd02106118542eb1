#!/usr/bin/env python
"""How much faster does ProAct train its thresholds with cached prefixes than without?

At every n-th site of a model, three contenders train the same decays from the same start:

* proact computes the activations before the site and the unclipped model's outputs once, and folds
  batch norms after the site into convolutions;
* the careful loop runs both models whole in each step; weights are frozen, so that autograd goes
  back to the site only;
* the first loop is the obvious one: weights are not frozen, and autograd goes through the whole
  model.

The time to fill caches is counted. Prints the ratios and the distances between the thresholds.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from typing import Any

import _arguments
import torch
from rich.console import Console
from torch import Tensor, nn

from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.protect.model_suffix import ModelSuffix, WholeModel
from proact.protect.proact import ProactOptions, train_threshold
from proact.protect.threshold_trainer import ThresholdTrainer, TrainingLoss
from proact.report.tables import Column, make_table

GOAL = 5.0
CACHED, CAREFUL, FIRST = "proact", "careful loop", "first loop"


class UncachedTrainer(ThresholdTrainer):
    """Runs the whole clipped model and the whole unclipped model in each step."""

    def __init__(self, model: nn.Module, free_weights: bool, *rest: Any) -> None:
        super().__init__(model, *rest)
        self._free_weights = free_weights
        self._unclipped = copy.deepcopy(model).eval().requires_grad_(False)
        self._unclipped.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def gradient(
        self, forward: PrefixCache, thresholds: Sequence[Tensor], batch: Tensor, loss: TrainingLoss
    ) -> list[Tensor]:
        images, labels = self.train.images[batch], self.train.labels[batch]
        with torch.no_grad():
            teacher = self._unclipped(images).softmax(1)
        moving = list(self.model.parameters()) if self._free_weights else thresholds
        for parameter in moving:
            parameter.requires_grad_(True)
        (loss(self.model(images), labels, teacher) / len(batch)).backward()
        gradients = [threshold.grad for threshold in thresholds if threshold.grad is not None]
        for parameter in moving:
            parameter.requires_grad_(False)
            parameter.grad = None
        return gradients


def run(options: argparse.Namespace) -> None:
    images = _arguments.load_data(options)
    model = _arguments.trained_model(options, images)
    chosen = ProactOptions(
        granularity=options.granularity,
        samples=options.samples,
        epochs=options.epochs,
        decays=tuple(options.decays),
    )
    bounds = chosen.profiled(model, images, options.granularity)
    given = (bounds, images, chosen)
    trainers = {
        CACHED: ThresholdTrainer(copy.deepcopy(model), *given),
        CAREFUL: UncachedTrainer(copy.deepcopy(model), False, *given),
        FIRST: UncachedTrainer(copy.deepcopy(model), True, *given),
    }
    total = dict.fromkeys(trainers, 0.0)
    rows = []
    for site in list(reversed(bounds))[:: options.every]:
        seconds: dict[str, float] = {}
        found: dict[str, list[Tensor]] = {}
        kept: dict[str, list[float]] = {}
        for name, trainer in trainers.items():
            start = time.perf_counter()
            cached = name == CACHED
            budget = MemoryBudget(chosen.cache_bytes)
            part = ModelSuffix(trainer, site, budget) if cached else WholeModel(trainer)
            found[name], kept[name] = [], []
            for decay in chosen.decays:
                trainer.set_threshold(site, bounds[site])
                kept[name].append(train_threshold(trainer, site, part, decay, chosen))
                found[name].append(trainer.clip(site).threshold.detach().clone())
            seconds[name] = time.perf_counter() - start
            total[name] += seconds[name]
            trainer.set_threshold(site, bounds[site])
        apart = max(_distance(*pair) for pair in zip(found[CACHED], found[CAREFUL], strict=True))
        points = max(abs(a - b) for a, b in zip(kept[CACHED], kept[CAREFUL], strict=True))
        rows.append(
            (
                site.name,
                *(f"{seconds[name] / seconds[CACHED]:.1f}" for name in (CAREFUL, FIRST)),
                f"{100 * apart:.2f} %",
                f"{100 * points:.2f} points",
            )
        )
    title = f"{options.model}: times over proact's, {options.threads} threads"
    site_column = Column("site", is_text=True)
    distances = ("thresholds apart by", "accuracies apart by")
    table = make_table([site_column, CAREFUL, FIRST, *distances], rows, title)
    table.add_section()
    ratios = {name: total[name] / total[CACHED] for name in (CAREFUL, FIRST)}
    table.add_row("all sites", *(f"{ratio:.2f}" for ratio in ratios.values()))
    Console().print(table)
    print(f"goal: {GOAL:g} times faster than without caches")


def _distance(one: Tensor, other: Tensor) -> float:
    """The mean distance of thresholds, over the mean threshold."""
    return float((one - other).abs().mean() / other.abs().mean())


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_model_and_data()
    add = parser.add_argument
    add("--granularity", default="hybrid", metavar="NAME", help="Granularity of the thresholds")
    for name, default, text in (
        ("--samples", 10_000, "Training images (count)"),
        ("--epochs", 2, "Passes over the training images for each decay (count)"),
        ("--every", 3, "Distance of the sites that are trained: 1 trains all (count)"),
    ):
        add(name, type=_arguments.COUNT, default=default, metavar="COUNT", help=text)
    add(
        "--decays",
        nargs="+",
        type=float,
        default=[1.0, 0.1],
        metavar="DECAY",
        help="Weight decays of the threshold that are trained at each site",
    )
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
