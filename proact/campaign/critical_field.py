"""The pilot that finds the critical field: the bits whose flips lose most of the metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from proact.campaign.trial_runner import TrialRunner
from proact.faults import BitFlip, ExactFlips, FaultSpace
from proact.faults.selectors import exactly
from proact.ops.seeds import derived_seed
from proact.results.store import Store
from proact.results.stored_json import made_from, stored

#: The pilot tries every bit in so many trials of so many images, from the highest bit on.
_PILOT_TRIALS, _PILOT_IMAGES = 8, 16
#: A bit is critical if a flip in it loses at least this share of what the worst bit loses.
_CRITICAL = 0.2
#: The pilot ends after this many successive bits that are not critical.
_HARMLESS_BITS = 4


@stored
@dataclass(frozen=True)
class CriticalField:
    """The bits whose flips matter, and what single flips lose, in shares of the metric's range.

    Attributes:
        bits: numbers of the bits of a word; empty if no flip of the pilot lost anything.
        loss, deviation: mean and standard deviation over trials of the loss by one flip in them.
        elsewhere: mean square of the loss by one flip in another bit.
    """

    bits: tuple[int, ...]
    loss: float
    deviation: float
    elsewhere: float


def critical_field(store: Store, task: str, runner: TrialRunner, fault: BitFlip) -> CriticalField:
    """Find the critical field by single flips, once per task and fault space.

    Args:
        store: keeps what was found.
        task: digest of the task.
        runner: of the variant that the pilot faults.
        fault: its `where` and `bits` narrow the fault space.
    """
    space = replace(fault, ber=0.0).to_json()
    subject = f"critical field of {space} for {task}"
    made = store.choice(subject)
    if made is None:
        made = store.choose(subject, asdict(_found(runner, fault)))
    return made_from(CriticalField, made, "the critical field in the store")


def _found(runner: TrialRunner, fault: BitFlip) -> CriticalField:
    measurement = runner.measurement
    available, metric = len(measurement.data), measurement.metric
    policy = replace(runner.policy, images=min(_PILOT_IMAGES, available))
    seed = derived_seed(runner.seed, "pilot")
    # A pattern that raises counts as a loss here, whatever the campaign does with it.
    judged = replace(measurement, on_error="worst")
    pilot = replace(runner, measurement=judged, policy=policy, seed=seed, prefix_cache=False)
    space = FaultSpace(runner.model, runner.encoding, fault.where, fault.bits)
    sign = 1.0 if metric.is_better_higher else -1.0
    losses: dict[int, list[float]] = {}
    harmless = 0
    for bit in sorted({bit for exposed in space for bit in exposed.bit_numbers}, reverse=True):
        where = tuple(exactly(e.name) for e in space if bit in e.bit_numbers)
        flip = ExactFlips(1, bits=(bit,), where=where)
        rows = [pilot.run(flip, trial) for trial in range(_PILOT_TRIALS)]
        losses[bit] = [sign * (r.clean - r.value) / (metric.highest - metric.lowest) for r in rows]
        worst = max(map(_mean, losses.values()))
        is_critical = worst > 0.0 and _mean(losses[bit]) >= _CRITICAL * worst
        harmless = 0 if is_critical or worst <= 0.0 else harmless + 1
        if harmless == _HARMLESS_BITS:
            break
    worst = max(map(_mean, losses.values()))
    critical = [bit for bit in losses if worst > 0.0 and _mean(losses[bit]) >= _CRITICAL * worst]
    inside = [loss for bit in critical for loss in losses[bit]]
    outside = [loss for bit in losses if bit not in critical for loss in losses[bit]]
    mean = _mean(inside) if inside else 0.0
    spread = _mean([(loss - mean) ** 2 for loss in inside]) if inside else 0.0
    # Bits that were not tried are lower than the last harmless ones.
    tried = len(losses) - len(critical)
    others = max(len({b for e in space for b in e.bit_numbers}) - len(critical), 1)
    elsewhere = _mean([loss**2 for loss in outside]) * tried / others if outside else 0.0
    return CriticalField(tuple(critical), min(max(mean, 0.0), 1.0), math.sqrt(spread), elsewhere)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
