#!/usr/bin/env python
"""Is weight-range's sweep over a model's parameters as fast as reading them, and how much does it
add to a forward pass?

Prints the ratio for each question beside its goal. All contenders of a question take turns in one
process. Times depend on the machine: only ratios are judged, and a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping

import _arguments
import numpy as np
import torch
from _model_shapes import MODELS
from _timing import Goal, Times, compare, interleave, threads_text
from rich.console import Console
from rich.table import Table
from torch import Tensor

from proact import models
from proact.nn import add_weight_range
from proact.ops.range_plan import RangePlan
from proact.ops.sweep_log import SweepLog
from proact.report.tables import Column, make_table

OVER_READING = Goal("a sweep over reading the same memory", 1.2, at_most=True)
OVER_FORWARD = Goal("a guarded model's forward over the same model's, unguarded", 1.05, True)
SWEEP, READING, COPYING, IN_TORCH = "sweep", "torch.sum", "copy", "torch.where, tensor by tensor"
GUARDED, PLAIN = "guarded", "unguarded"
BATCH, PIXELS = 100, 28


def parameters(model: str) -> list[Tensor]:
    """Tensors with the shapes of a model, one after the other in one allocation."""
    shapes = [torch.Size(shape) for shape in MODELS[model]().values()]
    memory = torch.randn(sum(shape.numel() for shape in shapes))
    parts = memory.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def sweeps(tensors: list[Tensor], repeats: int) -> Times:
    """Seconds of one pass over all tensors; no value lies outside its range."""
    low = [tensor.min() for tensor in tensors]
    high = [tensor.max() for tensor in tensors]
    plan = RangePlan(tensors, low, high)
    memory = tensors[0].view(-1).as_strided((sum(t.numel() for t in tensors),), (1,))
    target = torch.empty_like(memory)
    bounded = list(zip(tensors, low, high, strict=True))
    assert not any(plan.sweep_into(SweepLog(plan), "zero").read())
    return interleave(
        {
            SWEEP: lambda: plan.sweep_into(SweepLog(plan), "zero").read(),
            READING: memory.sum,
            COPYING: lambda: target.copy_(memory),
            IN_TORCH: lambda: [
                torch.where((x >= lowest) & (x <= highest), x, 0.0)
                for x, lowest, highest in bounded
            ],
        },
        repeats,
    )


def forwards(repeats: int) -> Times:
    """Seconds of a forward pass of ResNet-20."""
    plain = models.create("resnet20", in_channels=1).eval()
    guarded = copy.deepcopy(plain)
    add_weight_range(
        guarded,
        [name for name, t in guarded.state_dict().items() if t.is_floating_point()],
    )
    images = torch.randn(BATCH, 1, PIXELS, PIXELS)
    with torch.no_grad():
        return interleave({GUARDED: lambda: guarded(images), PLAIN: lambda: plain(images)}, repeats)


def ratio_table(title: str, times: Times, ours: str, others: Mapping[str, Goal | None]) -> Table:
    """The time of ``ours`` over that of each other contender, with its goal."""
    rows = []
    for other, goal in others.items():
        ratio = compare(times, ours, other)
        rows.append((other, ratio, goal or "", "" if goal is None else goal.verdict(ratio.value)))
    over = Column("over", is_text=True)
    return make_table([over, "ratio (quartiles)", "goal", "reached"], rows, title)


def run(options: argparse.Namespace) -> None:
    _arguments.require_native()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    console = Console()
    tensors = parameters(options.model)
    elements = sum(tensor.numel() for tensor in tensors)
    times = sweeps(tensors, options.repeats)
    seconds = float(np.median(times[SWEEP]))
    threads = threads_text(options.threads)
    console.print(
        ratio_table(
            f"a sweep over {options.model}, {len(tensors)} tensors of {elements:,} float32, "
            f"{threads}: {1e3 * seconds:.2f} ms, {4e-9 * elements / seconds:.0f} GB/s",
            times,
            SWEEP,
            {
                READING: OVER_READING if options.threads == 1 else None,
                COPYING: None,
                IN_TORCH: None,
            },
        )
    )
    console.print(
        ratio_table(
            f"a guarded forward of ResNet-20, {BATCH} images of {PIXELS} x {PIXELS}, {threads}",
            forwards(options.repeats),
            GUARDED,
            {PLAIN: OVER_FORWARD},
        )
    )
    console.print("~ marks a ratio of times that spread by more than 20 %", highlight=False)


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--model",
        default="ResNet-50",
        choices=list(MODELS),
        help="Model that gives the shapes of the swept parameters",
    )
    parser.add_campaign_options(threads=1, seed=0)
    parser.add_repeats()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
