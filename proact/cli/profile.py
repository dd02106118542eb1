"""``proact profile``: what activation sites does a network have, and what would thresholds take?"""

from __future__ import annotations

import argparse
import re
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from proact import models
from proact.cli.sources import OWN, add_data_arguments, dataset, network
from proact.models.evaluation import check_runs
from proact.nn import Site, find_sites
from proact.protect import threshold_counts

_BYTES = 4  # of a float32 threshold


def add_command(commands: Any) -> None:
    """Adds the subcommand to the parser's ``add_subparsers``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "profile",
        help="list a network's activation sites and the memory of thresholds",
        description="Lists every activation site in execution order, and how many thresholds each "
        "granularity stores: the memory of a protection, before any training.",
    )
    add = parser.add_argument
    add("--model", default="vgg16", help=f"network: {', '.join(models.names())}, or {OWN}")
    add_data_arguments(parser, None)
    add(
        "--shape",
        default="3x32x32",
        metavar="CxHxW",
        help="of an image, unless --data says; default 3x32x32",
    )
    add("--classes", type=int, default=10, help="unless --data says (count); default 10")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the tables; 0."""
    if options.data is None:
        shape, classes = _shape(options.shape), options.classes
    else:
        images = dataset(options)
        shape, classes = tuple(images.train.images.shape[1:]), images.num_classes
    model = network(options.model, classes, shape[0])
    # Noise: an image of one colour is where ReLUs of an untrained network all look alike.
    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    check_runs(model, example)
    sites = find_sites(model, example)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console = Console()
    console.print(_sites_table(sites, f"{options.model} on {'x'.join(map(str, shape))}"))
    console.print(_memory_table(sites, parameters))
    return 0


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ValueError(f"--shape reads channels x height x width, as in 3x32x32; got {text!r}")
    return tuple(map(int, text.split("x")))


def _sites_table(sites: list[Site], title: str) -> Table:
    table = Table(title=f"{title}: activation sites in execution order")
    for heading in ("site", "shape", "neurons"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for site in sites:
        table.add_row(site.name, "x".join(map(str, site.shape)), f"{site.neurons:,}")
    return table


def _memory_table(sites: list[Site], parameters: int) -> Table:
    counts = threshold_counts(sites)
    table = Table(title=f"Thresholds beside {parameters:,} parameters")
    for heading in ("granularity", "thresholds", "bytes", "% of parameters", "fewer than neuron"):
        table.add_column(heading, justify="left" if heading == "granularity" else "right")
    for granularity, count in counts.items():
        table.add_row(
            granularity,
            f"{count:,}",
            f"{_BYTES * count:,}",
            f"{100 * count / parameters:.3f}" if parameters else "",
            f"{counts['neuron'] / count:.1f}x",
        )
    return table
