"""What a protection costs in memory, in accuracy without faults and in time."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proact.data import as_evaluation
from proact.data.dataset import PairOrData
from proact.encodings import Encoding, encoding_named
from proact.faults import FaultSpace, Where, encode
from proact.models.evaluation import accuracy
from proact.nn import HyReLU, WeightRange
from proact.nn.tensor_inventory import stored_tensors


@dataclass(frozen=True)
class Cost:
    """Of one protected network.

    Attributes:
        thresholds: how many are stored.
        bytes: what they and the bounds take in the encoding.
        percent: their number, of the parameters' number.
        clean: accuracy in [0, 1] without faults, in the encoding.
        clean_soft: the same with the soft clip that is trained, before hardening; None unless asked
            for.
        bounds: of weight-range, how many are stored.
        clean_before: accuracy of the unprotected network without faults, in the encoding.
        latency: time of a forward pass over that of the unprotected network.

    The last two are None where `cost` was not given the unprotected network.
    """

    thresholds: int
    bytes: float
    percent: float
    clean: float
    clean_soft: float | None
    bounds: int = 0
    clean_before: float | None = None
    latency: float | None = None


def cost(
    model: nn.Module,
    images: PairOrData,
    encoding: str | Encoding = "float32",
    soft: bool = False,
    unprotected: nn.Module | None = None,
) -> Cost:
    """Measures `Cost`.

    Args:
        images: to judge accuracy on: what `proact.data.load` returns (its test split), a pair
            (images, labels), or a `Dataset`.
        soft: whether to measure the soft form too.
        unprotected: the network as it was, to compare with.
    """
    encoding, images = encoding_named(encoding), as_evaluation(images)
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
        None if unprotected is None else accuracy(encode(unprotected, encoding).eval(), images),
        None if unprotected is None else latency_ratio(model, unprotected, images.images[:100]),
    )


def latency_ratio(
    model: nn.Module, unprotected: nn.Module, images: Tensor, repeats: int = 15
) -> float:
    """Median time of a forward pass of ``model`` over that of ``unprotected``, on all ``images`` at
    once, in eval mode and without autograd. The two take turns; both run once before."""
    contenders = [copy.deepcopy(network).eval() for network in (model, unprotected)]
    seconds: list[list[float]] = [[], []]
    with torch.no_grad():
        for _ in range(repeats + 1):
            for network, times in zip(contenders, seconds, strict=True):
                start = time.perf_counter()
                network(images)
                times.append(time.perf_counter() - start)
    first, second = (statistics.median(times[1:]) for times in seconds)
    return first / second


def _softened(model: nn.Module) -> nn.Module:
    result = copy.deepcopy(model)
    for module in result.modules():
        if isinstance(module, HyReLU):
            module.mode = "soft"
    return result
