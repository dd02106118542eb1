#!/usr/bin/env python
"""How much accuracy does each method of protection keep under faults, and what does it cost?

Trains a network, protects copies of it by every method, and runs all of them under the same faults:
flips in stored parameters (weights, biases, normalisation, statistics, thresholds, bounds), and
flips in the outputs of layers while the network runs. Every trial is one fault pattern, judged on
images drawn from the test split; the same ones for every variant.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from _protection_report import cost_table, gain_table, table_of_accuracies, write_markdown
from _protection_runs import Settings, protected
from rich.console import Console
from torch import nn

from proact import ProactError, campaign, data, models
from proact.faults import ActivationFlip, BitFlip, Fault, Where

HALF_DECADES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
DECADES = (1e-7, 1e-6, 1e-5, 1e-4)
BASELINE = "hybrid maxima"
#: Compared without faults in bounds and statistics too: a guard is worth what its bounds are.
GUARDED = ("relu", "weight-range", "proact (hybrid) + weight-range")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="resnet20", help=f"network: {', '.join(models.names())}")
    add("--data", default="fashion-mnist", help=f"data set: {', '.join(data.names())}")
    add("--data-folder", type=Path, help="where its files are, unless in the usual places")
    add("--ber", nargs="*", type=float, default=list(HALF_DECADES), help="per stored bit")
    add(
        "--activation-ber",
        nargs="*",
        type=float,
        default=list(DECADES),
        help="per bit of a layer's output",
    )
    add("--encoding", default="q15.16", help="stored form of parameters and activations")
    add("--trials", type=int, default=300, help="fault patterns a variant and rate (count)")
    add("--images", type=int, default=100, help="test images a trial (count)")
    add("--tolerance", type=float, default=0.01, help="validation accuracy that may be lost")
    add("--epochs", type=int, default=2, help="of training thresholds, for each decay")
    add("--samples", type=int, default=10_000, help="training images for thresholds (count)")
    add("--patterns", type=int, default=100, help="fault patterns of searches (count)")
    add("--seed", type=int, default=0, help="of everything, an integer in [0, 2^63)")
    add("--threads", type=int, default=2, help="of torch (count)")
    add(
        "--out",
        type=Path,
        default=Path("runs/protection"),
        help="folder for networks, thresholds, rows and plots; an interrupted run goes on from it",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> None:
    settings = Settings(
        options.encoding,
        options.tolerance,
        options.epochs,
        options.samples,
        options.patterns,
        options.seed,
    )
    torch.set_num_threads(options.threads)
    images = data.load(options.data, options.data_folder)
    model = models.trained(options.model, images, options.seed, options.out / "networks")
    variants = protected(model, images, settings, options.out / "thresholds")
    costs = cost_table(variants, images, options.encoding)
    console.print(costs)
    guarded = {name: variants[name] for name in variants if name in GUARDED}
    layers = Where(layer=("Conv2d", "Linear"))
    spared = Where(exclude=Where(kind=("bound", "statistics")))
    questions: list[tuple[str, dict[str, nn.Module], list[Fault]]] = [
        ("parameters", variants, [BitFlip(ber) for ber in options.ber]),
        (
            "activations",
            variants,
            [
                ActivationFlip(ber, where=layers, encoding=options.encoding)
                for ber in options.activation_ber
            ],
        ),
        (
            "parameters, bounds and running statistics spared",
            guarded,
            [BitFlip(ber, where=spared) for ber in options.ber],
        ),
    ]
    tables = [costs]
    for where, contenders, faults in questions:
        if not faults:
            continue
        result = campaign.run(
            contenders,
            images,
            faults,
            encoding=options.encoding,
            trials=options.trials,
            images_per_trial=options.images,
            seed=options.seed,
            store=options.out / "rows.sqlite",
        )
        title = f"Accuracy in % under flips in {where}, {options.encoding}, 95 % interval"
        found = [table_of_accuracies(result, title)]
        if BASELINE in contenders:
            found.append(gain_table(result, BASELINE))
            for ending in ("png", "svg"):
                result.plot(options.out / f"{where}.{ending}")
        for table in found:
            console.print(table)
        tables += found
    write_markdown(tables, options.out / "tables.md")
    print(f"tables, plots and rows: {options.out}")


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments), Console(width=200))
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
