"""The result of a campaign or a sweep, read from its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from proact.errors import ProactError, unknown
from proact.options import at_least_0, named
from proact.results.cell_reader import CellReader
from proact.results.cell_states import States, states_of, summary
from proact.results.cells import CellDetails, CellResult, CellState
from proact.results.difference import Difference
from proact.results.failure_rate import FailureRate, MemoryConditions, failure_rates
from proact.results.findings import finding_sentences
from proact.results.policy import Policy
from proact.results.rendering import renderer
from proact.results.run_log import RunSpec, WorkSession, logged_runs
from proact.results.statistics import Interval, stratified_mean
from proact.results.statistics.interval import checked_confidence
from proact.results.store import Row, Store
from proact.results.store_check import check_store, opened_again
from proact.results.stored_trials import trials_of
from proact.results.stratum import Stratum, joined, stratum, sweep_confidence
from proact.results.worst_case import WorstCase, worst_cases_in
from proact.text import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True)
class Result:
    """A run that a store holds, finished or not: what `proact.campaign.run` returns, and what
    `read` finds in a store.

    It holds no rows but reads them from the store when they are needed. Faults are given as objects
    or as text (``str(fault)``); results by fault have the text as their key.

    Attributes:
        number: of the run in its store.
        spec: the specification, and the knowledge before the first trial (`RunSpec`).
        sessions: a `WorkSession` for each time that a process worked on it.
    """

    number: int
    spec: RunSpec
    sessions: Sequence[WorkSession]
    _store: Store = field(repr=False)

    @property
    def clean(self) -> Mapping[str, float]:
        """The metric of each variant without faults, by name, after rounding to the encoding, on
        all images."""
        return {variant.name: variant.clean for variant in self.spec.variants}

    @property
    def findings(self) -> list[str]:
        """Findings of the checks before the first trial, as sentences; mostly empty."""
        return finding_sentences(self.spec.notes)

    @property
    def worst_cases(self) -> Mapping[str, WorstCase]:
        """The worst case of each variant; empty without the option ``worst_flips``."""
        return worst_cases_in(self.spec.notes)

    @property
    def metric(self) -> str:
        """The name of the quantity that cells average."""
        return self.spec.metric

    @property
    def confidence(self) -> float:
        """The two-sided confidence level of every interval."""
        return self.spec.confidence

    @property
    def images_per_trial(self) -> int | None:
        """The number of images on which a trial was judged; None: all of them."""
        return self.spec.images_per_trial

    @property
    def policy(self) -> Policy:
        """How the trials were run. Give it to another run to repeat this one to the last digit."""
        return Policy(**self.spec.facts["policy"])

    @cached_property
    def states(self) -> Mapping[tuple[str, str], CellState]:
        """How far each (variant, fault) is; variants together, in the order in which they were
        given. Where a cell stops follows from its rows, so that an interrupted run can tell which
        of its cells are finished. A cell with strata has the trials of all of them."""
        return {names: summary(states) for names, states in self._strata_states.items()}

    @cached_property
    def _strata_states(self) -> States:
        with opened_again(self._store) as store:
            return states_of(store, self.spec)

    @property
    def is_finished(self) -> bool:
        """Whether every cell has all trials that it needs."""
        return all(state.is_finished for state in self.states.values())

    @cached_property
    def cells(self) -> list[CellResult]:
        """One `CellResult` per variant and fault, variants together. A cell without trials holds
        the prior knowledge: the clean result, with the whole range as interval."""
        with opened_again(self._store) as store:
            reader = CellReader(store, self.spec)
            return [reader.result(states) for states in self._strata_states.values()]

    def cell(self, variant: str, fault: object) -> CellResult:
        """The cell of a variant and a fault.

        Raises:
            ValueError: there is no such cell.
        """
        found = dict(zip(self.states, self.cells, strict=True))
        return found[self._key(variant, fault)]

    def rows(self, variant: str, fault: object, stratum: str | None = None) -> Sequence[Row]:
        """The trials of a cell by number, as many as its result uses.

        Args:
            variant, fault: of the cell.
            stratum: whose trials, by the names in `CellResult.strata`; strata number their trials
                separately, and their rows must not be averaged without the strata's weights.

        Raises:
            ValueError: no such cell or stratum; a cell with strata and none is named.
        """
        states = self._strata_states[self._key(variant, fault)]
        named = {
            None if state.spec.stratum is None else state.spec.stratum.name: state
            for state in states
        }
        if stratum not in named:
            if stratum is None:
                raise ValueError(
                    f"the trials of {label(variant)} under {label(fault)} were drawn in strata: "
                    f"name one of {', '.join(map(str, named))}"
                )
            raise unknown("stratum", stratum, [str(name) for name in named])
        with opened_again(self._store) as store:
            return store.rows(named[stratum].spec.key, named[stratum].target)

    def values(self, variant: str, fault: object) -> list[tuple[float, float]]:
        """The distribution of the metric over a cell's fault patterns: values of trials, each with
        its share of them. Strata are weighted, and patterns without a flip have the clean value."""
        states = self._strata_states[self._key(variant, fault)]
        with opened_again(self._store) as store:
            return CellReader(store, self.spec).values(states)

    def details(
        self, limit: float = 0.05, quantiles: Sequence[float] = (0.05, 0.5)
    ) -> dict[tuple[str, str], CellDetails]:
        """Further statistics of each (variant, fault) that has trials.

        Args:
            limit: a trial that loses more of the metric than this, against the same variant
                without faults on the same images, is critical; in the metric's unit (0.05 is 5
                points of accuracy), at least 0.
            quantiles: levels in (0, 1) of a trial's value. With few images per trial they include
                the variation of the drawn images: run with ``images_per_trial="all"`` for the
                quantiles of fault patterns.

        Raises:
            ValueError, TypeError: a limit or a level out of range, or not a number.
        """
        named("limit", at_least_0)(limit)
        with opened_again(self._store) as store:
            reader = CellReader(store, self.spec)
            return {
                names: reader.details(states, limit, quantiles)
                for names, states in self._strata_states.items()
                if any(state.target for state in states)
            }

    def difference(self, variant: str, baseline: str) -> dict[str, Interval]:
        """By fault, the mean gain of ``variant`` over ``baseline`` on the same faults and images,
        in the metric's unit, with its paired interval. It uses the trials that both cells use. A
        difference to the first variant may use further trials, up to its own margin. Faults without
        such trials are left out.

        Raises:
            ValueError: there is no such variant.
        """
        with opened_again(self._store) as store:
            found = self._differences(store, variant, baseline)
            return {fault: difference.interval() for fault, difference in found.items()}

    def pairs(self, variant: str, baseline: str) -> dict[str, int]:
        """By fault, the number of trials that `difference` pairs; failed ones count."""
        with opened_again(self._store) as store:
            found = self._differences(store, variant, baseline)
        return {fault: difference.pairs for fault, difference in found.items()}

    def _differences(self, store: Store, variant: str, baseline: str) -> dict[str, Difference]:
        for name in (variant, baseline):
            if name not in self.clean:
                raise unknown("variant", name, self.clean)
        found = {}
        for (name, fault), mine in self._strata_states.items():
            theirs = self._strata_states[baseline, fault]
            if name == variant and all(state.target for state in (*mine, *theirs)):
                is_first = baseline == self.spec.variants[0].name
                counts = self.spec.paired.get(variant, {}).get(fault) if is_first else None
                found[fault] = Difference(store, self.spec, mine, theirs, counts)
        return found

    def failure_rate(
        self, fit_per_mbit: float, reload_hours: float, critical: float = 0.05
    ) -> dict[str, FailureRate]:
        """Critical failures in 1e9 hours of each variant's stored parameters.

        Upsets add up from one reload of the parameters (or a scrub of every word) to the next. A
        period fails if the model is critical at its end, so that the rate of failures is the
        probability of a critical trial at that bit error rate, divided by the time of a period.

        Args:
            fit_per_mbit: the raw rate of upsets in 1e9 hours and 2^20 bits, above 0.
            reload_hours: the time between two reloads in hours, above 0.
            critical: a model that loses more of the metric than this is critical, in the metric's
                unit; above 0.

        Returns:
            By variant, the rate with its interval. It is read from the `proact.faults.BitFlip` cell
            whose rate differs by at most 1 % from `proact.results.bit_error_rate`. Without one, it
            is read from the cell of ``ExactFlips(1)``: the upper end of the interval then counts
            two upsets or more in a period as critical.

        Raises:
            ValueError, TypeError: an argument is not above 0, or the campaign has neither of these
                cells; the message names the rate to measure.
        """
        return failure_rates(self, fit_per_mbit, reload_hours, critical)

    @cached_property
    def strata(self) -> list[Stratum]:
        """The parts of a sweep, in the model's order or from bit 0.

        Raises:
            ValueError: of a campaign, which has no strata.
        """
        spec, parts = self.spec, []
        if spec.kind == "campaign":
            raise ValueError(
                "only per_layer and per_bit have these strata; those of a campaign are in "
                "CellResult.strata"
            )
        confidence = sweep_confidence(spec.margin, spec.confidence)
        with opened_again(self._store) as store:
            for cell in spec.cells:
                assert cell.part is not None
                assert cell.share is not None
                prior = spec.prior(cell)
                (state,) = self._strata_states[cell.variant, cell.fault]
                trials = trials_of(store, cell.key, state.target, prior)
                parts.append(
                    stratum(cell.part, cell.share, trials, prior, confidence, spec.is_better_higher)
                )
        return parts

    @property
    def fields(self) -> list[Stratum]:
        """Of a sweep over bits: one stratum for each field of a word, such as ``exponent`` or
        ``int8 sign``, in the order of their lowest bits. Bits without a field stay alone.

        Raises:
            ValueError: of a campaign or a sweep over layers, which have no bits.
        """
        if self.spec.kind != "bit":
            raise ValueError("only per_bit has fields")
        parts: dict[str, list[Stratum]] = {}
        for cell, part in zip(self.spec.cells, self.strata, strict=True):
            *word, bit = part.name.split(" ")
            parts.setdefault(" ".join([*word, cell.field or bit]), []).append(part)
        return [joined(name, mine) for name, mine in parts.items()]

    @property
    def whole(self) -> Interval:
        """Of a sweep: the mean of the metric when the fault hits the parts in proportion to their
        bits. Raises what `strata` does."""
        return stratified_mean(
            [part.share for part in self.strata], [part.value for part in self.strata]
        )

    def at_confidence(self, confidence: float) -> Result:
        """The same trials with intervals of another two-sided confidence, in (0, 1).

        Where cells stop stays as it is, so that intervals of a higher confidence are wider than the
        margin. Coverage is measured up to 99.9 % (docs/statistics.md).

        Raises:
            ValueError: a confidence out of range.
        """
        spec = replace(
            self.spec,
            confidence=checked_confidence(confidence),
            rule_confidence=self.spec.rule_confidence or self.spec.confidence,
        )
        other = replace(self, spec=spec)
        other.__dict__["_strata_states"] = self._strata_states  # the cached property
        return other

    @property
    def place(self) -> str:
        """Where the run is stored: ``run 2 of runs/mine/rows.sqlite``, or ``run 1 in memory``."""
        path = self._store.path
        return f"run {self.number} " + ("in memory" if path is None else f"of {path}")

    def failures(self) -> dict[tuple[str, str], list[tuple[int, str]]]:
        """(trial, reason) of the failed trials, by cell, of the cells that have some."""
        with opened_again(self._store) as store:
            found = {
                names: [
                    failure
                    for state in states
                    for failure in store.failures(state.spec.key, state.target)
                ]
                for names, states in self._strata_states.items()
            }
        return {names: failed for names, failed in found.items() if failed}

    def to_pandas(self, with_details: bool = False) -> pd.DataFrame:
        """One row per cell (of a sweep: per stratum).

        The columns of a campaign: ``variant``, ``fault``, ``ber`` (per exposed bit), ``accuracy``
        (named like the metric, if it is another; ``sdc (metric)`` for ``sdc``) with the ends of its
        interval ``low`` and ``high``, ``sdc`` with ``sdc_low`` and ``sdc_high``, ``clean``,
        ``trials``, ``failed``, ``flips``, ``non_finite`` and ``raised``: see `CellResult`. The
        columns of a sweep: ``layer`` or ``bit``, ``share``, ``value`` with ``low`` and ``high``,
        ``loss`` with ``loss_low`` and ``loss_high``, and ``trials``: see `Stratum`. Accuracies and
        shares lie in [0, 1].

        Args:
            with_details: adds the columns of `details`, with its default limit and levels.
        """
        return renderer().result_frame(self, with_details)

    def table(self) -> Table:
        """A table to print with rich."""
        return renderer().result_table(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The metric over BER with interval bands: one line per variant, or per variant and kind of
        fault where there are several kinds.

        Args:
            path: where the figure is written too; the ending (.png, .svg, .pdf) decides the format.
                An existing file is replaced. None writes no file.

        Returns:
            A figure of matplotlib, which a notebook shows as the last expression of a cell.

        Raises:
            ValueError: an ending that stands for no format.
            ProactError: the file cannot be written.
        """
        figure = renderer().result_figure(self)
        if path is not None:
            try:
                renderer().save_figure(figure, Path(path))
            except OSError as error:
                raise ProactError(f"{path} cannot be written: {error.strerror}") from None
        return figure

    def report(
        self,
        folder: str | Path,
        baseline: str | None = None,
        limit: float | None = None,
        family_wise: bool = False,
        compare: Result | None = None,
        conditions: MemoryConditions | None = None,
    ) -> Path:
        """Writes the page ``report.html`` and its figures and tables into ``folder``.

        Args:
            baseline: the variant that the others are compared with; by default the first.
            limit: the loss against the model without faults that verdicts allow, in the metric's
                unit (0.05 is 5 points of accuracy), in (0, width of the metric's range]; by default
                5 % of the range.
            family_wise: whether all verdicts together are right with the campaign's confidence, by
                intervals with Bonferroni's correction; by default each interval has it for itself.
            compare: another campaign, which the page shows beside this one.
            conditions: of the memory in operation; the page then has a section on failures per hour
                (`failure_rate`, with ``limit`` as the loss of a critical model).

        Returns:
            The path of the page, which needs no internet connection and no other file.

        Raises:
            ValueError: there is no such variant, the limit is out of range, or the other campaign
                has another metric or no cell in common with this one.
            ProactError: the folder cannot be written.
        """
        files = renderer().write_report(
            self._store,
            Path(folder),
            baseline=baseline,
            run=self.number,
            limit=limit,
            family_wise=family_wise,
            compare=compare,
            conditions=conditions,
        )
        return files["html"]

    def _repr_html_(self) -> str:
        return renderer().result_html(self)

    def _key(self, variant: str, fault: object) -> tuple[str, str]:
        key = (variant, str(fault))
        if variant not in self.clean:
            raise unknown("variant", variant, self.clean)
        if key not in self.states:
            raise unknown("fault", str(fault), [name for _, name in self.states])
        return key


def read(store: str | Path | Store) -> list[Result]:
    """The runs that a store holds, in the order in which they were last worked on.

    Nothing is written, and no model is needed.

    Raises:
        ProactError: there is no such file, it is not a proact store or another version's, or a row
            or a key in it does not fit; the message names it.
    """
    # A campaign closes its store when it ends.
    opening = store.again() if isinstance(store, Store) else Store(store, read_only=True)
    with opening as opened:
        check_store(opened)
        return [Result(*found, opened) for found in logged_runs(opened)]


def has_unexplained_rows(store: str | Path | Store) -> bool:
    """Whether a store holds trials but no run, as stores of version 2 do."""
    opening = store.again() if isinstance(store, Store) else Store(store, read_only=True)
    with opening as opened:
        check_store(opened)
        return not logged_runs(opened) and opened.number("SELECT count(*) FROM row") > 0
