"""Sentences of a page: a verdict for each variant, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping

from proact.report.analysis import (
    LIMIT,
    Analysis,
    Family,
    VariantCost,
    holds_until,
    largest_gain,
    losses,
)
from proact.report.units import MetricUnits, rate
from proact.results.cells import CellResult

#: What happens in each kind of fault, as a paper would say it.
_KINDS = {
    "BitFlip": "each exposed bit flips independently, with the bit error rate as its probability",
    "ExactFlips": "a fixed number of distinct bits flips, drawn uniformly from the exposed ones",
    "StuckAt": "each exposed bit is stuck independently, with the bit error rate as its "
    "probability",
    "Burst": "runs of adjacent bits flip; the bit error rate is the expected share of flipped bits",
    "ActivationFlip": "each bit of the exposed layers' outputs flips independently in each forward "
    "pass, with the bit error rate as its probability",
    "Replay": "a recorded list of bits flips",
}


def verdict(analysis: Analysis, variant: str, cost: VariantCost) -> str:
    """One sentence: up to which BER the variant holds, what it gains, what it costs."""
    family, units = analysis.families[0], analysis.units
    if not family.line(variant):
        return "has no trials yet."
    parts = [_holding(analysis, family, variant)]
    if variant != analysis.baseline:
        parts += _compared(analysis, family, variant)
        parts.append(_costing(analysis, variant, cost, units))
    return "; ".join(part for part in parts if part) + "."


def _holding(analysis: Analysis, family: Family, variant: str) -> str:
    units, line = analysis.units, family.line(variant)
    limit = LIMIT * (analysis.run.highest - analysis.run.lowest)
    last = holds_until(line, limit, analysis.run.is_better_higher)
    whole = f"its {units.with_unit(line[0].clean)} without faults"
    if last is None:
        first = line[0]
        return (
            f"is shown at none of the rates to lose at most {units.amount(limit)} of {whole}: "
            f"at {rate(first.ber)} it is {_value(units, first)}"
        )
    told = (
        f"is shown to lose at most {units.amount(limit)} of {whole} up to a bit error rate of "
        f"{rate(last.ber)}, where it is {_value(units, last)}"
    )
    following = [cell for cell in line if cell.ber > last.ber]
    if not following:
        return f"{told}, the highest rate that was tried"
    return f"{told}; at {rate(following[0].ber)} it is {_value(units, following[0])}"


def _value(units: MetricUnits, cell: CellResult) -> str:
    return f"{units.with_unit(cell.value.estimate)} ({units.interval(cell.value)})"


def _compared(analysis: Analysis, family: Family, variant: str) -> list[str]:
    units, gains = analysis.units, family.gains.get(variant, {})
    better = analysis.run.is_better_higher
    told = []
    largest = largest_gain(gains, better)
    if largest is None:
        told.append(f"no gain over {analysis.baseline} is shown at any rate")
    else:
        fault, gain = largest
        told.append(
            f"gains most over {analysis.baseline} at {rate(family.faults[fault])}: "
            f"{units.amount(gain.estimate)} ({units.interval_of_difference(gain)})"
        )
    worse = [rate(family.faults[fault]) for fault in losses(gains, better)]
    if worse:
        told.append(f"is worse than {analysis.baseline} at {_listed(worse)}")
    return told


def _costing(analysis: Analysis, variant: str, cost: VariantCost, units: MetricUnits) -> str:
    clean = analysis.run.variant(analysis.baseline).clean
    lost = clean - cost.clean if analysis.run.is_better_higher else cost.clean - clean
    told = []
    if units.value(cost.clean) != units.value(clean):
        told.append(f"{'-' if lost < 0 else ''}{units.amount(lost)} without faults")
    if cost.thresholds or cost.bounds:
        told.append(f"{cost.bytes:,.0f} bytes ({_percent(cost.percent)} % more numbers to store)")
    if cost.latency is not None:
        told.append(f"{cost.latency:.2f} times the time of a forward pass")
    return f"it costs {_listed(told)}" if told else ""


def _percent(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def how_measured(analysis: Analysis, family: Family) -> str:
    """A paragraph that can be pasted into a paper."""
    run, environment = analysis.run, _environment(analysis)
    kind = family.name.partition("(")[0]
    narrowed = f" ({family.name})" if family.name != kind else ""
    hit = (
        "the outputs of layers of networks"
        if kind == "ActivationFlip"
        else "parameters and buffers"
    )
    judged = (
        f"{run.images_per_trial} of {run.images:,} evaluation images, drawn anew for each trial"
        if run.images_per_trial
        else f"all {run.images:,} evaluation images"
    )
    trials = [
        state.target
        for state in analysis.result.states.values()
        if state.spec.family == family.name
    ]
    return " ".join(
        [
            f"Faults were injected with proact {environment.get('proact', '')} (PyTorch "
            f"{environment.get('torch', '')}) into {hit} stored as {run.encoding}{narrowed}: "
            f"{_KINDS.get(kind, kind)}.",
            f"A trial is one fault pattern, drawn as a function of the seed ({run.seed}), the "
            "trial's number and each tensor's name (Philox 4x32-10), and judged on "
            f"{judged}. All variants met the same fault patterns and images.",
            _stopping(analysis, min(trials), max(trials), sum(trials)),
            f"Intervals ({100 * run.confidence:g} %, two-sided, for each cell alone) are for the "
            f"mean {analysis.units.name} over fault patterns, with the trial as the unit of "
            "replication: Gaffke's bound for bounded variables with room for what was not seen, "
            "trials without a flip counted with their exact probability, and the fault-free "
            "result on the same images as control variate. Differences are of the same trials, "
            "paired. An output with NaN or infinity counts as wrong.",
            _realised(analysis, family),
        ]
    ).strip()


def _stopping(analysis: Analysis, fewest: int, most: int, total: int) -> str:
    run = analysis.run
    told = f"{fewest:,} to {most:,}" if fewest != most else f"{most:,}"
    if run.margin is None:
        return f"Each variant was run for {told} trials at each rate, {total:,} in all."
    margin = analysis.units.amount(run.margin)
    return (
        f"Trials were run until half the width of the interval was {margin} (Chow-Robbins "
        "sequential sampling, with the interval made at a higher confidence to pay for the looks "
        f"at the data): {told} trials for a variant at a rate, {total:,} in all."
    )


def _realised(analysis: Analysis, family: Family) -> str:
    if not family.name.startswith("BitFlip"):
        return ""
    flips = expected = 0.0
    for cell in family.cells.values():
        bits = analysis.specs[cell.variant, cell.fault].bits or 0
        flips += cell.flips * cell.trials
        expected += cell.ber * bits * cell.trials
    return f"In all {flips:,.0f} bits were flipped, where {expected:,.0f} are expected."


def _environment(analysis: Analysis) -> Mapping[str, object]:
    """Of the last session that ran a trial."""
    worked = [session for session in analysis.result.sessions if session.rows]
    return (worked or list(analysis.result.sessions))[-1].environment


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
