#!/usr/bin/env python
"""How long does ProAct train its thresholds, and are they as good as those of the plain loop?

Compares three times: training the network (the time of the first steps, scaled to all steps),
`proact.protect.protect` as users call it, and the plain loop over its sites, which computes the
gradient of every step on training images. Both try one decay after the other from the strongest on,
keep the activations before a site, and reject a decay by as few validation images as that takes.

Prints the times, the thresholds of both site by site, and their accuracies without and with faults.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import _arguments
import torch
from rich.console import Console
from torch import nn

from proact import campaign, models, protect
from proact.data import Data
from proact.faults import BitFlip
from proact.nn import HyReLU, Site
from proact.nn.prefix_cache import MemoryBudget
from proact.nn.sites import place_at_sites
from proact.protect.model_suffix import ModelSuffixes
from proact.protect.proact import ProactOptions, SiteTraining
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.report.tables import Column, make_table

GOAL_SHARE, GOAL_POINTS = 0.1, 2.0
ENCODING = "q15.16"
FAST, PLAIN = "proact", "plain loop"


class EnoughSteps(Exception):  # noqa: N818
    """Ends a training after its first steps."""


def network_seconds(options: argparse.Namespace, images: Data) -> float:
    """The time that training the network takes, from that of its first steps."""
    model = models.create(options.model, images.num_classes, images.train.images.shape[1])
    begun: list[float] = []
    estimate = 0.0

    def watch(done: int, total: int) -> None:
        nonlocal estimate
        begun.append(time.perf_counter())
        # The first two steps warm up.
        if done == options.steps + 2:
            estimate = (begun[-1] - begun[1]) / options.steps * total
            raise EnoughSteps

    try:
        models.train(model, images, _arguments.recipe_of(options, images), progress=watch)
    except EnoughSteps:
        return estimate
    return begun[-1] - begun[0]


def plain_loop(
    model: nn.Module, images: Data, chosen: ProactOptions, say: Callable[[str], None]
) -> nn.Module:
    """ProAct site by site, without the table."""
    working = copy.deepcopy(model)
    bounds = chosen.profiled(working, images, chosen.granularity)
    trainer = ThresholdTrainer(working, bounds, images, chosen)
    suffixes = ModelSuffixes(trainer, trainer.sites[::-1], MemoryBudget(chosen.cache_bytes))
    for number, site in enumerate(reversed(trainer.sites)):
        part = suffixes.at(site)
        if number == 0:
            trainer.set_reference(part.validation)
        training = SiteTraining(trainer, site, part, chosen, tabulate=False)
        for decay in sorted(chosen.decays, reverse=True):
            training.train(decay)
            verdict = part.judge()
            say(f"{PLAIN}: {site.name}: decay {decay:g} keeps {verdict.kept:.4f}")
            if verdict.accepted:
                trainer.tolerance.set_reference(verdict.drops)
                break
            trainer.set_threshold(site, bounds[site])
        part.close()
    return place_at_sites(copy.deepcopy(model), trainer.deployed_clips())


def thresholds(model: nn.Module, maxima: Mapping[Site, torch.Tensor]) -> dict[str, float]:
    """The mean threshold of each site over the mean of its maxima, in execution order."""
    found = {}
    for site, maximum in maxima.items():
        clip = model.get_submodule(site.name)
        assert isinstance(clip, HyReLU)
        found[site.name] = float(clip.threshold.detach().mean() / maximum.mean())
    return found


def run(options: argparse.Namespace) -> None:
    images = _arguments.load_data(options)
    model = _arguments.trained_model(options, images)
    chosen = ProactOptions(
        granularity=options.granularity, samples=options.samples, epochs=options.threshold_epochs
    )
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, style="dim")

    seconds = {"network": network_seconds(options, images)}
    protected: dict[str, nn.Module] = {}

    def timed(name: str, make: Callable[[], nn.Module]) -> None:
        start = time.perf_counter()
        protected[name] = make()
        seconds[name] = time.perf_counter() - start

    timed(FAST, lambda: protect.protect(model, "proact", images, progress=say, **asdict(chosen)))
    if options.plain_loop:
        timed(PLAIN, lambda: plain_loop(model, images, chosen, say))

    share = seconds[FAST] / seconds["network"]
    rows = [
        (name, f"{each:.0f} s", f"{each / seconds['network']:.3f}")
        for name, each in seconds.items()
    ]
    print(
        f"{options.model} on {options.data}, threads: {options.threads}; "
        f"goal: {GOAL_SHARE:g} of the time of the network"
    )
    training = Column("training", is_text=True)
    console.print(make_table([training, "time", "over the network's"], rows, "Time"))

    maxima = chosen.profiled(model, images, options.granularity)
    levels = {name: thresholds(each, maxima) for name, each in protected.items()}
    sites = [
        (site.name, *(f"{level[site.name]:.3f}" for level in levels.values())) for site in maxima
    ]
    site_column = Column("site", is_text=True)
    console.print(make_table([site_column, *levels], sites, "Thresholds over maxima"))

    variants = {"unprotected": model, **protected}
    faults = [BitFlip(rate) for rate in options.ber]
    result = campaign.run(
        variants,
        images,
        faults,
        encoding=ENCODING,
        trials=options.trials,
        images_per_trial=options.images,
    )
    console.print(result.table())
    document: dict[str, object] = {"seconds": seconds, "share": share, "thresholds": levels}
    gains = result.difference(FAST, PLAIN) if options.plain_loop else {}
    for fault, gain in gains.items():
        low, high = (100 * value for value in (gain.low, gain.high))
        print(
            f"{FAST} - {PLAIN} at {fault}: {100 * gain.estimate:+.2f} points "
            f"({low:+.2f} to {high:+.2f}), goal: within {GOAL_POINTS:g} points of 0, or above"
        )
    document["differences"] = {f: list(g) for f, g in gains.items()}
    _arguments.write_json(options.json, document)


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_model_and_data()
    add = parser.add_argument
    add("--granularity", default="hybrid", metavar="NAME", help="Granularity of the thresholds")
    for name, default, text in (
        ("--samples", 10_000, "Training images for thresholds (count)"),
        ("--threshold-epochs", 5, "Passes over these images for each decay (count)"),
        ("--steps", 100, "Steps of the network's training that are timed (count)"),
        ("--trials", 300, "Fault patterns for each rate (count)"),
        ("--images", 100, "Test images under each fault pattern (count)"),
    ):
        add(name, type=_arguments.COUNT, default=default, metavar="COUNT", help=text)
    add(
        "--ber",
        nargs="+",
        type=_arguments.BIT_ERROR_RATE,
        default=[1e-5, 3e-5, 1e-4],
        metavar="BER",
        help="Bit error rates, per stored bit",
    )
    add(
        "--plain-loop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether the plain loop runs, too",
    )
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
