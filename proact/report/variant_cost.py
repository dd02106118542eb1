"""The cost of a variant's protection, from what its run stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proact.results.run_log import Variant


@dataclass(frozen=True)
class VariantCost:
    """The cost of a variant's protection.

    Attributes:
        thresholds, bounds: how many of them are stored.
        bytes: their size in the encoding.
        percent: their number in percent of the number of other stored values.
        clean: the metric without faults.
        soft: the same before hardening, where the run's notes have it.
        latency: time of a forward pass divided by that of the unprotected model, where the run's
            notes have it.
    """

    thresholds: int
    bounds: int
    bytes: float
    percent: float
    clean: float
    soft: float | None
    latency: float | None


def cost_of(variant: Variant, notes: Mapping[str, object]) -> VariantCost:
    """The cost of a variant from its stored values; ``notes`` are the fields of a
    `proact.protect.Cost`, or empty."""
    added = {
        kind: variant.memory[kind] for kind in ("threshold", "bound") if kind in variant.memory
    }
    numbers = sum(memory.numbers for memory in added.values())
    others = sum(memory.numbers for memory in variant.memory.values()) - numbers
    return VariantCost(
        added["threshold"].numbers if "threshold" in added else 0,
        added["bound"].numbers if "bound" in added else 0,
        sum(memory.bits for memory in added.values()) / 8,
        100.0 * numbers / max(others, 1),
        variant.clean,
        _number(notes.get("clean_soft")),
        _number(notes.get("latency")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
