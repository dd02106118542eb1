"""The kinds of faults in stored tensors that are drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proact.faults.fault import RatedFault, Rates, StoredFault
from proact.limits import STREAMS
from proact.ops.plan import checked_integer
from proact.text import short_repr


@dataclass(frozen=True)
class BitFlip(RatedFault):
    """Every exposed bit flips independently with probability ``ber``.

    Attributes:
        ber: bit error rate, a probability per stored bit in [0, 1], ends included. A mapping of
            selectors to rates describes memories of different quality: a tensor has the rate of the
            first selector that matches it, and is not exposed if no selector does.
        bits, where: the exposed bits and tensors; see `proact.faults.fault.StoredFault`.

    Raises:
        ValueError, TypeError: a rate out of range, or an argument of another type.
    """

    ber: Rates

    def probability_of_none(self, bits: Sequence[int]) -> float:
        """The product of (1 - ber)^bits over all parts."""
        rates = [rate for _, rate in self.rates]
        if any(rate == 1.0 and n for rate, n in zip(rates, bits, strict=True)):
            return 0.0
        return math.exp(sum(n * math.log1p(-r) for r, n in zip(rates, bits, strict=True) if r < 1))


@dataclass(frozen=True)
class ExactFlips(StoredFault):
    """Exactly ``n`` distinct exposed bits flip; every such set is equally likely.

    Attributes:
        n: the number of flips, from 0 to the number of exposed bits, both included.
        bits, where: the exposed bits and tensors; see `proact.faults.fault.StoredFault`.

    Raises:
        ValueError, TypeError: a negative number, or an argument of another type. Injection raises
            ValueError for more flips than exposed bits.
    """

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n", checked_integer("n", self.n, STREAMS))

    def expected_ber(self, bits: Sequence[int]) -> float:
        return self.n / sum(bits)

    def probability_of_none(self, bits: Sequence[int]) -> float:
        """1 if `n` is 0, else 0."""
        return float(self.n == 0)


@dataclass(frozen=True)
class StuckAt(RatedFault):
    """Every exposed bit is stuck at ``value`` independently with probability ``ber``.

    A bit that holds the value already does not change and does not count as a flip. The realised
    BER is therefore about half of ``ber`` if zeros and ones are equally frequent. The stuck bits
    are those that `BitFlip` would flip, for either value. The fault acts once, on entry: a value
    written to a word inside the block stays.

    Attributes:
        value: 0 or 1.
        ber: probability per stored bit to be stuck, in [0, 1]; as for `BitFlip`.
        bits, where: the exposed bits and tensors; see `proact.faults.fault.StoredFault`.

    Raises:
        ValueError, TypeError: a value or rate out of range, or an argument of another type.
    """

    value: int
    ber: Rates

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", checked_integer("a stuck-at value", self.value, 2))


@dataclass(frozen=True)
class Burst(RatedFault):
    """Bursts of ``length`` adjacent exposed bits flip.

    A burst begins independently at each place where a whole burst fits, with the probability that
    makes ``ber`` the expected share of flipped bits. A bit that several bursts cover flips once.

    Attributes:
        length: number of adjacent bits in a burst, 1 or more; with 1 this is `BitFlip`.
        ber: the mean probability that an exposed bit flips, in [0, 1]; as for `BitFlip`. Bits at
            the edge of a word or tensor are covered by fewer bursts and flip less often.
        within: ``"word"`` keeps a burst inside one word. ``"tensor"`` continues it from a word's
            highest exposed bit to the lowest of the next element (row-major), up to the end of the
            tensor.
        interleaving: number of adjacent words whose bits are interleaved in memory, 1 or more; only
            with ``within="tensor"``. Of each d words (row-major; the last group may be smaller),
            the lowest exposed bits come first, word by word, then the next higher ones. A burst of
            up to d bits then hits no word twice, except in the smaller group at the tensor's end.
        bits, where: the exposed bits and tensors; see `proact.faults.fault.StoredFault`.

    Raises:
        ValueError, TypeError: a length or rate out of range, interleaving within words, or an
            argument of another type. Injection raises ValueError for a burst that does not fit into
            a word or tensor.
    """

    length: int
    ber: Rates
    within: str = field(default="word", kw_only=True)
    interleaving: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        length = checked_integer("a burst's length", self.length, 1 << 32)
        if length == 0:
            raise ValueError("a burst's length must be 1 or more, got 0")
        object.__setattr__(self, "length", length)
        if self.within not in ("word", "tensor"):
            raise ValueError(f"within must be 'word' or 'tensor', got {short_repr(self.within)}")
        interleaving = checked_integer("the interleaving of a burst", self.interleaving, 1 << 32)
        if interleaving == 0:
            raise ValueError("the interleaving of a burst must be 1 or more, got 0")
        if interleaving > 1 and self.within != "tensor":
            raise ValueError(
                f"an interleaving of {interleaving} words needs within='tensor', got "
                f"within={short_repr(self.within)}"
            )
        object.__setattr__(self, "interleaving", interleaving)

    def to_dict(self) -> dict[str, Any]:
        described = super().to_dict()
        if self.interleaving == 1:  # as in stores from before there was interleaving
            del described["interleaving"]
        return described
