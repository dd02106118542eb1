#!/usr/bin/env python
"""Does the training recipe reach its accuracy in time?

Trains one model on one data set and prints its test accuracy, the time that training took, and the
goal: ResNet-20 reaches 92 % on Fashion-MNIST in at most 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time

import _arguments
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from proact import models

GOAL_ACCURACY, GOAL_MINUTES = 0.92, 10.0
GOAL_RUN = ("resnet20", "fashion-mnist", 2)


def run(options: argparse.Namespace) -> None:
    images = _arguments.load_data(options)
    recipe = _arguments.recipe_of(options, images)
    print(f"{options.model} on {options.data}, {len(images.train)} training images: {recipe}")
    start = time.perf_counter()
    columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task("train", total=None)
        model = models.trained(
            options.model,
            images,
            options.seed,
            options.model_folder,
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
    parser = _arguments.Parser(__doc__)
    parser.add_model_and_data(*GOAL_RUN)
    parser.add_campaign_options(seed=0)
    finished = "finished epochs are kept, and the same command continues"
    return _arguments.run_script(run, parser, arguments, after_interrupt=finished)


if __name__ == "__main__":
    sys.exit(main())
