"""What is tuned, a campaign's task, and the tuning: a policy with its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from proact.campaign.clean_results import CleanResults
from proact.campaign.measurement import Measurement
from proact.campaign.options import RunOptions
from proact.campaign.trial_runner import TrialRunner
from proact.errors import ProactError
from proact.faults import Fault, Injector
from proact.results.policy import Policy
from proact.results.run_log import facts_digest
from proact.results.statistics import TrialCost, trials_for_margin
from proact.results.stored_json import made_from, stored


@stored
@dataclass(frozen=True)
class Tuning:
    """A policy and the measurements that led to it.

    Attributes:
        policy: applies to all trials of a task.
        cost: measured cost of a trial of the first variant, in seconds.
        seconds: median durations in seconds: of a forward pass, by layout and batch size, and of a
            trial, by the number of trials in one pass.
        expected: the number of trials that the pilot expects a cell to need, for successive groups
            of cells in the order of variants, then faults; empty without a pilot.
    """

    policy: Policy
    cost: TrialCost
    seconds: dict[str, float]
    expected: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the tuning as values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(made: dict[str, Any]) -> Tuning:
        tuning = made_from(Tuning, made, "the tuning in the store")
        images, batch = tuning.policy.images, tuning.policy.batch
        if batch < 1 or (images is not None and images < 1):
            raise ProactError(
                f"the tuning in the store has {images} images per trial and batches of {batch}, "
                "expected at least 1 of each"
            )
        if tuning.policy.trials_at_once < 1:
            raise ProactError(
                f"the tuning in the store has {tuning.policy.trials_at_once} trials at once, "
                "expected at least 1"
            )
        return tuning


@dataclass(frozen=True)
class Task:
    """The task that `tune` measures.

    Attributes:
        facts: the identity of the task without its policy.
        baseline_digest: digest of the first variant. Costs are measured on this model, so another
            model in the same store gets its own tuning.
        injectors: one per variant.
        measurement: the evaluation samples and the metric.
        faults: the faults of the campaign; the first one is used to measure costs.
    """

    facts: Mapping[str, Any]
    baseline_digest: str
    injectors: Sequence[Injector]
    measurement: Measurement
    faults: Sequence[Fault]

    @property
    def digest(self) -> str:
        return facts_digest({**self.facts, "baseline": self.baseline_digest})

    def pilot_runner(
        self, variant: int, clean: CleanResults, policy: Policy, seed: int
    ) -> TrialRunner:
        """A runner of a variant's trials that are not stored, one by one."""
        injector = self.injectors[variant]
        return TrialRunner(
            injector.model,
            injector.encoding,
            self.measurement,
            clean,
            replace(policy, trials_at_once=1),
            seed,
            prefix_cache=False,
        )

    def trials(self, options: RunOptions) -> int:
        """The number of trials of all cells, or a guess if a margin decides."""
        metric = self.measurement.metric
        each = options.trials or 1 << 32
        if options.margin_or_default is not None:
            width = metric.highest - metric.lowest
            margin = options.margin_for_planning(width)
            # A guess between the trials of an intact cell and those of a fully degraded one.
            needed = trials_for_margin(min(margin / width, 1.0), options.confidence) // 4
            each = min(each, needed)
        return each * len(self.injectors) * len(self.faults)
