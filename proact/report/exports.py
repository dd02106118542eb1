"""Exports the cells of a campaign: CSV, and tables for LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from proact.report.analysis import Analysis, Family
from proact.report.tables import cells_frame
from proact.report.units import rate
from proact.results.cells import CellResult

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def as_csv(analysis: Analysis) -> str:
    """One row per cell: the columns of `proact.results.Result.to_pandas`, the number of exposed
    bits, the realised BER, and whether the cell is finished. A cell without trials has no values.
    """
    cells = analysis.result.cells
    frame = cells_frame(analysis.result)
    frame["bits"] = [analysis.specs[cell.variant, cell.fault].bits for cell in cells]
    frame["realised_ber"] = [analysis.realised_ber(cell) for cell in cells]
    frame["finished"] = [cell.is_finished for cell in cells]
    missing = [cell.is_missing for cell in cells]
    measured = [c for c in frame.columns if c not in _KNOWN_WITHOUT_TRIALS]
    frame[measured] = frame[measured].astype(object)
    frame.loc[missing, measured] = None
    # A cell that needs no trial has a value, but no means over trials.
    frame.loc[[not cell.trials for cell in cells], ["flips", "non_finite", "raised"]] = None
    return str(frame.to_csv(index=False, lineterminator="\n"))


_KNOWN_WITHOUT_TRIALS = ("variant", "fault", "ber", "clean", "trials", "failed", "bits", "finished")


def as_latex(analysis: Analysis) -> str:
    """Tables for the package booktabs, one per family of faults: a row per rate, a column per
    variant."""
    return "\n".join(_latex_table(analysis, family) for family in analysis.families)


def _latex_table(analysis: Analysis, family: Family) -> str:
    units, variants = analysis.units, analysis.variants
    unit = f" ({units.unit})" if units.unit else ""
    confidence = f"{100 * analysis.run.confidence:g} % intervals"
    caption = f"{units.name}{unit} under {family.name}, {analysis.run.encoding}, {confidence}"
    if not all(cell.is_finished or cell.is_missing for cell in family.cells.values()):
        caption += "; * not finished"
    body = _rows(analysis, family, _latex_cell(analysis))
    lines = [
        r"\begin{table}",
        rf"  \caption{{{latex(caption)}}}",
        rf"  \begin{{tabular}}{{r{'r' * len(variants)}}}",
        r"    \toprule",
        f"    {' & '.join(['BER per bit', *map(latex, variants)])} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _latex_cell(analysis: Analysis) -> Callable[[CellResult | None], str]:
    def written(cell: CellResult | None) -> str:
        if cell is None or cell.is_missing:
            return "--"
        value = cell.value
        ends = f"{analysis.units.value(value.low)}--{analysis.units.value(value.high)}"
        text = f"{analysis.units.value(value.estimate)} ({ends})"
        return text if cell.is_finished else f"{text}*"

    return written


def as_markdown(analysis: Analysis) -> str:
    """The same tables in Markdown, with those of paired gains."""
    parts = []
    for family in analysis.families:
        parts += [f"### {markdown(family.name)}, {analysis.run.encoding}", ""]
        parts += _markdown_table(analysis, family)
        parts += _markdown_gains(analysis, family)
    return "\n".join(parts)


def _markdown_table(analysis: Analysis, family: Family) -> list[str]:
    units = analysis.units
    unit = f" in {units.unit}" if units.unit else ""
    heading = f"{units.name}{unit} with its {100 * analysis.run.confidence:g} % interval:"
    rows = _rows(analysis, family, lambda cell: cell_text(analysis, cell))
    return [heading, "", *_grid(["BER per bit", *analysis.variants], rows), ""]


def _markdown_gains(analysis: Analysis, family: Family) -> list[str]:
    if not any(family.gains.values()):
        return []
    units, others = analysis.units, [name for name in family.gains if family.gains[name]]
    rows = [
        [rate(ber), *(gain_text(analysis, family, variant, fault) for variant in others)]
        for fault, ber in family.faults.items()
    ]
    unit = f" in {units.unit_of_differences}" if units.unit_of_differences else ""
    heading = f"Paired difference to {markdown(analysis.baseline)}{unit}:"
    return [heading, "", *_grid(["BER per bit", *others], rows), ""]


def cell_text(analysis: Analysis, cell: CellResult | None) -> str:
    """``94.8 (93.8 to 95.2)``, or ``no trials``."""
    if cell is None or cell.is_missing:
        return "no trials"
    value, units = cell.value, analysis.units
    text = f"{units.value(value.estimate)} ({units.interval(value)})"
    return text if cell.is_finished else f"{text}, unfinished"


def gain_text(analysis: Analysis, family: Family, variant: str, fault: str) -> str:
    """``+15.1 (+11.4 to +19.0)``, or ``no trials``."""
    gain = family.gains[variant].get(fault)
    if gain is None:
        return "no trials"
    units = analysis.units
    return f"{units.difference(gain.estimate)} ({units.interval_of_difference(gain)})"


def _rows(
    analysis: Analysis, family: Family, written: Callable[[CellResult | None], str]
) -> list[list[str]]:
    return [
        [rate(ber), *(written(family.cells.get((name, fault))) for name in analysis.variants)]
        for fault, ber in family.faults.items()
    ]


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(map(markdown, headings))} |",
        f"|{'---:|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def latex(text: str) -> str:
    """Escapes text for LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("--", "-{}-")


def markdown(text: str) -> str:
    """Escapes text for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|$&~])", r"\\\1", text)
