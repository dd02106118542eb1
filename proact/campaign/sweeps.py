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
from proact.faults.fault import StoredFault
from proact.faults.mixed_encoding import checked_encoding
from proact.faults.selectors import exactly
from proact.interruption import GracefulShutdown
from proact.limits import TRIALS
from proact.results.result import Result
from proact.results.statistics import SweepRule
from proact.results.stratum import shares_of, sweep_confidence
from proact.text import short_repr

_ONE_FLIP = ExactFlips(1)

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
        TypeError: a fault that does not hit stored parameters, or a `proact.faults.Replay`.
        ValueError: ``trials`` is below the number of layers.
        The other errors of `proact.campaign.run`.
    """
    chosen = _checked(fault, options)
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
    chosen = _checked(fault, options)
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


def _checked(fault: StoredFault, options: Mapping[str, Any]) -> RunOptions:
    if not isinstance(fault, StoredFault):
        raise TypeError(
            "per_layer and per_bit take a fault in stored parameters, such as BitFlip(1e-6), got "
            f"{short_repr(fault)}"
        )
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
    rule = SweepRule(shares_of(parts.bits), confidence, margin, trials, TRIALS - 1)
    variants = {options.name or "model": model}
    options = replace(options, name=None)
    with GracefulShutdown(), CampaignRun(variants, data, faults, options, parts) as campaign:
        cells = list(campaign.cells.values())
        targets = dict.fromkeys(cells, rule.first())
        while True:
            campaign.run_trials(targets.__getitem__)
            found = [campaign.trials(cell) for cell in cells]
            priors = [campaign.prior(cell) for cell in cells]
            # Cells in which nearly all trials failed have ended early.
            is_open = [cell.target == now for cell, now in targets.items()]
            following = rule.next(found, priors, list(targets.values()), is_open)
            if following == list(targets.values()):
                return campaign.finished()
            targets = dict(zip(cells, following, strict=True))


def _field_of(exposed: ExposedTensor, bit: int) -> str | None:
    names = (name for name, mask in exposed.word.fields.items() if mask >> bit & 1)
    return next(names, None)
