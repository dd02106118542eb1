"""Sentences of a page: a verdict for each variant, and the method of measurement."""

from __future__ import annotations

from proact.report.analysis import Analysis, Family
from proact.report.description import listed, models_described, storage_described
from proact.report.fault_axis import FaultAxis
from proact.report.units import MetricUnits
from proact.report.variant_cost import VariantCost
from proact.report.verdicts import holds_until, largest_gain, losses
from proact.results.cells import CellResult
from proact.results.findings import finding_sentences
from proact.text import label

#: The model of each kind of fault.
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


def verdict(analysis: Analysis, variant: str) -> str:
    """One sentence: the level of faults up to which the variant holds, its gain and its cost."""
    family, units = analysis.family_of_verdicts, analysis.units
    if not family.line(variant):
        return "has no trials yet."
    parts = [_holding(analysis, family, variant)]
    if variant != analysis.baseline:
        parts += _compared(analysis, family, variant)
        parts.append(_costing(analysis, analysis.costs[variant], units))
    return "; ".join(part for part in parts if part) + "."


def _holding(analysis: Analysis, family: Family, variant: str) -> str:
    units, axis, cells = analysis.units, family.axis, family.cells_of(variant)
    last = holds_until(cells, analysis.limit, analysis.run.is_better_higher)
    clean = units.with_unit(cells[0].clean)
    within = f"within {units.limit(analysis.limit)} of its clean {label(units.name)} of {clean}"
    if last is None:
        first = _at(units, axis, cells[0])
        return f"is not shown to stay {within} at any tested {axis.word}: {first}"
    text = (
        f"is shown to stay {within} up to {axis.full(axis.of(last))}, where it is "
        f"{_value(units, last)}"
    )
    following = [cell for cell in cells if axis.of(cell) > axis.of(last)]
    if not following:
        return f"{text}, the highest tested {axis.word}"
    return f"{text}; {_at(units, axis, following[0])}"


def _at(units: MetricUnits, axis: FaultAxis, cell: CellResult) -> str:
    where = f"at {axis.short(axis.of(cell))} it"
    return f"{where} has no trials yet" if cell.is_missing else f"{where} is {_value(units, cell)}"


def _value(units: MetricUnits, cell: CellResult) -> str:
    return f"{units.estimate_with_unit(cell.value)} ({units.interval(cell.value)})"


def _compared(analysis: Analysis, family: Family, variant: str) -> list[str]:
    units, gains = analysis.units, family.gains.get(variant, {})
    better, baseline = analysis.run.is_better_higher, label(analysis.baseline)
    axis, parts = family.axis, []
    largest = largest_gain(gains, better)
    if largest is None:
        parts.append(f"no gain over {baseline} is shown at any tested {axis.word}")
    else:
        fault, gain = largest
        parts.append(
            f"its largest gain over {baseline} is {units.amount(gain.estimate)} "
            f"({units.interval_of_difference(gain)}), at {axis.short(family.faults[fault])}"
        )
    worse = [axis.short(family.faults[fault]) for fault in losses(gains, better)]
    if worse:
        parts.append(f"it is worse than {baseline} at {listed(worse)}")
    return parts


def _costing(analysis: Analysis, cost: VariantCost, units: MetricUnits) -> str:
    clean = analysis.run.variant(analysis.baseline).clean
    lost = clean - cost.clean if analysis.run.is_better_higher else cost.clean - clean
    parts = []
    if units.value(cost.clean) != units.value(clean):
        sign = "-" if lost < 0 else ""
        parts.append(f"{sign}{units.amount(lost)} of the clean {label(units.name)}")
    if cost.thresholds or cost.bounds:
        parts.append(f"{cost.bytes:,.0f} bytes ({_percent(cost.percent)} % more numbers to store)")
    if cost.latency is not None:
        parts.append(f"{cost.latency:.2f} times the time of a forward pass")
    return f"it costs {listed(parts)}" if parts else ""


def _percent(value: float) -> str:
    """Two significant digits, and at least all digits before the point."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def how_measured(analysis: Analysis, family: Family) -> str:
    """A paragraph on the method of measurement, for a paper."""
    run, environment = analysis.run, analysis.environment
    kind = family.name.partition("(")[0]
    narrowed = f" ({label(family.name)})" if family.name != kind else ""
    storage = "" if kind == "ActivationFlip" else storage_described(analysis)
    target = "the outputs of layers" if kind == "ActivationFlip" else "parameters and buffers"
    judged = (
        f"{run.images_per_trial} of {run.images:,} evaluation images, drawn for each trial"
        if run.images_per_trial
        else f"all {run.images:,} evaluation images"
    )
    return " ".join(
        [
            models_described(analysis),
            f"Faults were injected with proact {environment.get('proact', '')} (PyTorch "
            f"{environment.get('torch', '')}) into {target} stored as {label(run.encoding)}"
            f"{narrowed}: {_KINDS.get(kind, label(kind))}.",
            *([storage] if storage else []),
            f"A trial is one fault pattern, drawn as a function of the seed ({run.seed}), the "
            "trial's number and each tensor's name (Philox 4x32-10, J. Salmon et al., SC 2011), "
            f"and judged on {judged}. All variants met the same fault patterns and images.",
            *_stopping(analysis, family),
            f"Intervals ({100 * run.confidence:g} %, two-sided, for each cell alone) are for the "
            f"mean {label(analysis.units.name)} over fault patterns, with the trial as the unit of "
            "replication: Gaffke's bound for bounded variables (N. Gaffke, Math. Methods Stat. "
            "14, 2005), which allows for failures that no trial has met yet, "
            "trials without a flip counted with their exact probability, and the clean "
            "result on the same images as control variate. Differences are of the same trials, "
            "paired. An output with NaN or infinity counts as wrong.",
            _realised(analysis, family),
            *finding_sentences(run.notes),
        ]
    ).strip()


def _stopping(analysis: Analysis, family: Family) -> list[str]:
    """How many trials there were, and why they ended."""
    run, cells = analysis.run, family.cells.values()
    trials = [cell.trials + cell.failed for cell in cells if cell.trials + cell.failed]
    sentences = []
    if trials:
        fewest, most = min(trials), max(trials)
        span = f"{fewest:,} to {most:,}" if fewest != most else f"{most:,}"
        goal = _goal(analysis)
        if goal is None:
            sentences.append(
                f"Each variant was run for {span} trials at each {family.axis.word}, "
                f"{sum(trials):,} in all."
            )
        else:
            sentences.append(
                f"Trials were run until half the width of the interval was "
                f"{goal} (sequential sampling of Y. Chow and H. "
                "Robbins, Ann. Math. Stat. 36, 1965; the interval has a higher confidence, which "
                f"corrects for the interim analyses): {span} trials for a variant at a "
                f"{family.axis.word}, {sum(trials):,} in all."
            )
    if run.paired:
        sentences.append(
            "Further trials, which the variants' own results do not use, were run until half the "
            f"width of the interval of a difference to {label(run.variants[0].name)} was at most "
            f"{analysis.units.amount(run.difference_margin or 0.0)}."
        )
    stratified = {cell.fault for cell in cells if cell.strata}
    if stratified:
        bits = listed([str(bit) for bit in analysis.critical_bits])
        noun = "bit" if len(analysis.critical_bits) == 1 else "bits"
        levels = [level for fault, level in family.faults.items() if fault in stratified]
        rates = listed([family.axis.short(level) for level in levels])
        sentences.append(
            f"At {rates}, trials were drawn in strata by the number of flips in the critical field "
            f"({noun} {bits} of the tensors that all variants share, found by a pilot of single "
            "flips), and combined with the exact probabilities of the strata (W. Cochran, Sampling "
            "Techniques, 1977, chapter 5; intervals by G. Zou and A. Donner, Stat. Med. 27, 2008)."
        )
    wider = [cell for cell in cells if _is_wider(analysis, cell)]
    if wider:
        axis = family.axis
        names = listed([f"{label(cell.variant)} at {axis.short(axis.of(cell))}" for cell in wider])
        bounds = ", and its worse end bounds the loss" if run.relative_margin is not None else ""
        sentences.append(
            f"The largest number of trials ended {names}: the interval there is wider{bounds}."
        )
    decided = sum(cell.needs_no_trial for cell in cells)
    if decided:
        sentences.append(
            f"{decided} of {len(cells)} cells needed no trial, because bits flip so rarely there "
            "that the interval is narrow enough beforehand."
        )
    if not all(cell.is_finished for cell in cells):
        sentences.append("The campaign is not finished: some cells have too few trials yet.")
    return sentences


def _is_wider(analysis: Analysis, cell: CellResult) -> bool:
    """Whether the largest number of trials ended a cell before its margin was reached."""
    run = analysis.run
    if cell.trials + cell.failed != run.trials:
        return False
    if run.relative_margin is not None:
        return True
    return run.margin is not None and cell.value.half_width > run.margin


def _goal(analysis: Analysis) -> str | None:
    """The margin at which cells stopped; None without one."""
    run = analysis.run
    if run.relative_margin is not None:
        return f"{100 * run.relative_margin:g} % of the loss against the clean result"
    return None if run.margin is None else analysis.units.amount(run.margin)


def _realised(analysis: Analysis, family: Family) -> str:
    if not family.name.startswith("BitFlip"):
        return ""
    flips = expected = 0.0
    for cell in family.cells.values():
        if cell.strata:  # the numbers of flips were chosen
            continue
        bits = analysis.specs[cell.variant, cell.fault].bits or 0
        flips += cell.flips * cell.trials
        expected += cell.ber * bits * cell.trials
    if not expected:
        return ""
    return f"In all {flips:,.0f} bits were flipped, where {expected:,.0f} are expected."
