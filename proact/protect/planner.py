"""`plan`: compares encodings with guards under faults, within a memory budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proact.data import Data, Split
from proact.data.dataset import SamplesOrData, as_data
from proact.data.reading import Collate
from proact.encodings import Encoding
from proact.faults import BitFlip, encoding_report
from proact.faults.mixed_encoding import MixedEncoding, checked_encoding
from proact.nn.batches import Batch, tensors_in
from proact.nn.forward import Forward, OutputSelector
from proact.nn.module_copy import copy_model
from proact.nn.tensor_inventory import stored_tensors
from proact.protect.fault_scoring import FaultScorer
from proact.protect.interface import protect
from proact.protect.objective import Objective, SampleMetric
from proact.protect.plan_candidates import bits_per_weight, decode_ns, default_encodings
from proact.protect.plan_options import NO_GUARD, PlanOptions
from proact.protect.plan_result import (
    OVER_BUDGET,
    TOO_COSTLY,
    UNSTORABLE,
    Plan,
    PlanRow,
    UnmeasuredCandidate,
)
from proact.protect.protection_cost import latency_ratio
from proact.results.statistics import Interval, Prior, Trials, confidence_at_stop, trial_mean
from proact.text import short_repr

_FIRST_TRIALS, _HEATS = 8, 32
#: Encoded copies are kept between rounds while they take fewer bytes than this in all.
_KEPT_BYTES = 1 << 30
_TIMED_IMAGES = 100


def plan(
    model: nn.Module,
    data: SamplesOrData,
    *,
    variants: Mapping[str, nn.Module] | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
    metric: SampleMetric | None = None,
    collate: Collate | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Plan:
    """Finds the encoding and guard that keep the most accuracy within a memory budget.

    Every candidate is an encoding (a format, possibly with a code) with a guard. All candidates
    meet the same fault patterns on the same validation images; no test image is used. Candidates
    are dropped when they do not fit the budget, when they cost more clean accuracy than
    ``tolerance``, or when the paired interval of their difference to the best lies below 0. After
    32 fault patterns, the ``finalists`` with the highest accuracy remain. They get further patterns
    until all intervals are as narrow as ``margin``. The plan lists every dropped candidate with the
    reason.

    Args:
        model: a trained model on the CPU; it is not changed.
        data: the result of `proact.data.load`; or samples with targets in one of the forms of
            `proact.data.as_split`, a fifth of which is then used for validation.
        variants: further protected versions of ``model`` by name, compared like guards.
        forward, output, metric, collate: as for `proact.protect.protect`.
        progress: called with a line of text at each step.
        options: the fields of `proact.protect.plan_options.PlanOptions`: ``ber``, ``bits``,
            ``candidates``, ``guards``, ``tolerance``, ``margin``, ``trials``, ``finalists``,
            ``images_per_trial``, ``confidence``, ``seed``.

    Raises:
        ValueError, TypeError: an option out of range, a budget below every candidate, a tolerance
            that no candidate meets, or unsuitable data.
    """
    chosen = PlanOptions(**options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"plan takes a torch.nn.Module, got {type(model).__name__}")
    samples = as_data(data, collate=collate)
    objective = Objective(Forward(forward, output), None, metric)
    objective.check(model, samples.validation, "plan", trains=False)
    timed = next(samples.validation.batches(_TIMED_IMAGES))[0]
    _refuse_varying(model, timed, objective.forward)
    report = progress or _ignore
    unmeasured: list[UnmeasuredCandidate] = []
    encodings = _within_budget(model, chosen, unmeasured)
    guarded = _guarded(model, samples, variants or {}, chosen, forward, output, report)
    race = _Race(model, samples.validation, chosen, objective, report)
    latency = {
        name: 1.0 if each is model else latency_ratio(each, model, timed, forward=forward)
        for name, each in guarded.items()
    }
    for encoding in encodings:
        if isinstance(encoding, MixedEncoding):
            encoding.refuse_unused(map(stored_tensors, guarded.values()))
        for name, each in guarded.items():
            refused = race.admit(encoding, name, each, latency[name])
            if refused is not None:
                unmeasured.append(refused)
    if race.is_empty:
        raise ValueError(_nothing_left(unmeasured, chosen))
    race.run()
    return race.finished(tuple(unmeasured))


def _within_budget(
    model: nn.Module, options: PlanOptions, unmeasured: list[UnmeasuredCandidate]
) -> list[Encoding]:
    """The encodings whose stored weights fit the budget; the others join ``unmeasured``."""
    given = options.candidates
    found: list[Encoding] = []
    smallest: float | None = None
    for each in default_encodings(model) if given is None else given:
        encoding = checked_encoding(each)
        try:
            bits = bits_per_weight(model, encoding)
        except (TypeError, ValueError) as error:
            unmeasured.append(UnmeasuredCandidate(encoding.name, "", UNSTORABLE, str(error)))
            continue
        if encoding in found:
            continue
        smallest = bits if smallest is None else min(smallest, bits)
        if bits > options.bits + 1e-9:
            reason = f"{bits:.4g} bits a weight exceed the budget of {options.bits:g}"
            unmeasured.append(UnmeasuredCandidate(encoding.name, "", OVER_BUDGET, reason))
        else:
            found.append(encoding)
    if not found:
        if smallest is None:
            raise ValueError(f"no candidate can store the model: {unmeasured[0].reason}")
        raise ValueError(
            f"bits: expected a budget of at least {smallest:.4g} bits a weight, the least that a "
            f"candidate takes, got {options.bits:g}"
        )
    return found


def _guarded(
    model: nn.Module,
    data: Data,
    variants: Mapping[str, nn.Module],
    options: PlanOptions,
    forward: Callable[[nn.Module, Batch], Any] | None,
    output: OutputSelector | None,
    report: Callable[[str], None],
) -> dict[str, nn.Module]:
    """The model with each guard, and the given variants, by name."""
    found: dict[str, nn.Module] = {}
    for name in dict.fromkeys(options.guards):
        found[name] = (
            model
            if name == NO_GUARD
            else protect(model, name, data, forward=forward, output=output, progress=report)
        )
    for name, variant in variants.items():
        if name in found:
            raise ValueError(f"variants: the name {short_repr(name)} is that of a guard")
        if not isinstance(variant, nn.Module):
            raise TypeError(
                f"variants: expected a torch.nn.Module for {short_repr(name)}, got "
                f"{type(variant).__name__}"
            )
        found[name] = variant
    return found


def _refuse_varying(model: nn.Module, inputs: Batch, forward: Forward) -> None:
    """ValueError if a model gives two outputs for the same inputs, as random ones do."""
    working = copy_model(model).eval()
    with torch.no_grad():
        first, second = (tensors_in(forward.raw(working, inputs)) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            if not torch.allclose(one.double(), other.double(), equal_nan=True):
                raise ValueError(
                    f"{type(model).__name__} gives different outputs for the same inputs, because "
                    "they are random or depend on earlier calls, so that candidates cannot be "
                    "compared: make them a function of the inputs"
                )


def _nothing_left(unmeasured: Sequence[UnmeasuredCandidate], options: PlanOptions) -> str:
    """The message that no candidate can be measured, with the reason."""
    if any(each.kind == TOO_COSTLY for each in unmeasured):
        return (
            f"no candidate keeps the clean accuracy within the tolerance of {options.tolerance:g}: "
            "raise the tolerance or the budget"
        )
    why = next(each for each in unmeasured if each.kind == UNSTORABLE)
    guard = f" with {why.guard}" if why.guard not in ("", NO_GUARD) else ""
    return f"no candidate can be measured; {why.encoding}{guard}: {why.reason}"


class _Contender:
    """A candidate in the race: its measurements so far.

    Attributes:
        row: what is known of it; intervals are filled in at the end.
        values, clean: the metric of each trial, by rate: with faults, and without on the same
            images.
    """

    def __init__(
        self, encoding: Encoding, model: nn.Module, row: PlanRow, rates: Sequence[float]
    ) -> None:
        self.encoding, self.model, self.row = encoding, model, row
        self.values: dict[float, list[float]] = {rate: [] for rate in rates}
        self.clean: list[float] = []
        self.clean_values: Tensor | None = None
        self.scorer: FaultScorer | None = None

    @property
    def trials(self) -> int:
        return len(self.clean)

    def at(self, rate: float | None, trials: int | None = None) -> tuple[Any, Any]:
        """The first ``trials`` values at a rate (None: averaged over rates), and the clean ones."""
        by_rate = [self.values[rate]] if rate is not None else list(self.values.values())
        return np.mean(by_rate, axis=0)[:trials], np.array(self.clean[:trials])


class _Race:
    """Measures candidates under the same faults and drops those that are worse than the best."""

    def __init__(
        self,
        model: nn.Module,
        images: Split,
        options: PlanOptions,
        objective: Objective,
        report: Callable[[str], None],
    ) -> None:
        self._options, self._images, self._objective = options, images, objective
        self._model, self._report = model, report
        self._rates = options.rates
        self._numbers = sum(stored.tensor.numel() for stored in stored_tensors(model))
        self._clean = objective.mean(copy_model(model).eval(), images)
        self._kept = 0
        self._in: list[_Contender] = []
        self._out: list[_Contender] = []
        self._confidence = confidence_at_stop(options.confidence)

    def admit(
        self, encoding: Encoding, guard: str, model: nn.Module, latency: float
    ) -> UnmeasuredCandidate | None:
        """Adds a candidate; returns why it was dropped at once, or None."""
        try:
            found = encoding_report(model, encoding)
            scorer = self._scorer(encoding, model)
        except (TypeError, ValueError) as error:
            return UnmeasuredCandidate(encoding.name, guard, UNSTORABLE, str(error))
        clean_values = scorer.clean_values()
        clean = float(clean_values.mean())
        if self._clean - clean > self._options.tolerance:
            reason = (
                f"clean accuracy falls by {100 * (self._clean - clean):.2f} points, more than the "
                f"tolerance of {100 * self._options.tolerance:g}"
            )
            return UnmeasuredCandidate(encoding.name, guard, TOO_COSTLY, reason)
        nothing = Interval(clean, 0.0, 1.0)
        row = PlanRow(
            encoding.name,
            guard,
            nothing,
            {},
            nothing,
            0,
            clean,
            self._clean - clean,
            found.saturated,
            bits_per_weight(self._model, encoding),
            sum(loss.bits for loss in found.tensors) / self._numbers,
            decode_ns(self._model, encoding),
            latency,
        )
        contender = _Contender(encoding, model, row, self._rates)
        contender.clean_values = clean_values
        self._kept += sum(
            stored.tensor.numel() * stored.tensor.element_size() for stored in stored_tensors(model)
        )
        contender.scorer = scorer if self._kept <= _KEPT_BYTES else None
        self._in.append(contender)
        return None

    @property
    def is_empty(self) -> bool:
        """Whether no candidate was admitted."""
        return not self._in

    def run(self) -> None:
        """Runs rounds of trials until the intervals are narrow enough or the trials are used up."""
        target = _FIRST_TRIALS
        while True:
            target = min(target, self._options.trials)
            for contender in self._in:
                self._measure(contender, target)
            self._drop_worse()
            if target >= _HEATS:
                self._drop_beyond_finalists()
            self._report(
                f"{target} fault patterns: {len(self._in)} candidates left, best "
                f"{_named(self._in[0].row)} at {100 * self._mean(self._in[0]).estimate:.2f} %"
            )
            if target == self._options.trials or self._is_narrow():
                return
            target *= 2

    def finished(self, unmeasured: tuple[UnmeasuredCandidate, ...]) -> Plan:
        best = self._in[0]
        return Plan(
            tuple(self._row(each, best) for each in self._in),
            tuple(self._row(each, best) for each in sorted(self._out, key=self._rank)),
            unmeasured,
            self._rates,
            self._options.bits,
            self._clean,
            min(self._options.images_per_trial, len(self._images)),
            self._options.confidence,
            self._options.margin,
            self._is_narrow(),
        )

    def _scorer(self, encoding: Encoding, model: nn.Module) -> FaultScorer:
        with warnings.catch_warnings():
            # The plan states the number of saturated parameters.
            warnings.filterwarnings("ignore", message=".* and were saturated", category=UserWarning)
            return FaultScorer(
                model,
                encoding,
                self._images,
                self._options.trials,
                self._options.images_per_trial,
                self._options.seed,
                self._objective,
            )

    def _measure(self, contender: _Contender, target: int) -> None:
        scorer = contender.scorer or self._scorer(contender.encoding, contender.model)
        assert contender.clean_values is not None
        for trial in range(contender.trials, target):
            clean = 0.0
            for rate in self._rates:
                value, clean = scorer.trial(BitFlip(rate), trial, contender.clean_values)
                contender.values[rate].append(value)
            contender.clean.append(clean)

    def _drop_worse(self) -> None:
        """Orders the candidates, best first, and drops those that are shown to be worse."""
        self._in.sort(key=self._rank)
        best, remaining = self._in[0], []
        for contender in self._in:
            if contender is not best and self._difference(contender, best).high < 0.0:
                self._give_up(contender, "worse than the best")
            else:
                remaining.append(contender)
        self._in = remaining

    def _drop_beyond_finalists(self) -> None:
        finalists = self._options.finalists
        for contender in self._in[finalists:]:
            self._give_up(contender, f"not among the {finalists} best")
        del self._in[finalists:]

    def _give_up(self, contender: _Contender, why: str) -> None:
        reason = f"{why} after {contender.trials} fault patterns"
        contender.row = replace(contender.row, dropped=reason)
        contender.scorer = None
        self._out.append(contender)

    def _is_narrow(self) -> bool:
        margin, best = self._options.margin, self._in[0]
        return all(
            max(self._mean(each).half_width, self._difference(each, best).half_width) <= margin
            for each in self._in
        )

    def _rank(self, contender: _Contender) -> tuple[float, float, float, float]:
        row = contender.row
        estimate = self._mean(contender).estimate
        return -round(estimate, 9), round(row.bits, 6), row.latency, row.decode_ns

    def _mean(self, contender: _Contender, rate: float | None = None) -> Interval:
        values, clean = contender.at(rate)
        prior = Prior(contender.row.clean)
        return trial_mean(_as_trials(values, clean), prior, self._confidence)

    def _difference(self, contender: _Contender, best: _Contender) -> Interval:
        """Accuracy minus that of the best, pattern by pattern."""
        if contender is best:
            return Interval(0.0, 0.0, 0.0)
        both = min(contender.trials, best.trials)
        (mine, clean), (theirs, others) = contender.at(None, both), best.at(None, both)
        prior = Prior(contender.row.clean - best.row.clean, None, -1.0, 1.0)
        return trial_mean(_as_trials(mine - theirs, clean - others), prior, self._confidence)

    def _row(self, contender: _Contender, best: _Contender) -> PlanRow:
        return replace(
            contender.row,
            accuracy=self._mean(contender),
            by_ber={rate: self._mean(contender, rate) for rate in self._rates},
            difference=self._difference(contender, best),
            trials=contender.trials,
        )


def _as_trials(values: Any, clean: Any) -> Trials:
    return Trials(values, clean, np.ones(len(values)))


def _named(row: PlanRow) -> str:
    return row.encoding if row.guard == NO_GUARD else f"{row.encoding} with {row.guard}"


def _ignore(line: str) -> None:
    """Discards a line of progress."""
