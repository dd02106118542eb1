"""Plan a campaign in its store: the policy, the strata, the worst cases and the cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from proact.campaign.autotune import group_size, tune
from proact.campaign.checked_models import CheckedModels
from proact.campaign.clean_results import CleanResults
from proact.campaign.coordinator import ATTEMPTS
from proact.campaign.identity import task_facts, with_policy
from proact.campaign.jobs import Job
from proact.campaign.options import RunOptions
from proact.campaign.registration import check_name, register_variants
from proact.campaign.run_metadata import SweepParts, cell_spec, memory_of
from proact.campaign.strata import planned_faults
from proact.campaign.tuning import Task, Tuning
from proact.campaign.worst_cases import worst_cases
from proact.data.dataset import SamplesOrData
from proact.faults import Fault
from proact.limits import TRIALS
from proact.models.code_digest import ModelDigest
from proact.results.cells import CellState
from proact.results.interval_set import IntervalSet
from proact.results.run_log import RunSpec, Variant
from proact.results.store import CellKey, Store


class CampaignPlan:
    """What a campaign will run. The constructor measures what is missing in the store.

    Attributes:
        tuning: the policy of the trials, and the measurements that led to it.
        cells: the state of each cell, by the positions (variant, fault of the job); strata of one
            cell stand together.
        spec: the description of the run that the store keeps.
        job: the data that workers need. Its faults are those of the campaign, or strata of them.
    """

    def __init__(
        self,
        store: Store,
        checked: CheckedModels,
        data: SamplesOrData,
        faults: Sequence[Fault],
        options: RunOptions,
        sweep: SweepParts | None,
        stage: Callable[[str], None],
    ) -> None:
        self._store, self._checked, self._options = store, checked, options
        self._faults, self._sweep = faults, sweep
        measurement = checked.measurement
        facts = task_facts(measurement, checked.encoding, options.seed)
        check_name(store, options.name, facts, {})
        digests = [ModelDigest(model) for model in checked.models]
        task = Task(facts, digests[0].of_content, checked.injectors, measurement, faults)
        self.tuning: Tuning
        self.tuning, clean = tune(store, task, options, stage)
        policy = self.tuning.policy
        facts = with_policy(facts, policy)
        self._planned = planned_faults(store, task, clean[0], policy, options, stage)
        found = dict(zip(checked.names, zip(digests, clean, strict=True), strict=True))
        self._worst_cases = worst_cases(store, task, data, found, policy, options, stage)
        variants = [
            Variant(
                name,
                type(model).__name__,
                results.value(measurement, policy),
                digest.with_outputs(results.digest),
                memory_of(model, checked.encoding),
            )
            for name, model, digest, results in zip(
                checked.names, checked.models, digests, clean, strict=True
            )
        ]
        self.cells = self._states(self._registered(facts, variants, clean))
        self.spec = self._run_spec(facts, variants)
        self.job = Job(
            checked.models,
            clean,
            [planned.fault for planned in self._planned],
            checked.encoding,
            measurement,
            policy,
            options.seed,
            options.prefix_cache,
        )

    @property
    def seconds_per_trial(self) -> float:
        """The measured cost of a trial of the first variant, in seconds."""
        images = self.tuning.policy.images or len(self._checked.measurement.data)
        return self.tuning.cost.seconds(images)

    def _registered(
        self,
        facts: Mapping[str, Any],
        variants: Sequence[Variant],
        clean: Sequence[CleanResults],
    ) -> dict[tuple[int, int], CellKey]:
        """Register the campaign in the store; return the keys of cells by position."""
        name = self._options.name
        check_name(self._store, name, facts, {each.name: each.digest for each in variants})
        counts = [results.counts[:3] for results in clean]
        numbers = register_variants(
            self._store, name, facts, variants, counts, len(self._checked.measurement.data)
        )
        faults = [
            self._store.fault(str(planned.fault), planned.fault.to_dict())
            for planned in self._planned
        ]
        return {
            (variant, position): (numbers[variant], faults[position])
            for number in range(len(self._faults))
            for variant in range(len(self._checked.names))
            for position, planned in enumerate(self._planned)
            if planned.number == number and planned.is_in(variant)
        }

    def _states(self, keys: Mapping[tuple[int, int], CellKey]) -> dict[tuple[int, int], CellState]:
        states = {}
        attempts = self._attempts_to_repeat
        for (variant, position), key in keys.items():
            runs = self._store.runs(key, attempts)
            planned = self._planned[position]
            stratum = planned.of_variants[variant]
            spec = cell_spec(
                self._checked.names[variant],
                self._checked.injectors[variant],
                self._faults[planned.number],
                key,
                self._sweep,
                planned.number,
            )
            if stratum is not None:
                spec = replace(spec, unflipped=0.0, stratum=stratum)
                expected = math.ceil(stratum.planned)
            else:
                # Progress shows what the pilot expects, until the first interim analysis.
                cells = len(self._checked.names) * len(self._faults)
                group = (variant * len(self._faults) + planned.number) // group_size(cells)
                expected = dict(enumerate(self.tuning.expected)).get(group, 0)
            states[variant, position] = CellState(
                spec,
                IntervalSet(runs),
                failed=len(self._store.failures(key, TRIALS, attempts)),
                seconds=self.seconds_per_trial,
                issued=IntervalSet(runs),
                planned=min(expected, self._options.most_trials or TRIALS),
            )
        return states

    def _run_spec(self, facts: Mapping[str, Any], variants: Sequence[Variant]) -> RunSpec:
        options, metric = self._options, self._checked.measurement.metric
        return RunSpec(
            kind="campaign" if self._sweep is None else self._sweep.kind,
            name=options.name,
            margin=options.absolute_margin,
            relative_margin=options.relative_margin,
            difference_margin=None if self._sweep else options.margin_of_differences,
            trials=options.most_trials,
            confidence=options.confidence,
            metric=metric.name,
            lowest=metric.lowest,
            highest=metric.highest,
            is_better_higher=metric.is_better_higher,
            encoding=self._checked.encoding.name,
            seed=facts["seed"],
            images=len(self._checked.measurement.data),
            images_per_trial=facts["policy"]["images"],
            facts=facts,
            variants=tuple(variants),
            cells=tuple(cell.spec for cell in self.cells.values()),
            notes={**options.notes, **self._own_notes},
        )

    @property
    def _own_notes(self) -> dict[str, Any]:
        """Findings of checks, and worst cases, if there are any."""
        notes = {"checks": self._checked.findings, "worst_cases": self._worst_cases}
        return {name: found for name, found in notes.items() if found}

    @property
    def _attempts_to_repeat(self) -> int:
        """Failed trials with so many attempts run again.

        A trial has several attempts only if its worker was lost, which another machine, or this
        one with more free memory, may not repeat. Such a trial does not run in this process unless
        the caller asks for it.
        """
        if self._options.retry_failed:
            return 1
        return TRIALS if self._options.executor == 1 else ATTEMPTS
