#!/usr/bin/env python
"""How long do injection and rounding take in each encoding, and how much do activation faults add
to a forward pass?

Prints the ratio for each question beside its goal. All contenders of a question take turns in one
process. Times depend on the machine: only ratios are judged, and a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from itertools import count

import _arguments
import numpy as np
import torch
from _timing import Call, Goal, Times, compare, interleave
from rich.console import Console
from rich.table import Table

from proact import models
from proact.encodings.fixed_point import FixedPoint
from proact.faults import ActivationFlip, BitFlip, Fault, Injector, Where, encode, inject
from proact.report.tables import Column, make_table

ENCODINGS = (
    *("float32", "native", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "e3m2"),
    *("int8", "int8-tensor", "q15.16", "q7.8"),
    *("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4"),
    *("int4-group32", "int4-group32-zero", "bfp8-block16"),
)
BY_INJECT = "q15.16 by inject()"
IN_NUMPY = "q15.16 in numpy"
OVER_FLOAT32 = Goal("entry + exit over float32's", 1.5, at_most=True)
ONCE = Goal("seconds to encode the model", 2.0, at_most=True)
OVER_FORWARD = Goal("forward pass with faults over without", 1.1, at_most=True)
BATCH = 64


class InNumpy(FixedPoint):
    """Fixed point without a native form, as an encoding that a user writes: numpy flips it."""

    form = None
    is_native = False

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        super().__init__(integer_bits, fraction_bits)
        self.name, self.form = f"{self.name} in numpy", None


def injections(ber: float, repeats: int) -> tuple[Times, dict[str, int]]:
    """Seconds of entry and exit by encoding, in VGG-16, and the flips of one trial."""
    trials: dict[str, Call] = {}
    flips: dict[str, int] = {}
    for encoding in (*ENCODINGS, InNumpy(15, 16)):
        injector = Injector(encode(models.create("vgg16-bn").eval(), encoding), encoding)
        name = injector.encoding.name
        trials[name] = _next_trial(injector, ber)
        with injector.trial(BitFlip(ber)) as record:
            flips[name] = record.flips
    encoded = encode(models.create("vgg16-bn").eval(), "q15.16")

    def by_inject() -> None:
        with inject(encoded, BitFlip(ber), "q15.16"):
            pass

    trials[BY_INJECT], flips[BY_INJECT] = by_inject, flips["q15.16"]
    return interleave(trials, repeats), flips


def encodings(repeats: int) -> Times:
    """Seconds to round VGG-16 to each encoding."""
    model = models.create("vgg16-bn").eval()

    def call(encoding: str) -> Call:
        return lambda: encode(model, encoding)

    return interleave({encoding: call(encoding) for encoding in ENCODINGS}, repeats)


def encoding_table(times: Times) -> Table:
    """The median time of each encoding."""
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    rows = [(name, f"{median:.2f}", ONCE.verdict(median)) for name, median in medians.items()]
    headings = (Column("", is_text=True), "seconds", "reached")
    title = "encode VGG-16 (14.7 M parameters)"
    return make_table(headings, rows, title, f"goal: {ONCE.name} {ONCE}")


def _next_trial(injector: Injector, ber: float) -> Call:
    trials = count()

    def run() -> None:
        with injector.trial(BitFlip(ber), 0, next(trials)):
            pass

    return run


def forwards(ber: float, repeats: int) -> Times:
    """Seconds of a forward pass of ResNet-20 without faults and with faults in activations."""
    model, images = models.create("resnet20").eval(), torch.randn(BATCH, 3, 32, 32)
    relu, convolution = Where(layer="ReLU"), Where(layer="Conv2d")

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def faulty(*faults: Fault) -> Callable[[], None]:
        def run() -> None:
            with inject(model, list(faults)):
                forward()

        return run

    return interleave(
        {
            "no faults": forward,
            "outputs of all layers": faulty(ActivationFlip(ber)),
            "outputs of ReLUs": faulty(ActivationFlip(ber, where=relu)),
            "inputs of convolutions": faulty(ActivationFlip(ber, where=convolution, at="input")),
            "outputs of ReLUs, float16": faulty(
                ActivationFlip(ber, where=relu, encoding="float16")
            ),
            "outputs of ReLUs, int8": faulty(ActivationFlip(ber, where=relu, encoding="int8")),
            "outputs of ReLUs, and parameters": faulty(
                BitFlip(ber), ActivationFlip(ber, where=relu)
            ),
        },
        repeats,
    )


def ratio_table(
    title: str,
    times: Times,
    reference: str,
    goal: Goal,
    judged: Collection[str],
    flips: Mapping[str, int],
) -> Table:
    """Every contender over the reference; the goal concerns those that are ``judged``."""
    rows = []
    for name, seconds in times.items():
        ratio = compare(times, name, reference)
        rows.append(
            (
                name,
                f"{flips[name]:,}" if name in flips else "",
                f"{1e6 * np.median(seconds):.0f}",
                ratio,
                goal.verdict(ratio.value) if name in judged else "",
            )
        )
    caption = f"goal: {goal.name} {goal}"
    first = Column("", is_text=True)
    headings = ("flips", "microseconds", "ratio (quartiles)", "reached")
    return make_table([first, *headings], rows, title, caption)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    console = Console()
    times, flips = injections(options.ber, options.repeats)
    console.print(
        ratio_table(
            f"inject + restore, VGG-16 (14.7 M parameters), BER {options.ber:g}",
            times,
            "float32",
            OVER_FLOAT32,
            set(times) - {"float32", "native", IN_NUMPY},
            flips,
        )
    )
    console.print(encoding_table(encodings(min(options.repeats, 3))))
    console.print(
        ratio_table(
            f"ResNet-20, {BATCH} images, activation faults at BER {options.activation_ber:g}",
            forwards(options.activation_ber, options.repeats),
            "no faults",
            OVER_FORWARD,
            {"outputs of all layers", "outputs of ReLUs", "inputs of convolutions"},
            {},
        )
    )


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    for name, default, bit in (
        ("--ber", 1e-5, "stored bit of the parameters"),
        ("--activation-ber", 1e-6, "stored bit of the activations"),
    ):
        parser.add_argument(
            name,
            type=_arguments.BIT_ERROR_RATE,
            default=default,
            metavar="BER",
            help=f"Bit error rate, a probability per {bit} in [0, 1]",
        )
    parser.add_campaign_options(threads=1)
    parser.add_repeats()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
