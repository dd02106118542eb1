"""What of a live campaign goes into its record: memory, machine and versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from proact.campaign.metrics import Metric
from proact.campaign.settings import Order, Settings
from proact.encodings import Encoding
from proact.faults import ActivationFlip, Fault, Injector
from proact.nn.tensor_inventory import stored_tensors
from proact.ops import native_info
from proact.results.run_log import Memory, Run, RunCell, Variant
from proact.results.stratum import shares_of

#: Fields of faults that say how much, not what.
_AMOUNTS = ("ber", "n")


class Expected(NamedTuple):
    """What is known of a fault in a network before anything runs; see `RunCell`."""

    ber: float
    unflipped: float | None
    bits: int | None
    is_clean_without_flips: bool


def expected_of(injector: Injector, fault: Fault) -> Expected:
    """Raises what `Injector.exposed_bits` does."""
    is_transient = isinstance(fault, ActivationFlip)
    return Expected(
        injector.expected_ber(fault),
        injector.probability_of_none(fault),
        None if is_transient else injector.exposed_bits(fault),
        not is_transient,
    )


def family_of(fault: Fault) -> str:
    """The fault but for its rate or number: what a line over BER has in common."""
    defaults = {f.name: f.default for f in fields(fault)}  # type: ignore[arg-type]
    described = fault.to_dict()
    kind = described.pop("kind")
    told = [
        f"{name}={value}"
        for name, value in described.items()
        if getattr(fault, name) != defaults[name]
        and not (name in _AMOUNTS and isinstance(value, (int, float)))
    ]
    return f"{kind}({', '.join(told)})" if told else str(kind)


def run_of(
    order: Order,
    settings: Settings,
    metric: Metric,
    images: int,
    facts: Mapping[str, Any],
    variants: Sequence[Variant],
    cells: Sequence[RunCell],
) -> Run:
    """What is about to be done, for the store; the facts are the task's, with its policy."""
    if order.parts:
        shares = shares_of([cell.bits or 0 for cell in cells])
        cells = [replace(cell, share=share) for cell, share in zip(cells, shares, strict=True)]
    return Run(
        kind=order.kind,
        name=order.name,
        margin=order.margin,
        trials=order.trials,
        confidence=settings.confidence,
        metric=metric.name,
        lowest=metric.lowest,
        highest=metric.highest,
        is_better_higher=metric.is_better_higher,
        encoding=facts["encoding"],
        seed=facts["seed"],
        images=images,
        images_per_trial=facts["policy"]["images"],
        facts=facts,
        variants=tuple(variants),
        cells=tuple(cells),
        notes=order.notes,
    )


def memory_of(model: nn.Module, encoding: Encoding) -> dict[str, Memory]:
    """What an encoded network stores, by kind, in the order in which the kinds come up."""
    amounts: dict[str, Memory] = {}
    for stored in stored_tensors(model):
        numbers = stored.tensor.numel()
        before = amounts.get(stored.kind, Memory(0, 0))
        try:
            word = encoding.word(stored).bits
        except (TypeError, ValueError):  # no fault can hit it in this encoding
            word = 8 * stored.tensor.element_size()
        amounts[stored.kind] = Memory(before.numbers + numbers, before.bits + word * numbers)
    return amounts


def environment(device: torch.device) -> Mapping[str, Any]:
    """Who runs the trials, in terms of JSON."""
    native = native_info()
    return {
        **{name: version(name) for name in ("proact", "torch", "numpy", "scipy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": native["isa"] or "none: plain Python",
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
