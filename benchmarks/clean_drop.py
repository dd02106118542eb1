#!/usr/bin/env python
"""How much accuracy do trained thresholds cost on test images, compared with their tolerance?

Protects a model with several seeds of the threshold training and prints, for each seed, the drop on
validation images, which chose the thresholds, and on test images, which nobody saw.
"""

from __future__ import annotations

import argparse
import sys
import time

import _arguments
from rich.console import Console

from proact import models, protect
from proact.protect.options import TrainedOptions
from proact.report.tables import make_table

GOAL = 1  # of ten seeds
PARTS = ("validation", "test")


def run(options: argparse.Namespace) -> None:
    images = _arguments.load_data(options)
    rows, above, drops = [], 0, []
    for seed in range(options.seeds):
        if seed == 0 or options.networks:
            model = _arguments.trained_model(options, images, seed)
            before = {part: models.accuracy(model, getattr(images, part)) for part in PARTS}
        start = time.perf_counter()
        protected = protect.protect(
            model,
            options.method,
            images,
            tolerance=options.tolerance,
            epochs=options.threshold_epochs,
            seed=seed,
        )
        seconds = time.perf_counter() - start
        drop = {
            part: before[part] - models.accuracy(protected, getattr(images, part)) for part in PARTS
        }
        above += drop["test"] > options.tolerance
        drops.append(drop)
        rows.append((seed, *(f"{100 * drop[part]:.2f}" for part in PARTS), f"{seconds:.0f} s"))
        print(
            f"seed {seed}: " + ", ".join(f"{100 * drop[p]:.2f} on {p}" for p in PARTS), flush=True
        )
    title = f"{options.method}, {options.model} on {options.data}: points of accuracy lost"
    Console().print(make_table(["seed", *PARTS, "time"], rows, title))
    print(
        f"above the tolerance of {100 * options.tolerance:g} points on test images: {above} of "
        f"{options.seeds} seeds (goal: at most {GOAL} of 10)"
    )
    _arguments.write_json(options.json, {"tolerance": options.tolerance, "drops": drops})


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_model_and_data()
    add = parser.add_argument
    add("--method", default="proact", metavar="NAME", help="A method that trains thresholds")
    add(
        "--tolerance",
        type=float,
        default=TrainedOptions.tolerance,
        metavar="SHARE",
        help="Accuracy that may be lost, in [0, 1]",
    )
    for name, default, text in (
        ("--seeds", 10, "Seeds of the threshold training (count)"),
        ("--threshold-epochs", 5, "Passes over the images for each decay (count)"),
    ):
        add(name, type=_arguments.COUNT, default=default, metavar="COUNT", help=text)
    add("--networks", action="store_true", help="Train a network with each seed, too")
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
