"""Run several trials of one variant in one forward pass.

A pass always has the same number of fault patterns, so that its kernels are the same: an incomplete
group is filled up with copies of the model without faults. Neither the place of a trial in its
group nor the other trials of the group change its row (`proact.campaign.stacking_checks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proact.campaign.measurement import EvaluatedBatch
from proact.campaign.scoring import DetectedError, row_of, scored
from proact.campaign.stacked_model import StackedModel
from proact.campaign.stacking_checks import agrees, may_stack
from proact.faults import ActivationFlip, Fault
from proact.results.store import Row

if TYPE_CHECKING:
    from proact.campaign.trial_runner import TrialRunner

#: What a worker notes in place of a trial number while it runs several trials.
SEVERAL_TRIALS = -2


@dataclass(frozen=True, eq=False)
class _GroupedTrial:
    """A trial that has a place in the current group."""

    trial: int
    flips: int
    units: Tensor | None
    batches: Sequence[EvaluatedBatch]


class TrialGroups:
    """Runs the trials of a runner in groups of the size that its policy gives.

    Args:
        runner: whose trials they are.
    """

    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner
        #: Whether a pass of several copies gives the rows of single trials, by the names of the
        #: tensors that are copied.
        self._may_group: dict[frozenset[str], bool] = {}
        #: The names for the last fault, and the copies. Copies for other names are not kept: those
        #: for one fault can take all the memory that a group may need.
        self._names: frozenset[str] | None = None
        self._stacked: StackedModel | None = None

    def stacked_for(self, fault: Fault) -> StackedModel | None:
        """The copies of the model for a fault; None if its trials must run one by one.

        The copies are checked at the first call for the tensors that the fault can change. They are
        made again if the last call was for other tensors.
        """
        runner = self._runner
        if runner.policy.trials_at_once == 1 or isinstance(fault, ActivationFlip):
            return None
        if not (runner.measurement.fast_path and runner.measurement.inference):
            return None  # a pass of several trials does not set the modes of torch
        names = runner.injector.exposed_tensors(fault)
        if names != self._names:
            self._names, self._stacked = None, None
            if names not in self._may_group:
                self._stacked = self._checked(names)
                self._may_group[names] = self._stacked is not None
            elif self._may_group[names]:
                self._stacked = self._copies(names)
            self._names = names
        return self._stacked

    def run(
        self,
        stacked: StackedModel,
        fault: Fault,
        trials: Sequence[int],
        begin: Callable[[int], None] = lambda trial: None,
    ) -> Iterator[Row | DetectedError]:
        """Yield the row of each trial, in order, or the error that excludes the trial.

        Args:
            stacked: the copies for ``fault``.
            fault: the fault of the trials.
            trials: their numbers.
            begin: called with the number of each trial before it runs alone, and with
                `SEVERAL_TRIALS` before a pass of several trials.
        """
        waiting: list[Row | _GroupedTrial] = []
        members: list[_GroupedTrial] = []
        start = time.perf_counter()
        for trial in trials:
            begin(trial)
            if not members:
                start = time.perf_counter()
            begun = self._begun(stacked, fault, trial, members)
            waiting.append(begun)
            if isinstance(begun, _GroupedTrial):
                members.append(begun)
            if len(members) == stacked.copies:
                yield from self._ended(stacked, fault, waiting, members, begin, start)
                waiting, members = [], []
        yield from self._ended(stacked, fault, waiting, members, begin, start)

    def _begun(
        self, stacked: StackedModel, fault: Fault, trial: int, members: Sequence[_GroupedTrial]
    ) -> Row | _GroupedTrial:
        """Give a trial's faults to the next copy; the trial's row if it changes nothing."""
        runner = self._runner
        units = runner.units(fault, trial)
        with runner.injector.trial(fault, runner.seed, trial) as record, torch.inference_mode():
            if not record.changed:
                score = runner.clean_score(units, runner.clean.at(units))
                return row_of(trial, record.flips, score, 0.0)
            stacked.put(len(members), record.changed)
            flips = record.flips
        is_same = units is None and members
        return _GroupedTrial(
            trial, flips, units, members[0].batches if is_same else runner.batches(units)
        )

    def _ended(
        self,
        stacked: StackedModel,
        fault: Fault,
        waiting: Sequence[Row | _GroupedTrial],
        members: Sequence[_GroupedTrial],
        begin: Callable[[int], None],
        start: float,
    ) -> Iterator[Row | DetectedError]:
        """Yield the rows of a group, and those of trials among them that change nothing."""
        outputs: list[Tensor] | None = []
        if members:
            begin(members[0].trial if len(members) == 1 else SEVERAL_TRIALS)
            try:
                outputs = self._outputs(stacked, members)
            finally:
                stacked.clear()
        seconds = (time.perf_counter() - start) / max(len(members), 1)
        place = 0
        for each in waiting:
            if isinstance(each, Row):
                yield each
                continue
            begin(each.trial)
            if outputs is not None:
                yield self._row(each, [output[place] for output in outputs], seconds)
            elif len(members) > 1:
                # One of them raises. Each runs alone, so that no row depends on the others.
                yield from self.run(stacked, fault, [each.trial], begin)
            else:
                yield self._runner.run_single(fault, each.trial)
            place += 1

    def _outputs(
        self, stacked: StackedModel, members: Sequence[_GroupedTrial]
    ) -> list[Tensor] | None:
        """The outputs (copies, ...) of each batch; None if the pass raises an error."""
        is_shared = self._runner.policy.images is None
        # Every place needs images; those of places without a trial count for nothing.
        filled = [*members, *[members[0]] * (stacked.copies - len(members))]
        outputs = []
        try:
            with torch.inference_mode():
                for number, batch in enumerate(members[0].batches):
                    if is_shared:
                        inputs = batch.inputs.clone()
                    else:
                        inputs = torch.stack([each.batches[number].inputs for each in filled])
                    outputs.append(stacked.outputs(inputs, is_shared))
        except (MemoryError, torch.OutOfMemoryError):
            raise  # the machine is too small; that is no answer of the model
        except Exception:
            return None
        return outputs

    def _row(self, member: _GroupedTrial, outputs: Sequence[Tensor], seconds: float) -> Row:
        runner, start = self._runner, time.perf_counter()
        clean = runner.clean.at(member.units)
        with torch.inference_mode():
            # Copies, so that the memory of a score does not depend on the place.
            mine = [output.clone(memory_format=torch.contiguous_format) for output in outputs]
            pairs = zip(member.batches, mine, strict=True)
            value = runner.clean_value(member.units, clean)
            score, _ = scored(runner.measurement, pairs, clean, value)
        return row_of(member.trial, member.flips, score, seconds + time.perf_counter() - start)

    def _copies(self, names: frozenset[str]) -> StackedModel:
        runner = self._runner
        return StackedModel(
            runner.model, names, runner.policy.trials_at_once, runner.measurement.selected
        )

    def _checked(self, names: frozenset[str]) -> StackedModel | None:
        runner = self._runner
        model, measurement, policy = runner.model, runner.measurement, runner.policy
        if not may_stack(model, measurement, names):
            return None
        is_shared = policy.images is None
        units = None if policy.images is None else torch.arange(policy.images)
        device = measurement.data.device
        batches = runner.batches(None if units is None else units.to(device))
        shapes = {tuple(batch.inputs.shape): batch.inputs for batch in batches}
        stacked = self._copies(names)
        alike = agrees(stacked, model, measurement, list(shapes.values()), is_shared)
        return stacked if alike else None
