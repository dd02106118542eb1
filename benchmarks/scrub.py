#!/usr/bin/env python
"""Is a scan of coded memory at least half as fast as reading it, and how much does scrubbing add to
a forward pass?

Prints GB/s of each code in place and instruction set, on one thread and on all, beside a read of
the same memory in the same turns, then the latency of guarded models. Times depend on the machine:
only ratios are judged, and a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import _arguments
import numpy as np
import torch
from _timing import Goal, Times, compare, interleave, threads_text
from rich.console import Console
from rich.table import Table
from torch import Tensor

import proact
from proact import models
from proact.encodings.codes import IN_PLACE_CODE_NAMES, words_code
from proact.ops.in_place_code import encode_words_
from proact.ops.scrub_plan import ScrubPlan
from proact.protect import protect
from proact.report.tables import Column, make_table

OVER_READING = Goal("bandwidth of a scan over that of a read of the same memory", 0.5, False)
READING = "torch.sum"
DTYPES = (torch.float32, torch.float16, torch.int8, torch.float64)
MODELS = ("resnet20", "vgg16", "resnet50")
PIXELS = 32


def scans(code: str, dtype: torch.dtype, mebibytes: int, threads: int, repeats: int) -> Times:
    """Seconds of a scan of valid codewords by instruction set, and of a read of the same bytes."""
    numbers = torch.randn(mebibytes * (1 << 20) // 4)
    memory = numbers.view(torch.uint8).view(dtype)
    coded = words_code(code, dtype.itemsize)
    encode_words_(memory, coded)
    plan = ScrubPlan([memory], [coded], [None])
    if plan.scrub(threads=threads).read() != [(0, 0)]:
        raise AssertionError("encoded memory must be valid")
    # Additions of narrow numbers would be slower than memory.
    words = memory.view(torch.int64)
    calls = {
        isa: partial(plan.scrub, threads=threads, isa=isa) for isa in proact.build_info()["isas"]
    }
    return interleave({**calls, READING: words.sum}, repeats)


def fits(code: str, dtype: torch.dtype) -> bool:
    try:
        words_code(code, dtype.itemsize)
    except ValueError:
        return False
    return code != "mset" or dtype.is_floating_point


def scan_table(mebibytes: int, threads: int, repeats: int) -> Table:
    torch.set_num_threads(threads)
    rows = []
    for dtype in DTYPES:
        for code in IN_PLACE_CODE_NAMES:
            if not fits(code, dtype):
                continue
            times = scans(code, dtype, mebibytes, threads, repeats)
            gigabytes = mebibytes * (1 << 20) / 1e9
            read = gigabytes / float(np.median(times[READING]))
            for isa in times:
                if isa == READING:
                    continue
                ratio = compare(times, isa, READING, faster=True)
                speed = gigabytes / float(np.median(times[isa]))
                is_judged = isa != "baseline"
                rows.append(
                    (
                        str(dtype).removeprefix("torch."),
                        code,
                        isa,
                        f"{speed:.1f}",
                        f"{read:.1f}",
                        f"{'~' if ratio.is_noisy else ''}{ratio.value:.2f}",
                        OVER_READING if is_judged else "",
                        OVER_READING.verdict(ratio.value) if is_judged else "",
                    )
                )
    columns: list[Column | str] = [
        Column("words", is_text=True),
        Column("code", is_text=True),
        Column("isa", is_text=True),
        "GB/s",
        "read GB/s",
        "ratio",
        "goal",
        "reached",
    ]
    title = f"a scan of {mebibytes} MiB of valid codewords, {threads_text(threads)}"
    return make_table(columns, rows, title)


def forwards(model: str, batch: int, code: str, repeats: int) -> Times:
    """Seconds of a forward pass."""
    plain = models.create(model).eval()
    guarded = protect(plain, "ecc", code=code)
    images: Tensor = torch.randn(batch, 3, PIXELS, PIXELS)
    with torch.no_grad():
        calls = {"guarded": partial(guarded, images), "plain": partial(plain, images)}
        return interleave(calls, repeats, budget_seconds=60)


def forward_table(code: str, names: list[str], threads: int, repeats: int) -> Table:
    torch.set_num_threads(threads)
    rows = []
    for name in names:
        for batch in (1, 32):
            times = forwards(name, batch, code, repeats)
            milliseconds = [1e3 * float(np.median(times[each])) for each in ("plain", "guarded")]
            rows.append(
                (
                    name,
                    batch,
                    *(f"{each:.2f}" for each in milliseconds),
                    compare(times, "guarded", "plain"),
                )
            )
    columns: list[Column | str] = [
        Column("model", is_text=True),
        "batch",
        "plain ms",
        "guarded ms",
        "ratio (quartiles)",
    ]
    images = f"{PIXELS} x {PIXELS} images"
    title = f"a forward pass with a scrub ({code}), {images}, {threads_text(threads)}"
    return make_table(columns, rows, title)


def processor() -> str:
    """The name of the processor, as the system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else "unknown processor"


def run(options: argparse.Namespace) -> None:
    _arguments.require_native()
    torch.manual_seed(options.seed)
    console = Console()
    console.print(processor(), highlight=False)
    for threads in dict.fromkeys((1, options.threads)):
        console.print(scan_table(options.mebibytes, threads, options.repeats))
    console.print(forward_table(options.code, options.models, options.threads, options.repeats))
    console.print("~ marks a ratio of times that spread by more than 20 %", highlight=False)


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--mebibytes", type=int, default=96, help="Size of the memory that is scanned, in MiB"
    )
    parser.add_argument(
        "--code", default="bch2", choices=IN_PLACE_CODE_NAMES, help="Code of the guarded models"
    )
    parser.add_argument(
        "--models", nargs="*", default=list(MODELS), choices=MODELS, help="Guarded models"
    )
    parser.add_campaign_options(threads=torch.get_num_threads(), seed=0)
    parser.add_repeats()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
