#!/usr/bin/env python
"""How many trials per second, one by one and with several fault patterns in one forward pass?

The small CNN on digits, and a ResNet-20 with random weights on noise of 32 x 32; 8 images per
trial, and all 200 of them. A round runs the same number of trials with each size.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import count
from typing import Any

import _arguments
import torch
from _campaign_parts import trial_job
from _timing import Call, compare, interleave
from rich.console import Console
from torch import nn

from proact import data, models
from proact.campaign.trial_runner import TrialRunner
from proact.data import Split
from proact.faults import BitFlip
from proact.report.tables import Column, make_table

_IMAGES = 200
SIZES = (1, 4, 16, 64)
FAULT = BitFlip(1e-4)


def cases() -> dict[str, tuple[nn.Module, Split]]:
    """The models and their images."""
    digits = data.load("digits")
    torch.manual_seed(0)
    noise = Split(torch.randn(_IMAGES, 3, 32, 32), torch.randint(0, 10, (_IMAGES,)))
    return {
        "small-cnn": (models.trained("small-cnn", digits, 0), digits.test.first(_IMAGES)),
        "resnet20": (models.create("resnet20", num_classes=10, in_channels=3), noise),
    }


def rates(
    model: nn.Module, images: Split, per_trial: int | None, trials: int, repeats: int
) -> dict[str, Any]:
    """Trials per second by the number of trials in one pass, and the ratios to one by one."""
    alone = trial_job(model, images, per_trial, FAULT).runner(0)

    def contender(size: int) -> Call:
        runner: TrialRunner = replace(alone, policy=replace(alone.policy, trials_at_once=size))
        rounds = count()
        if size > 1 and not runner.can_group(FAULT):
            raise SystemExit(f"trials of {type(model).__name__} cannot share a pass")

        def call() -> None:
            first = next(rounds) * trials
            for _ in runner.run_many(FAULT, range(first, first + trials)):
                pass

        return call

    times = interleave({str(size): contender(size) for size in SIZES if size <= trials}, repeats)
    found: dict[str, Any] = {}
    for size, seconds in times.items():
        ratio = compare(times, size, "1", faster=True)
        median = float(sorted(seconds)[len(seconds) // 2])
        found[size] = {"per_second": trials / median, "ratio": ratio._asdict(), "text": str(ratio)}
    return found


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    rows = []
    for name, (model, images) in cases().items():
        if name not in options.models:
            continue
        for per_trial in (8, None):
            measured = rates(model.eval(), images, per_trial, options.trials, options.repeats)
            found[f"{name}, {per_trial or _IMAGES} images"] = measured
            for size, each in measured.items():
                rows.append(
                    (name, per_trial or _IMAGES, size, f"{each['per_second']:.1f}", each["text"])
                )
    columns: list[Column | str] = [Column("model", is_text=True), "images"]
    columns += ["trials at once", "trials/s", "times one by one"]
    title = "Trials per second (~: noisy)"
    Console().print(make_table(columns, rows, title))
    _arguments.write_json(options.json, found)


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("small-cnn", "resnet20"),
        default=["small-cnn", "resnet20"],
        metavar="NAME",
        help="small-cnn, resnet20",
    )
    parser.add_argument(
        "--trials",
        type=_arguments.COUNT,
        default=64,
        metavar="COUNT",
        help="Trials in a round; sizes above it are left out",
    )
    parser.add_campaign_options(threads=1)
    parser.add_repeats(5)
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
