#!/usr/bin/env python
"""How long until an accuracy under faults is known to a margin, and where does the time go?

Campaigns with strata by critical flips are compared with plain ones. The reference is a careful
script: numpy flips in place, the whole test set for every fault pattern, and trials until its own
Student interval is as narrow. The benchmark also measures the overhead of
a trial over its bare forward pass, two workers against one, the share of time that storing takes on
the smallest model, and the memory of many trials.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import _arguments
import numpy as np
import torch
from _campaign_parts import device_rates, growth, overhead, store_share, workers_rates
from _numpy_flips import distinct_by_sorting, inject, restore
from _timing import Goal
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from torch import nn

from proact import campaign
from proact.data import Split
from proact.faults import BitFlip
from proact.options import above_0, integer
from proact.report.tables import Column, make_table
from proact.results import Result

BERS = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5)
#: A careful script does not trust a standard deviation of fewer trials.
FEWEST_TRIALS = 30
FASTER = Goal("faster than the careful script, geometric mean", 50.0, at_most=False)
#: Fewer trials with strata than without, by bit error rate.
FEWER = {
    1e-7: Goal("fewer trials with strata at 1e-7", 20.0, at_most=False),
    1e-6: Goal("fewer trials with strata at 1e-6", 3.0, at_most=False),
}
OVERHEAD = Goal("trial over its forward pass, 64 images", 1.05, at_most=True)
WORKERS = Goal("two workers over one", 1.8, at_most=False)
STORING = Goal("share of the time that storing takes", 0.02, at_most=True)
MEMORY = Goal("MiB more for ten times the trials", 5.0, at_most=True)


def by_proact(
    model: nn.Module,
    images: Split,
    options: argparse.Namespace,
    strata: bool | Literal["auto"] = "auto",
) -> tuple[list[dict[str, Any]], float, Result]:
    """Figures for each rate, the seconds of the whole campaign, and its result."""
    start = time.perf_counter()
    result = campaign.run(
        {"model": model},
        images,
        [BitFlip(ber) for ber in options.ber],
        margin=options.margin,
        confidence=options.confidence,
        seed=options.seed,
        strata=strata,
        progress=False,
    )
    cells = result.cells
    seconds = time.perf_counter() - start
    work = [
        sum(
            row.seconds
            for stratum in cell.sampled_strata
            for row in result.rows(cell.variant, cell.fault, stratum)
        )
        for cell in cells
    ]
    # Time that workers spent in parallel counts once. The time before the trials (encoding, clean
    # outputs, warm-up, pilot, starting workers) is shared out evenly.
    workers = max(sum(work) / seconds, 1.0)
    before = seconds - sum(work) / workers
    figures = [
        {
            "ber": ber,
            "accuracy": cell.accuracy._asdict(),
            "trials": cell.trials,
            "half_width": cell.accuracy.half_width,
            "strata": {each.name: each.trials for each in cell.strata},
            "seconds": busy / workers + before / len(cells),
        }
        for ber, cell, busy in zip(options.ber, cells, work, strict=True)
    ]
    return figures, seconds, result


def by_script(
    model: nn.Module, images: Split, ber: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Figures of the careful script at one rate; trials beyond ``--script-trials`` are
    extrapolated."""
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
        "seconds_per_trial": seconds,
        "trials": max(needed, FEWEST_TRIALS),
        "trials_by_its_interval": needed,
        "seconds": max(needed, FEWEST_TRIALS) * seconds,
    }


def trials_by_student(deviation: float, margin: float, confidence: float) -> int:
    """The fewest trials, at least 2, whose Student interval is as narrow as the margin."""
    n = 2
    while student.ppf(0.5 + 0.5 * confidence, n - 1) * deviation / math.sqrt(n) > margin:
        n = math.ceil(1.01 * n) if n > 200 else n + 1
    return n


def time_table(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], title: str, caption: str
) -> Table:
    rows = []
    for mine, other in zip(ours, theirs, strict=True):
        mean, low, high = (100 * end for end in mine["accuracy"].values())
        rows.append(
            (
                f"{mine['ber']:g}",
                f"{mean:.1f} ({low:.1f} to {high:.1f})",
                f"{mine['trials']:,}",
                f"{mine['seconds']:.1f}",
                f"{100 * other['accuracy']:.1f}",
                f"{other['trials']:,}",
                f"{other['seconds']:,.0f}",
                f"{other['seconds'] / mine['seconds']:.0f}",
            )
        )
    columns = ["BER", "accuracy %", "trials", "s", "script's %", "trials", "s", "ratio"]
    return make_table(columns, rows, title, caption)


def strata_table(ours: list[dict[str, Any]], plain: list[dict[str, Any]], title: str) -> Table:
    rows = [
        (
            f"{mine['ber']:g}",
            f"{mine['trials']:,}",
            f"{mine['seconds']:.1f}",
            f"{other['trials']:,}",
            f"{other['seconds']:.1f}",
            f"{other['trials'] / max(mine['trials'], 1):.1f}",
            f"{other['seconds'] / mine['seconds']:.1f}",
            ", ".join(f"{name}: {trials:,}" for name, trials in mine["strata"].items() if trials),
        )
        for mine, other in zip(ours, plain, strict=True)
    ]
    columns: list[Column | str] = [
        *("BER", "trials", "s", "trials without strata", "s", "fewer", "faster"),
        Column("trials by stratum", is_text=True),
    ]
    return make_table(columns, rows, title)


def goal_table(measured: list[tuple[Goal, float, Callable[[float], str]]]) -> Table:
    rows = [(goal.name, shown(x), goal, goal.verdict(x)) for goal, x, shown in measured]
    return make_table([Column("", is_text=True), "measured", "goal", "reached"], rows, "Goals")


def device_table(rates: dict[str, Any], device: str) -> Table:
    rows = [
        (
            size,
            *(f"{each['trials_per_second'][name]:,.0f}" for name in ("device", "cpu", "script")),
            f"{each['faster_than_cpu']['value']:.1f}",
            f"{each['faster_than_script']['value']:.1f}",
        )
        for size, each in rates.items()
    ]
    columns = ["images per trial", "trials/s", "on the CPU", "script's", "over CPU", "over script"]
    return make_table(columns, rows, f"Trials per second on {device}")


def run(options: argparse.Namespace) -> None:
    console = Console()
    _arguments.require_device(options.device)
    images = _arguments.load_data(options)
    model = _arguments.trained_model(options, images).eval()
    if options.device != "cpu":
        rates = device_rates(model, images.test, options.device, options.repeats)
        console.print(device_table(rates, _arguments.device_name(options.device)))
        _arguments.write_json(options.json, rates)
        return
    ours, seconds, result = by_proact(model, images.test, options)
    console.print(result.table())
    plain, _, _ = by_proact(model, images.test, options, strata=False)
    title = f"Trials to +-{100 * options.margin:g} points with strata and without"
    console.print(strata_table(ours, plain, title))
    if options.only_strata:
        _arguments.write_json(options.json, {"ours": ours, "without_strata": plain})
        return
    theirs = [by_script(model, images.test, ber, options) for ber in options.ber]
    ratios = [t["seconds"] / o["seconds"] for t, o in zip(theirs, ours, strict=True)]
    trusting = [
        t["trials_by_its_interval"] * t["seconds_per_trial"] / o["seconds"]
        for t, o in zip(theirs, ours, strict=True)
    ]
    together = geometric_mean(ratios)
    title = f"Seconds to +-{100 * options.margin:g} points at {100 * options.confidence:g} %"
    caption = (
        f"{seconds:.0f} s for all rates, {result.images_per_trial or 'all'} images per trial; the "
        f"script's {options.script_trials} trials per rate are extrapolated"
    )
    console.print(time_table(ours, theirs, title, caption))
    parts = {
        "overhead": overhead(model, images.test, options.repeats),
        "workers": workers_rates(model, images.test),
        "storing": store_share(options.seed),
        "memory": growth(),
    }
    console.print(
        goal_table(
            [
                (FASTER, together, lambda x: f"{x:.0f}"),
                *(
                    (FEWER[mine["ber"]], other["trials"] / max(mine["trials"], 1), "{:.1f}".format)
                    for mine, other in zip(ours, plain, strict=True)
                    if mine["ber"] in FEWER
                ),
                (OVERHEAD, parts["overhead"]["64"]["ratio"], lambda x: f"{x:.3f}"),
                (WORKERS, parts["workers"]["ratio"], lambda x: f"{x:.2f}"),
                (STORING, parts["storing"]["share"], lambda x: f"{x:.4f}"),
                (MEMORY, parts["memory"]["growth_mib"], lambda x: f"{x:.1f}"),
            ]
        )
    )
    console.print(
        f"If the script trusted its interval from two trials on: {geometric_mean(trusting):.0f}x.",
        highlight=False,
    )
    figures = {
        "ours": ours,
        "without_strata": plain,
        "seconds": seconds,
        "script": theirs,
        "ratios": ratios,
        "geometric_mean": together,
        "geometric_mean_from_two_trials": geometric_mean(trusting),
        "policy": asdict(result.policy),
        **parts,
    }
    _arguments.write_json(options.json, figures)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_model_and_data()
    parser.add_argument(
        "--ber",
        nargs="+",
        type=_arguments.BIT_ERROR_RATE,
        default=list(BERS),
        metavar="BER",
        help="Bit error rates, probabilities per stored bit in [0, 1]",
    )
    parser.add_argument(
        "--margin",
        type=_arguments.accepted(float, above_0),
        default=0.01,
        metavar="MARGIN",
        help="Half the width of the interval at which a cell stops, as a share of all images",
    )
    parser.add_campaign_options(confidence=0.95, seed=0)
    parser.add_argument(
        "--script-trials",
        type=_arguments.accepted(int, integer(2)),
        default=FEWEST_TRIALS,
        metavar="COUNT",
        help="Trials of the careful script that are run, at least 2 (count)",
    )
    parser.add_argument(
        "--only-strata",
        action="store_true",
        help="Compare campaigns with strata and without, and nothing else",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="With cuda, trials per second on the GPU, on the CPU and of a careful script on the "
        "GPU are compared, and nothing else",
    )
    parser.add_repeats()
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
