"""Choose how many trials run in one forward pass, by measurement on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from proact.campaign.clean_results import CleanResults
from proact.campaign.jobs import CACHE_BYTES
from proact.campaign.options import RunOptions
from proact.campaign.stacked_model import members_of
from proact.campaign.stacking_checks import may_stack
from proact.campaign.trial_runner import TrialRunner
from proact.campaign.tuning import Task, Tuning
from proact.faults import ExactFlips, Fault, Injector
from proact.faults.fault import StoredFault
from proact.nn.batches import samples_in
from proact.nn.outputs import output_tensors
from proact.results.statistics import TrialCost
from proact.results.store import Store

#: The sizes that are tried, the second one if the first one is worth it.
_SIZES = (16, 64)
#: Tried in their place if they need too much memory.
_SMALL_SIZE = 4
#: The memory that a group may need in one process, in bytes. On a GPU, one process runs all trials.
_MOST_BYTES, _MOST_BYTES_ON_GPU = 1 << 28, 1 << 30
#: A pass needs this multiple of the largest output of a module: inputs, outputs and copies.
_OUTPUTS_AT_ONCE = 4
#: Trials that are measured one by one in each round, and rounds.
_TRIALS, _ROUNDS = 8, 2
#: The time that the checks of a group size take, in passes.
_CHECKS = 3
#: Trials of the time in which the cached activations of single trials are computed.
_CACHE_TRIALS = 20
#: Faults of fewer expected flips are measured with this number of flips.
_FEWEST_FLIPS = 3


@dataclass(frozen=True)
class GroupSize:
    """A number of trials in one pass, and the measurements that led to it.

    Attributes:
        size: the number of trials.
        seconds: the duration of a trial in seconds, by the number of trials in one pass; empty if
            nothing was measured.
    """

    size: int
    seconds: dict[int, float]

    @property
    def share(self) -> float:
        """The duration of a trial as a share of its duration alone."""
        return self.seconds[self.size] / self.seconds[1] if self.seconds else 1.0


@dataclass(frozen=True)
class MeasurementLimits:
    """What measurements may take, and what makes a candidate better.

    Attributes:
        worth_it: a candidate replaces another if it takes at most this share of its time.
        share: the share of the campaign's expected time that measurements may take.
    """

    worth_it: float
    share: float


def with_stored_group(
    store: Store,
    task: Task,
    options: RunOptions,
    tuning: Tuning,
    clean: CleanResults,
    limits: MeasurementLimits,
    announce: Callable[[str], None],
) -> Tuning:
    """Choose the number of trials in one pass for the images of a tuning, once for each store."""
    policy = tuning.policy
    subject = f"trials at once on {policy.images or 'all'} images for {task.digest}"
    made = store.choice(subject)
    if made is None:
        announce("measuring how many trials to run at once")
        seconds = tuning.cost.seconds(policy.images or len(task.measurement.data))
        single = replace(
            task.pilot_runner(0, clean, policy, options.seed),
            prefix_cache=options.prefix_cache,
            cache_bytes=CACHE_BYTES // len(task.injectors),
        )
        left = limits.share * task.trials(options) * seconds
        variants = len(task.injectors)
        group = fastest_group(single, task.faults, seconds, left, limits.worth_it, variants)
        single.close()
        chosen = replace(
            tuning,
            policy=replace(policy, trials_at_once=group.size),
            cost=TrialCost(tuning.cost.trial * group.share, tuning.cost.image * group.share),
            seconds=tuning.seconds | {f"{n} trials at once": s for n, s in group.seconds.items()},
        )
        made = store.choose(subject, chosen.to_dict())
    return tuning.from_dict(made)


def fastest_group(
    single: TrialRunner,
    faults: Sequence[Fault],
    seconds: float,
    left: float,
    worth_it: float,
    variants: int = 1,
) -> GroupSize:
    """Measure trials one by one and in groups.

    Args:
        single: runs trials one by one, with cached activations as in the campaign.
        faults: of the campaign; the one with the most flips is measured.
        seconds: the expected duration of one trial.
        left: the time that the measurements may take, in seconds.
        worth_it: a size replaces a smaller one if a trial takes at most this share of its time.
        variants: the number of models whose groups are checked before their trials.
    """
    found = GroupSize(1, {})
    policy = single.policy

    def cost(size: int) -> float:
        """The expected duration of measuring a size."""
        trials = size * (_ROUNDS + _CHECKS * variants) + _TRIALS * _ROUNDS
        if not found.seconds and policy.images is None and single.prefix_cache:
            trials += _CACHE_TRIALS
        return trials * seconds * found.share

    fault = measured_fault(single.injector, faults)
    if fault is None or left < cost(_SMALL_SIZE):
        return found
    if not may_stack(single.model, single.measurement, single.injector.exposed_tensors(fault)):
        return found
    is_on_cpu = single.measurement.data.device.type == "cpu"
    most = (_MOST_BYTES if is_on_cpu else _MOST_BYTES_ON_GPU) // _bytes_of_a_trial(single)
    sizes = [size for size in _SIZES if size <= most]
    if not sizes and most >= _SMALL_SIZE:
        sizes = [_SMALL_SIZE]
    for size in sizes:
        if left < cost(size):
            break
        left -= cost(size)
        grouped = replace(single, policy=replace(policy, trials_at_once=size))
        if not grouped.can_group(fault):
            break
        single.fill_cache()
        both = _durations((single, grouped), fault)
        grouped.close()
        if both is None:
            break
        before = found.share
        found = GroupSize(found.size, found.seconds | {1: both[0], size: both[1]})
        if both[1] > worth_it * before * both[0]:
            break
        found = replace(found, size=size)
    return found


def measured_fault(injector: Injector, faults: Sequence[Fault]) -> Fault | None:
    """The fault whose trials are measured: the one with the most expected flips.

    If these are few, a fault with a few flips in the same bits stands for it, because a trial that
    changes nothing takes no pass. None if no fault is in stored tensors.
    """

    def flips(fault: StoredFault) -> float:
        return injector.expected_ber(fault) * injector.exposed_bits(fault)

    stored = [fault for fault in faults if isinstance(fault, StoredFault)]
    most = max(stored, key=flips, default=None)
    if most is None or flips(most) >= _FEWEST_FLIPS:
        return most
    few = min(_FEWEST_FLIPS, injector.exposed_bits(most))
    return ExactFlips(few, bits=most.bits, where=most.where)


def _durations(runners: Sequence[TrialRunner], fault: Fault) -> list[float] | None:
    """The median duration of a trial that needs a pass, for each runner, in turns.

    None if most trials need no pass, so that there is little to gain.
    """
    rounds: list[list[float]] = [[] for _ in runners]
    for turn in range(_ROUNDS):
        for runner, mine in zip(runners, rounds, strict=True):
            count = max(_TRIALS, runner.policy.trials_at_once)
            start = time.perf_counter()
            rows = list(runner.run_many(fault, range(turn * count, (turn + 1) * count)))
            elapsed = time.perf_counter() - start
            needing = sum(getattr(row, "seconds", 0.0) > 0.0 for row in rows)
            if 2 * needing < count:
                return None
            mine.append(elapsed / needing)
    return [statistics.median(mine) for mine in rounds]


def _bytes_of_a_trial(runner: TrialRunner) -> int:
    """The memory of a copy of the model and of its part of a forward pass."""
    sizes = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        sizes.append(sum(tensor.nbytes for tensor in output_tensors(output)))

    images = runner.policy.images or len(runner.measurement.data)
    part = replace(runner.measurement, data=runner.measurement.data.first(images))
    batch = next(part.batches(None, runner.policy)).inputs
    handles = [module.register_forward_hook(note) for module in runner.model.modules()]
    try:
        with torch.inference_mode():
            part.output(runner.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    parameters = sum(tensor.nbytes for tensor in members_of(runner.model).values())
    # The outputs of the model itself, which come last, are kept for all images.
    kept = sizes[-1] * images // samples_in(batch)
    return parameters + _OUTPUTS_AT_ONCE * max(sizes) + kept
