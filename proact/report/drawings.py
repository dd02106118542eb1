"""The figures of a page: which there are, how they are named, what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from proact.campaign import StoredRun
from proact.campaign.stratum import Stratum
from proact.report.findings import Family, Findings
from proact.report.html import inline_svg
from proact.report.plots import accuracy_figure, gain_figure
from proact.report.plots_parts import bits_figure, layers_figure
from proact.report.plots_trials import bin_edges, trials_figure
from proact.report.scale import Scale, rate

_REM_PER_INCH = 7.0


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
    """

    sweep: StoredRun
    strata: Mapping[str, Sequence[Stratum]]
    drawing: Drawing


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
        ValueError: the campaign has no such rate.
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
        cells = [cell for name in findings.variants for cell in family.line(name)]
        if not family.has_line or not cells:
            return Lines(family, None, None)
        confidence = findings.run.confidence
        accuracy = self._drawn(
            f"accuracy{suffix}",
            f"{scale.name} over bit error rate under {family.name}",
            accuracy_figure(cells, confidence, scale),
        )
        gains = {name: family.gains_by_ber(name) for name, mine in family.gains.items() if mine}
        if not gains:
            return Lines(family, accuracy, None)
        figure = gain_figure(gains, findings.baseline, findings.variants, confidence, scale)
        label = f"paired difference to {findings.baseline} over bit error rate"
        return Lines(family, accuracy, self._drawn(f"gain{suffix}", label, figure))

    def _of_trials(self, first: str | None) -> list[Trials]:
        findings, family, run = self._findings, self._findings.families[0], self._findings.run
        edges = bin_edges(run.lowest, run.highest, run.images_per_trial)
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
        if at is None:
            return self._findings.most_divided()
        faults = self._findings.families[0].faults
        for fault, ber in faults.items():
            if rate(ber) == rate(at):
                return fault
        known = ", ".join(map(rate, faults.values()))
        raise ValueError(f"the campaign has the bit error rates {known}; got {at:g}")

    def _of_parts(self, sweeps: Sequence[StoredRun]) -> list[Parts]:
        """A map for each kind of sweep and fault, of all variants that have one on these images."""
        groups: dict[tuple[str, str], dict[str, StoredRun]] = {}
        for sweep in sweeps:
            if sweep.run.facts["data"] == self._findings.run.facts["data"]:
                key = (sweep.run.kind, sweep.run.cells[0].family)
                groups.setdefault(key, {})[sweep.run.variants[0].name] = sweep
        names: set[str] = set()
        shown = []
        for (kind, fault), of_variants in sorted(groups.items(), reverse=True):
            name = f"per-{kind}" if f"per-{kind}" not in names else f"per-{kind}-{len(names)}"
            names.add(name)
            label = f"loss by {kind} under {fault} in it alone"
            strata = {variant: sweep.strata()[0] for variant, sweep in of_variants.items()}
            drawing = self._drawn(name, label, self._map(kind, strata, of_variants))
            shown.append(Parts(list(of_variants.values())[-1], strata, drawing))
        return shown

    def _map(
        self,
        kind: str,
        strata: Mapping[str, Sequence[Stratum]],
        sweeps: Mapping[str, StoredRun],
    ) -> Figure:
        variants = list(dict.fromkeys([*self._findings.variants, *sweeps]))
        run = next(iter(sweeps.values())).run
        scale = Scale.of(run.metric, run.lowest, run.highest, run.is_better_higher)
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
