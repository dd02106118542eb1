"""Exports the cells of a campaign: CSV, and tables for LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from proact.report.analysis import Analysis, Family, mark
from proact.report.tables import cells_frame
from proact.report.units import decimal
from proact.results.cells import CellResult
from proact.text import label

#: The most characters of a name in a CSV file: Python's module csv reads no field above 131,072.
_MOST_OF_FIELD = 131_000

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "[": "{[}",  # after a line's end, LaTeX reads a length in brackets
    "]": "{]}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def as_csv(analysis: Analysis) -> str:
    """One row per cell: the columns of `proact.results.Result.to_pandas`, the number of exposed
    bits, the realised BER, whether the cell is finished, whether it needed no trial, and the number
    of strata from which its trials were drawn (0: none). A cell without trials has no values,
    unless it needed none.

    Names are shown by `proact.text.visible`, whole up to 131,000 characters. A spreadsheet would
    take a name that begins with ``=``, ``+``, ``-`` or ``@`` for a formula. Such a name, and one
    that begins with an apostrophe, gets an apostrophe in front; a reader removes it.
    """
    cells = analysis.result.cells
    frame = cells_frame(analysis.result)
    frame["bits"] = [analysis.specs[cell.variant, cell.fault].bits for cell in cells]
    frame["realised_ber"] = [analysis.realised_ber(cell) for cell in cells]
    frame["finished"] = [cell.is_finished for cell in cells]
    frame["needs_no_trial"] = [cell.needs_no_trial for cell in cells]
    frame["strata"] = [len(cell.sampled_strata) if cell.strata else 0 for cell in cells]
    missing = [cell.is_missing for cell in cells]
    measured = [c for c in frame.columns if c not in _KNOWN_WITHOUT_TRIALS]
    frame[measured] = frame[measured].astype(object)
    frame.loc[missing, measured] = None
    # A cell that needs no trial has a value, but no means over trials.
    frame.loc[[not cell.trials for cell in cells], ["flips", "non_finite", "raised"]] = None
    for column in ("variant", "fault"):
        frame[column] = [spreadsheet(text) for text in frame[column]]
    frame.columns = pd.Index([spreadsheet(str(column)) for column in frame.columns])
    return str(frame.to_csv(index=False, lineterminator="\n"))


def spreadsheet(text: str) -> str:
    """Shows a text so that no program takes it for a formula; see `as_csv`."""
    shown = label(text, _MOST_OF_FIELD)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "'")) else shown


_KNOWN_WITHOUT_TRIALS = (
    *("variant", "fault", "ber", "clean", "trials", "failed", "bits", "finished"),
    *("needs_no_trial", "strata"),
)


@dataclass(frozen=True)
class ExportTable:
    """A table as text: its title, its headings, and its rows; the first column names the row.

    The title is a sentence, in which names are labels. Headings and cells may be names.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def export_tables(analysis: Analysis) -> list[ExportTable]:
    """For each family of faults, the metric and the paired differences, with a row per rate and a
    column per variant; finally the costs, with a row per variant."""
    tables = []
    for family in analysis.families:
        tables.append(_value_table(analysis, family))
        if any(family.gains.values()):
            tables.append(_gain_table(analysis, family))
    return [*tables, _cost_table(analysis)]


def _value_table(analysis: Analysis, family: Family) -> ExportTable:
    units, run = analysis.units, analysis.run
    unit = f" in {units.unit}" if units.unit else ""
    title = (
        f"{label(units.name)}{unit} under {label(family.name)}, {label(run.encoding)}, with "
        f"{100 * run.confidence:g} % intervals"
    )
    names = analysis.variants
    without_faults = ["no faults", *(units.value(run.variant(name).clean) for name in names)]
    rows = [
        [
            family.axis.text(level),
            *(_cell_text(analysis, family.cells.get((name, fault))) for name in names),
        ]
        for fault, level in family.faults.items()
    ]
    return ExportTable(title, [family.axis.heading, *names], [without_faults, *rows])


def _gain_table(analysis: Analysis, family: Family) -> ExportTable:
    units, others = analysis.units, [name for name in family.gains if family.gains[name]]
    unit = f" in {units.unit_of_differences}" if units.unit_of_differences else ""
    title = (
        f"Paired difference to {label(analysis.baseline)}{unit} under {label(family.name)}, "
        f"{label(analysis.run.encoding)}, with {100 * analysis.run.confidence:g} % intervals"
    )
    rows = [
        [
            family.axis.text(level),
            *(_gain_text(analysis, family, name, fault) for name in others),
        ]
        for fault, level in family.faults.items()
    ]
    return ExportTable(title, [family.axis.heading, *others], rows)


def _cost_table(analysis: Analysis) -> ExportTable:
    units, costs = analysis.units, analysis.costs
    unit = f" in {units.unit}" if units.unit else ""
    headings = ["variant", "thresholds", "bounds", "bytes", "% of other stored values"]
    headings += [f"clean {units.name}{unit}", "time of a forward pass"]
    rows = [
        [
            name,
            f"{cost.thresholds:,}",
            f"{cost.bounds:,}",
            f"{cost.bytes:,.0f}",
            decimal(cost.percent, 2),
            units.value(cost.clean),
            "not measured" if cost.latency is None else f"{cost.latency:.2f} x",
        ]
        for name, cost in costs.items()
    ]
    return ExportTable(f"Cost of protection in {label(analysis.run.encoding)}", headings, rows)


def _cell_text(analysis: Analysis, cell: CellResult | None) -> str:
    """``94.8 (93.8 to 95.2)``, with the cell's `mark`, or ``no trials``."""
    if cell is None or cell.is_missing:
        return "no trials"
    text = f"{analysis.units.estimate(cell.value)} ({analysis.units.interval(cell.value)})"
    return f"{text}, {mark(cell)}" if mark(cell) else text


def _gain_text(analysis: Analysis, family: Family, variant: str, fault: str) -> str:
    """``+15.1 (+11.4 to +19.0)``, or why there is no gain."""
    gain, units = family.gains[variant].get(fault), analysis.units
    if gain is None:
        return analysis.why_no_gain(family, variant, fault)
    return f"{units.estimate_of_difference(gain)} ({units.interval_of_difference(gain)})"


def as_latex(analysis: Analysis) -> str:
    """The tables for LaTeX with the package booktabs.

    Names with characters that LaTeX's fonts lack, such as Chinese ones, need LuaLaTeX or XeLaTeX
    and a font that has them.
    """
    return "\n".join(map(_latex_table, export_tables(analysis)))


def _latex_table(table: ExportTable) -> str:
    def line(texts: Sequence[str]) -> str:
        # The empty group keeps a star from becoming a part of the line's end before it.
        return f"    {{}}{' & '.join(latex(label(text)) for text in texts)} \\\\"

    lines = [
        r"\begin{table}",
        rf"  \caption{{{latex(table.title)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
        r"    \toprule",
        line(table.headings),
        r"    \midrule",
        *map(line, table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def as_markdown(analysis: Analysis) -> str:
    """The tables in Markdown."""
    return "\n".join(map(_markdown_table, export_tables(analysis)))


def _markdown_table(table: ExportTable) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(markdown(label(text)) for text in texts)} |"

    alignment = f"|---|{'---:|' * (len(table.headings) - 1)}"
    # A dash or a number at the beginning of a line would begin a list, and = underline a heading.
    title = re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", markdown(table.title))
    lines = [title, "", line(table.headings), alignment, *map(line, table.rows), ""]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Escapes text for LaTeX; the sign of a negative number becomes a minus."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text).replace("--", "-{}-")
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def markdown(text: str) -> str:
    """Escapes text for Markdown, for codes of emoji such as ``:smile:`` too."""
    return re.sub(r"([\\`*_{}\[\]<>#|$&~:!])", r"\\\1", text)
