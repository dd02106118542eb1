#!/usr/bin/env python
"""What does an injection cost in each encoding, and what do activation faults add to a forward?

Prints a ratio for each question beside its goal. All contenders of a question take turns in this
one process; times depend on the machine, so only ratios are judged, and nothing fails by being
slow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from _timing import Goal, Times, compare, interleave
from rich.console import Console
from rich.table import Table
from torch import nn

from proact import models
from proact.encodings.fixed_point import FixedPoint
from proact.faults import ActivationFlip, BitFlip, Fault, Injector, Where, encode, inject

ENCODINGS = ("float32", "native", "float16", "bfloat16", "int8", "int8-tensor", "q15.16", "q7.8")
OVER_FLOAT32 = Goal("entry + exit over float32's", 5.0, at_most=True)
OVER_FORWARD = Goal("forward pass with faults over without", 1.1, at_most=True)
BATCH = 64


class InNumpy(FixedPoint):
    """Fixed point as a user would write it: native code does not know its words."""

    form = None
    is_native = False

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        super().__init__(integer_bits, fraction_bits)
        self.name, self.form = f"{self.name} in numpy", None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--ber", type=float, default=1e-5, help="of parameters, per stored bit, in [0, 1]")
    add("--activation-ber", type=float, default=1e-6, help="per stored activation bit, in [0, 1]")
    add("--threads", type=int, default=1, help="of torch (count)")
    add("--repeats", type=int, default=25, help="rounds of a question (count)")
    return parser.parse_args(arguments)


def injections(ber: float, repeats: int) -> tuple[Times, dict[str, int]]:
    """Seconds of entry and exit, and the flips of a trial, by encoding of a network of 15 M."""
    trials: dict[str, Callable[[], object]] = {}
    flips: dict[str, int] = {}
    for encoding in (*ENCODINGS, InNumpy(15, 16)):
        injector = Injector(encode(models.create("vgg16-bn").eval(), encoding), encoding)
        name = injector.encoding.name
        counter = iter(range(1 << 32))

        def one(injector: Injector = injector, counter: object = counter) -> None:
            with injector.trial(BitFlip(ber), 0, next(counter)):  # type: ignore[call-overload]
                pass

        trials[name] = one
        with injector.trial(BitFlip(ber)) as record:
            flips[name] = record.flips
    encoded = encode(models.create("vgg16-bn").eval(), "q15.16")

    def by_inject() -> None:
        with inject(encoded, BitFlip(ber), "q15.16"):
            pass

    trials["q15.16 by inject()"] = by_inject
    flips["q15.16 by inject()"] = flips["q15.16"]
    return interleave(trials, repeats), flips


def forwards(ber: float, repeats: int) -> Times:
    """Seconds of a forward pass of ResNet-20 with faults in activations, by what is hit."""
    model, images = models.create("resnet20").eval(), torch.randn(BATCH, 3, 32, 32)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def faulty(fault: Fault, model: nn.Module = model) -> Callable[[], None]:
        def run() -> None:
            with inject(model, fault):
                forward()

        return run

    relu = Where(layer="ReLU")
    return interleave(
        {
            "no faults": forward,
            "outputs of all layers": faulty(ActivationFlip(ber)),
            "outputs of ReLUs": faulty(ActivationFlip(ber, where=relu)),
            "inputs of convolutions": faulty(
                ActivationFlip(ber, where=Where(layer="Conv2d"), at="input")
            ),
            "outputs of ReLUs, float16": faulty(
                ActivationFlip(ber, where=relu, encoding="float16")
            ),
            "outputs of ReLUs, int8": faulty(ActivationFlip(ber, where=relu, encoding="int8")),
            "outputs of ReLUs, and parameters": lambda: _both(model, ber, forward),
        },
        repeats,
    )


def _both(model: nn.Module, ber: float, forward: Callable[[], None]) -> None:
    with inject(model, [BitFlip(ber), ActivationFlip(ber, where=Where(layer="ReLU"))]):
        forward()


def table(
    title: str, times: Times, other: str, goal: Goal, judged: set[str], flips: dict[str, int]
) -> Table:
    result = Table(title=title, caption=f"goal: {goal.name} {goal}")
    for heading in ("", "flips", "microseconds", "ratio (quartiles)", "reached"):
        result.add_column(heading, justify="left" if heading == "" else "right")
    for name, seconds in times.items():
        ratio, low, high, noisy = compare(times, name, other, faster=False)
        result.add_row(
            name,
            f"{flips[name]:,}" if name in flips else "",
            f"{1e6 * np.median(seconds):.0f}",
            f"{'~' if noisy else ''}{ratio:.2f} ({low:.2f} to {high:.2f})",
            ("yes" if goal.reached(ratio) else "no") if name in judged else "",
        )
    return result


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.threads < 1 or options.repeats < 1:
        print("error: --threads and --repeats take 1 or more", file=sys.stderr)
        return 2
    try:
        BitFlip(options.ber)
        ActivationFlip(options.activation_ber)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    console = Console()
    times, flips = injections(options.ber, options.repeats)
    console.print(
        table(
            f"inject + restore, VGG-16 (14.7 M parameters), BER {options.ber:g}",
            times,
            "float32",
            OVER_FLOAT32,
            set(times) - {"float32", "native"},
            flips,
        )
    )
    passes = forwards(options.activation_ber, options.repeats)
    console.print(
        table(
            f"ResNet-20, {BATCH} images, activation faults at BER {options.activation_ber:g}",
            passes,
            "no faults",
            OVER_FORWARD,
            {"outputs of all layers", "outputs of ReLUs", "inputs of convolutions"},
            {},
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
