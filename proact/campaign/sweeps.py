"""Sweeps: stratified campaigns that compare the layers, or the bit positions, of one model.

The strata divide the fault space by layer or by bit position. Each trial injects faults into one
stratum. The number of trials of a stratum follows from its share of the fault space and from the
standard deviation of its trials, so that the interval of the whole is as narrow as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Protocol

from torch import nn

from proact.campaign.campaign_run import CampaignRun
from proact.campaign.executors import checked_executor
from proact.campaign.options import RunOptions
from proact.campaign.run_metadata import SweepParts
from proact.data.dataset import SamplesOrData
from proact.faults import ExactFlips, FaultSpace, encode
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.kinds import StoredFault
from proact.faults.mixed_encoding import checked_encoding
from proact.faults.selectors import exactly
from proact.interruption import GracefulShutdown
from proact.limits import TRIALS
from proact.results.cells import CellState
from proact.results.result import Result
from proact.results.statistics import (
    Trials,
    deviation,
    optimal_allocation,
    stratified_mean,
    trial_mean,
)
from proact.results.stratum import shares_of, sweep_confidence
from proact.text import short_repr

_ONE_FLIP = ExactFlips(1)
#: Trials of every stratum before its standard deviation is known.
_FIRST = 32
#: The least standard deviation of a stratum, as a fraction of the metric's range. A stratum without
#: any effect so far is not assumed to be constant.
_LEAST_DEVIATION = 0.01
#: A round has at most this many times the trials of the round before.
_GROWTH = 2

P = ParamSpec("P")


class _Sweep(Protocol[P]):
    """`per_layer` with the fields of `RunOptions` as keyword arguments, for type checkers."""

    def __call__(
        self,
        model: nn.Module,
        data: SamplesOrData,
        fault: StoredFault = ...,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result: ...


def _typed(options: Callable[P, RunOptions]) -> Callable[[Callable[..., Result]], _Sweep[P]]:
    return lambda function: function


@_typed(RunOptions)
def per_layer(
    model: nn.Module, data: SamplesOrData, fault: StoredFault = _ONE_FLIP, **options: Any
) -> Result:
    """Measure the loss caused by ``fault`` in one layer, for each layer that stores tensors.

    Args:
        model, data: as for `proact.campaign.run`.
        fault: the fault in each layer. ``ExactFlips(1)``, a single flip, ranks layers by
            vulnerability per fault; ``BitFlip(ber)`` ranks them at a bit error rate. Its ``where``
            and ``bits`` narrow the fault space.
        options: the fields of `proact.campaign.RunOptions`. The margin applies to the whole, and
            ends the sweep. ``trials`` is the number for all layers together; with a margin, the
            maximum. ``name`` names the model in tables and reports.

    Returns:
        A result with `Result.strata`, one per layer in the model's order, and `Result.whole`.

    Raises:
        ValueError: ``trials`` is below the number of layers.
        The other errors of `proact.campaign.run`.
    """
    chosen = _checked(options)
    names: dict[str, list[str]] = {}
    bits: dict[str, int] = {}
    for exposed in _space(model, fault, chosen):
        layer = exposed.stored.layer
        names.setdefault(layer, []).append(exposed.name)
        bits[layer] = bits.get(layer, 0) + exposed.bits
    faults = [
        replace(fault, where=tuple(exactly(name) for name in tensors)) for tensors in names.values()
    ]
    parts = SweepParts("layer", fault, list(bits), list(bits.values()), [None] * len(bits))
    return _run(model, data, faults, parts, chosen)


@_typed(RunOptions)
def per_bit(
    model: nn.Module, data: SamplesOrData, fault: StoredFault = _ONE_FLIP, **options: Any
) -> Result:
    """Measure the loss caused by ``fault`` in one bit position, for each position of a word.

    Arguments, result and errors are those of `per_layer`. Where the encoding stores tensors as
    words of several kinds, bit 7 of int8 and bit 7 of float32 are separate strata, named
    ``int8 7`` and ``float32 7``.
    """
    chosen = _checked(options)
    space = _space(model, fault, chosen)
    words: dict[str, list[ExposedTensor]] = {}
    for exposed in space:
        words.setdefault(exposed.word.name, []).append(exposed)
    names, bits, faults, fields = list[str](), list[int](), list[StoredFault](), list[str | None]()
    for word, stored in words.items():
        for bit in sorted({bit for exposed in stored for bit in exposed.bit_numbers}):
            having = [exposed for exposed in stored if bit in exposed.bit_numbers]
            is_everywhere = len(having) == len(space)
            where = fault.where if is_everywhere else tuple(exactly(e.name) for e in having)
            names.append(f"{word} {bit}" if len(words) > 1 else str(bit))
            bits.append(sum(exposed.words_with(bit) for exposed in having))
            faults.append(replace(fault, bits=(bit,), where=where))
            fields.append(_field_of(having[0], bit))
    return _run(model, data, faults, SweepParts("bit", fault, names, bits, fields), chosen)


def _checked(options: Mapping[str, Any]) -> RunOptions:
    chosen = RunOptions(**options)
    if chosen.relative_margin is not None:
        raise ValueError(
            f"margin: a sweep needs a number, in the metric's unit, got {short_repr(chosen.margin)}"
        )
    if chosen.strata is True:
        raise ValueError("strata=True: per_layer and per_bit have strata of their own")
    if chosen.difference_margin:
        raise ValueError("difference_margin: per_layer and per_bit measure one model")
    if chosen.worst_flips is not None:
        raise ValueError(
            "worst_flips: per_layer and per_bit do not search; use proact.campaign.run"
        )
    return replace(
        chosen,
        margin=chosen.margin_or_default,
        executor=checked_executor(chosen.executor),
        strata=False,
    )


def _space(model: nn.Module, fault: StoredFault, options: RunOptions) -> FaultSpace:
    encoding = checked_encoding(options.encoding)
    return FaultSpace(encode(model, encoding, where=fault.where), encoding, fault.where, fault.bits)


def _run(
    model: nn.Module,
    data: SamplesOrData,
    faults: Sequence[StoredFault],
    parts: SweepParts,
    options: RunOptions,
) -> Result:
    margin, trials = options.absolute_margin, options.trials
    if trials is not None and trials < len(faults):
        raise ValueError(
            f"trials: expected at least one for each of the {len(faults)} {parts.kind}s, "
            f"got {trials}"
        )
    confidence = sweep_confidence(margin, options.confidence)
    shares = shares_of(parts.bits)
    variants = {options.name or "model": model}
    options = replace(options, name=None)
    with GracefulShutdown(), CampaignRun(variants, data, faults, options, parts) as campaign:
        cells = list(campaign.cells.values())
        first = _FIRST if trials is None else min(_FIRST, trials // len(cells))
        targets = dict.fromkeys(cells, first)
        while True:
            campaign.run_trials(targets.__getitem__)
            found = [campaign.trials(cell) for cell in cells]
            # Ignore failed trials here: they widen the interval however many trials follow.
            reached = stratified_mean(
                shares,
                [
                    trial_mean(replace(mine, failed=0), campaign.prior(cell), confidence)
                    for mine, cell in zip(found, cells, strict=True)
                ],
            ).half_width
            if margin is not None and reached <= margin:
                break
            following = _next_round(campaign, found, shares, targets, reached, margin, trials)
            if following == targets:
                break
            targets = following
        return campaign.finished()


def _next_round(
    campaign: CampaignRun,
    found: Sequence[Trials],
    shares: Sequence[float],
    targets: Mapping[CellState, int],
    half_width: float,
    margin: float | None,
    trials: int | None,
) -> dict[CellState, int]:
    """Return the next targets; equal targets mean that the sweep ends."""
    # Cells in which nearly all trials failed have ended early.
    is_open = [cell.target == now for cell, now in targets.items()]
    least = _LEAST_DEVIATION * (campaign.metric.highest - campaign.metric.lowest)
    deviations = [
        max(deviation(mine, campaign.prior(cell)), least) if opened else 0.0
        for mine, cell, opened in zip(found, targets, is_open, strict=True)
    ]
    if not any(is_open):
        return dict(targets)
    given = sum(targets.values())
    total = _GROWTH * given
    if margin is not None:
        # The width falls with the root of the trials; 10 % more keeps the number of rounds low.
        total = min(total, int(1.1 * given * (half_width / margin) ** 2) + 1)
    if trials is not None:
        total = min(total, trials)
    if total <= given:
        return dict(targets)
    wanted = optimal_allocation(shares, deviations, [1.0] * len(shares), total)
    more = [max(then - now, 0) for now, then in zip(targets.values(), wanted, strict=True)]
    # Strata that already have more than their share leave fewer trials for the others.
    scale = min((total - given) / max(sum(more), 1), 1.0)
    return {
        cell: min(now + int(scale * extra), TRIALS - 1)
        for (cell, now), extra in zip(targets.items(), more, strict=True)
    }


def _field_of(exposed: ExposedTensor, bit: int) -> str | None:
    names = (name for name, mask in exposed.word.fields.items() if mask >> bit & 1)
    return next(names, None)
