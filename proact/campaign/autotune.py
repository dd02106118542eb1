"""Chooses how trials run on this machine, from short measurements before the first trial."""

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
#: A layout or batch size other than the plain one has to take at most this share of its time.
_WORTH_IT = 0.9
_REPEATS = 7
#: The pilot that measures variances runs a few trials of some cells, on a few images.
_PILOT_TRIALS, _PILOT_IMAGES, _PILOT_CELLS = 8, 16, 24


@dataclass(frozen=True)
class Tuning:
    """A policy and the measurements by which it was chosen.

    Attributes:
        policy: for all trials of a task.
        cost: seconds of a trial of the first variant.
        seconds: of a forward pass, by layout and batch.
    """

    policy: Policy
    cost: TrialCost
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """In terms of JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(made: dict[str, Any]) -> Tuning:
        return Tuning(Policy(**made["policy"]), TrialCost(**made["cost"]), made["seconds"])


@dataclass(frozen=True)
class Task:
    """What is tuned.

    Attributes:
        facts: the identity of the task without its policy.
        baseline_digest: of the first variant, on which costs are measured: another model in the
            same store has its own tuning.
        injectors: one per variant.
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
        """The fault-free outputs of each variant under a policy."""
        return [
            clean_outputs_of(injector.model, self.data, self.metric, policy)
            for injector in self.injectors
        ]


def tune(
    store: Store, task: Task, options: RunOptions
) -> tuple[Tuning, list[tuple[CleanOutputs, Counts]]]:
    """The policy, and each variant's outputs without faults under it.

    Measurements are kept in the store and made once per task.
    """
    seed = options.seed
    if options.policy is not None:
        cost = _cost(task.injectors[0], task.data, task.faults[0], seed, options.policy)
        return Tuning(options.policy, cost, {}), task.clean_outputs(options.policy)
    # One layout serves all numbers of images, so that these differ in nothing else.
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
    """Measures layouts and batch sizes on one model; its policy takes all images.

    The median of a few runs counts. Inputs of four dimensions are also tried in channels-last
    order; stored parameters keep the order in which faults number their elements.
    """
    model = injector.model
    # With one channel both orders are the same.
    has_layouts = data.inputs.dim() == 4 and data.inputs.shape[1] > 1
    layouts = [False, True] if has_layouts else [False]
    seconds: dict[str, float] = {}
    for channels_last in layouts:
        for batch in _BATCHES:
            if batch > len(data) and batch != _BATCHES[0]:
                continue
            inputs = laid_out(data.inputs[:batch], Policy(None, batch, channels_last))
            seconds[_label(channels_last, batch)] = _median(partial(outputs, model, [inputs]))

    def each(channels_last: bool, batch: int) -> float:
        return seconds[_label(channels_last, batch)] / min(batch, len(data))

    small = _BATCHES[0]
    channels_last = len(layouts) > 1 and each(True, small) < _WORTH_IT * each(False, small)
    batch = small
    if len(data) >= _BATCHES[1]:
        large = _BATCHES[1]
        batch = (
            large if each(channels_last, large) < _WORTH_IT * each(channels_last, small) else small
        )
    policy = Policy(None, batch, channels_last)
    return Tuning(policy, _cost(injector, data, fault, seed, policy), seconds)


def with_chosen_images(
    tuning: Tuning,
    runners: Sequence[TrialRunner],
    faults: Sequence[Fault],
    margin: float,
    confidence: float,
) -> Tuning:
    """Chooses the number of images per trial from a pilot of some cells.

    The trials of the pilot are not stored: they only measure how much trials and images vary.
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
                # The model's own forward raised; the campaign will record such trials as failed.
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
