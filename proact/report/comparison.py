"""Compares a campaign with one of another store, or with another one of the same store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from proact.report.analysis import Analysis, Family
from proact.report.description import experiment_of, recipe_described
from proact.report.plots import accuracy_figure
from proact.results.cells import CellResult
from proact.results.result import Result
from proact.results.statistics import Interval, independent_difference
from proact.text import label


@dataclass(frozen=True)
class ComparedCells:
    """The cells of one variant under one fault in both campaigns; ``difference`` is the one here
    minus the one there, None where a cell has no trials."""

    variant: str
    fault: str
    ber: float
    here: CellResult
    there: CellResult

    @property
    def difference(self) -> Interval | None:
        if self.here.is_missing or self.there.is_missing:
            return None
        return independent_difference(self.here.value, self.there.value)


_MODEL_OF = "model of "


class Comparison:
    """Two campaigns side by side: the variants and the faults that both have.

    Their trials are not paired: images, models and faults may differ. Where both campaigns met the
    same faults, the intervals of the differences are wider than they need be.

    Args:
        here: the campaign of the page.
        other: the campaign that it is compared with.
        name: of the other one, on the page.

    Raises:
        ValueError: the campaigns have different metrics, or no variant under one fault in common.
    """

    def __init__(self, here: Analysis, other: Result, name: str) -> None:
        run = here.run
        if (other.spec, other.sessions) == (run, here.result.sessions):
            raise ValueError(f"{label(name)} is the campaign of the page itself; name another one")
        if _metric(other) != _metric(here.result):
            raise ValueError(
                f"campaigns are compared in one metric; this one has {label(run.metric)} in "
                f"[{run.lowest:g}, {run.highest:g}], and {label(name)} has {label(other.metric)} "
                f"in [{other.spec.lowest:g}, {other.spec.highest:g}]"
            )
        self.name, self._here, self._there = name, here, Analysis(other)
        theirs = {
            (cell.variant, cell.fault): cell for cell in other.at_confidence(run.confidence).cells
        }
        self.cells = [
            ComparedCells(
                mine.variant, mine.fault, mine.ber, mine, theirs[mine.variant, mine.fault]
            )
            for mine in here.result.cells
            if (mine.variant, mine.fault) in theirs
        ]
        if not self.cells:
            ours, others = (", ".join(map(label, a.variants)) for a in (here, self._there))
            raise ValueError(
                f"no variant has a cell under the same fault in both campaigns; here are {ours}, "
                f"and {label(name)} has {others}"
            )

    @property
    def clean(self) -> list[tuple[str, float, float]]:
        """The variants of both campaigns: the metric without faults, here and there."""
        here, there = self._here.result.clean, self._there.result.clean
        names = dict.fromkeys(each.variant for each in self.cells)
        return [(name, here[name], there[name]) for name in names]

    @property
    def settings(self) -> list[tuple[str, str, str]]:
        """What differs: its name, here and there. Only what both stores have is compared."""
        here, there = _settings(self._here), _settings(self._there)
        if here["encoding"] != there["encoding"]:
            # A digest is that of the stored form, so that the same model has two.
            here = {name: text for name, text in here.items() if not name.startswith(_MODEL_OF)}
        pairs = [(name, here[name], there[name]) for name in here if name in there]
        return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]

    def figure(self, family: Family) -> Figure | None:
        """The metric of both campaigns under a family of faults; None where a line would have one
        point."""
        mine = [each for each in self.cells if each.fault in family.faults]
        if len({family.axis.of(each.here) for each in mine if each.ber > 0}) < 2:
            return None
        lines = [each.here for each in mine]
        lines += [replace(each.there, variant=f"{each.variant}, {self.name}") for each in mine]
        here = self._here
        return accuracy_figure(lines, here.run.confidence, here.units, family.axis)


def _metric(result: Result) -> tuple[object, ...]:
    spec = result.spec
    return spec.metric, spec.lowest, spec.highest, spec.is_better_higher


def _settings(analysis: Analysis) -> Mapping[str, str]:
    """What determines the numbers of a campaign, as text."""
    spec, experiment = analysis.run, experiment_of(analysis.run)
    recipes = experiment.get("variants")
    values: dict[str, object] = {
        **{name: experiment[name] for name in ("model", "data") if name in experiment},
        "images (digest)": str(spec.facts.get("data"))[:12],
        "encoding": spec.encoding,
        "seed": spec.seed,
        "margin": spec.margin,
        "margin as a share of the loss": spec.relative_margin,
        "trials": spec.trials,
        "confidence": spec.confidence,
        "evaluation images": spec.images,
        "images per trial": spec.images_per_trial or "all",
        **{name: spec.facts.get(name) for name in ("state", "on_error", "forward", "output")},
        **{name: analysis.environment.get(name) for name in ("proact", "torch", "processor")},
    }
    for variant in spec.variants:
        values[f"{_MODEL_OF}{variant.name}"] = f"{variant.model_class} {variant.digest[:12]}"
        if isinstance(recipes, Mapping) and variant.name in recipes:
            values[f"method of {variant.name}"] = recipe_described(recipes[variant.name])
    return {name: str(value) for name, value in values.items()}
