"""Choose memory layout, batch size and images per trial from short measurements on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from proact.campaign.evaluation import Evaluation
from proact.campaign.identity import laid_out
from proact.campaign.metrics import Counts, Metric
from proact.campaign.options import DEFAULT_MARGIN, RunOptions
from proact.campaign.trial_runner import CleanOutputs, TrialRunner, clean_outputs_of, outputs
from proact.faults import Fault, Injector
from proact.results.policy import Policy
from proact.results.run_log import facts_digest
from proact.results.statistics import Components, TrialCost, components_of, images_per_trial
from proact.results.statistics.planning import LARGEST_VARIANCE
from proact.results.store import Store

_BATCHES = (64, 256)
#: Another layout or batch size replaces the default when it takes at most this share of the time.
_WORTH_IT = 0.9
_REPEATS = 7
#: The pilot measures variances on a few trials and images of some cells.
_PILOT_TRIALS, _PILOT_IMAGES, _PILOT_CELLS = 8, 16, 24


@dataclass(frozen=True)
class Tuning:
    """A policy and the measurements that led to it.

    Attributes:
        policy: applies to all trials of a task.
        cost: measured cost of a trial of the first variant, in seconds.
        seconds: median duration of a forward pass in seconds, by layout and batch size.
    """

    policy: Policy
    cost: TrialCost
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the tuning as values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(made: dict[str, Any]) -> Tuning:
        return Tuning(Policy(**made["policy"]), TrialCost(**made["cost"]), made["seconds"])


@dataclass(frozen=True)
class Task:
    """The task that `tune` measures.

    Attributes:
        facts: the identity of the task without its policy.
        baseline_digest: digest of the first variant. Costs are measured on this model, so another
            model in the same store gets its own tuning.
        injectors: one per variant.
        data: the evaluation inputs and targets.
        metric: the quantity that is averaged.
        faults: the faults of the campaign; the first one is used to measure costs.
    """

    facts: Mapping[str, Any]
    baseline_digest: str
    injectors: Sequence[Injector]
    data: Evaluation
    metric: Metric
    faults: Sequence[Fault]

    @property
    def digest(self) -> str:
        return facts_digest({**self.facts, "baseline": self.baseline_digest})

    def clean_outputs(self, policy: Policy) -> list[tuple[CleanOutputs, Counts]]:
        """Compute the clean outputs and counts of each variant under a policy."""
        return [
            clean_outputs_of(injector.model, self.data, self.metric, policy)
            for injector in self.injectors
        ]


def tune(
    store: Store, task: Task, options: RunOptions
) -> tuple[Tuning, list[tuple[CleanOutputs, Counts]]]:
    """Choose the policy and compute each variant's clean outputs under it.

    Measurements are made once per task and kept in the store.
    """
    seed = options.seed
    if options.policy is not None:
        cost = _cost(task.injectors[0], task.data, task.faults[0], seed, options.policy)
        return Tuning(options.policy, cost, {}), task.clean_outputs(options.policy)
    # All numbers of images share one layout, so that nothing else differs between them.
    subject = f"warm-up for {task.digest}"
    made = store.choice(subject)
    if made is None:
        measured = warm_up(task.injectors[0], task.data, task.faults[0], seed)
        made = store.choose(subject, measured.to_dict())
    tuning = Tuning.from_dict(made)
    clean = task.clean_outputs(tuning.policy)
    images = options.images_per_trial
    if images == "auto":
        return _with_stored_choice(store, task, options, tuning, clean), clean
    count = images if isinstance(images, int) and images < len(task.data) else None
    return replace(tuning, policy=replace(tuning.policy, images=count)), clean


def _with_stored_choice(
    store: Store,
    task: Task,
    options: RunOptions,
    tuning: Tuning,
    clean: Sequence[tuple[CleanOutputs, Counts]],
) -> Tuning:
    margin = options.margin or DEFAULT_MARGIN
    subject = f"images a trial at margin {margin:g} for {task.digest}"
    made = store.choice(subject)
    if made is None:
        runners = [
            TrialRunner(
                injector.model,
                injector.encoding,
                task.data,
                task.metric,
                outputs,
                tuning.policy,
                options.seed,
                prefix_cache=False,
            )
            for injector, (outputs, _) in zip(task.injectors, clean, strict=True)
        ]
        chosen = with_chosen_images(tuning, runners, task.faults, margin, options.confidence)
        made = store.choose(subject, chosen.to_dict())
    return Tuning.from_dict(made)


def warm_up(injector: Injector, data: Evaluation, fault: Fault, seed: int) -> Tuning:
    """Measure layouts and batch sizes on one model; the resulting policy uses all images.

    Each measurement is the median of a few runs. Four-dimensional inputs are also tried in
    channels-last order. Stored parameters keep their layout, because faults number their elements
    in it.
    """
    model = injector.model
    # With one channel both layouts are identical.
    has_layouts = data.inputs.dim() == 4 and data.inputs.shape[1] > 1
    layouts = [False, True] if has_layouts else [False]
    seconds: dict[str, float] = {}
    for channels_last in layouts:
        for batch in _BATCHES:
            if batch > len(data) and batch != _BATCHES[0]:
                continue
            inputs = laid_out(data.inputs[:batch], Policy(None, batch, channels_last))
            seconds[_label(channels_last, batch)] = _median(partial(outputs, model, [inputs]))

    def seconds_per_image(channels_last: bool, batch: int) -> float:
        return seconds[_label(channels_last, batch)] / min(batch, len(data))

    small = _BATCHES[0]
    channels_last = len(layouts) > 1 and (
        seconds_per_image(True, small) < _WORTH_IT * seconds_per_image(False, small)
    )
    batch = small
    if len(data) >= _BATCHES[1]:
        large = _BATCHES[1]
        limit = _WORTH_IT * seconds_per_image(channels_last, small)
        batch = large if seconds_per_image(channels_last, large) < limit else small
    policy = Policy(None, batch, channels_last)
    return Tuning(policy, _cost(injector, data, fault, seed, policy), seconds)


def with_chosen_images(
    tuning: Tuning,
    runners: Sequence[TrialRunner],
    faults: Sequence[Fault],
    margin: float,
    confidence: float,
) -> Tuning:
    """Choose the number of images per trial from a pilot of some cells.

    The pilot measures the variance between trials and between images. Its trials are not stored.
    """
    cells = [(runner, fault) for runner in runners for fault in faults]
    step = max(len(cells) // _PILOT_CELLS, 1)
    components: list[Components] = []
    available = len(runners[0].data)
    scale = runners[0].metric.highest - runners[0].metric.lowest
    pilot_images = min(_PILOT_IMAGES, available)
    for runner, fault in cells[::step]:
        pilot = replace(runner, policy=replace(runner.policy, images=pilot_images))
        pairs = []
        for trial in range(_PILOT_TRIALS):
            try:
                pairs.append(pilot.image_values(fault, trial))
            except Exception:
                # The model's forward raised; the campaign records such trials as failed.
                continue
        if not pairs:
            components.append(Components(LARGEST_VARIANCE, LARGEST_VARIANCE))
            continue
        values, clean = (torch.stack(column).cpu().numpy() for column in zip(*pairs, strict=True))
        components.append(components_of((values - runner.metric.lowest) / scale, clean / scale))
    images = images_per_trial(
        components, tuning.cost, available, min(margin / scale, 1.0), confidence
    )
    number = None if images >= available else images
    return replace(tuning, policy=replace(tuning.policy, images=number))


def _cost(
    injector: Injector, data: Evaluation, fault: Fault, seed: int, policy: Policy
) -> TrialCost:
    few, many = min(8, len(data)), min(_BATCHES[0], len(data))
    inputs = [laid_out(data.inputs[:n], policy) for n in (few, many)]
    short, long = (_median(partial(outputs, injector.model, [part])) for part in inputs)

    def injection() -> None:
        with injector.trial(fault, seed, 0):
            pass

    image = max((long - short) / (many - few), 1e-9) if many > few else short / few
    return TrialCost(max(short - few * image, 0.0) + _median(injection), image)


def _label(channels_last: bool, batch: int) -> str:
    return f"{'channels-last' if channels_last else 'contiguous'}, {batch} images"


def _median(call: Callable[[], object]) -> float:
    seconds = []
    with torch.inference_mode():
        call()
        for _ in range(_REPEATS):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
