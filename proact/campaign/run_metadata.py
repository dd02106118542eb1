"""The metadata that the store keeps with the rows: cells, memory, machine and versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact.encodings import Encoding
from proact.faults import ActivationFlip, Fault, Injector
from proact.faults.stored_forms import StoredForms
from proact.nn.tensor_inventory import stored_tensors
from proact.ops import native_info
from proact.results.cells import CellSpec
from proact.results.run_log import MemoryUse, RunKind
from proact.results.store import CellKey
from proact.results.stratum import shares_of

#: Fields of faults that state a rate or a number.
_AMOUNTS = ("ber", "n")


@dataclass(frozen=True)
class SweepParts:
    """The division of the fault space by a sweep.

    Attributes:
        kind: ``"layer"`` or ``"bit"``.
        fault: the fault whose space is divided.
        names: the name of each part; there is one part per fault of the run.
        bits: number of exposed bits of each part.
        fields: for a sweep over bits, the field of the encoding that holds each bit.
    """

    kind: RunKind
    fault: Fault
    names: Sequence[str]
    bits: Sequence[int]
    fields: Sequence[str | None]


def cell_spec(
    variant: str,
    injector: Injector,
    fault: Fault,
    key: CellKey,
    sweep: SweepParts | None,
    part: int,
) -> CellSpec:
    """Describe a cell before its first trial.

    Args:
        variant: name of the variant.
        injector: of the encoded variant.
        fault: the fault of the cell.
        key: of the cell in the store.
        sweep: None unless the cell is a part of a sweep.
        part: position of the cell in the sweep.

    Raises:
        The errors of `Injector.exposed_bits`.
    """
    is_transient = isinstance(fault, ActivationFlip)
    return CellSpec(
        variant,
        str(fault),
        family_of(fault) if sweep is None else str(sweep.fault),
        key,
        injector.expected_ber(fault),
        None if is_transient else injector.exposed_bits(fault),
        injector.probability_of_none(fault),
        not is_transient,
        part=None if sweep is None else sweep.names[part],
        share=None if sweep is None else shares_of(sweep.bits)[part],
        field=None if sweep is None else sweep.fields[part],
    )


def family_of(fault: Fault) -> str:
    """Describe a fault without its rate or number; faults of one family form one curve over BER."""
    defaults = {f.name: f.default for f in fields(fault)}  # type: ignore[arg-type]
    described = fault.to_dict()
    kind = described.pop("kind")
    differing = [
        f"{name}={value}"
        for name, value in described.items()
        if getattr(fault, name) != defaults[name]
        and not (name in _AMOUNTS and isinstance(value, (int, float)))
    ]
    return f"{kind}({', '.join(differing)})" if differing else str(kind)


def memory_of(model: nn.Module, encoding: Encoding) -> dict[str, MemoryUse]:
    """Return the memory of an encoded model by kind of tensor, in order of first occurrence."""
    amounts: dict[str, MemoryUse] = {}
    forms = StoredForms(stored_tensors(model), encoding)
    for stored in forms.tensors:
        numbers = stored.tensor.numel()
        before = amounts.get(stored.kind, MemoryUse(0, 0))
        try:
            name, bits = forms.word(stored).name, forms.stored_bits(stored)
        except (TypeError, ValueError):  # the encoding cannot store it; no fault hits it
            name = str(stored.tensor.dtype).removeprefix("torch.")
            bits = 8 * stored.tensor.element_size() * numbers
        words = before.words if name in before.words else (*before.words, name)
        amounts[stored.kind] = MemoryUse(before.numbers + numbers, before.bits + bits, words)
    return amounts


def environment(device: torch.device) -> Mapping[str, Any]:
    """Return the versions and the machine of this process, as values that JSON can hold."""
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
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
