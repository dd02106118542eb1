#!/usr/bin/env python
"""How does a network's accuracy fall with the bit error rate, and how much do clipped activations
buy back?

Trains (or reads) a network, protects copies of it, runs every variant under the same faults, and
leaves a table, a store of all rows and a plot.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

import proact
from proact import ProactError

try:
    from proact import data, models, protect
    from proact.config import defaults
    from proact.config.experiment import Experiment
    from proact.config.overrides import experiment_from
    from proact.config.progress import Stages
    from proact.config.runner import Outcome, run
    from proact.config.user_code import OWN
    from proact.report.tables import cost_table, gains_table
except ProactError as unusable:  # PROACT_ISA names what this machine lacks
    print(f"error: {unusable}", file=sys.stderr)
    sys.exit(2)

UNPROTECTED = defaults.UNPROTECTED
PLOTS = ("accuracy.png", "accuracy.svg")
#: What the keys of an experiment are called here.
FLAGS = {
    "network": "--model",
    "data": "--data",
    "data_folder": "--data-folder",
    "download": "--download",
    "image_size": "--image-size",
    "variants": "--methods",
    "ber": "--ber",
    "encoding": "--encoding",
    "trials": "--trials",
    "margin": "--margin",
    "images_per_trial": "--images",
    "workers": "--workers",
    "scheduler": "--scheduler",
    "confidence": "--confidence",
    "seed": "--seed",
    "threads": "--threads",
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        default=defaults.DATA,
        help=f"data set: {', '.join(data.names())}, or {OWN} (a proact.data.Data, a pair of "
        "tensors (images, labels) or a Dataset)",
    )
    add(
        "--data-folder",
        type=Path,
        help="where the data set's files are; by default PROACT_DATA, the places of Debian's "
        "packages and ~/.cache/proact",
    )
    add(
        "--download",
        action="store_true",
        help="fetch files that are missing, through torchvision, into the folder",
    )
    add("--image-size", type=int, default=224, help="of an imagefolder's images, in pixels")
    add(
        "--model",
        default=defaults.NETWORK,
        help=f"network, trained if needed: {', '.join(models.names())}; or {OWN} (a trained "
        "torch.nn.Module)",
    )
    add(
        "--methods",
        nargs="+",
        default=list(defaults.METHODS),
        metavar="METHOD",
        help=f"variants to compare: {UNPROTECTED} (unprotected), {', '.join(protect.methods())}; "
        "with options of the method as in ranger:mode=zero,granularity=hybrid",
    )
    add(
        "--ber",
        nargs="+",
        type=float,
        default=list(defaults.BERS),
        metavar="BER",
        help="bit error rates, probabilities per stored bit in [0, 1]",
    )
    add(
        "--encoding",
        default=defaults.ENCODING,
        help="stored form of the parameters: float32, float16, bfloat16, int8 (a scale per output "
        "channel), int8-tensor, or fixed point qM.N of up to 32 bits (1 sign, M integer, N "
        "fraction bits)",
    )
    add(
        "--trials",
        type=int,
        default=300,
        help="fault patterns per variant and rate (count); with --margin, the most",
    )
    add(
        "--margin",
        type=float,
        help="stop a variant at a rate when half the width of its interval is this, in (0, 1]",
    )
    add(
        "--images",
        default="all",
        help="of a trial: a number, drawn anew for each, 'all', or 'auto' for what a pilot finds "
        "the quickest",
    )
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument(
        "--workers",
        type=int,
        help="processes that run trials (count); by default as many as there are cores where it is "
        "worth it",
    )
    workers.add_argument(
        "--scheduler", help="address of a Dask scheduler whose workers run them: tcp://host:port"
    )
    add("--confidence", type=float, default=0.95, help="of the intervals, a probability in (0, 1)")
    add(
        "--seed",
        type=int,
        default=0,
        help="integer in [0, 2^63) for weights and faults; same seed, same table (on one machine)",
    )
    add(
        "--threads",
        type=int,
        default=1,
        help="of torch (count); the small network gains nothing from more, and the last digits of "
        "trained weights depend on it",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/ber_campaign"),
        help="folder for the trained network, rows.sqlite, accuracy.png and accuracy.svg; a run "
        "that was interrupted goes on from there",
    )
    return parser.parse_args(arguments)


def experiment_of(options: argparse.Namespace) -> Experiment:
    given = {**vars(options), "ber": sorted(set(options.ber))}
    keys = {key: flag.removeprefix("--").replace("-", "_") for key, flag in FLAGS.items()}
    return experiment_from(None, {key: given[name] for key, name in keys.items()}, FLAGS)


def show(outcome: Outcome, console: Console) -> None:
    """The tables, and two plots in the folder."""
    experiment, result = outcome.experiment, outcome.result
    console.print(result.table())
    if UNPROTECTED in experiment.variants and len(experiment.variants) > 1:
        gains = outcome.gains(UNPROTECTED)
        console.print(gains_table(gains, UNPROTECTED, result.confidence, result.scale))
    # Times differ from run to run, and this table is compared with others.
    costs = {name: {**asdict(cost), "latency": None} for name, cost in outcome.costs.items()}
    console.print(cost_table(costs, experiment.encoding))
    plots = [outcome.folder / plot for plot in PLOTS]
    for plot in plots:
        result.plot(plot)
    print(
        f"{result.images_per_trial or outcome.images} test images a trial; weights, biases and "
        f"thresholds stored as {experiment.encoding} and faulted; proact {proact.__version__}, "
        f"seed {experiment.seed}"
    )
    print(f"rows:  {outcome.store}\nplots: {', '.join(map(str, plots))}")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    try:
        show(run(experiment_of(options), options.out, Stages(console), PLOTS), console)
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished trials are kept; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
