"""The flips that a fault draws in one part of its space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proact.faults.bursts import burst_places
from proact.faults.coded_target import flipped_before
from proact.faults.fault import StoredFault
from proact.faults.kinds import BitFlip, Burst, ExactFlips, StuckAt
from proact.faults.replay import Replay
from proact.faults.reversible_flips import PendingFlips
from proact.faults.strata import BitFlipStratum
from proact.faults.target_memory import Target
from proact.ops.plan import FlipPlaces


def pending_flips(
    fault: StoredFault,
    part: int,
    ber: float,
    target: Target,
    seed: int,
    trial: int,
    is_checked: bool,
) -> PendingFlips:
    if isinstance(fault, BitFlip):
        return target.flips_at(ber, seed, trial, is_checked)
    if isinstance(fault, BitFlipStratum) and fault.is_free(part):
        return target.flips_at(ber, fault.seed_of_part(part, seed), trial, is_checked)
    return target.flips_of(drawn_places(fault, part, ber, target, seed, trial))


def drawn_places(
    fault: StoredFault,
    part: int,
    ber: float,
    target: Target,
    seed: int,
    trial: int,
    before: Sequence[tuple[Target, FlipPlaces]] = (),
) -> FlipPlaces:
    """The stored bits that a fault flips in one part of its space; earlier faults have flipped
    those in ``before``."""
    if isinstance(fault, BitFlipStratum):
        own_seed = fault.seed_of_part(part, seed)
        if fault.is_free(part):
            return target.drawn(target.draws.flip(ber, own_seed, trial).columns())
        flips = fault.flips(part, target.bits, seed, trial)
        return target.drawn(target.draws.flip_exactly(flips, own_seed, trial).columns())
    if isinstance(fault, BitFlip):
        return target.drawn(target.draws.flip(ber, seed, trial).columns())
    if isinstance(fault, Burst):
        return burst_places(fault, ber, target.exposed, seed, trial)
    if isinstance(fault, ExactFlips):
        return target.drawn(target.draws.flip_exactly(fault.n, seed, trial).columns())
    if isinstance(fault, StuckAt):
        stuck = target.drawn(target.draws.flip(ber, seed, trial).columns())
        bits = target.stored_bits(stuck)
        if before:
            bits ^= flipped_before(target, stuck, before)
        return stuck.take(bits != fault.value)
    raise TypeError(f"fault must be a fault of proact.faults, got {type(fault).__name__}")


def listed_places(replay: Replay, target: Target) -> FlipPlaces:
    number = {name: index for index, e in enumerate(target.exposed) for name in e.stored.names}
    n = len(replay.faults)
    tensor = np.fromiter((number[site.tensor] for site in replay.faults), np.uint32, n)
    element = np.fromiter((site.element for site in replay.faults), np.uint64, n)
    bit = np.fromiter((site.bit for site in replay.faults), np.uint8, n)
    return FlipPlaces(tensor, element, bit)
