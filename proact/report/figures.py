"""Builds the figures of a page, with their names and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from proact.report.analysis import Analysis, Family
from proact.report.comparison import Comparison
from proact.report.html import inline_svg
from proact.report.plots import NOTHING, accuracy_figure, gain_figure
from proact.report.plots_parts import bits_figure, layers_figure
from proact.report.plots_trials import bin_edges, trials_figure
from proact.report.style import as_text, fix_layout
from proact.report.units import MetricUnits
from proact.results import Result
from proact.results.stratum import Stratum
from proact.text import label

_REM_PER_INCH = 7.0
#: Rates with a smaller relative difference count as equal: users type rounded ones.
_SAME_RATE = 5e-3


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page.

    Attributes:
        name: the stem of its files' names.
        label: a text alternative for screen readers.
        width: in rem; its text is then as large as the page's.
    """

    name: str
    label: Markup
    width: float
    svg: Markup


@dataclass(frozen=True)
class FamilyFigures:
    """The figures of one family of faults; None where there is nothing to draw."""

    family: Family
    accuracy: PageFigure | None
    gains: PageFigure | None


@dataclass(frozen=True)
class TrialsFigure:
    """The distribution of the trials under one fault.

    Attributes:
        fault: its text.
        level: the fault on the axis of its family, as text.
        full_level: the same in a sentence.
        figure: shows the distribution.
        is_shown_first: whether a page shows it before the reader chooses.
    """

    fault: str
    level: str
    full_level: str
    figure: PageFigure
    is_shown_first: bool


@dataclass(frozen=True)
class SweepFigure:
    """The loss by layer or by bit.

    Attributes:
        sweep: one of the sweeps in the figure.
        strata: by variant.
        units: of the sweeps' metric, which may differ from the campaign's.
        is_finished: whether all sweeps in the figure are finished.
    """

    sweep: Result
    strata: Mapping[str, Sequence[Stratum]]
    figure: PageFigure
    units: MetricUnits
    is_finished: bool


class PageFigures:
    """All figures of a page.

    Args:
        analysis: of the campaign.
        sweeps: over layers and bits, from the oldest; of two sweeps with the same model and fault
            the last one is shown.
        at: the bit error rate (of `ExactFlips` the number of flips) whose distribution of trials is
            shown first; None chooses one.

    Attributes:
        figures: the figures that become files, by name.
        lines: one element per family of faults.
        trials: distributions of trials, one element per fault of the first family.
        parts: losses by layer and by bit.

    Raises:
        ValueError: the campaign has no trials at this rate.
    """

    def __init__(
        self, analysis: Analysis, sweeps: Sequence[Result], at: float | None = None
    ) -> None:
        self._analysis, self.figures = analysis, dict[str, Figure]()
        first = self._first_fault(at)
        self.lines = [
            self._lines(family, f"-{number}" if number else "")
            for number, family in enumerate(analysis.families)
        ]
        self.trials = self._of_trials(first)
        self.parts = self._of_parts(sweeps)

    def _lines(self, family: Family, suffix: str) -> FamilyFigures:
        analysis, units, axis = self._analysis, self._analysis.units, family.axis
        cells = [family.cells[name, fault] for name in analysis.variants for fault in family.faults]
        if not family.has_line or all(cell.is_missing for cell in cells):
            return FamilyFigures(family, None, None)
        confidence = analysis.run.confidence
        accuracy = self._drawn(
            f"accuracy{suffix}",
            f"{label(units.name)} over {axis.noun} under {label(family.name)}",
            accuracy_figure(cells, confidence, units, axis),
        )
        gains = {
            name: {level: mine.get(fault, NOTHING) for fault, level in family.faults.items()}
            for name, mine in family.gains.items()
            if mine
        }
        if not gains:
            return FamilyFigures(family, accuracy, None)
        figure = gain_figure(gains, analysis.baseline, analysis.variants, confidence, units, axis)
        alternative = f"paired difference to {label(analysis.baseline)} over {axis.noun}"
        return FamilyFigures(family, accuracy, self._drawn(f"gain{suffix}", alternative, figure))

    def compared(self, comparison: Comparison) -> list[PageFigure]:
        """The lines of two campaigns, one figure per family of faults."""
        shown = []
        for number, family in enumerate(self._analysis.families):
            figure = comparison.figure(family)
            if figure is not None:
                alternative = f"comparison with {label(comparison.name)} under {label(family.name)}"
                name = f"compared-{number}" if number else "compared"
                shown.append(self._drawn(name, alternative, figure))
        return shown

    def _of_trials(self, first: str | None) -> list[TrialsFigure]:
        analysis, family, run = self._analysis, self._analysis.families[0], self._analysis.run
        edges = bin_edges(
            run.lowest,
            run.highest,
            (run.images_per_trial or run.images) if analysis.units.is_share else None,
        )
        shown: list[TrialsFigure] = []
        for fault, level in family.faults.items():
            cells = {name: family.cells.get((name, fault)) for name in analysis.variants}
            tried = {name: cell for name, cell in cells.items() if cell is not None and cell.trials}
            if not tried:
                continue
            figure = trials_figure(
                {name: analysis.result.values(name, fault) for name in tried},
                {name: cell.value for name, cell in tried.items()},
                analysis.variants,
                edges,
                analysis.units,
            )
            is_first = fault == first
            name = "trials" if is_first else f"trials-{len(shown)}"
            metric = label(analysis.units.name)
            axis = family.axis
            alternative = f"distribution of the {metric} of trials at {axis.short(level)}"
            shown_figure = self._drawn(name, alternative, figure, has_files=is_first)
            texts = (axis.text(level), axis.full(level))
            shown.append(TrialsFigure(fault, *texts, shown_figure, is_first))
        return shown

    def _first_fault(self, at: float | None) -> str | None:
        family = self._analysis.families[0]
        tried = {
            fault: level
            for fault, level in family.faults.items()
            if any(cell.trials for (_, name), cell in family.cells.items() if name == fault)
        }
        if at is None or not tried:
            return self._analysis.most_divided() or next(iter(tried), None)
        for fault, level in tried.items():
            if math.isclose(level, at, rel_tol=_SAME_RATE):
                return fault
        known = ", ".join(map(family.axis.short, tried.values()))
        noun = family.axis.noun
        raise ValueError(
            f"at: expected a {noun} at which the campaign has trials ({known}), got {at:g}"
        )

    def _of_parts(self, sweeps: Sequence[Result]) -> list[SweepFigure]:
        """One figure per kind of sweep, with all variants that have one on these images."""
        groups: dict[tuple[str, str, str, str], dict[str, Result]] = {}
        for sweep in sweeps:
            run = sweep.spec
            if run.facts["data"] == self._analysis.run.facts["data"]:
                # Sweeps that differ only in their goal measure the same.
                key = (run.kind, run.cells[0].family, run.encoding, run.metric)
                groups.setdefault(key, {})[self._name_here(sweep)] = sweep
        names: set[str] = set()
        shown = []
        for (kind, fault, *_), of_variants in sorted(groups.items(), reverse=True):
            name = f"per-{kind}" if f"per-{kind}" not in names else f"per-{kind}-{len(names)}"
            names.add(name)
            alternative = f"loss by {kind} under {label(fault)} in it alone"
            last = list(of_variants.values())[-1]
            strata = {
                variant: sweep.at_confidence(last.confidence).strata
                for variant, sweep in of_variants.items()
            }
            units = MetricUnits.of(last.spec)
            figure = self._drawn(name, alternative, self._map(kind, strata, of_variants, units))
            is_finished = all(sweep.is_finished for sweep in of_variants.values())
            shown.append(SweepFigure(last, strata, figure, units, is_finished))
        return shown

    def _name_here(self, sweep: Result) -> str:
        """The campaign's name for the model of a sweep. Digests of different encodings cannot be
        compared: there the name decides."""
        (model,) = sweep.spec.variants
        run = self._analysis.run
        same = [variant.name for variant in run.variants if variant.digest == model.digest]
        if model.name in same or (model.name not in self._analysis.variants and not same):
            return model.name
        if same:
            return same[0]
        is_other = sweep.spec.encoding == run.encoding
        return f"{model.name} (another model)" if is_other else model.name

    def _map(
        self,
        kind: str,
        strata: Mapping[str, Sequence[Stratum]],
        sweeps: Mapping[str, Result],
        units: MetricUnits,
    ) -> Figure:
        variants = list(dict.fromkeys([*self._analysis.variants, *sweeps]))
        run = list(sweeps.values())[-1].spec
        unit = f" ({units.unit_of_differences})" if units.unit_of_differences else ""
        loss = f"loss of {as_text(units.name)}{unit}, {100 * run.confidence:g} % interval"
        if kind == "layer":
            return layers_figure(strata, variants, loss, units)
        fields = {
            cell.part: cell.field
            for sweep in sweeps.values()
            for cell in sweep.spec.cells
            if cell.part is not None
        }
        return bits_figure(strata, fields, variants, loss, units)

    def _drawn(
        self, name: str, alternative: str, figure: Figure, has_files: bool = True
    ) -> PageFigure:
        if has_files:
            self.figures[name] = figure
        width = round(_REM_PER_INCH * figure.get_figwidth(), 1)
        fix_layout(figure)
        return PageFigure(name, escape(alternative), width, inline_svg(figure, name))
