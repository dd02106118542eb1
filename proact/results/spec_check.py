"""Checks that the values of a stored run fit together; `stored_json` has checked their types."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from proact.errors import ProactError
from proact.limits import SEEDS, TRIALS
from proact.results.cells import CellSpec
from proact.text import short_repr

if TYPE_CHECKING:
    from proact.results.run_log import RunSpec

#: Sums of weights may exceed 1 by rounding.
_ROUNDING = 1e-9

#: Means may lie beyond the ends of their range by this share of its width.
ROUNDING = 1e-9


def check_spec(spec: RunSpec) -> None:
    """ProactError that names the first value of a run's description that does not fit."""
    for key, value, fits, expected in (*_of_run(spec), *_of_cells(spec), *_of_results(spec)):
        if not fits:
            raise ProactError(
                f"the description of a run in the store has {short_repr(value)} as {key}, expected "
                f"{expected}"
            )


#: Key, value, whether it fits, and what is expected.
_Check = tuple[str, Any, bool, str]


def _of_run(spec: RunSpec) -> Iterator[_Check]:
    width = spec.highest - spec.lowest
    yield "highest", spec.highest, 0 < width < math.inf, "a finite number above lowest"
    yield "confidence", spec.confidence, 0 < spec.confidence < 1, "a number in (0, 1)"
    for key in ("margin", "difference_margin"):
        margin = getattr(spec, key)
        yield key, margin, margin is None or margin > 0, "a number above 0 or none"
    relative = spec.relative_margin
    yield "relative_margin", relative, relative is None or 0 < relative < 1, "a number in (0, 1)"
    yield "trials", spec.trials, spec.trials is None or 0 < spec.trials < TRIALS, "trials"
    goals = (spec.margin, spec.relative_margin, spec.trials)
    yield "margin", None, goals != (None, None, None), "a margin or a number of trials"
    yield "seed", spec.seed, 0 <= spec.seed < SEEDS, f"an integer in [0, {SEEDS})"
    yield "images", spec.images, spec.images > 0, "an integer above 0"
    each = spec.images_per_trial
    yield "images_per_trial", each, each is None or 0 < each <= spec.images, "at most all images"
    names = [variant.name for variant in spec.variants]
    yield "variants", names, 0 < len(set(names)) == len(names), "different names"
    for variant in spec.variants:
        # A mean of values at an end of the range may lie beyond it by a rounding.
        room = ROUNDING * (spec.highest - spec.lowest)
        is_inside = spec.lowest - room <= variant.clean <= spec.highest + room
        yield "clean", variant.clean, is_inside, "a number from lowest to highest"
        for kind, use in variant.memory.items():
            yield f"memory.{kind}", use, min(use.numbers, use.bits) >= 0, "no negative numbers"


def _of_cells(spec: RunSpec) -> Iterator[_Check]:
    names = {variant.name for variant in spec.variants}
    groups: dict[tuple[str, str], list[CellSpec]] = {}
    for cell in spec.cells:
        groups.setdefault((cell.variant, cell.fault), []).append(cell)
        yield "a cell's variant", cell.variant, cell.variant in names, "one of the variants"
        yield "a cell's key", cell.key, min(cell.key) > 0, "numbers above 0"
        yield "a cell's ber", cell.ber, 0 <= cell.ber <= 1, "a number in [0, 1]"
        yield "a cell's bits", cell.bits, cell.bits is None or cell.bits >= 0, "no negative number"
        unflipped = cell.unflipped
        is_share = unflipped is None or 0 <= unflipped <= 1
        yield "a cell's unflipped", unflipped, is_share, "a number in [0, 1]"
        is_part = spec.kind != "campaign"
        fits = is_part == (cell.part is not None) == (cell.share is not None)
        yield "a cell's part", cell.part, fits, "a part and its share in sweeps alone"
        yield "a cell's share", cell.share, 0 < (cell.share or 1.0) <= 1, "a number in (0, 1]"
        if cell.stratum is not None:
            yield "a stratum's weight", cell.weight, 0 < cell.weight <= 1, "a number in (0, 1]"
            yield "a stratum's planned", cell.planned, 0 <= cell.planned <= TRIALS, "trials"
            bits = cell.stratum.critical
            yield "critical", bits, all(0 <= bit < 64 for bit in bits), "bits in [0, 64)"
    yield "cells", [], bool(groups), "at least one cell"
    keys = [cell.key for cell in spec.cells]
    yield "cells", keys, len(set(keys)) == len(keys), "cells of different keys"
    for (variant, fault), cells in groups.items():
        named = [cell.stratum.name for cell in cells if cell.stratum is not None]
        is_one = len(cells) == 1 or 0 < len(set(named)) == len(cells)
        yield "cells", f"{variant} {fault}", is_one, "one cell, or strata of different names"
        total = math.fsum(cell.weight for cell in cells)
        yield "strata", total, total <= 1 + _ROUNDING, "weights that sum up to at most 1"
    variants = Counter(fault for _, fault in groups)
    for fault, count in variants.items():
        yield "cells", fault, count == len(names), "a cell of each variant for each fault"


def _of_results(spec: RunSpec) -> Iterator[_Check]:
    stopped = spec.stopped
    fits = len(stopped) in (0, len(spec.cells)) and all(0 <= each < TRIALS for each in stopped)
    yield "stopped", stopped, fits, "a number of trials for each cell, or none"
    names = {variant.name for variant in spec.variants}
    faults = {cell.fault for cell in spec.cells}
    for variant, counts in spec.paired.items():
        yield "paired", variant, variant in names, "one of the variants"
        for fault, trials in counts.items():
            yield f"paired.{variant}", fault, fault in faults, "one of the faults"
            fits = len(trials) > 0 and all(0 <= each < TRIALS for each in trials)
            yield f"paired.{variant}.{fault}", trials, fits, "numbers of trials"
    policy = spec.facts.get("policy")
    yield "facts", policy, isinstance(policy, dict), "the policy of the task"
