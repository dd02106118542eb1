"""What a protection costs in memory and in accuracy without faults."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from proact.data import Split
from proact.faults import Encoding, FaultSpace, Where, encode, encoding_named
from proact.faults.stored import stored_tensors
from proact.models.evaluation import accuracy
from proact.nn import HyReLU, WeightRange


@dataclass(frozen=True)
class Cost:
    """Of one protected network.

    Attributes:
        thresholds: how many are stored.
        bytes: what they and the bounds take in the encoding.
        percent: their number, of the parameters' number.
        clean: accuracy in [0, 1] without faults, in the encoding.
        clean_soft: the same with the soft clip that ProAct trains, before hardening; None where
            the thresholds were not trained.
        bounds: of weight-range, how many are stored.
    """

    thresholds: int
    bytes: float
    percent: float
    clean: float
    clean_soft: float | None
    bounds: int = 0


def cost(
    model: nn.Module, images: Split, encoding: str | Encoding = "float32", soft: bool = False
) -> Cost:
    """Measures `Cost` on ``images``; ``soft=True`` measures the soft form too."""
    encoding = encoding_named(encoding)
    stored = sum(stored.tensor.numel() for stored in stored_tensors(model))
    thresholds = sum(
        module.threshold.numel() for module in model.modules() if isinstance(module, HyReLU)
    )
    encoded = encode(model, encoding).eval()
    bounds = sum(2 * m.low.numel() for m in model.modules() if isinstance(m, WeightRange))
    added = thresholds + bounds
    kinds = ("threshold", "bound")
    bits = FaultSpace(encoded, encoding, Where(kind=kinds)).bits if added else 0
    return Cost(
        thresholds,
        bits / 8,
        100.0 * added / (stored - added),
        accuracy(encoded, images),
        accuracy(_softened(encoded), images) if soft else None,
        bounds,
    )


def _softened(model: nn.Module) -> nn.Module:
    result = copy.deepcopy(model)
    for module in result.modules():
        if isinstance(module, HyReLU):
            module.mode = "soft"
    return result
