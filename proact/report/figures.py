"""The figures of a page: which there are, how they are named, what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from proact.campaign import StoredRun
from proact.report.analysis import Family, Findings
from proact.report.html import inline_svg
from proact.report.plots import NOTHING, accuracy_figure, gain_figure
from proact.report.plots_parts import bits_figure, layers_figure
from proact.report.plots_trials import bin_edges, trials_figure
from proact.report.units import Scale, rate
from proact.results.stratum import Stratum

_REM_PER_INCH = 7.0
#: Rates that differ by less, relatively, are the same to whoever types one.
_SAME_RATE = 5e-3


@dataclass(frozen=True)
class Drawing:
    """A figure on the page.

    Attributes:
        name: of its files.
        label: what it shows, for who does not see it.
        width: at which its text is as large as the page's, in rem.
    """

    name: str
    label: str
    width: float
    svg: Markup


@dataclass(frozen=True)
class Lines:
    """What is drawn over BER of one family of faults; None where there is nothing to draw."""

    family: Family
    accuracy: Drawing | None
    gains: Drawing | None


@dataclass(frozen=True)
class Trials:
    """How the trials under one fault are distributed."""

    fault: str
    ber: str
    drawing: Drawing
    is_shown_first: bool


@dataclass(frozen=True)
class Parts:
    """Where networks are vulnerable.

    Attributes:
        sweep: one of those that are drawn.
        strata: by variant.
        scale: of what they lose, which need not be the campaign's metric.
        is_finished: whether all of them are.
    """

    sweep: StoredRun
    strata: Mapping[str, Sequence[Stratum]]
    drawing: Drawing
    scale: Scale
    is_finished: bool


class Drawings:
    """All of a page.

    Args:
        findings: of the campaign.
        sweeps: over layers and bits, in the order in which they were worked on; of two of the same
            network and fault the last counts.
        at: the BER at which the distribution of trials is shown first; None chooses.

    Attributes:
        figures: those that become files, by name.
        lines, trials, parts: what is drawn.

    Raises:
        ValueError: the campaign has no trials at this rate.
    """

    def __init__(
        self, findings: Findings, sweeps: Sequence[StoredRun], at: float | None = None
    ) -> None:
        self._findings, self.figures = findings, dict[str, Figure]()
        first = self._first_fault(at)
        self.lines = [
            self._over_ber(family, f"-{number}" if number else "")
            for number, family in enumerate(findings.families)
        ]
        self.trials = self._of_trials(first)
        self.parts = self._of_parts(sweeps)

    def _over_ber(self, family: Family, suffix: str) -> Lines:
        findings, scale = self._findings, self._findings.scale
        cells = [family.cells[name, fault] for name in findings.variants for fault in family.faults]
        if not family.has_line or all(cell.is_missing for cell in cells):
            return Lines(family, None, None)
        confidence = findings.run.confidence
        accuracy = self._drawn(
            f"accuracy{suffix}",
            f"{scale.name} over bit error rate under {family.name}",
            accuracy_figure(cells, confidence, scale),
        )
        gains = {
            name: {ber: mine.get(fault, NOTHING) for fault, ber in family.faults.items()}
            for name, mine in family.gains.items()
            if mine
        }
        if not gains:
            return Lines(family, accuracy, None)
        figure = gain_figure(gains, findings.baseline, findings.variants, confidence, scale)
        label = f"paired difference to {findings.baseline} over bit error rate"
        return Lines(family, accuracy, self._drawn(f"gain{suffix}", label, figure))

    def _of_trials(self, first: str | None) -> list[Trials]:
        findings, family, run = self._findings, self._findings.families[0], self._findings.run
        edges = bin_edges(
            run.lowest,
            run.highest,
            (run.images_per_trial or run.images) if findings.scale.is_share else None,
        )
        shown: list[Trials] = []
        for fault, ber in family.faults.items():
            cells = {name: family.cells.get((name, fault)) for name in findings.variants}
            tried = {name: cell for name, cell in cells.items() if cell is not None and cell.trials}
            if not tried:
                continue
            figure = trials_figure(
                {name: findings.stored.values(name, fault) for name in tried},
                {name: cell.value for name, cell in tried.items()},
                findings.variants,
                edges,
                findings.scale,
            )
            is_first = fault == first
            name = "trials" if is_first else f"trials-{len(shown)}"
            label = f"distribution of the {findings.scale.name} of trials at {rate(ber)}"
            drawing = self._drawn(name, label, figure, has_files=is_first)
            shown.append(Trials(fault, rate(ber), drawing, is_first))
        return shown

    def _first_fault(self, at: float | None) -> str | None:
        family = self._findings.families[0]
        tried = {
            fault: ber
            for fault, ber in family.faults.items()
            if any(cell.trials for (_, name), cell in family.cells.items() if name == fault)
        }
        if at is None or not tried:
            return self._findings.most_divided() or next(iter(tried), None)
        for fault, ber in tried.items():
            if math.isclose(ber, at, rel_tol=_SAME_RATE):
                return fault
        known = ", ".join(map(rate, tried.values()))
        raise ValueError(f"the campaign has trials at the bit error rates {known}; got {at:g}")

    def _of_parts(self, sweeps: Sequence[StoredRun]) -> list[Parts]:
        """A map for each kind of sweep, of all variants that have one on these images."""
        groups: dict[tuple[str, str, str, str], dict[str, StoredRun]] = {}
        for sweep in sweeps:
            run = sweep.run
            if run.facts["data"] == self._findings.run.facts["data"]:
                # What else they differ in makes them no other measurement.
                key = (run.kind, run.cells[0].family, run.encoding, run.metric)
                groups.setdefault(key, {})[self._name_here(sweep)] = sweep
        names: set[str] = set()
        shown = []
        for (kind, fault, *_), of_variants in sorted(groups.items(), reverse=True):
            name = f"per-{kind}" if f"per-{kind}" not in names else f"per-{kind}-{len(names)}"
            names.add(name)
            label = f"loss by {kind} under {fault} in it alone"
            strata = {variant: sweep.strata()[0] for variant, sweep in of_variants.items()}
            last = list(of_variants.values())[-1]
            scale = _scale_of(last)
            drawing = self._drawn(name, label, self._map(kind, strata, of_variants, scale))
            is_finished = all(sweep.is_finished for sweep in of_variants.values())
            shown.append(Parts(last, strata, drawing, scale, is_finished))
        return shown

    def _name_here(self, sweep: StoredRun) -> str:
        """What the campaign calls a sweep's network. In another encoding nobody can tell whether it
        is the one that the campaign has by its name."""
        (network,) = sweep.run.variants
        run = self._findings.run
        same = [variant.name for variant in run.variants if variant.digest == network.digest]
        if network.name in same or (network.name not in self._findings.variants and not same):
            return network.name
        if same:
            return same[0]
        is_told_apart = sweep.run.encoding == run.encoding
        return f"{network.name} (another network)" if is_told_apart else network.name

    def _map(
        self,
        kind: str,
        strata: Mapping[str, Sequence[Stratum]],
        sweeps: Mapping[str, StoredRun],
        scale: Scale,
    ) -> Figure:
        variants = list(dict.fromkeys([*self._findings.variants, *sweeps]))
        run = next(iter(sweeps.values())).run
        unit = f" ({scale.unit_of_differences})" if scale.unit_of_differences else ""
        label = f"loss of {scale.name}{unit}, {100 * run.confidence:g} % interval"
        if kind == "layer":
            return layers_figure(strata, variants, label, scale)
        fields = {
            int(cell.part): cell.field
            for sweep in sweeps.values()
            for cell in sweep.run.cells
            if cell.part is not None
        }
        return bits_figure(strata, fields, variants, label, scale)

    def _drawn(self, name: str, label: str, figure: Figure, has_files: bool = True) -> Drawing:
        if has_files:
            self.figures[name] = figure
        width = round(_REM_PER_INCH * figure.get_figwidth(), 1)
        return Drawing(name, label, width, inline_svg(figure, name))


def _scale_of(sweep: StoredRun) -> Scale:
    run = sweep.run
    return Scale.of(run.metric, run.lowest, run.highest, run.is_better_higher)
