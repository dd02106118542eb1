"""Choose the policy of a campaign from short measurements on this machine.

The policy is the memory layout, the batch size, the images per trial and the trials in one pass.

Measurements are scaled to the work: a campaign of few trials measures little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from proact.campaign.clean_results import CleanResults, clean_results
from proact.campaign.options import RunOptions
from proact.campaign.trial_runner import TrialRunner
from proact.campaign.trials_at_once import MeasurementLimits, with_stored_group
from proact.campaign.tuning import Task, Tuning
from proact.faults import Fault
from proact.nn.batches import tensors_in
from proact.ops.cuda_stream import wait_for
from proact.results.policy import Policy
from proact.results.statistics import (
    Components,
    TrialCost,
    components_of,
    images_per_trial,
    trials_for_margin,
)
from proact.results.store import Store

#: Images in a batch: the default, and the larger size that is tried.
BATCH, _LARGE_BATCH = 64, 256
#: Another layout or batch size replaces the default when it takes at most this share of the time.
_WORTH_IT = 0.9
_REPEATS = 7
#: A measurement is not repeated any more after this time, in seconds.
_LONG_ENOUGH = 0.3
#: The share of the campaign's expected time that measurements may take.
_SHARE = 0.05
#: A campaign that takes at most this time on all images uses all of them, in seconds.
_SHORT = 2.0
#: The pilot measures variances on a few trials and images of some cells.
_PILOT_TRIALS, _PILOT_IMAGES, _PILOT_CELLS = 8, 16, 24
_FEWEST_PILOT_TRIALS = 2


def tune(
    store: Store, task: Task, options: RunOptions, announce: Callable[[str], None]
) -> tuple[Tuning, list[CleanResults]]:
    """Choose the policy and compute each variant's clean results under it.

    Measurements are made once per task and kept in the store.

    Args:
        store: keeps the choices.
        task: the task.
        options: of the run.
        announce: called with a description of each step.
    """
    seed = options.seed

    def clean_under(policy: Policy) -> list[CleanResults]:
        announce("running the models without faults")
        models = [injector.model for injector in task.injectors]
        return [clean_results(task.measurement, model, policy) for model in models]

    if options.policy is not None:
        cost = _cost(task, seed, options.policy)
        return Tuning(options.policy, cost, {}), clean_under(options.policy)
    # All numbers of images share one layout, so that nothing else differs between them.
    subject = f"warm-up for {task.digest}"
    made = store.choice(subject)
    if made is None:
        announce("measuring the speed of the model")
        made = store.choose(subject, warm_up(task, options).to_dict())
    tuning = Tuning.from_dict(made)
    clean = clean_under(tuning.policy)
    images, data = options.images_per_trial, task.measurement.data
    is_short = task.trials(options) * tuning.cost.seconds(len(data)) <= _SHORT
    if images == "auto" and (task.measurement.metric.of_trial or data.batch_sizes or is_short):
        images = "all"
    if images == "auto":
        tuning = _with_stored_images(store, task, options, tuning, clean, announce)
    else:
        if isinstance(images, int) and data.batch_sizes:
            size = data.batch_sizes[0]
            images = max(images // size, 1) * size
        count = images if isinstance(images, int) and images < len(data) else None
        tuning = replace(tuning, policy=replace(tuning.policy, images=count))
    if "trials_at_once" not in made["policy"]:
        return tuning, clean  # made before trials shared passes: its task goes on as it began
    limits = MeasurementLimits(_WORTH_IT, _SHARE)
    return with_stored_group(store, task, options, tuning, clean[0], limits, announce), clean


def _with_stored_images(
    store: Store,
    task: Task,
    options: RunOptions,
    tuning: Tuning,
    clean: Sequence[CleanResults],
    announce: Callable[[str], None],
) -> Tuning:
    metric = task.measurement.metric
    margin = options.margin_for_planning(metric.highest - metric.lowest)
    subject = f"images a trial at margin {margin:g} for {task.digest}"
    made = store.choice(subject)
    if made is None:
        announce("running a pilot that chooses the number of images per trial")
        runners = [
            task.pilot_runner(variant, mine, tuning.policy, options.seed)
            for variant, mine in enumerate(clean)
        ]
        most = int(_SHARE * task.trials(options))
        chosen = with_chosen_images(
            tuning, runners, task.faults, margin, options.confidence, most_trials=most
        )
        made = store.choose(subject, chosen.to_dict())
    return Tuning.from_dict(made)


def warm_up(task: Task, options: RunOptions) -> Tuning:
    """Measure layouts and batch sizes on one model; the resulting policy uses all images.

    Each measurement is the median of a few runs. Four-dimensional inputs are also tried in
    channels-last order. Stored parameters keep their layout, because faults number their elements
    in it. A candidate is tried only if its measurement takes a small share of the campaign's time.
    """
    data = task.measurement.data
    seconds: dict[str, float] = {}

    def measured(policy: Policy) -> float:
        """The seconds of a forward pass for each image."""
        label = _label(policy)
        if label not in seconds:
            seconds[label] = _median(partial(_one_batch, task, policy), data.device)
        return seconds[label] / min(policy.batch, len(data))

    policy = Policy(None, BATCH, False)
    base = measured(policy)
    cost = _cost(task, options.seed, policy, base * min(BATCH, len(data)))
    left = _SHARE * task.trials(options) * cost.seconds(min(len(data), _LARGE_BATCH))

    def is_better(candidate: Policy, limit: float) -> bool:
        nonlocal left
        expected = 3 * base * min(candidate.batch, len(data))
        if expected > left:
            return False
        left -= expected
        return measured(candidate) < _WORTH_IT * limit

    channels_last = replace(policy, channels_last=True)
    # With one channel both layouts are identical.
    has_layouts = any(t.dim() == 4 and t.shape[1] > 1 for t in tensors_in(data.inputs))
    if has_layouts and is_better(channels_last, base):
        policy = channels_last
    large = replace(policy, batch=_LARGE_BATCH)
    if (
        data.batch_sizes is None
        and len(data) >= _LARGE_BATCH
        and is_better(large, measured(policy))
    ):
        policy = large
    return Tuning(policy, cost, seconds)


def with_chosen_images(
    tuning: Tuning,
    runners: Sequence[TrialRunner],
    faults: Sequence[Fault],
    margin: float,
    confidence: float,
    most_trials: int = _PILOT_CELLS * _PILOT_TRIALS,
) -> Tuning:
    """Choose the number of images per trial from a pilot of some cells.

    The pilot measures the variance between trials and between images. Its trials are not stored.
    """
    cells = [(runner, fault) for runner in runners for fault in faults]
    step = group_size(len(cells))
    trials = most_trials // len(cells[::step])
    trials = min(max(trials, _FEWEST_PILOT_TRIALS), _PILOT_TRIALS)
    components: list[Components] = []
    measurement = runners[0].measurement
    available, metric = len(measurement.data), measurement.metric
    scale = metric.highest - metric.lowest
    pilot_images = min(_PILOT_IMAGES, available)
    for runner, fault in cells[::step]:
        pilot = replace(runner, policy=replace(runner.policy, images=pilot_images))
        pairs = [pilot.image_values(fault, trial) for trial in range(trials)]
        values, clean = (torch.stack(column).cpu().numpy() for column in zip(*pairs, strict=True))
        components.append(components_of((values - metric.lowest) / scale, clean / scale))
    share = min(margin / scale, 1.0)
    images = images_per_trial(components, tuning.cost, available, share, confidence)
    expected = tuple(trials_for_margin(share, confidence, each, images) for each in components)
    number = None if images >= available else images
    return replace(tuning, policy=replace(tuning.policy, images=number), expected=expected)


def group_size(cells: int) -> int:
    """Return the number of successive cells that one cell stands for in the pilot."""
    return max(cells // _PILOT_CELLS, 1)


def _one_batch(task: Task, policy: Policy, images: int | None = None) -> object:
    """Run the first variant on the first batch, or on the first images."""
    measurement = task.measurement
    size = policy.batch if images is None else images
    part = replace(measurement, data=measurement.data.first(size))
    inputs = next(part.batches(None, replace(policy, batch=size))).inputs
    return measurement.output(task.injectors[0].model, inputs)


def _cost(task: Task, seed: int, policy: Policy, of_batch: float | None = None) -> TrialCost:
    """Measure the cost of a trial; ``of_batch`` is the time of a whole batch, if it is known."""
    data, injector = task.measurement.data, task.injectors[0]
    few, many = min(8, len(data)), min(BATCH, len(data))
    if data.batch_sizes:
        few = many = data.batch_sizes[0]
    short = long = _median(partial(_one_batch, task, policy, few), data.device)
    # Of a slow model, few images tell enough.
    is_known = many == few or short > _LONG_ENOUGH
    if not is_known:
        long = of_batch or _median(partial(_one_batch, task, policy, many), data.device)

    def injection() -> None:
        with injector.trial(task.faults[0], seed, 0):
            pass

    image = short / few if is_known else max((long - short) / (many - few), 1e-9)
    return TrialCost(max(short - few * image, 0.0) + _median(injection, data.device), image)


def _label(policy: Policy) -> str:
    order = "channels-last" if policy.channels_last else "contiguous"
    return f"{order}, {policy.batch} images"


def _median(call: Callable[[], object], device: torch.device) -> float:
    """The median duration of some calls, in seconds; the first call of fast ones warms up.

    A call lasts until the device has done its work.
    """
    seconds: list[float] = []
    with torch.inference_mode():
        while len(seconds) <= _REPEATS and sum(seconds) < _LONG_ENOUGH:
            start = time.perf_counter()
            call()
            wait_for(device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds)
