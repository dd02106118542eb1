"""``proact verify``: is the sampler right on this machine?"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from proact import faults, models
from proact.cli.sources import OWN, network


def add_command(commands: Any) -> None:
    """Adds the subcommand to the parser's ``add_subparsers``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="test the fault sampler on this machine",
        description="Injects many fault patterns and tests them statistically: counts, uniformity, "
        "independence, restoring, equality across threads and instruction sets. Exit status: 0 if "
        "all checks pass, 1 if one fails, 2 for bad input.",
    )
    add = parser.add_argument
    add("--model", default="small-cnn", help=f"network: {', '.join(models.names())}, or {OWN}")
    add(
        "--encoding",
        default="float32",
        help="stored form: float32 (default), int8, q15.16, native, ...",
    )
    add(
        "--ber",
        type=float,
        help="bit error rate, a probability per exposed bit in (0, 1/2]; by default one that flips "
        "about a thousand bits a trial",
    )
    add("--trials", type=int, default=400, help="fault patterns (count), from 50 on; default 400")
    add(
        "--seed",
        type=int,
        default=0,
        help="integer in [0, 2^63 - 1), default 0; same seed, same verdict",
    )
    add(
        "--where",
        default="*",
        metavar="PATTERN",
        help="names of the exposed tensors, all by default",
    )
    add("--bits", metavar="FIELD", help="exposed field, such as exponent, or a mask such as 0xff")
    add(
        "--alpha",
        type=float,
        default=1e-3,
        help="probability that a right sampler fails, in (0, 1); default 0.001",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the table; 0 where every check passes, else 1."""
    found = faults.verify(
        network(options.model, num_classes=10, in_channels=3),
        options.encoding,
        ber=options.ber,
        trials=options.trials,
        seed=options.seed,
        where=options.where,
        bits=field_or_mask(options.bits),
        alpha=options.alpha,
    )
    Console().print(found.table())
    return 0 if found.passed else 1


def field_or_mask(text: str | None) -> str | int | None:
    """A mask where ``text`` is a number (0x for hexadecimal), else a field's name."""
    if text is None:
        return None
    try:
        return int(text, 0)
    except ValueError:
        return text
