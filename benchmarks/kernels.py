#!/usr/bin/env python
"""Are proact's kernels as fast as stated? HyReLU against torch.relu, and bit flips against numpy.

Prints the ratio for each question beside its goal. All contenders of a question take turns in one
process. Times depend on the machine: only ratios are judged, and a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

import _arguments
import _flip_kernels as flips
import _flip_memory as memory
import _gpu_flips as gpu_flips
import _hyrelu_cases as hyrelu_cases
import _hyrelu_kernels as hyrelu
import _kernel_report as report
import torch
from _model_shapes import MODELS
from _timing import Row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import proact
from proact.campaign import keep_freed_memory
from proact.options import above_0

PARTS = ("hyrelu", "flips")
QUICK_MODELS = ("VGG-16",)
QUICK_RATES = (1e-6, 1e-4, 1e-3)


def make_parser() -> _arguments.Parser:
    parser = _arguments.Parser(__doc__)
    add = parser.add_argument
    add("--only", choices=PARTS, help="One of the two halves; both by default")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="Where the kernels run")
    add("--quick", action="store_true", help="Few sizes, dtypes and rates: under a minute")
    add(
        "--sizes",
        nargs="+",
        type=_arguments.accepted(int, check_size),
        metavar="ELEMENTS",
        help="Sizes of the HyReLU tensors, multiples of 256 (elements), in float32 alone; by "
        "default from the first-level cache to four times the last, some in other dtypes too",
    )
    add("--no-compile", action="store_true", help="Leave torch.compile out: it takes half a minute")
    add(
        "--models",
        nargs="+",
        choices=list(MODELS),
        metavar="NAME",
        help=f"Models in which bits are flipped: {', '.join(MODELS)}; all by default",
    )
    add(
        "--ber",
        nargs="+",
        type=_arguments.accepted(float, check_rate),
        metavar="BER",
        help="Bit error rates, probabilities per stored bit in (0, 0.1]; by default "
        + " ".join(f"{ber:g}" for ber in flips.RATES),
    )
    parser.add_repeats(15)
    add(
        "--budget",
        type=_arguments.accepted(float, above_0),
        default=1.0,
        metavar="SECONDS",
        help="Time of a question, above 0 (seconds); one that takes longer gets fewer rounds, but "
        "at least 5",
    )
    add(
        "--threads",
        type=_arguments.COUNT,
        default=torch.get_num_threads(),
        metavar="COUNT",
        help="Threads in the rows with several threads (count); 1 leaves these rows out",
    )
    parser.add_campaign_options(seed=0)
    parser.add_json()
    add(
        "--plot",
        type=_arguments.figure_file,
        metavar="PATH",
        help="File for a figure of the ratios: .png, .svg or .pdf",
    )
    return parser


def check_size(size: Any) -> None:
    if not isinstance(size, int) or size < 256 or size % 256 or size > 1 << 30:
        raise ValueError(f"expected multiples of 256 up to 2^30, got {size}")


def check_rate(ber: Any) -> None:
    if not isinstance(ber, float) or not 0 < ber <= 0.1:
        raise ValueError(f"expected a rate in (0, 0.1], got {ber}")


def measure_all(
    console: Console, title: str, cases: int, batches: Iterator[list[Row]]
) -> list[Row]:
    """The rows of all cases; a terminal shows a progress bar."""
    if not console.is_terminal:
        console.print(f"{title}: {cases} cases")
        return [row for batch in batches for row in batch]
    rows: list[Row] = []
    with Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task(title, total=cases)
        for batch in batches:
            rows += batch
            progress.advance(bar)
    return rows


def measure_hyrelu(options: argparse.Namespace, console: Console) -> list[Row]:
    if options.sizes:
        cases = hyrelu_cases.of_sizes(options.sizes, options.threads)
    elif options.device == "cuda":
        cases = hyrelu_cases.on_gpu(options.quick)
    else:
        cases = hyrelu_cases.default(options.threads, options.quick)
    error = "" if options.no_compile else hyrelu.compiler_error(options.device)
    if error:
        console.print(f"torch.compile is left out because it fails here: {error}", markup=False)
    if error or options.no_compile:
        cases = hyrelu_cases.without_compiled(cases)
    batches = hyrelu.measure(cases, options.repeats, options.seed, options.budget, options.device)
    rows = measure_all(console, "HyReLU", len(cases), batches)
    console.print(report.hyrelu_table(rows))
    return rows


def measure_flips(
    options: argparse.Namespace, console: Console
) -> tuple[list[Row], list[memory.PeakMemory]]:
    models = options.models or (QUICK_MODELS if options.quick else list(MODELS))
    rates = options.ber or (QUICK_RATES if options.quick else flips.RATES)
    cases = flips.cases(list(models), sorted(set(rates)), options.threads)
    if options.device == "cuda":
        cases = [case for case in cases if case.threads == 1]
        batches = gpu_flips.measure(cases, options.repeats, options.seed, options.budget)
        rows = measure_all(console, "inject + restore", len(cases), batches)
        console.print(report.flips_table(rows))
        return rows, []
    cache = hyrelu_cases.last_level_cache_bytes()
    batches = flips.measure(cases, options.repeats, options.seed, cache, options.budget)
    rows = measure_all(console, "inject + restore", len(cases), batches)
    console.print(report.flips_table(rows))
    if not flips.floor_is_native():
        console.print(
            "warning: there is no native xor_list, so the floor was measured with slower numpy"
        )
    peaks = memory.measure(options.quick, options.threads)
    for line in report.memory_lines(peaks):
        console.print(line, highlight=False)
    return rows, peaks


def run(options: argparse.Namespace) -> None:
    _arguments.require_native()
    _arguments.require_device(options.device)
    # Otherwise glibc may return the freed output of one contender to the system after every call
    # and keep that of another, depending on where it lies in the heap. A call that takes fresh
    # pages is up to five times as long.
    keep_freed_memory()
    # In a file or a pipe, tables get the width that they need.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 170)
    rows: list[Row] = []
    peaks: list[memory.PeakMemory] = []
    if options.only != "flips":
        rows += measure_hyrelu(options, console)
    if options.only != "hyrelu":
        flip_rows, peaks = measure_flips(options, console)
        rows += flip_rows
    goals = report.GPU_GOALS if options.device == "cuda" else report.GOALS
    for goal in goals:
        print(report.verdict(goal, rows))
    if noise := report.noise_line(rows):
        print(noise)
    _arguments.write_json(options.json, report.document(rows, peaks, settings(options), goals))
    if options.plot is not None:
        report.write_plot(options.plot, rows)
        print(f"plot: {options.plot}")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The conditions of the run, for the JSON file."""
    return {
        **proact.build_info(),
        "torch": torch.__version__,
        "device": _arguments.device_name(options.device),
        "last_level_cache_bytes": hyrelu_cases.last_level_cache_bytes(),
        "native_floor": flips.floor_is_native(),
        "threads": options.threads,
        "repeats": options.repeats,
        "seed": options.seed,
    }


def main(arguments: list[str] | None = None) -> int:
    return _arguments.run_script(run, make_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
