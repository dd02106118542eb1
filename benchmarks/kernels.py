#!/usr/bin/env python
"""Are proact's kernels as fast as stated? HyReLU against torch.relu, and bit flips against numpy.

Prints a ratio for each question beside its goal. All contenders of a question take turns in this
one process; times depend on the machine, so only ratios are judged, and nothing fails by being
slow.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import proact
from proact import ProactError

try:
    import _flip_kernels as flips
    import _flip_memory as memory
    import _hyrelu_cases as hyrelu_cases
    import _hyrelu_kernels as hyrelu
    import _kernel_report as report
    from _network_shapes import NETWORKS
    from _timing import Row
except ProactError as unusable:  # PROACT_ISA names what this machine lacks
    print(f"error: {unusable}", file=sys.stderr)
    sys.exit(2)

PARTS = ("hyrelu", "flips")
QUICK_NETWORKS = ("VGG-16",)
QUICK_RATES = (1e-6, 1e-4, 1e-3)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--only", choices=PARTS, help="one of the two halves; both without it")
    add("--quick", action="store_true", help="few sizes, dtypes and rates: under a minute")
    add(
        "--sizes",
        nargs="+",
        type=int,
        metavar="ELEMENTS",
        help="of the HyReLU tensors, multiples of 256 (elements), float32 alone; by default from "
        "the first-level cache to four times the last, and other dtypes at some of them",
    )
    add("--no-compile", action="store_true", help="leave torch.compile out: it takes half a minute")
    add(
        "--networks",
        nargs="+",
        choices=list(NETWORKS),
        metavar="NETWORK",
        help=f"whose parameters get flips: {', '.join(NETWORKS)}; all by default",
    )
    add(
        "--ber",
        nargs="+",
        type=float,
        metavar="BER",
        help="bit error rates, probabilities per stored bit in (0, 0.1]; by default "
        + " ".join(f"{ber:g}" for ber in flips.RATES),
    )
    add(
        "--repeats",
        type=int,
        default=15,
        help="rounds of a question (count); by default %(default)s",
    )
    add(
        "--budget",
        type=float,
        default=1.0,
        help="a question that takes longer gets fewer rounds, but at least 5 (seconds); by default "
        "%(default)s",
    )
    add(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="of the rows with several threads (count), 1 leaves them out; by default %(default)s",
    )
    add(
        "--seed", type=int, default=0, help="integer in [0, 2^63) for data and faults; by default 0"
    )
    add("--json", type=Path, metavar="PATH", help="writes every row and goal")
    add("--plot", type=Path, metavar="PATH", help="writes the ratios as a .png, .svg or .pdf")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Raises before anything is measured or written."""
    if not proact.build_info()["native"]:
        raise ProactError(f"the native module is missing: {proact.build_info()['native_error']}")
    for size in options.sizes or ():
        if size < 256 or size % 256 or size > 1 << 30:
            raise ValueError(f"--sizes are multiples of 256 up to 2^30, got {size}")
    for ber in options.ber or ():
        if not 0 < ber <= 0.1:
            raise ValueError(f"--ber lies in (0, 0.1], got {ber}")
    for name in ("repeats", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} takes 1 or more, got {getattr(options, name)}")
    if not options.budget > 0:
        raise ValueError(f"--budget takes seconds above 0, got {options.budget}")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed lies in [0, 2^63), got {options.seed}")
    check_outputs(options.json, options.plot)


def check_outputs(json: Path | None, plot: Path | None) -> None:
    formats = FigureCanvasAgg.get_supported_filetypes()
    if plot is not None and plot.suffix[1:].lower() not in formats:
        raise ValueError(f"--plot ends in one of {', '.join(sorted(formats))}, got {plot}")
    for path in (json, plot):
        if path is not None:
            check_writable(path)


def check_writable(path: Path) -> None:
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ProactError(f"{path} cannot be written: {error.strerror}") from None


def measure_all(
    console: Console, title: str, cases: int, batches: Iterator[list[Row]]
) -> list[Row]:
    """The rows of all cases, with a progress bar where somebody watches."""
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
    else:
        cases = hyrelu_cases.default(options.threads, options.quick)
    fault = "" if options.no_compile else hyrelu.compiler_fault()
    if fault:
        console.print(f"torch.compile does not work here and is left out: {fault}", markup=False)
    if fault or options.no_compile:
        cases = hyrelu_cases.without_compiled(cases)
    batches = hyrelu.measure(cases, options.repeats, options.seed, options.budget)
    rows = measure_all(console, "HyReLU", len(cases), batches)
    console.print(report.hyrelu_table(rows))
    return rows


def measure_flips(
    options: argparse.Namespace, console: Console
) -> tuple[list[Row], list[memory.PeakMemory]]:
    networks = options.networks or (QUICK_NETWORKS if options.quick else list(NETWORKS))
    rates = options.ber or (QUICK_RATES if options.quick else flips.RATES)
    cases = flips.cases(list(networks), sorted(set(rates)), options.threads)
    cache = hyrelu_cases.last_level_cache_bytes()
    batches = flips.measure(cases, options.repeats, options.seed, cache, options.budget)
    rows = measure_all(console, "inject + restore", len(cases), batches)
    console.print(report.flips_table(rows))
    if not flips.floor_is_native():
        console.print("warning: no native xor_list: the floor was numpy's, and is no floor")
    peaks = memory.measure(options.quick, options.threads)
    for line in report.memory_lines(peaks):
        console.print(line, highlight=False)
    return rows, peaks


def run(options: argparse.Namespace, console: Console) -> None:
    rows: list[Row] = []
    peaks: list[memory.PeakMemory] = []
    if options.only != "flips":
        rows += measure_hyrelu(options, console)
    if options.only != "hyrelu":
        flip_rows, peaks = measure_flips(options, console)
        rows += flip_rows
    for goal in report.GOALS:
        print(report.verdict(goal, rows))
    if noise := report.noise_line(rows):
        print(noise)
    if options.json is not None:
        report.write_json(options.json, rows, peaks, settings(options))
        print(f"rows: {options.json}")
    if options.plot is not None:
        report.write_plot(options.plot, rows)
        print(f"plot: {options.plot}")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a reader of the JSON file needs to know of the run."""
    return {
        **proact.build_info(),
        "torch": torch.__version__,
        "last_level_cache_bytes": hyrelu_cases.last_level_cache_bytes(),
        "native_floor": flips.floor_is_native(),
        "threads": options.threads,
        "repeats": options.repeats,
        "seed": options.seed,
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    # Where nobody watches, in a file or a pipe, the tables get the width that they need.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 170)
    try:
        check(options)
    except (ValueError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        run(options, console)
    except ProactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
