#!/usr/bin/env python
"""Does a sweep over a network's parameters cost what reading them costs, and what does a guarded
network's forward cost?

Prints a ratio for each question beside its goal. All contenders of a question take turns in this
one process; times depend on the machine, so only ratios are judged, and nothing fails by being
slow.
"""

from __future__ import annotations

import argparse
import copy
import sys

import torch
from _network_shapes import NETWORKS
from _timing import Goal, Times, compare, interleave, threads_text
from rich.console import Console
from rich.table import Table
from torch import Tensor

import proact
from proact import models
from proact.nn import add_weight_range
from proact.ops.range_plan import RangeLog, RangePlan

OVER_READING = Goal("a sweep over reading the same memory", 1.2, at_most=True)
OVER_FORWARD = Goal("a guarded network's forward over its own", 1.05, at_most=True)
SWEEP, READING, COPYING, IN_TORCH = "sweep", "torch.sum", "copy", "torch.where, tensor by tensor"
GUARDED, PLAIN = "guarded", "unguarded"
BATCH, PIXELS = 100, 28


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--network", default="ResNet-50", choices=list(NETWORKS), help="whose shapes are swept")
    add("--threads", type=int, default=1, help="of torch and of the sweep (count)")
    add("--repeats", type=int, default=25, help="rounds of a question (count)")
    add("--seed", type=int, default=0, help="of weights and images, an integer in [0, 2^63)")
    return parser.parse_args(arguments)


def parameters(network: str) -> list[Tensor]:
    """Tensors of the network's shapes, one behind the other in one memory."""
    shapes = [torch.Size(shape) for shape in NETWORKS[network]().values()]
    memory = torch.randn(sum(shape.numel() for shape in shapes))
    parts = memory.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def sweeps(tensors: list[Tensor], repeats: int) -> Times:
    """Seconds of one look at all tensors, of which none has a value outside."""
    low = [tensor.min() for tensor in tensors]
    high = [tensor.max() for tensor in tensors]
    plan = RangePlan(tensors, low, high)
    memory = tensors[0].view(-1).as_strided((sum(t.numel() for t in tensors),), (1,))
    room = torch.empty_like(memory)
    bounded = list(zip(tensors, low, high, strict=True))
    assert not any(plan.sweep_into(RangeLog(plan), "zero"))
    return interleave(
        {
            SWEEP: lambda: plan.sweep_into(RangeLog(plan), "zero"),
            READING: memory.sum,
            COPYING: lambda: room.copy_(memory),
            IN_TORCH: lambda: [
                torch.where((x >= lowest) & (x <= highest), x, 0.0)
                for x, lowest, highest in bounded
            ],
        },
        repeats,
    )


def forwards(repeats: int) -> Times:
    """Seconds of a forward of ResNet-20."""
    plain = models.create("resnet20", in_channels=1).eval()
    guarded = copy.deepcopy(plain)
    add_weight_range(
        guarded,
        [name for name, t in guarded.state_dict().items() if t.is_floating_point()],
    )
    images = torch.randn(BATCH, 1, PIXELS, PIXELS)
    with torch.no_grad():
        return interleave({GUARDED: lambda: guarded(images), PLAIN: lambda: plain(images)}, repeats)


def table(title: str, times: Times, ours: str, others: dict[str, Goal | None]) -> Table:
    """One row for each contender that ours is divided by."""
    result = Table(title=title)
    for heading in ("over", "ratio", "quartiles", "goal", "reached"):
        result.add_column(heading, justify="left" if heading == "over" else "right")
    for other, goal in others.items():
        ratio, low, high, noisy = compare(times, ours, other, faster=False)
        result.add_row(
            other,
            f"{'~' if noisy else ''}{ratio:.2f}",
            f"{low:.2f} to {high:.2f}",
            str(goal or ""),
            "" if goal is None else "yes" if goal.reached(ratio) else "no",
        )
    return result


def run(options: argparse.Namespace, console: Console) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tensors = parameters(options.network)
    elements = sum(tensor.numel() for tensor in tensors)
    times = sweeps(tensors, options.repeats)
    seconds = float(sorted(times[SWEEP])[len(times[SWEEP]) // 2])
    threads = threads_text(options.threads)
    console.print(
        table(
            f"a sweep over {options.network}, {len(tensors)} tensors of {elements:,} float32, "
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
        table(
            f"a guarded forward of ResNet-20, {BATCH} images of {PIXELS} x {PIXELS}, {threads}",
            forwards(options.repeats),
            GUARDED,
            {PLAIN: OVER_FORWARD},
        )
    )
    console.print("~ marks a ratio of times that spread by more than 20 %", highlight=False)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.threads < 1 or options.repeats < 1 or not 0 <= options.seed < 2**63:
        print(
            "error: --threads and --repeats take 1 or more, --seed a number in [0, 2^63)",
            file=sys.stderr,
        )
        return 2
    if not proact.build_info()["native"]:
        reason = proact.build_info()["native_error"]
        print(f"error: the native module is missing: {reason}", file=sys.stderr)
        return 2
    try:
        run(options, Console())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
