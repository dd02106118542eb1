#!/usr/bin/env python
"""How does a network's accuracy fall with the bit error rate, and how much do clipped activations
buy back?

Trains (or reads) a network, protects copies of it, runs every variant under the same faults, and
leaves a table, a store of all rows and a plot.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

import proact
from proact import ProactError

try:
    from proact import campaign, faults, models, protect
    from proact.campaign.store import Store
    from proact.cli.sources import (
        OWN,
        add_data_arguments,
        check_model_name,
        dataset,
        is_own,
        network,
    )
    from proact.data import Data
except ProactError as unusable:  # PROACT_ISA names what this machine lacks
    print(f"error: {unusable}", file=sys.stderr)
    sys.exit(2)

HALF_DECADES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
UNPROTECTED = "relu"
NETWORKS = "networks"
PLOTS = ("accuracy.png", "accuracy.svg")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add_data_arguments(parser, "digits")
    add(
        "--model",
        default="small-cnn",
        help=f"network, trained if needed: {', '.join(models.names())}; or {OWN} (a trained "
        "torch.nn.Module)",
    )
    add(
        "--methods",
        nargs="+",
        default=[UNPROTECTED, "ranger", "proact", "weight-range"],
        metavar="METHOD",
        help=f"variants to compare: {UNPROTECTED} (unprotected), {', '.join(protect.methods())}; "
        "with options of the method as in ranger:mode=zero,granularity=hybrid",
    )
    add(
        "--ber",
        nargs="+",
        type=float,
        default=list(HALF_DECADES),
        metavar="BER",
        help="bit error rates, probabilities per stored bit in [0, 1]",
    )
    add(
        "--encoding",
        default="q15.16",
        help="stored form of the parameters: float32, float16, bfloat16, int8 (a scale per output "
        "channel), int8-tensor, or fixed point qM.N of up to 32 bits (1 sign, M integer, N "
        "fraction bits)",
    )
    add(
        "--trials",
        type=int,
        default=300,
        help="fault patterns per variant and rate (count); with --margin, the most",
    )
    add(
        "--margin",
        type=float,
        help="stop a variant at a rate when half the width of its interval is this, in (0, 1]",
    )
    add(
        "--images",
        default="all",
        help="of a trial: a number, drawn anew for each, 'all', or 'auto' for what a pilot finds "
        "the quickest",
    )
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument(
        "--workers",
        type=int,
        help="processes that run trials (count); by default as many as there are cores where it is "
        "worth it",
    )
    workers.add_argument(
        "--scheduler", help="address of a Dask scheduler whose workers run them: tcp://host:port"
    )
    add("--confidence", type=float, default=0.95, help="of the intervals, a probability in (0, 1)")
    add(
        "--seed",
        type=int,
        default=0,
        help="integer in [0, 2^63) for weights and faults; same seed, same table (on one machine)",
    )
    add(
        "--threads",
        type=int,
        default=1,
        help="of torch (count); the small network gains nothing from more, and the last digits of "
        "trained weights depend on it",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/ber_campaign"),
        help="folder for the trained network, rows.sqlite, accuracy.png and accuracy.svg; a run "
        "that was interrupted goes on from there",
    )
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> list[faults.BitFlip]:
    """The faults to inject; raises before anything is trained or written."""
    known = [UNPROTECTED, *protect.methods()]
    for variant in options.methods:
        method, chosen = split_options(variant)
        if method not in known:
            raise ValueError(f"a method is one of {', '.join(known)}; got {method!r}")
        if variant != UNPROTECTED:
            protect.check_options(method, chosen)
    if len(set(options.methods)) != len(options.methods):
        raise ValueError(f"each variant is named once, got {' '.join(options.methods)}")
    check_model_name(options.model)
    if options.threads < 1:
        raise ValueError(f"--threads takes 1 or more, got {options.threads}")
    if not 1 <= options.trials < 2**32:
        raise ValueError(f"--trials lies in [1, 2^32), got {options.trials}")
    if options.margin is not None and not 0 < options.margin <= 1:
        raise ValueError(f"--margin lies in (0, 1], got {options.margin}")
    if options.images not in ("all", "auto"):
        if not options.images.isdecimal() or int(options.images) == 0:
            raise ValueError(f"--images is a number, 'all' or 'auto', got {options.images!r}")
        options.images = int(options.images)
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers takes 1 or more, got {options.workers}")
    if not 0 < options.confidence < 1:
        raise ValueError(f"--confidence lies in (0, 1), got {options.confidence}")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed lies in [0, 2^63), got {options.seed}")
    return [faults.BitFlip(ber) for ber in sorted(set(options.ber))]


def split_options(variant: str) -> tuple[str, dict[str, Any]]:
    """``"ranger:mode=zero"`` as a method and its options; numbers and tuples are read as such."""
    method, _, text = variant.partition(":")
    options: dict[str, Any] = {}
    # Commas inside brackets belong to a tuple.
    for item in re.split(r",(?![^(]*\))", text) if text else ():
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"an option of {method} reads name=value, got {item!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return method, options


def writable_folder(folder: Path) -> Path:
    """The folder, made, and whatever will be written in it found writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / NETWORKS):
            if place.exists():
                tempfile.TemporaryFile(dir=place).close()
        for plot in PLOTS:
            with (folder / plot).open("ab"):
                pass
            if (folder / plot).stat().st_size == 0:
                (folder / plot).unlink()
    except OSError as error:
        raise ProactError(
            f"the output folder {folder} cannot be written: {error.filename}: {error.strerror}"
        ) from None
    return folder


class Stages:
    """A progress bar for the stage at hand; a line a stage where nobody watches a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def run(self, title: str, work: Callable[[Callable[[int, int], None]], object]) -> None:
        if not self._console.is_terminal:
            self._console.print(title)
            work(lambda done, total: None)
            return
        with Progress(
            TextColumn(f"{title:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
        ) as progress:
            bar = progress.add_task(title, total=None)
            work(lambda done, total: progress.update(bar, completed=done, total=total))


def build_variants(
    options: argparse.Namespace, given: nn.Module, images: Data, stages: Stages, folder: Path
) -> dict[str, nn.Module]:
    """Networks by name of the variant; ``given`` is trained, unless it is the user's own."""
    variants = {UNPROTECTED: given}

    def train(progress: Callable[[int, int], None]) -> None:
        variants[UNPROTECTED] = models.trained(
            options.model, images, options.seed, folder / NETWORKS, progress
        )

    if not is_own(options.model):
        stages.run(f"{options.model} on {options.data}: train", train)
    for variant in options.methods:
        if variant == UNPROTECTED:
            continue

        def harden(progress: Callable[[int, int], None], variant: str = variant) -> None:
            method, chosen = split_options(variant)
            variants[variant] = protect.protect(variants[UNPROTECTED], method, images, **chosen)

        stages.run(f"{variant}: choose thresholds", harden)
    return {variant: variants[variant] for variant in options.methods}


def cost_table(variants: dict[str, nn.Module], images: Data, encoding: str) -> Table:
    """What each protection costs without faults."""
    table = Table(title=f"Cost of protection, {encoding}, no faults")
    for heading in (
        "variant",
        "thresholds",
        "bytes",
        "% of parameters",
        "clean accuracy %",
        "before hardening %",
    ):
        table.add_column(
            heading, justify="left" if heading == "variant" else "right", overflow="fold"
        )
    for name, model in variants.items():
        soft = split_options(name)[0] in protect.trained_methods()
        cost = protect.cost(model, images.test, encoding, soft)
        table.add_row(
            name,
            str(cost.thresholds),
            f"{cost.bytes:g}",
            f"{cost.percent:.2f}",
            f"{100 * cost.clean:.2f}",
            "" if cost.clean_soft is None else f"{100 * cost.clean_soft:.2f}",
        )
    return table


def gains(result: campaign.Result, variants: list[str]) -> Table:
    """Of each protected variant over the unprotected one, on the same faults and images."""
    table = Table(title=f"Gain over {UNPROTECTED}, same faults (points of accuracy)")
    percent = f"{100 * result.confidence:g} % interval"
    for heading in ("variant", "BER per bit", "gain", percent):
        table.add_column(
            heading, justify="left" if heading == "variant" else "right", overflow="fold"
        )
    for variant in variants:
        name = variant
        for fault, gain in result.difference(variant, UNPROTECTED).items():
            table.add_row(
                name,
                f"{result.bers[variant, fault]:g}",
                f"{100 * gain.estimate:+.1f}",
                f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}",
            )
            name = ""
        table.add_section()
    return table


@contextmanager
def executor_for(options: argparse.Namespace) -> Iterator[Executor | int | None]:
    """Who runs the trials."""
    if options.scheduler is None:
        yield options.workers
        return
    try:
        from distributed import Client
    except ImportError:
        raise ProactError("--scheduler needs Dask: pip install 'proact[dask]'") from None
    try:
        client = Client(options.scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ProactError(
            f"there is no Dask scheduler at {options.scheduler} (tcp://host:port): {error}"
        ) from None
    with client:
        yield client.get_executor()


def run(options: argparse.Namespace, console: Console) -> None:
    flips = check(options)
    torch.set_num_threads(options.threads)
    images = dataset(options)
    given = network(options.model, images.num_classes, images.train.images.shape[1])
    # Its parameters have the dtypes of the trained ones: can the encoding hold them?
    faults.FaultSpace(given, options.encoding)
    folder = writable_folder(options.out)
    store = folder / "rows.sqlite"
    Store(store).close()
    stages = Stages(console)
    variants = build_variants(options, given, images, stages, folder)

    for name, model in variants.items():
        print(f"{name} in {faults.encoding_report(model, options.encoding, images)}")
    results: list[campaign.Result] = []

    def measure(progress: Callable[[int, int], None]) -> None:
        results.append(
            campaign.run(
                variants,
                images,
                flips,
                encoding=options.encoding,
                trials=options.trials,
                margin=options.margin,
                images_per_trial=options.images,
                confidence=options.confidence,
                seed=options.seed,
                store=store,
                executor=executor,
                progress=progress,
            )
        )

    with executor_for(options) as executor:
        stages.run(f"inject: {len(variants)} variants x {len(flips)} rates", measure)
    (result,) = results
    console.print(result.table())
    protected = [name for name in variants if name != UNPROTECTED]
    if UNPROTECTED in variants and protected:
        console.print(gains(result, protected))
    console.print(cost_table(variants, images, options.encoding))
    for plot in PLOTS:
        result.plot(folder / plot)
    print(
        f"{result.images_per_trial or len(images.test)} test images a trial; weights, biases and "
        f"thresholds stored as {options.encoding} and faulted; proact {proact.__version__}, "
        f"seed {options.seed}"
    )
    print(f"rows:  {store}\nplots: {', '.join(str(folder / plot) for plot in PLOTS)}")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    try:
        run(options, console)
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished trials are kept; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
