#!/usr/bin/env python
"""How much faster does ProAct train its thresholds with cached prefixes than without?

At every few sites of a network the same decays are trained three times from the same start: by
proact (what leads to the site and the unclipped network's answers are computed once, batch norms
part the site are folded into convolutions), by a careful loop without caches (both networks run
whole in each step, weights are frozen, so that autograd goes back to the site only), and by the
loop that one writes first (weights are left as they are, so that autograd goes through everything).
Caches are counted in full. Prints the ratios, and how far the thresholds lie apart.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from proact import ProactError, data, models
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.protect.model_suffix import ModelSuffix, WholeModel
from proact.protect.proact import ProactOptions, train_threshold
from proact.protect.threshold_trainer import Loss, ThresholdTrainer

GOAL = 5.0
CACHED, CAREFUL, FIRST = "proact", "careful loop", "first loop"


class UncachedTrainer(ThresholdTrainer):
    """Runs itself and the unclipped network whole in each step."""

    def __init__(self, model: nn.Module, free_weights: bool, *rest: Any) -> None:
        super().__init__(model, *rest)
        self._free_weights = free_weights
        self._unclipped = copy.deepcopy(model).eval().requires_grad_(False)
        self._unclipped.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def gradient(
        self, forward: PrefixCache, thresholds: Sequence[Tensor], batch: Tensor, loss: Loss
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


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="resnet20", help=f"network: {', '.join(models.names())}")
    add("--data", default="fashion-mnist", help=f"data set: {', '.join(data.names())}")
    add("--data-folder", type=Path, help="where its files are, unless in the usual places")
    add("--granularity", default="hybrid", help="of the thresholds")
    add("--samples", type=int, default=10_000, help="training images (count)")
    add("--epochs", type=int, default=2, help="a decay (count)")
    add("--decays", nargs="+", type=float, default=[1.0, 0.1], help="trained at each site")
    add("--every", type=int, default=3, help="of so many sites one is trained (count)")
    add("--threads", type=int, default=2, help="of torch (count)")
    add("--networks", type=Path, default=Path("runs/networks"), help="folder of trained networks")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> None:
    torch.set_num_threads(options.threads)
    images = data.load(options.data, options.data_folder)
    model = models.trained(options.model, images, 0, options.networks)
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
    table = Table(title=f"{options.model}: times over proact's, {options.threads} threads")
    for heading in ("site", CAREFUL, FIRST, "thresholds apart by", "accuracies apart by"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
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
        apart = max(_apart(*pair) for pair in zip(found[CACHED], found[CAREFUL], strict=True))
        judged = max(abs(a - b) for a, b in zip(kept[CACHED], kept[CAREFUL], strict=True))
        table.add_row(
            site.name,
            *(f"{seconds[name] / seconds[CACHED]:.1f}" for name in (CAREFUL, FIRST)),
            f"{100 * apart:.2f} %",
            f"{100 * judged:.2f} points",
        )
    table.add_section()
    ratios = {name: total[name] / total[CACHED] for name in (CAREFUL, FIRST)}
    table.add_row("all of these", *(f"{ratio:.2f}" for ratio in ratios.values()))
    console.print(table)
    print(f"goal: {GOAL:g} times faster than without caches")


def _apart(one: Tensor, other: Tensor) -> float:
    """The mean distance, over the mean threshold."""
    return float((one - other).abs().mean() / other.abs().mean())


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments), Console())
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
