#!/usr/bin/env python
"""What does each code leave of bit errors, by formula and measured, and what of bursts?

Injects faults into random weights and counts the codewords that are corrected, detected and read
wrong without notice. The tables are Markdown. Goal: every count within five standard deviations of
the exact formula; the script names those that are not and returns 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import _arguments
import torch
from torch import nn

from proact.encodings import ResidualRates, residual_rates
from proact.encodings.coded_word import CodedWord
from proact.errors import ProactError
from proact.faults import BitFlip, Burst, Fault, FaultSpace, Injector, encode

ENCODINGS = (
    "float32+secded",
    "float32+bch2",
    "float32+bch3",
    "int8+secded",
    "float32+secded32",
    "float32+secded64",
    "float32+tmr",
    "float32+parity",
    "float32+mset",
    "float32+cep",
)
OUTCOMES = ("corrected", "detected", "miscorrected")
RATES = (1e-4, 1e-3, 1e-2)
LENGTHS = (2, 4, 8)
INTERLEAVING = 8
BURSTS = 2000  # expected in a trial: so few that hardly any two meet
SIGMAS = 5.0
COLUMNS = 1024  # of the matrix of weights


class Coded:
    """Random weights in an encoding with a code, and the outcomes of faults in them."""

    def __init__(self, encoding: str, options: argparse.Namespace) -> None:
        self.encoding, self.seed, self.trials = encoding, options.seed, options.trials
        generator = torch.Generator().manual_seed(0)
        model = nn.Linear(COLUMNS, options.rows, bias=False)
        with torch.no_grad():
            model.weight.normal_(generator=generator)
        stored = encode(model, encoding)
        self._injector = Injector(stored, encoding, is_private=True)
        (exposed,) = FaultSpace(stored, encoding)
        assert isinstance(exposed.word, CodedWord)
        self.bits = exposed.bits
        self.codewords = options.trials * exposed.elements // exposed.word.fitted.code.words

    def counts(self, fault: Fault) -> list[int]:
        """The codewords of each outcome, over all trials."""
        found = [0] * len(OUTCOMES)
        for trial in range(self.trials):
            with self._injector.trial(fault, self.seed, trial) as record:
                for i, outcome in enumerate(OUTCOMES):
                    found[i] += getattr(record, outcome)
        return found


def run(options: argparse.Namespace) -> None:
    _arguments.require_native()
    models = [Coded(encoding, options) for encoding in ENCODINGS]
    weights = options.rows * COLUMNS
    print(f"{weights} weights, {options.trials} trials, seed {options.seed}\n")
    figures = {"independent": independent(models), "bursts": bursts(models)}
    _arguments.write_json(options.json, figures)
    wrong = [row for row in figures["independent"] if not row["holds"]]
    if wrong:
        names = ", ".join(f"{row['encoding']} at {row['ber']:g}" for row in wrong)
        raise ProactError(f"measured rates differ from the formula: {names}")


def independent(models: Sequence[Coded]) -> list[dict[str, Any]]:
    """Rates by formula beside measured ones."""
    heads = " | ".join(f"{outcome} | measured" for outcome in OUTCOMES)
    print(f"| encoding | BER | {heads} | lost parameters |")
    print("|---|---|" + "---|" * 7)
    rows = []
    for model in models:
        for ber in RATES:
            rates, counts = residual_rates(model.encoding, ber), model.counts(BitFlip(ber))
            row = {
                "encoding": model.encoding,
                "ber": ber,
                "codewords": model.codewords,
                "counts": counts,
                "formula": [getattr(rates, outcome) for outcome in OUTCOMES],
                "lost_parameters": rates.lost_parameters,
                "holds": holds(rates, counts, model.codewords),
            }
            rows.append(row)
            cells = [
                f"{shown(chance)} | {shown(count / model.codewords)}"
                for chance, count in zip(row["formula"], counts, strict=True)
            ]
            lost = shown(rates.lost_parameters)
            print(f"| `{model.encoding}` | {ber:.0e} | {' | '.join(cells)} | {lost} |")
    print()
    return rows


def holds(rates: ResidualRates, counts: Sequence[int], codewords: int) -> bool:
    """Whether all counts lie within five standard deviations of the formula."""
    for outcome, count in zip(OUTCOMES, counts, strict=True):
        expected = codewords * getattr(rates, outcome)
        # One more for counts that are rarely above 0, which are not normal.
        if abs(count - expected) > SIGMAS * math.sqrt(expected) + 1:
            return False
    return True


def bursts(models: Sequence[Coded]) -> list[dict[str, Any]]:
    """Outcomes of the codewords that bursts hit, in percent, without and with interleaving."""
    lengths = " | ".join(f"length {length}" for length in LENGTHS)
    print(f"| encoding | interleaving | {lengths} |")
    print("|---|---|" + "---|" * len(LENGTHS))
    rows = []
    for model in models:
        for interleaving in (1, INTERLEAVING):
            cells = []
            for length in LENGTHS:
                ber = BURSTS * length / model.bits
                fault = Burst(length, ber, within="tensor", interleaving=interleaving)
                counts = model.counts(fault)
                rows.append(
                    {
                        "encoding": model.encoding,
                        "length": length,
                        "interleaving": interleaving,
                        "counts": counts,
                    }
                )
                cells.append(" / ".join(f"{100 * count / sum(counts):.1f}" for count in counts))
            print(f"| `{model.encoding}` | {interleaving} | {' | '.join(cells)} |")
    return rows


def shown(rate: float) -> str:
    return f"{rate:.2g}" if rate else "0"


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--rows",
        type=_arguments.COUNT,
        default=1024,
        metavar="COUNT",
        help=f"Rows of the matrix of weights, which has {COLUMNS} columns",
    )
    parser.add_argument(
        "--trials",
        type=_arguments.COUNT,
        default=8,
        metavar="COUNT",
        help="Fault patterns of each rate and burst",
    )
    parser.add_campaign_options(seed=0)
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
