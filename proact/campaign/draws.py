"""The samples that each trial draws."""

from __future__ import annotations

from proact.ops.seeds import derived_words

#: Increase this when the same (seed, trial) would draw other samples.
DRAW_VERSION = 2


def drawn_units(seed: int, trial: int, available: int, units: int) -> list[int]:
    """Draw the samples (or fixed batches) of a trial: ``units`` distinct numbers in [0, available).

    The numbers depend on (seed, trial) alone, not on the variant or fault. The first m of them are
    those of a trial with m units.

    This is the beginning of a Fisher-Yates shuffle that is driven by 64-bit words derived from
    (seed, trial), so that it does not depend on a library's generator. Each index is the remainder
    of a word, which favours small indices by less than 2^-40.
    """
    moved: dict[int, int] = {}
    order = []
    for step, number in enumerate(derived_words(units, seed, "images", trial)):
        other = step + number % (available - step)
        order.append(moved.get(other, other))
        moved[other] = moved.get(step, step)
    return order
