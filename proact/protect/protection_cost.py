"""The cost of a protection: memory, clean accuracy and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from proact.data import as_evaluation
from proact.data.dataset import SamplesOrData
from proact.faults import FaultSpace, Where, encode
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.nn import HyReLU
from proact.nn.batches import Batch
from proact.nn.forward import Forward, OutputSelector
from proact.nn.model_kinds import checked_module
from proact.nn.module_copy import copy_model
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.plan import checked_integer
from proact.protect.objective import Objective, SampleMetric


@dataclass(frozen=True)
class Cost:
    """The cost of one protected model.

    Attributes:
        thresholds: the number of stored thresholds.
        bytes: the memory of thresholds and bounds in the encoding, in bytes.
        percent: the number of thresholds and bounds, in percent of all other stored numbers.
        clean: top-1 accuracy without faults in the encoding, in [0, 1], or the metric that `cost`
            got in its place; that of ``clean_soft`` and ``clean_before`` too.
        clean_soft: the same with the soft clip of training; None unless requested.
        bounds: the number of stored bounds of weight-range and replacements of ecc.
        clean_before: that of the unprotected model in the encoding; None if `cost` did not get this
            model.
        latency: the time of a forward pass divided by that of the unprotected model; None if `cost`
            did not get this model.
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
    images: SamplesOrData,
    encoding: EncodingLike = "float32",
    soft: bool = False,
    unprotected: nn.Module | None = None,
    *,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
    metric: SampleMetric | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
) -> Cost:
    """Measures the `Cost` of a protection; ``model`` is untouched.

    Args:
        model: the protected model.
        images: measures accuracy: the result of `proact.data.load` (its test split), or samples
            with targets in one of the forms of `proact.data.as_split`.
        encoding: the stored form.
        soft: whether to measure the accuracy with the soft clip too.
        unprotected: the model before protection, to compare accuracy and latency.
        forward, output, metric: as for `proact.protect.protect`; a metric takes the place of
            accuracy.
        evaluate: returns another value of a model in eval mode in place of accuracy.

    Raises:
        ValueError: an unknown encoding, or unsuitable images.
        TypeError: an argument of another type.
    """
    encoding, images = checked_encoding(encoding), as_evaluation(images)
    objective = Objective(Forward(forward, output), None, metric)
    stored = sum(stored.tensor.numel() for stored in stored_tensors(checked_module(model)))
    thresholds = sum(
        module.threshold.numel() for module in model.modules() if isinstance(module, HyReLU)
    )
    encoded = encode(model, encoding).eval()
    bounds = sum(
        buffer.numel()
        for module in model.modules()
        if isinstance(module, StoredGuard)
        for buffer in module.buffers()
    )
    added = thresholds + bounds
    kinds = ("threshold", "bound")
    bits = FaultSpace(encoded, encoding, Where(kind=kinds)).bits if added else 0
    if evaluate is None:
        objective.check_values(encoded, images, "the cost of a protection")
        evaluate = partial(objective.mean, split=images)
    before = None if unprotected is None else encode(unprotected, encoding).eval()
    return Cost(
        thresholds,
        bits / 8,
        100.0 * added / (stored - added),
        evaluate(encoded),
        evaluate(_softened(encoded)) if soft else None,
        bounds,
        None if before is None else evaluate(before),
        None
        if unprotected is None
        else latency_ratio(model, unprotected, next(images.batches(100))[0], forward=forward),
    )


def latency_ratio(
    model: nn.Module,
    unprotected: nn.Module,
    images: Batch,
    repeats: int = 15,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
) -> float:
    """The median time of a forward pass of ``model``, divided by that of ``unprotected``.

    Args:
        model, unprotected: run in eval mode and without autograd, in turns; both warm up once.
        images: a batch; each pass takes all of it.
        repeats: the number of timed passes of each model, at least 1.
        forward: a function of (model, batch) that runs the model it is given.

    Returns:
        A ratio of times: 1 if both models take as long, above 1 if ``model`` takes longer.

    Raises:
        ValueError, TypeError: an argument out of range or of another type.
    """
    if checked_integer("repeats", repeats, 1 << 31) == 0:
        raise ValueError("repeats is at least 1, got 0")
    run = Forward(forward)
    contenders = [copy_model(each).eval() for each in (model, unprotected)]
    seconds: list[list[float]] = [[], []]
    with torch.no_grad():
        for _ in range(repeats + 1):
            for contender, times in zip(contenders, seconds, strict=True):
                start = time.perf_counter()
                run(contender, images)
                times.append(time.perf_counter() - start)
    first, second = (statistics.median(times[1:]) for times in seconds)
    return first / second


def _softened(model: nn.Module) -> nn.Module:
    result = copy_model(model)
    for module in result.modules():
        if isinstance(module, HyReLU):
            module.mode = "soft"
    return result
