"""`plan`: compares encodings with guards under faults, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from proact.data import Data
from proact.data.dataset import SamplesOrData, as_data
from proact.data.reading import Collate
from proact.encodings import Encoding
from proact.faults.mixed_encoding import MixedEncoding, checked_encoding
from proact.nn.batches import Batch, cloned
from proact.nn.forward import Forward, OutputSelector
from proact.nn.model_kinds import checked_module
from proact.nn.module_copy import copy_model
from proact.nn.outputs import output_tensors
from proact.nn.tensor_inventory import stored_tensors
from proact.protect.interface import protect
from proact.protect.objective import Loss, Objective, SampleMetric
from proact.protect.plan_candidates import bits_per_weight, default_encodings
from proact.protect.plan_options import NO_GUARD, PlanOptions
from proact.protect.plan_race import CandidateRace
from proact.protect.plan_result import (
    OVER_BUDGET,
    TOO_COSTLY,
    UNSTORABLE,
    Plan,
    UnmeasuredCandidate,
)
from proact.protect.protection_cost import latency_ratio
from proact.text import short_repr

_TIMED_IMAGES = 100


def plan(
    model: nn.Module,
    data: SamplesOrData,
    *,
    variants: Mapping[str, nn.Module] | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
    loss: Loss | None = None,
    metric: SampleMetric | None = None,
    collate: Collate | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Plan:
    """Finds the encoding and guard that keep the most accuracy within a memory budget.

    Every candidate is an encoding (a format, possibly with a code) with a guard. All candidates
    meet the same fault patterns on the same validation images; no test image is used. Candidates
    are dropped when they do not fit the budget, when they cost more clean accuracy than
    ``tolerance``, or when the paired interval of their difference to the best lies below 0. After
    32 fault patterns, the ``finalists`` with the highest accuracy remain. They get further patterns
    until all intervals are as narrow as ``margin``. The plan lists every dropped candidate with the
    reason.

    Args:
        model: a trained model on the CPU; it is not changed.
        data: the result of `proact.data.load`; or samples with targets in one of the forms of
            `proact.data.as_split`, a fifth of which is then used for validation.
        variants: further protected versions of ``model`` by name, compared like guards.
        forward, output, loss, metric, collate: as for `proact.protect.protect`.
        progress: called with a line of text at each step.
        options: the fields of `proact.protect.plan_options.PlanOptions`: ``ber``, ``bits``,
            ``candidates``, ``guards``, ``tolerance``, ``margin``, ``trials``, ``finalists``,
            ``images_per_trial``, ``confidence``, ``seed``.

    Raises:
        ValueError, TypeError: an option out of range, a budget below every candidate, a tolerance
            that no candidate meets, or unsuitable data.
    """
    chosen = PlanOptions(**options)
    checked_module(model)
    if variants is not None and not isinstance(variants, Mapping):
        raise TypeError(
            f"variants: expected a mapping of names to models, got {type(variants).__name__}"
        )
    samples = as_data(data, collate=collate)
    objective = Objective(Forward(forward, output), loss, metric)
    objective.check(model, samples.validation, "plan", trains=False)
    timed = next(samples.validation.batches(_TIMED_IMAGES))[0]
    report = progress or _ignore
    unmeasured: list[UnmeasuredCandidate] = []
    encodings = _within_budget(model, chosen, unmeasured)
    _refuse_varying(type(model).__name__, model, timed, objective.forward)
    guarded = _guarded(model, samples, variants or {}, chosen, objective, report)
    for name, variant in (variants or {}).items():
        _refuse_varying(f"variants: {short_repr(name)}", variant, timed, objective.forward)
    race = CandidateRace(model, samples.validation, chosen, objective, report)
    latency = {
        name: 1.0 if each is model else latency_ratio(each, model, timed, forward=forward)
        for name, each in guarded.items()
    }
    for encoding in encodings:
        if isinstance(encoding, MixedEncoding):
            encoding.refuse_unused(map(stored_tensors, guarded.values()))
        for name, each in guarded.items():
            refused = race.admit(encoding, name, each, latency[name])
            if refused is not None:
                unmeasured.append(refused)
    if race.is_empty:
        raise ValueError(_nothing_left(unmeasured, chosen))
    race.run()
    return race.finished(tuple(unmeasured))


def _within_budget(
    model: nn.Module, options: PlanOptions, unmeasured: list[UnmeasuredCandidate]
) -> list[Encoding]:
    """The encodings whose stored weights fit the budget; the others join ``unmeasured``."""
    given = options.candidates
    encodings: list[Encoding] = []
    for each in map(checked_encoding, default_encodings(model) if given is None else given):
        if each not in encodings:
            encodings.append(each)
    found: list[Encoding] = []
    smallest: float | None = None
    for encoding in encodings:
        try:
            bits = bits_per_weight(model, encoding)
        except (TypeError, ValueError) as error:
            unmeasured.append(UnmeasuredCandidate(encoding.name, "", UNSTORABLE, str(error)))
            continue
        smallest = bits if smallest is None else min(smallest, bits)
        if bits > options.bits + 1e-9:
            reason = f"{bits:.4g} bits a weight exceed the budget of {options.bits:g}"
            unmeasured.append(UnmeasuredCandidate(encoding.name, "", OVER_BUDGET, reason))
        else:
            found.append(encoding)
    if not found:
        if smallest is None:
            raise ValueError(f"no candidate can store the model: {unmeasured[0].reason}")
        raise ValueError(
            f"bits: expected a budget of at least {smallest:.4g} bits a weight, the least that a "
            f"candidate takes, got {options.bits:g}"
        )
    return found


def _guarded(
    model: nn.Module,
    data: Data,
    variants: Mapping[str, nn.Module],
    options: PlanOptions,
    objective: Objective,
    report: Callable[[str], None],
) -> dict[str, nn.Module]:
    """The model with each guard, and the given variants, by name."""
    found: dict[str, nn.Module] = {}
    run = objective.forward
    functions: dict[str, Any] = {
        "forward": run.call,
        "output": run.output,
        "loss": objective.loss,
        "metric": objective.metric,
    }
    for name in dict.fromkeys(options.guards):
        found[name] = (
            model if name == NO_GUARD else protect(model, name, data, **functions, progress=report)
        )
    for name, variant in variants.items():
        if name in found:
            raise ValueError(f"variants: the name {short_repr(name)} is that of a guard")
        if not isinstance(variant, nn.Module):
            raise TypeError(
                f"variants: expected a torch.nn.Module for {short_repr(name)}, got "
                f"{type(variant).__name__}"
            )
        found[name] = variant
    return found


def _refuse_varying(name: str, model: nn.Module, inputs: Batch, forward: Forward) -> None:
    """ValueError if a model gives two outputs for the same inputs, as random ones do."""
    working = copy_model(model).eval()
    with torch.no_grad():
        runs = (forward.raw(working, inputs) for _ in range(2))
        first, second = (cloned(output_tensors(run)) for run in runs)
        for one, other in zip(first, second, strict=True):
            if not torch.allclose(one.double(), other.double(), equal_nan=True):
                raise ValueError(
                    f"{name} gives different outputs for the same inputs, because they are random "
                    "or depend on earlier calls, so that candidates cannot be compared: make them "
                    "a function of the inputs"
                )


def _nothing_left(unmeasured: Sequence[UnmeasuredCandidate], options: PlanOptions) -> str:
    """The message that no candidate can be measured, with the reason."""
    if any(each.kind == TOO_COSTLY for each in unmeasured):
        return (
            f"no candidate keeps the clean accuracy within the tolerance of {options.tolerance:g}: "
            "raise the tolerance or the budget"
        )
    why = next(each for each in unmeasured if each.kind == UNSTORABLE)
    guard = f" with {why.guard}" if why.guard not in ("", NO_GUARD) else ""
    return f"no candidate can be measured; {why.encoding}{guard}: {why.reason}"


def _ignore(line: str) -> None:
    """Discards a line of progress."""
