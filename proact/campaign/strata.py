"""Plan the strata of a campaign: find the critical field, and decide where strata save trials.

The critical field holds the bits whose flips lose most of the metric. A pilot of single flips finds
them. It only decides how trials are shared out: the weights of strata are exact for any field, so
that a badly chosen one costs trials and not correctness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from scipy.stats import binom

from proact.campaign.metrics import Metric
from proact.campaign.options import CampaignOptions
from proact.campaign.trial_runner import TrialRunner
from proact.encodings import Bits
from proact.faults import BitFlip, BitFlipStratum, ExactFlips, Fault, FaultSpace, Injector
from proact.faults.selectors import Selector, exactly
from proact.faults.space import ExposedTensor
from proact.ops.seeds import derived_seed
from proact.results.cells import OWN, CellStratum
from proact.results.statistics import StoppingRule, allocation
from proact.results.statistics.stratified_rule import FEWEST_TRIALS
from proact.results.store import Store

#: The pilot tries every bit in so many trials of so many images, from the highest bit on.
_PILOT_TRIALS, _PILOT_IMAGES = 8, 16
#: A bit is critical if a flip in it loses at least this share of what the worst bit loses.
_CRITICAL = 0.2
#: The pilot ends after this many successive bits that are not critical.
_HARMLESS_BITS = 4
#: The last stratum holds all larger numbers of flips, once they have at most this share of the
#: patterns with a flip in the field. With more strata than this, plain trials are as good.
_LAST_SHARE, _MOST_STRATA = 0.1, 4
#: Strata replace plain trials if they are expected to need at most this share of them.
_WORTH_IT = 0.8


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


@dataclass(frozen=True)
class FaultStratum:
    """A stratum of the patterns of one fault.

    Attributes:
        fault: draws the patterns.
        of_variants: by variant, the stratum with its weight there; None for a variant without it.
    """

    fault: BitFlipStratum
    of_variants: tuple[CellStratum | None, ...]


@dataclass(frozen=True)
class PlannedFault:
    """A fault of a campaign, or a stratum of its patterns: what trials inject.

    Attributes:
        fault: the fault of the trials.
        number: the position of the campaign's fault.
        of_variants: by variant, the stratum; None if trials are drawn from all patterns, or if the
            variant lacks this stratum.
    """

    fault: Fault
    number: int
    of_variants: tuple[CellStratum | None, ...]

    def is_in(self, variant: int) -> bool:
        """Whether a variant has trials of it."""
        is_stratum = any(stratum is not None for stratum in self.of_variants)
        return not is_stratum or self.of_variants[variant] is not None


class StrataPlanner:
    """Plans the strata of the faults of a campaign.

    Args:
        injectors: of the encoded variants.
        metric, options: of the campaign, which has a margin.
    """

    def __init__(
        self, injectors: Sequence[Injector], metric: Metric, options: CampaignOptions
    ) -> None:
        self._injectors, self._options = injectors, options
        self._width = metric.highest - metric.lowest
        self._confidence = StoppingRule(1.0, options.confidence).confidence_at_stop
        self._known_spaces: dict[tuple[Selector, Bits], list[FaultSpace]] = {}

    def reason_against(self, fault: Fault) -> str | None:
        """Why the patterns of a fault cannot be divided; None if they can."""
        if not isinstance(fault, BitFlip):
            return "strata need the fault BitFlip"
        if not isinstance(fault.ber, float) or not 0.0 < fault.ber < 1.0:
            return "strata need one bit error rate in (0, 1)"
        if any(injector.encoding.is_coded for injector in self._injectors):
            return "strata need an encoding without a code"
        shared = self._shared(fault)
        if not shared:
            return "strata need tensors that all variants store alike"
        if len({exposed.word.name for exposed in shared}) > 1:
            return "strata need one kind of words"
        return None

    def refuse(self, faults: Sequence[Fault]) -> None:
        """ValueError for the first fault whose patterns cannot be divided."""
        for fault in faults:
            reason = self.reason_against(fault)
            if reason is not None:
                raise ValueError(f"strata=True: {reason}, got {fault}")

    def may_pay(self, fault: Fault) -> bool:
        """Whether strata could save trials if single bits of words were as bad as can be."""
        if self.reason_against(fault) is not None:
            return False
        assert isinstance(fault, BitFlip)
        highest = max(exposed.bit_numbers[-1] for exposed in self._shared(fault))
        return self.planned(fault, CriticalField((highest,), 0.5, 0.5, 0.0), False) is not None

    def planned(
        self, fault: Fault, found: CriticalField, is_forced: bool
    ) -> list[FaultStratum] | None:
        """The strata of a fault; None if plain trials are as good, or need none.

        Args:
            fault: see `reason_against`.
            found: by the pilot.
            is_forced: whether to divide even if that saves no trials.
        """
        assert isinstance(fault, BitFlip)
        assert isinstance(fault.ber, float)
        spaces, shared = self._spaces(fault), self._shared(fault)
        names = tuple(exposed.name for exposed in shared)
        bits = tuple(bit for bit in found.bits if any(bit in e.bit_numbers for e in shared))
        if not bits:
            return None
        base = BitFlipStratum(fault.ber, bits, names, bits=fault.bits, where=fault.where)
        parts = [tuple(sum(e.bits for e in part) for part in base.split(s)) for s in spaces]
        in_field = parts[0][0]
        unflipped = fault.probability_of_none([sum(parts[0])])
        absolute = self._options.absolute_margin
        if absolute is not None and 0.5 * (1.0 - unflipped) <= absolute / self._width:
            return None
        last = _last_stratum(in_field, fault.ber)
        if last > _MOST_STRATA and not is_forced:
            return None
        numbers = range(1, min(last, _MOST_STRATA) + 1)
        faults = {
            OWN: replace(base, in_field=(0, 0), elsewhere=(0, 0), in_others=(1, None)),
            "0": replace(base, in_field=(0, 0), elsewhere=(1, None)),
        }
        for number in numbers:
            is_last = number == numbers[-1]
            name = f"{number} or more" if is_last else str(number)
            faults[name] = replace(base, in_field=(number, None if is_last else number))
        variances = self._variances(found, faults, parts[0], fault.ber)
        losses = self._losses(found, faults, variances)
        margin = self._margin(faults, losses, parts[0])
        of_variants = [
            self._weighted(faults, variances, margin, bits_of, bits) for bits_of in parts
        ]
        expected = sum(max(each.planned, FEWEST_TRIALS) for each in of_variants[0].values())
        plain = self._plain(faults, variances, losses, margin, parts[0])
        if not is_forced and expected > _WORTH_IT * plain:
            return None
        return [
            FaultStratum(each, tuple(mine.get(name) for mine in of_variants))
            for name, each in faults.items()
            if any(name in mine for mine in of_variants)
        ]

    def _weighted(
        self,
        faults: Mapping[str, BitFlipStratum],
        variances: Mapping[str, float],
        margin: float,
        bits: tuple[int, ...],
        critical: tuple[int, ...],
    ) -> dict[str, CellStratum]:
        """The strata of one variant, of those that its fault space has."""
        weights = {}
        for name, fault in faults.items():
            least = [lowest for lowest, _ in fault.ranges]
            if all(low <= n for low, n in zip(least, bits, strict=True)):
                weights[name] = fault.weight(bits)
        deviations = [math.sqrt(variances[name]) for name in weights]
        planned = allocation(list(weights.values()), deviations, margin, self._confidence)
        return {
            name: CellStratum(name, weight, n, critical)
            for (name, weight), n in zip(weights.items(), planned, strict=True)
        }

    def _variances(
        self,
        found: CriticalField,
        faults: Mapping[str, BitFlipStratum],
        bits: tuple[int, ...],
        ber: float,
    ) -> dict[str, float]:
        """The variance of a trial that the pilot expects in each stratum."""
        elsewhere = min(max(bits[1] * ber, 1.0) * found.elsewhere, 0.25)
        critical = min(max(found.deviation**2, found.elsewhere), 0.25)
        return {name: elsewhere if name in (OWN, "0") else critical for name in faults}

    def _losses(
        self,
        found: CriticalField,
        faults: Mapping[str, BitFlipStratum],
        variances: Mapping[str, float],
    ) -> dict[str, float]:
        """The mean loss that the pilot expects in each stratum: k critical flips lose what the
        worst of k independent ones loses."""
        return {
            name: variances[name]
            if name in (OWN, "0")
            else 1.0 - (1.0 - found.loss) ** fault.in_field[0]
            for name, fault in faults.items()
        }

    def _margin(
        self,
        faults: Mapping[str, BitFlipStratum],
        losses: Mapping[str, float],
        bits: tuple[int, ...],
    ) -> float:
        """The margin as a share of the metric's range; one that is a share of the loss by the loss
        that the pilot expects."""
        if self._options.absolute_margin is not None:
            return min(self._options.absolute_margin / self._width, 1.0)
        assert self._options.relative_margin is not None
        loss = math.fsum(
            fault.weight(bits) * losses[name] for name, fault in faults.items() if name != OWN
        )
        return self._options.relative_margin * loss

    def _plain(
        self,
        faults: Mapping[str, BitFlipStratum],
        variances: Mapping[str, float],
        losses: Mapping[str, float],
        margin: float,
        bits: tuple[int, ...],
    ) -> float:
        """The number of plain trials for the same interval: their variance is that within the
        strata, and that of the strata's means."""
        weights = {name: fault.weight(bits) for name, fault in faults.items() if name != OWN}
        flipped = math.fsum(weights.values())
        shares = {name: weight / flipped for name, weight in weights.items()}
        mean = math.fsum(shares[name] * losses[name] for name in weights)
        variance = math.fsum(
            shares[name] * (variances[name] + (losses[name] - mean) ** 2) for name in weights
        )
        (trials,) = allocation([flipped], [math.sqrt(variance)], margin, self._confidence)
        return trials / flipped

    def _shared(self, fault: BitFlip) -> list[ExposedTensor]:
        """The exposed tensors that all variants store alike, by name, size, word and bits."""

        def described(exposed: ExposedTensor) -> tuple[object, ...]:
            return exposed.name, exposed.elements, exposed.word.name, exposed.mask

        spaces = self._spaces(fault)
        common = set.intersection(*({described(exposed) for exposed in each} for each in spaces))
        return [exposed for exposed in spaces[0] if described(exposed) in common]

    def _spaces(self, fault: BitFlip) -> list[FaultSpace]:
        """The fault spaces of the variants; faults that differ in their rate alone share them."""
        key = fault.where, fault.bits
        if key not in self._known_spaces:
            self._known_spaces[key] = [
                FaultSpace(injector.model, injector.encoding, fault.where, fault.bits)
                for injector in self._injectors
            ]
        return self._known_spaces[key]


def critical_field(store: Store, task: str, runner: TrialRunner, fault: Fault) -> CriticalField:
    """Find the critical field by single flips, once per task and fault space.

    Args:
        store: keeps what was found.
        task: digest of the task.
        runner: of the variant that the pilot faults.
        fault: its `where` and `bits` narrow the fault space.
    """
    assert isinstance(fault, BitFlip)
    space = replace(fault, ber=0.0).to_json()
    subject = f"critical field of {space} for {task}"
    made = store.choice(subject)
    if made is None:
        made = store.choose(subject, asdict(_found(runner, fault)))
    return CriticalField(**{**made, "bits": tuple(made["bits"])})


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


def _last_stratum(bits: int, ber: float) -> int:
    """The number of flips from which on one stratum holds all numbers."""
    number = 1
    flipped = float(binom.sf(0, bits, ber))
    while number <= _MOST_STRATA and float(binom.sf(number, bits, ber)) > _LAST_SHARE * flipped:
        number += 1
    return number


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
