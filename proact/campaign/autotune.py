"""How trials are to run on this machine: measured in a moment, before the first of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from proact.campaign.evaluation import Evaluation
from proact.campaign.identity import Policy
from proact.campaign.metrics import Counts, Metric
from proact.campaign.trial_runner import Answers, Bench, answers_of, outputs
from proact.faults import Fault, Injector
from proact.results.run_log import facts_digest
from proact.results.statistics import Components, Cost, components_of, images_per_trial
from proact.results.statistics.planning import LARGEST_VARIANCE
from proact.results.store import Store

_BATCHES = (64, 256)
#: A layout or batch size other than the plain one has to be so much faster.
_WORTH_IT = 0.9
_REPEATS = 7
#: Of the pilot that measures variances: a few trials of a cell, of some images.
_PILOT_TRIALS, _PILOT_IMAGES, _PILOT_CELLS = 8, 16, 24


@dataclass(frozen=True)
class Settled:
    """A policy and what it was chosen by.

    Attributes:
        policy: for all trials of a task.
        cost: of a trial of the first variant; seconds.
        seconds: (layout, batch) to the measured seconds of a forward pass.
    """

    policy: Policy
    cost: Cost
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """In terms of JSON."""
        return {
            "policy": asdict(self.policy), "cost": asdict(self.cost), "seconds": self.seconds
        }  # fmt: skip

    @staticmethod
    def from_dict(made: dict[str, Any]) -> Settled:
        return Settled(Policy(**made["policy"]), Cost(**made["cost"]), made["seconds"])


@dataclass(frozen=True)
class Asked:
    """What the user says of it; see `proact.campaign.run`."""

    images_per_trial: int | Literal["auto", "all"] | None
    policy: Policy | None
    margin: float
    confidence: float


def settle(
    store: Store,
    facts: Mapping[str, Any],
    asked: Asked,
    injectors: Sequence[Injector],
    data: Evaluation,
    metric: Metric,
    faults: Sequence[Fault],
    seed: int,
) -> tuple[Settled, list[tuple[Answers, Counts]]]:
    """The policy, and each network's answers without faults under it.

    What was measured for a task of these facts once is in the store, and kept.
    """
    networks = [injector.model for injector in injectors]

    def answered(policy: Policy) -> list[tuple[Answers, Counts]]:
        return [answers_of(network, data, metric, policy) for network in networks]

    if asked.policy is not None:
        cost = _cost(injectors[0], data, faults[0], seed, asked.policy)
        return Settled(asked.policy, cost, {}), answered(asked.policy)
    # The layout is chosen once for all numbers of images, so that these differ in nothing else.
    subject = f"warm-up for {facts_digest(facts)}"
    made = store.choice(subject)
    if made is None:
        made = store.choose(subject, warm_up(injectors[0], data, faults[0], seed).to_dict())
    settled = Settled.from_dict(made)
    answers = answered(settled.policy)
    images = asked.images_per_trial
    if isinstance(images, int) and images >= len(data):
        images = None
    if images != "auto":
        number = images if isinstance(images, int) else None
        return replace(settled, policy=replace(settled.policy, images=number)), answers
    subject = f"images a trial at margin {asked.margin:g} for {facts_digest(facts)}"
    made = store.choice(subject)
    if made is None:
        benches = [
            Bench(
                injector.model, injector.encoding, data, metric, answer, settled.policy, seed,
                shortcuts=False,
            )
            for injector, (answer, _) in zip(injectors, answers, strict=True)
        ]  # fmt: skip
        chosen = with_chosen_images(settled, benches, faults, asked.margin, asked.confidence)
        made = store.choose(subject, chosen.to_dict())
    return Settled.from_dict(made), answers


def warm_up(injector: Injector, data: Evaluation, fault: Fault, seed: int) -> Settled:
    """Measures layouts and batch sizes on one network; a trial takes all images so far.

    Each is run a few times, and the median counts. Inputs of four dimensions are also tried in
    channels-last order; the stored parameters stay as faults know them.
    """
    model = injector.model
    # One channel lies in memory the same way in both.
    has_layouts = data.inputs.dim() == 4 and data.inputs.shape[1] > 1
    layouts = [False, True] if has_layouts else [False]
    seconds: dict[str, float] = {}
    for channels_last in layouts:
        for batch in _BATCHES:
            if batch > len(data) and batch != _BATCHES[0]:
                continue
            inputs = Policy(None, batch, channels_last).laid_out(data.inputs[:batch])
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
    return Settled(policy, _cost(injector, data, fault, seed, policy), seconds)


def with_chosen_images(
    settled: Settled,
    benches: Sequence[Bench],
    faults: Sequence[Fault],
    margin: float,
    confidence: float,
) -> Settled:
    """Chooses the number of images a trial from a pilot of some cells.

    The pilot's trials are not rows: they only say how much trials and images vary.
    """
    cells = [(bench, fault) for bench in benches for fault in faults]
    step = max(len(cells) // _PILOT_CELLS, 1)
    components: list[Components] = []
    available = len(benches[0].data)
    scale = benches[0].metric.highest - benches[0].metric.lowest
    for bench, fault in cells[::step]:
        pilot = _piloting(bench, min(_PILOT_IMAGES, available))
        pairs = []
        for trial in range(_PILOT_TRIALS):
            try:
                pairs.append(pilot.image_values(fault, trial))
            except Exception:
                # Of the network's own forward: the campaign will record such trials as failed.
                continue
        if not pairs:
            components.append(Components(LARGEST_VARIANCE, LARGEST_VARIANCE))
            continue
        values, clean = (torch.stack(column).cpu().numpy() for column in zip(*pairs, strict=True))
        components.append(components_of((values - bench.metric.lowest) / scale, clean / scale))
    images = images_per_trial(
        components, settled.cost, available, min(margin / scale, 1.0), confidence
    )
    number = None if images >= available else images
    return replace(settled, policy=replace(settled.policy, images=number))


def _piloting(bench: Bench, images: int) -> Bench:
    """The same bench, for a policy of so many images."""
    policy = replace(bench.policy, images=images)
    return Bench(
        bench.model, bench.encoding, bench.data, bench.metric, bench.answers, policy, bench.seed
    )


def _cost(injector: Injector, data: Evaluation, fault: Fault, seed: int, policy: Policy) -> Cost:
    few, many = min(8, len(data)), min(_BATCHES[0], len(data))
    inputs = [policy.laid_out(data.inputs[:n]) for n in (few, many)]
    short, long = (_median(partial(outputs, injector.model, [part])) for part in inputs)

    def injection() -> None:
        with injector.trial(fault, seed, 0):
            pass

    image = max((long - short) / (many - few), 1e-9) if many > few else short / few
    return Cost(max(short - few * image, 0.0) + _median(injection), image)


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
