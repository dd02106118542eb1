"""The race of candidates: trials under the same faults, which drop those that are worse."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from proact.data import Split
from proact.encodings import Encoding
from proact.faults import BitFlip, encoding_report
from proact.nn.module_copy import copy_model
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.seeds import derived_seed
from proact.protect.fault_scoring import FaultScorer
from proact.protect.objective import Objective
from proact.protect.plan_candidates import bits_per_weight, decode_ns
from proact.protect.plan_options import NO_GUARD, PlanOptions
from proact.protect.plan_result import TOO_COSTLY, UNSTORABLE, Plan, PlanRow, UnmeasuredCandidate
from proact.results.statistics import Interval, Prior, Trials, confidence_at_stop, trial_mean

#: Fault patterns of the first round, and those after which only the finalists remain.
_FIRST_TRIALS, _TRIALS_BEFORE_FINAL = 8, 32
#: Encoded copies are kept between rounds while they take fewer bytes than this in all.
_KEPT_BYTES = 1 << 30


class Contender:
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


class CandidateRace:
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
        # A guard may have chosen its thresholds under the patterns of the search's seed.
        self._seed = derived_seed(options.seed, "plan")
        self._numbers = sum(stored.tensor.numel() for stored in stored_tensors(model))
        self._clean = objective.mean(copy_model(model).eval(), images)
        self._kept = 0
        self._in: list[Contender] = []
        self._out: list[Contender] = []
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
        contender = Contender(encoding, model, row, self._rates)
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
            if target >= _TRIALS_BEFORE_FINAL:
                self._drop_beyond_finalists()
            self._report(
                f"{target} fault patterns: {len(self._in)} candidates left, best "
                f"{_named(self._in[0].row)} at {100 * self._mean(self._in[0]).estimate:.2f} %"
            )
            if target == self._options.trials or self._is_narrow():
                return
            target *= 2

    def finished(self, unmeasured: tuple[UnmeasuredCandidate, ...]) -> Plan:
        """Returns the plan: the candidates that remain, best first, and those that were dropped."""
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
                self._seed,
                self._objective,
            )

    def _measure(self, contender: Contender, target: int) -> None:
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

    def _give_up(self, contender: Contender, why: str) -> None:
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

    def _rank(self, contender: Contender) -> tuple[float, float, float, float]:
        row = contender.row
        estimate = self._mean(contender).estimate
        return -round(estimate, 9), round(row.bits, 6), row.latency, row.decode_ns

    def _mean(self, contender: Contender, rate: float | None = None) -> Interval:
        values, clean = contender.at(rate)
        prior = Prior(contender.row.clean)
        return trial_mean(_as_trials(values, clean), prior, self._confidence)

    def _difference(self, contender: Contender, best: Contender) -> Interval:
        """Accuracy minus that of the best, pattern by pattern."""
        if contender is best:
            return Interval(0.0, 0.0, 0.0)
        both = min(contender.trials, best.trials)
        (mine, clean), (theirs, others) = contender.at(None, both), best.at(None, both)
        prior = Prior(contender.row.clean - best.row.clean, None, -1.0, 1.0)
        return trial_mean(_as_trials(mine - theirs, clean - others), prior, self._confidence)

    def _row(self, contender: Contender, best: Contender) -> PlanRow:
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
