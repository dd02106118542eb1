"""Plan the strata of a campaign, and decide where they save trials.

Strata divide fault patterns by the number of flips in the critical field, which a pilot finds. The
field only decides how trials are shared out: the weights of strata are exact for any field, so that
a badly chosen one costs trials and not correctness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import scipy

from proact.campaign.clean_results import CleanResults
from proact.campaign.critical_field import CriticalField, critical_field
from proact.campaign.metrics import Metric
from proact.campaign.options import CampaignOptions, RunOptions
from proact.campaign.trial_runner import TrialRunner
from proact.campaign.tuning import Task
from proact.encodings import Bits
from proact.faults import BitFlip, BitFlipStratum, ExactFlips, Fault, FaultSpace, Injector
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.selectors import Selector
from proact.results.cells import OWN, CellStratum
from proact.results.policy import Policy
from proact.results.statistics import allocation, confidence_at_stop
from proact.results.statistics.stratified_rule import FEWEST_TRIALS
from proact.results.store import Store

#: The last stratum holds all larger numbers of flips, once they have at most this share of the
#: patterns with a flip in the field. With more strata than this, plain trials are as good.
_LAST_SHARE, _MOST_STRATA = 0.1, 4
#: Strata replace plain trials if they are expected to need at most this share of them.
_WORTH_IT = 0.8
#: Strata with at most this share of the patterns with a flip are left out.
_LEAST_WEIGHT = 1e-12


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
        self._confidence = confidence_at_stop(options.confidence)
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
        words = sorted({exposed.word.name for exposed in shared})
        if len(words) > 1:
            return f"strata need one kind of words, and these tensors have {', '.join(words)}"
        return None

    def refuse(self, faults: Sequence[Fault]) -> None:
        """ValueError for the first fault whose patterns cannot be divided."""
        for fault in faults:
            if isinstance(fault, ExactFlips) and fault.n == self._options.worst_flips:
                continue  # random flips beside the worst ones
            reason = self.reason_against(fault)
            if reason is not None:
                raise ValueError(
                    f"strata=True: {fault} cannot have strata: {reason}; strata='auto' "
                    "leaves such faults without strata"
                )

    def may_pay(self, fault: BitFlip) -> bool:
        """Whether strata could save trials if single bits of words were as bad as can be."""
        if self.reason_against(fault) is not None:
            return False
        highest = max(exposed.bit_numbers[-1] for exposed in self._shared(fault))
        return bool(self.strata(fault, 0, CriticalField((highest,), 0.5, 0.5, 0.0)))

    def strata(
        self, fault: BitFlip, number: int, found: CriticalField, is_forced: bool = False
    ) -> list[PlannedFault]:
        """The strata of a fault; none if plain trials are as good, or if it needs no trial.

        Args:
            fault: see `reason_against`.
            number: its position in the campaign.
            found: by the pilot.
            is_forced: whether to divide even if that saves no trials.
        """
        assert isinstance(fault.ber, float)
        spaces, shared = self._spaces(fault), self._shared(fault)
        names = tuple(exposed.name for exposed in shared)
        bits = tuple(bit for bit in found.bits if any(bit in e.bit_numbers for e in shared))
        if not bits:
            return []
        base = BitFlipStratum(fault.ber, bits, names, bits=fault.bits, where=fault.where)
        parts = [tuple(sum(e.bits for e in part) for part in base.split(s)) for s in spaces]
        in_field = parts[0][0]
        unflipped = fault.probability_of_none([sum(parts[0])])
        absolute = self._options.absolute_margin
        if absolute is not None and 0.5 * (1.0 - unflipped) <= absolute / self._width:
            return []
        last = _last_stratum(in_field, fault.ber)
        if last > _MOST_STRATA and not is_forced:
            return []
        last = min(last, _MOST_STRATA)
        faults = {
            OWN: replace(base, in_field=(0, 0), elsewhere=(0, 0), in_others=(1, None)),
            "0": replace(base, in_field=(0, 0), elsewhere=(1, None)),
        }
        for flips in range(1, last):
            faults[str(flips)] = replace(base, in_field=(flips, flips))
        faults[f"{last} or more"] = replace(base, in_field=(last, None))
        variances = self._variances(found, faults, parts[0], fault.ber)
        losses = self._losses(found, faults, variances)
        margin = self._margin(faults, losses, parts[0])
        of_variants = [
            self._weighted(faults, variances, margin, bits_of, bits) for bits_of in parts
        ]
        expected = sum(max(each.planned, FEWEST_TRIALS) for each in of_variants[0].values())
        plain = self._plain(faults, variances, losses, margin, parts[0])
        if not is_forced and expected > _WORTH_IT * plain:
            return []
        return [
            PlannedFault(each, number, tuple(mine.get(name) for mine in of_variants))
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
        # At high rates, few flips in the field are so improbable that their weight is rounded to 0.
        least_weight = _LEAST_WEIGHT * math.fsum(weights.values())
        weights = {name: weight for name, weight in weights.items() if weight > least_weight}
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


def planned_faults(
    store: Store,
    task: Task,
    clean: CleanResults,
    policy: Policy,
    options: RunOptions,
    announce: Callable[[str], None],
) -> list[PlannedFault]:
    """The faults of the trials: those of a campaign, or their strata where these save trials.

    Args:
        store: keeps what the pilot finds.
        task: with the variants and faults.
        clean: of the first variant, which the pilot faults.
        policy: of the campaign's trials.
        options: of the run.
        announce: called with a description of the pilot before it runs.

    Raises:
        ValueError: strata are asked for, and one of the faults cannot have them.
    """
    is_forced = options.strata is True
    everywhere = (None,) * len(task.injectors)
    plain = [PlannedFault(fault, number, everywhere) for number, fault in enumerate(task.faults)]
    if not options.strata or options.margin_or_default is None:
        return plain
    planner = StrataPlanner(task.injectors, task.measurement.metric, options)
    if is_forced:
        planner.refuse(task.faults)
    runner: TrialRunner | None = None
    planned: list[PlannedFault] = []
    for each in plain:
        fault, strata = each.fault, list[PlannedFault]()
        if isinstance(fault, BitFlip) and (is_forced or planner.may_pay(fault)):
            if runner is None:
                announce("finding the bits that matter")
                runner = task.pilot_runner(0, clean, policy, options.seed)
            found = critical_field(store, task.digest, runner, fault)
            strata = planner.strata(fault, each.number, found, is_forced)
        planned += strata or [each]
    return planned


def _last_stratum(bits: int, ber: float) -> int:
    """The number of flips from which on one stratum holds all numbers."""
    number = 1
    flips = scipy.stats.binom(bits, ber)
    flipped = flips.sf(0)
    while number <= _MOST_STRATA and flips.sf(number) > _LAST_SHARE * flipped:
        number += 1
    return number
