#!/usr/bin/env python
"""Does the training recipe reach its accuracy in time?

Trains one network on one data set and prints its test accuracy, the time it took, and the goal:
ResNet-20 reaches 92 % on Fashion-MNIST in at most 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from proact import ProactError, data, models

GOAL_ACCURACY, GOAL_MINUTES = 0.92, 10.0
GOAL_RUN = ("resnet20", "fashion-mnist", 2)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=GOAL_RUN[0], help=f"network: {', '.join(models.names())}")
    add("--data", default=GOAL_RUN[1], help=f"data set: {', '.join(data.names())}")
    add("--data-folder", type=Path, help="where its files are, unless in the usual places")
    add("--epochs", type=int, help="passes over the training images; by default the recipe's")
    add("--seed", type=int, default=0, help="of weights, order and augmentation")
    add("--threads", type=int, default=GOAL_RUN[2], help="of torch (count)")
    add(
        "--out",
        type=Path,
        default=Path("runs/networks"),
        help="folder for the trained network; an interrupted training goes on from its last epoch",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    images = data.load(options.data, options.data_folder)
    channels = images.train.images.shape[1]
    untrained = models.create(options.model, images.num_classes, channels)
    recipe = models.recipe_for(images, untrained)
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    print(f"{options.model} on {options.data}, {len(images.train)} training images: {recipe}")
    start = time.perf_counter()
    columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task("train", total=None)
        model = models.trained(
            options.model,
            images,
            options.seed,
            options.out,
            lambda done, total: progress.update(bar, completed=done, total=total),
            recipe,
        )
    minutes = (time.perf_counter() - start) / 60
    accuracy = models.accuracy(model, images.test)
    goal = f" (goal {100 * GOAL_ACCURACY:g} % in {GOAL_MINUTES:g} min)"
    print(
        f"test accuracy {100 * accuracy:.2f} % after {minutes:.1f} min on {options.threads} threads"
        + (goal if (options.model, options.data, options.threads) == GOAL_RUN else "")
    )


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished epochs are kept; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
