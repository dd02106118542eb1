#!/usr/bin/env python
"""How long does an injection take with an error-correcting code, compared with the plain format and
with encoding and decoding the whole model?

Prints the ratio for each code beside its goal. All contenders take turns in one process. Times
depend on the machine: only ratios are judged, and a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count

import _arguments
import numpy as np
import torch
from _timing import Call, Goal, compare, interleave
from rich.console import Console
from rich.table import Table
from torch import nn

from proact import models
from proact.encodings.coded_word import CodedWord
from proact.faults import BitFlip, FaultSpace, encode, inject
from proact.faults.target_memory import read_words
from proact.report.tables import Column, make_table

FORMAT = "float32"
CORRECTING = ("secded", "bch2", "bch3", "secded32", "secded64", "tmr")
OTHERS = ("parity", "mset", "cep")
OVER_PLAIN = Goal("over the plain format", 1.5, at_most=True)
OVER_WHOLE = Goal("times faster than encoding and decoding the whole model", 100.0, at_most=False)
BERS = (1e-6, 1e-5, 1e-4)


def injections(model: nn.Module, ber: float, repeats: int) -> Table:
    """The time of entry and exit of `inject` for each code."""
    calls: dict[str, Call] = {}
    for encoding in (FORMAT, *(f"{FORMAT}+{code}" for code in (*CORRECTING, *OTHERS))):
        calls[encoding] = _next_trial(encode(model, encoding), encoding, ber)
    times = interleave(calls, repeats)
    rows = []
    for name, seconds in times.items():
        ratio = compare(times, name, FORMAT)
        judged = name.partition("+")[2] in CORRECTING
        verdict = OVER_PLAIN.verdict(ratio.value) if judged else ""
        rows.append((name, f"{1e6 * np.median(seconds):.0f}", ratio, verdict))
    return make_table(
        [Column("", is_text=True), "microseconds", "ratio (quartiles)", "reached"],
        rows,
        f"inject + restore, VGG-16 (14.7 M parameters), BER {ber:g}",
        f"goal for codes that correct: {OVER_PLAIN.name} {OVER_PLAIN}",
    )


def _next_trial(encoded: nn.Module, encoding: str, ber: float) -> Call:
    trials = count()

    def run() -> None:
        with inject(encoded, BitFlip(ber), encoding, trial=next(trials)):
            pass

    return run


def whole_model(encoded: nn.Module, encoding: str) -> float:
    """The seconds of encoding and decoding every codeword once, by the reference in numpy."""
    start = time.perf_counter()
    for exposed in FaultSpace(encoded, encoding):
        word = exposed.word
        assert isinstance(word, CodedWord)
        code = word.fitted.code
        full = word.elements - word.elements % code.words
        words = read_words(exposed, np.arange(full, dtype=np.uint64))[1]
        stored, check = code.encode(words.reshape(-1, code.words))
        code.decode(stored, check)
    return time.perf_counter() - start


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    console = Console()
    model = models.create("vgg16-bn").eval()
    for ber in BERS:
        console.print(injections(model, ber, options.repeats))
    encoding, ber = f"{FORMAT}+bch2", BERS[0]
    encoded = encode(model, encoding)
    times = interleave({encoding: _next_trial(encoded, encoding, ber)}, options.repeats)
    ratio = whole_model(encoded, encoding) / float(np.median(times[encoding]))
    console.print(
        f"{encoding} at a BER of {ber:g}: {ratio:,.0f} {OVER_WHOLE.name}; "
        f"goal {OVER_WHOLE}: {OVER_WHOLE.verdict(ratio)}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_campaign_options(threads=1)
    parser.add_repeats()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
