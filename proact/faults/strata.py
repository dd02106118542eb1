"""Fault patterns of a bit error rate, given how many flips hit the bits that matter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

from proact.encodings import Bits
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.fault import StoredFault, checked_bits
from proact.faults.selectors import Selector, shown
from proact.ops.plan import checked_ber, checked_integer
from proact.ops.seeds import derived_seed, derived_words
from proact.text import short_repr

#: The least and the largest number of flips in a part of the fault space; None: no upper limit.
Range = tuple[int, int | None]
_ANY: Range = (0, None)
#: The fields that limit the numbers of flips in the three parts.
_PARTS = ("in_field", "elsewhere", "in_others")
#: Numbers of flips further than this many standard deviations from the mean have a probability
#: below 1e-30 and are never drawn.
_REACH = 12
#: Longer lists of tensor names are shortened in texts, in characters.
_LONGEST_LIST = 60
#: Probabilities of so many numbers of flips are added one by one.
_SHORT_RANGE = 1000


@dataclass(frozen=True)
class BitFlipStratum(StoredFault):
    """Fault patterns of ``BitFlip(ber)`` whose numbers of flips lie in given ranges.

    The exposed bits fall into three parts. Bits that `critical` names, in the tensors that `shared`
    names, are the critical field; the other bits of these tensors are the second part, and all
    other tensors the third. Given the number of flips in a part, every set of so many bits is
    equally likely, as it is under `BitFlip`. The numbers in the three parts are independent and
    have binomial distributions, cut off at the ends of their ranges.

    Variants that share tensors meet the same flips in these tensors at the same (seed, trial).
    Strata with other ranges have other flips and other images, so that their means are independent.

    Attributes:
        ber: bit error rate, a probability per stored bit in (0, 1).
        critical: the bits of the critical field, as `bits` are given.
        shared: the qualified names of the tensors that hold the critical field.
        in_field, elsewhere, in_others: (least, largest) numbers of flips in the critical field, in
            the other bits of the same tensors, and in the other tensors; ends included. A largest
            number of None is no limit.
        bits, where: the exposed bits and tensors; see `proact.faults.fault.StoredFault`.

    Raises:
        ValueError, TypeError: a rate out of range, a range that is empty or negative, or an
            argument of another type.
    """

    ber: float
    critical: Bits
    shared: tuple[str, ...]
    in_field: Range = field(default=_ANY, kw_only=True)
    elsewhere: Range = field(default=_ANY, kw_only=True)
    in_others: Range = field(default=_ANY, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        ber = checked_ber(self.ber)
        if not 0.0 < ber < 1.0:
            raise ValueError(
                f"the bit error rate of a stratum must lie in (0, 1), got {short_repr(ber)}"
            )
        object.__setattr__(self, "ber", ber)
        object.__setattr__(self, "critical", checked_bits(self.critical))
        object.__setattr__(self, "shared", _checked_names(self.shared))
        for name in _PARTS:
            object.__setattr__(self, name, _checked_range(name, getattr(self, name)))

    @property
    def ranges(self) -> tuple[Range, Range, Range]:
        """The ranges of the three parts: the critical field, the other bits, the other tensors."""
        return self.in_field, self.elsewhere, self.in_others

    @property
    def rates(self) -> tuple[tuple[Selector, float], ...]:
        """The bit error rate of each of the three parts."""
        return tuple(("*", self.ber) for _ in self.ranges)

    def expected_ber(self, bits: Sequence[int]) -> float:
        """The expected number of flips over all exposed bits.

        Args:
            bits: the numbers of exposed bits of the three parts.
        """
        expected = 0.0
        for n, limits in zip(bits, self.ranges, strict=True):
            first, chances = number_of_flips(n, self.ber, limits)
            expected += float((first + np.arange(len(chances))) @ chances)
        return expected / sum(bits)

    def probability_of_none(self, bits: Sequence[int]) -> float:
        """The product of the parts' probabilities of no flip within their ranges."""
        none = 1.0
        for n, limits in zip(bits, self.ranges, strict=True):
            first, chances = number_of_flips(n, self.ber, limits)
            none *= float(chances[0]) if first == 0 else 0.0
        return none

    def weight(self, bits: Sequence[int]) -> float:
        """The probability of the stratum under ``BitFlip(ber)``."""
        return math.prod(
            probability_of_range(n, self.ber, limits)
            for n, limits in zip(bits, self.ranges, strict=True)
        )

    def split(
        self, exposed: Sequence[ExposedTensor]
    ) -> tuple[list[ExposedTensor], list[ExposedTensor], list[ExposedTensor]]:
        """The exposed tensors of the three parts; some may be empty.

        Raises:
            ValueError: no exposed tensor has one of the names in `shared`.
        """
        parts: tuple[list[ExposedTensor], ...] = ([], [], [])
        shared = set(self.shared)
        known = {name for tensor in exposed for name in tensor.stored.names}
        if missing := sorted(shared - known):
            raise ValueError(f"shared: no exposed tensor has the name {short_repr(missing[0])}")
        for tensor in exposed:
            if shared.isdisjoint(tensor.stored.names):
                parts[2].append(tensor)
                continue
            critical = tensor.word.mask(self.critical) & tensor.mask
            for part, mask in zip(parts, (critical, tensor.mask & ~critical), strict=False):
                if mask:
                    part.append(ExposedTensor(tensor.stored, tensor.word, mask, tensor.stream))
        return parts[0], parts[1], parts[2]

    def check_fits(self, bits: Sequence[int]) -> None:
        """ValueError if a part has fewer exposed bits than its least number of flips."""
        for name, (least, _), exposed in zip(_PARTS, self.ranges, bits, strict=True):
            if least > exposed:
                raise ValueError(
                    f"{name}: expected at most {exposed} flips, the exposed bits of this "
                    f"part, got {least} or more"
                )

    def is_free(self, part: int) -> bool:
        """Whether the number of flips in a part has no limits, as under `BitFlip`."""
        return self.ranges[part] == _ANY

    def seed(self, seed: int) -> int:
        """The seed of the stratum's fault patterns and images, which no other stratum has."""
        limits = (-1 if end is None else end for range_ in self.ranges for end in range_)
        return derived_seed(seed, "stratum", *limits)

    def seed_of_part(self, part: int, seed: int) -> int:
        """The seed of a part's places: parts of one tensor must not share random numbers."""
        return derived_seed(self.seed(seed), "stratum-part", part)

    def flips(self, part: int, bits: int, seed: int, trial: int) -> int:
        """The number of flips of a trial in a part with this many exposed bits."""
        first, chances = number_of_flips(bits, self.ber, self.ranges[part])
        (word,) = derived_words(1, self.seed(seed), "stratum-flips", trial, part)
        uniform = (word >> 11) * 2.0**-53
        return first + int(np.searchsorted(np.cumsum(chances[:-1]), uniform, side="right"))

    def __str__(self) -> str:
        """As other faults, but a long list of tensors is shown by their number and a digest."""
        names = "|".join(self.shared)
        if len(names) > _LONGEST_LIST:
            digest = hashlib.sha256(names.encode()).hexdigest()[:8]
            names = f"{len(self.shared)} tensors {digest}"
        parts = [f"{self.ber:.12g}", f"critical={shown(self.critical)}", f"shared={names}"]
        if self.bits is not None:
            parts.append(f"bits={shown(self.bits)}")
        if self.where != "*":
            parts.append(f"where={shown(self.where)}")
        for name in _PARTS:
            if getattr(self, name) != _ANY:
                parts.append(f"{name}={_shown_range(getattr(self, name))}")
        return f"BitFlipStratum({', '.join(parts)})"


def _shown_range(limits: Range) -> str:
    lowest, highest = limits
    if highest is None:
        return f"{lowest}+"
    return str(lowest) if lowest == highest else f"{lowest}-{highest}"


def probability_of_range(bits: int, ber: float, limits: Range) -> float:
    """The probability that a binomial number of flips lies in a range, to full relative accuracy.

    Args:
        bits: number of bits, each of which flips with probability ``ber``.
        ber: in (0, 1).
        limits: the least and the largest number.
    """
    lowest, highest = limits
    binom = scipy.stats.binom
    if highest is None:
        # sf has the small probabilities of one flip or more, which 1 - cdf would lose.
        return 1.0 if lowest == 0 else float(binom.sf(lowest - 1, bits, ber))
    if highest - lowest < _SHORT_RANGE:
        return float(binom.pmf(np.arange(lowest, highest + 1), bits, ber).sum())
    if lowest > bits * ber:
        return float(binom.sf(lowest - 1, bits, ber) - binom.sf(highest, bits, ber))
    return float(binom.cdf(highest, bits, ber) - binom.cdf(lowest - 1, bits, ber))


@lru_cache(maxsize=256)
def number_of_flips(bits: int, ber: float, limits: Range) -> tuple[int, NDArray[np.float64]]:
    """The binomial distribution of the number of flips in a range: its first number that can be
    drawn, and the probabilities of it and the following ones.

    The least number must be at most ``bits``.
    """
    lowest, highest = limits
    highest = bits if highest is None else min(highest, bits)
    # Within the range, the most likely number is the one that is nearest to the mean.
    likeliest = min(max(bits * ber, lowest), highest)
    reach = _REACH * math.sqrt(bits * ber) + 40.0
    first = max(lowest, math.floor(likeliest - reach))
    numbers = np.arange(first, min(highest, math.ceil(likeliest + reach)) + 1)
    logs = scipy.stats.binom.logpmf(numbers, bits, ber)
    chances = np.exp(logs - logs.max())
    return int(numbers[0]), chances / chances.sum()


def _checked_names(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"shared must be a sequence of tensor names, got {short_repr(given)}")
    return tuple(map(str, given))


def _checked_range(name: str, given: object) -> Range:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"{name} must be a pair (least, largest), got {short_repr(given)}")
    lowest = checked_integer(f"the least number of {name}", given[0], 1 << 32)
    if given[1] is None:
        return lowest, None
    highest = checked_integer(f"the largest number of {name}", given[1], 1 << 32)
    if highest < lowest:
        raise ValueError(f"{name} must not be empty, got the range {lowest} to {highest}")
    return lowest, highest
