#!/usr/bin/env python
"""How long until an accuracy under faults is known to a margin, and where does the time go?

Against the careful script: numpy flips in place, the whole test set for every fault pattern, trials
until its own Student interval is as narrow. Then the engine's overhead over bare forward passes,
two workers against one, the store's share on the smallest network, and the memory of many trials.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _campaign_parts import growth, overhead, store_share, workers_rates
from _numpy_flips import distinct_by_sorting, inject, restore
from _timing import Goal
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from torch import nn

from proact import ProactError, campaign, data, models
from proact.data import Split
from proact.faults import BitFlip

BERS = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5)
#: A script that trusts a spread seen on fewer trials is not careful.
FEWEST_TRIALS = 30
FASTER = Goal("faster than the careful script, geometric mean", 50.0, at_most=False)
OVERHEAD = Goal("trial over its forward pass, 64 images", 1.05, at_most=True)
WORKERS = Goal("two workers over one", 1.8, at_most=False)
STORING = Goal("share of the time that storing takes", 0.02, at_most=True)
MEMORY = Goal("MiB more for ten times the trials", 5.0, at_most=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="resnet20", help=f"network: {', '.join(models.names())}")
    add("--data", default="fashion-mnist", help=f"data set: {', '.join(data.names())}")
    add("--data-folder", type=Path, help="where its files are, unless in the usual places")
    add(
        "--networks",
        type=Path,
        default=Path("runs/networks"),
        help="folder of trained networks (benchmarks/training.py); trained there if missing",
    )
    add("--ber", nargs="+", type=float, default=list(BERS), help="bit error rates, in [0, 1]")
    add("--margin", type=float, default=0.01, help="half the width of the interval, in (0, 1]")
    add("--confidence", type=float, default=0.95, help="of the interval, in (0, 1)")
    add(
        "--script-trials",
        type=int,
        default=FEWEST_TRIALS,
        help="of the careful script that are run; the others are extrapolated (count, 2 or more)",
    )
    add("--threads", type=int, default=2, help="of torch, for the script; ours shares them out")
    add("--seed", type=int, default=0, help="of faults and images; the network's is 0")
    add("--repeats", type=int, default=25, help="rounds of the overhead's timing (count)")
    add("--json", type=Path, help="file for all figures")
    return parser.parse_args(arguments)


def ours(
    model: nn.Module, images: Split, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], float, campaign.Result]:
    """A figure for each rate, the seconds of the whole campaign, and its result."""
    faults = [BitFlip(ber) for ber in options.ber]
    start = time.perf_counter()
    result = campaign.run(
        {"model": model},
        images,
        faults,
        margin=options.margin,
        confidence=options.confidence,
        seed=options.seed,
        progress=False,
    )
    cells = result.cells
    seconds = time.perf_counter() - start
    work = [sum(row.seconds for row in result.rows(*cell)) for cell in result.states]
    # What workers did at the same time counts once; what came before the trials (encoding, clean
    # answers, warm-up, pilot, starting workers) is shared out.
    workers = max(sum(work) / seconds, 1.0)
    before = seconds - sum(work) / workers
    figures = [
        {
            "ber": ber,
            "accuracy": cell.accuracy._asdict(),
            "trials": cell.trials,
            "seconds": mine / workers + before / len(cells),
        }
        for ber, cell, mine in zip(options.ber, cells, work, strict=True)
    ]
    return figures, seconds, result


def script(
    model: nn.Module, images: Split, ber: float, options: argparse.Namespace
) -> dict[str, Any]:
    """The careful script's trials at one rate, and how many it would need."""
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    arrays = [tensor.detach().numpy().reshape(-1).view(np.uint32) for tensor in tensors]
    random = np.random.default_rng(options.seed)
    accuracies = []
    start = time.perf_counter()
    for _ in range(options.script_trials):
        flipped = inject(arrays, ber, random, distinct_by_sorting)
        with torch.inference_mode():
            parts = zip(images.images.split(256), images.labels.split(256), strict=True)
            right = 0
            for part, labels in parts:
                output = model(part)
                is_finite = torch.isfinite(output).all(1)
                right += int((is_finite & (output.argmax(1) == labels)).sum())
        restore(flipped)
        accuracies.append(right / len(images))
    seconds = (time.perf_counter() - start) / options.script_trials
    deviation = float(np.std(accuracies, ddof=1))
    needed = trials_by_student(deviation, options.margin, options.confidence)
    return {
        "ber": ber,
        "accuracy": float(np.mean(accuracies)),
        "deviation": deviation,
        "seconds_a_trial": seconds,
        "trials": max(needed, FEWEST_TRIALS),
        "trials_by_its_interval": needed,
        "seconds": max(needed, FEWEST_TRIALS) * seconds,
    }


def trials_by_student(deviation: float, margin: float, confidence: float) -> int:
    """The least number, 2 or more, at which a Student interval of this deviation is as narrow."""
    n = 2
    while student.ppf(0.5 + 0.5 * confidence, n - 1) * deviation / math.sqrt(n) > margin:
        n = math.ceil(1.01 * n) if n > 200 else n + 1
    return n


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    images = data.load(options.data, options.data_folder)
    model = models.trained(options.model, images, 0, options.networks).eval()
    figures, seconds, result = ours(model, images.test, options)
    console.print(result.table())
    theirs = [script(model, images.test, ber, options) for ber in options.ber]
    ratios = [t["seconds"] / o["seconds"] for t, o in zip(theirs, figures, strict=True)]
    unheld = [
        t["trials_by_its_interval"] * t["seconds_a_trial"] / o["seconds"]
        for t, o in zip(theirs, figures, strict=True)
    ]
    together = geometric_mean(ratios)
    table = Table(
        title=f"Seconds to +-{100 * options.margin:g} points at {100 * options.confidence:g} %",
        caption=f"{seconds:.0f} s for all rates, {result.images_per_trial or 'all'} images a "
        f"trial; the script's {options.script_trials} trials a rate are extrapolated",
    )
    for heading in ("BER", "accuracy %", "trials", "s", "script's %", "trials", "s", "ratio"):
        table.add_column(heading, justify="right")
    for o, t, ratio in zip(figures, theirs, ratios, strict=True):
        mean, low, high = (100 * end for end in o["accuracy"].values())
        table.add_row(
            f"{o['ber']:g}",
            f"{mean:.1f} ({low:.1f} to {high:.1f})",
            f"{o['trials']:,}",
            f"{o['seconds']:.1f}",
            f"{100 * t['accuracy']:.1f}",
            f"{t['trials']:,}",
            f"{t['seconds']:,.0f}",
            f"{ratio:.0f}",
        )
    console.print(table)
    parts = {
        "overhead": overhead(model, images.test, options.repeats),
        "workers": workers_rates(model, images.test, options.seed),
        "storing": store_share(options.seed),
        "memory": growth(),
    }
    goals = Table(title="Goals")
    for heading in ("", "measured", "goal", "reached"):
        goals.add_column(heading, justify="left" if heading == "" else "right")
    told: list[tuple[Goal, float, Callable[[float], str]]] = [
        (FASTER, together, lambda x: f"{x:.0f}"),
        (OVERHEAD, parts["overhead"]["64"]["ratio"], lambda x: f"{x:.3f}"),
        (WORKERS, parts["workers"]["ratio"], lambda x: f"{x:.2f}"),
        (STORING, parts["storing"]["share"], lambda x: f"{x:.4f}"),
        (MEMORY, parts["memory"]["growth_mib"], lambda x: f"{x:.1f}"),
    ]
    for goal, value, shown in told:
        goals.add_row(goal.name, shown(value), str(goal), "yes" if goal.reached(value) else "no")
    console.print(goals)
    console.print(
        f"Were the script to trust its interval from two trials on: {geometric_mean(unheld):.0f}x.",
        highlight=False,
    )
    return {
        "ours": figures,
        "seconds": seconds,
        "script": theirs,
        "ratios": ratios,
        "geometric_mean": together,
        "geometric_mean_from_two_trials": geometric_mean(unheld),
        "settled": asdict(result.settled),
        **parts,
    }


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.script_trials < 2 or options.threads < 1 or options.repeats < 1:
        print(
            "error: --script-trials takes 2 or more, --threads and --repeats 1 or more",
            file=sys.stderr,
        )
        return 2
    try:
        figures = run(options, Console())
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(figures, indent=1))
    except (ValueError, TypeError, OSError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
