"""`protect`, the interface to all protection methods."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from proact.data import Data
from proact.data.dataset import SamplesOrData, as_data
from proact.data.reading import Collate
from proact.encodings import Encoding
from proact.errors import unknown
from proact.models.code_digest import ModelDigest, content_of
from proact.models.evaluation import check_fit, examples, run_checked
from proact.models.torch_settings import TorchSettings
from proact.nn import Site, error_correction_of
from proact.nn.batches import Batch
from proact.nn.forward import Forward, OutputSelector
from proact.nn.guard_hooks import unguarded_copy
from proact.nn.model_kinds import checked_module, refuse_opaque
from proact.nn.sites import place_at_sites, traced_sites
from proact.nn.tensor_inventory import stored_tensors
from proact.nn.written_state import restored
from proact.protect.checkpointing import MethodRun
from proact.protect.fingerprint import fingerprint
from proact.protect.guards import copy_guards
from proact.protect.held_out import (
    MOST_HELD_OUT,
    TOLERANCE,
    held_out_samples,
    scores,
    warn_of_cost,
    warn_of_few_samples,
)
from proact.protect.method import ClipMethod, GuardMethod
from proact.protect.objective import CLASSES, Loss, Objective, SampleMetric
from proact.protect.options import ClipOptions, TrainedOptions
from proact.protect.registry import METHODS
from proact.protect.serialization import Protection, attach, protection_of, unprotected_fingerprint
from proact.text import short_repr


def methods() -> list[str]:
    """The names of all methods."""
    return list(METHODS)


def trained_methods() -> list[str]:
    """The names of the methods that train a soft clip and harden it at the end."""
    return [name for name in METHODS if issubclass(_method(name).options, TrainedOptions)]


def resumable_methods() -> list[str]:
    """The names of the methods that can be resumed: they go from site to site."""
    return [name for name in METHODS if _resumes(_method(name))]


def _method(name: str) -> ClipMethod | GuardMethod:
    """Loads the module of a method."""
    method: ClipMethod | GuardMethod = import_module(f"proact.protect.{METHODS[name]}").METHOD
    return method


def _resumes(method: ClipMethod | GuardMethod) -> bool:
    return isinstance(method, ClipMethod) and method.resumes


def protect(
    model: nn.Module,
    method: str,
    data: SamplesOrData | None = None,
    *,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
    loss: Loss | None = None,
    metric: SampleMetric | None = None,
    collate: Collate | None = None,
    progress: Callable[[str], None] | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Protects a copy of ``model`` by one method and returns it; ``model`` is untouched.

    Methods clip activations at thresholds that they choose; ``"weight-range"`` keeps stored values
    in their range instead, and ``"ecc"`` writes check bits into them. All methods use the same
    training and validation images and no test images, so that they compare fairly. Weight-range and
    ecc compose with each other and with the other methods in any order: the other method works
    without the guards, which then cover the new thresholds too. If activations are clipped already,
    the method profiles the model with these clips and replaces them by its own.

    Args:
        model: a model on the CPU; `proact.nn.find_sites` finds its activations.
        method: one of `methods`.
        data: the result of `proact.data.load`; or training samples in one of the forms of
            `proact.data.as_split`, such as a pair (inputs, targets), and a fifth of them is held
            out for validation. ``"ranger"`` needs no targets; ``"weight-range"`` and ``"ecc"`` need
            no data.
        forward: a function of (model, batch) that runs the model it is given. By default a mapping
            enters as ``model(**batch)``, a tuple as ``model(*batch)``, and a tensor as
            ``model(batch)``.
        output: the part of the output that counts: the name of an attribute or key, a position, or
            a function of the output. By default the logits (`proact.nn.forward.logits_of`).
        loss: a function of (logits, targets) that returns the mean, (), or one value per sample,
            (samples,); methods that train thresholds minimise it. The default, for outputs
            (samples, classes) and class labels, is the cross-entropy. `token_cross_entropy` and
            `torch.nn.functional.cross_entropy` suit tokens and segmentation.
        metric: a function of (logits, targets) that returns one value in [0, 1] per sample, where 1
            is best; the tolerance is in its unit. The default for classes is top-1 accuracy.
            `token_accuracy` and `pixel_accuracy` suit tokens and segmentation. A function of your
            own should give 0 for logits of NaN, which faults can cause while methods compare
            thresholds.
        collate: makes a batch from items of a `Dataset` whose shapes differ, for ranger.
        progress: called with a line of text at each step of the method. Methods that go from site
            to site estimate the time left.
        resume: a safetensors file for the thresholds of finished sites, for the methods in
            `resumable_methods`. If it exists, the method continues with the next site and ends in
            the same thresholds. It is deleted at the end.
        options: the options of the method, such as ``granularity``: the attributes of
            `proact.protect.ranger.RangerOptions`, `proact.protect.ft_clipact.FtClipactOptions`,
            `proact.protect.fitact.FitactOptions`, `proact.protect.proact.ProactOptions`,
            `proact.protect.resilience.ResilienceAwareOptions`,
            `proact.protect.weight_range.WeightRangeOptions` and `proact.protect.ecc.EccOptions`.

    Returns:
        The protected model in eval mode. Thresholds are parameters named ``<site>.threshold``;
        the bounds of weight-range are the buffers ``weight_range.low`` and ``weight_range.high``.

    Warns:
        UserWarning: clips cost more than the tolerance (1.5 points where the method has none) on
            the held-out samples (at most 2,500 for methods without a tolerance); more than a fifth
            of these have activations above the profile; or they are too few to show that the
            tolerance is kept, so that no threshold is trained.

    Raises:
        ValueError: an unknown method, a model without parameters or (except for weight-range and
            ecc) without activations, unsuitable data or options, a loss or metric that does not fit
            the outputs, or a loss that depends on no threshold.
        TypeError: ``model`` is not a torch module, or the method lacks an option.
        ProactError: ``resume`` belongs to another run, or cannot be written.
    """
    chosen = check_options(method, options)
    found = _method(method)
    if resume is not None and not _resumes(found):
        able = ", ".join(resumable_methods())
        raise ValueError(f"resume is for the methods {able}; got {short_repr(method)}")
    if not stored_tensors(checked_module(model)):
        raise ValueError(f"{type(model).__name__} has no parameters to protect")
    refuse_opaque(model, "protection")
    objective = Objective(Forward(forward, output), loss, metric)
    samples = None if data is None else as_data(data, collate=collate)
    if isinstance(found, GuardMethod):
        return _guarded(model, method, found, chosen, samples, objective, progress or _ignore)
    if samples is None:
        raise ValueError(f"data: {method} profiles activations on training samples, and got none")
    judges = found.judges or _is_classification(model, samples, objective)
    _check_samples(model, method, found, samples, objective)
    before = protection_of(model)
    network = unprotected_fingerprint(model)
    file = None if resume is None else Path(resume)
    working = unguarded_copy(model)
    identity = "" if file is None else _identity(method, chosen, working, samples, objective)
    skipped = _skipped(working, samples, chosen, objective.forward)
    with MethodRun(progress or _ignore, identity, file) as run:
        for name, count in Counter(skipped).items():
            calls = "activation" if count == 1 else "activations"
            run.report(f"{count} {calls} in {name or type(model).__name__} skipped")
        clips = found.run(working, samples, chosen, run, objective)
    result = unguarded_copy(model)
    # Some of these judged trained thresholds, so that only all of them tell something new.
    most = None if issubclass(found.options, TrainedOptions) else MOST_HELD_OUT
    held_out = held_out_samples(samples.validation, most)
    with restored(result):
        warn_of_few_samples(result, len(samples.train), held_out, run.maxima, objective)
        plain = scores(result, held_out, objective, judges)
    result = place_at_sites(result, clips)
    if plain is not None:
        with restored(result):
            clipped = scores(result, held_out, objective, judges)
        tolerance = chosen.tolerance if isinstance(chosen, TrainedOptions) else TOLERANCE
        warn_of_cost(plain, clipped, tolerance, judges)
    copy_guards(model, result)
    sites = _merged(before.sites if before is not None else (), clips)
    return _recorded(result, model, method, chosen, sites, network, skipped)


def _guarded(
    model: nn.Module,
    method: str,
    found: GuardMethod,
    options: Any,
    samples: Data | None,
    objective: Objective,
    progress: Callable[[str], None],
) -> nn.Module:
    """Protects a copy of ``model`` by a guard; samples are not needed, but checked if given."""
    if samples is not None:
        run_checked(model, examples(samples.train), forward=objective.forward)
    before, network = protection_of(model), unprotected_fingerprint(model)
    result = found.run(unguarded_copy(model), options, progress)
    copy_guards(model, result)
    sites = before.sites if before is not None else ()
    return _recorded(result, model, method, options, sites, network, ())


def _recorded(
    result: nn.Module,
    model: nn.Module,
    method: str,
    options: Any,
    sites: tuple[Site, ...],
    network: str,
    skipped: tuple[str, ...],
) -> nn.Module:
    """``result`` in eval mode, with a record of the methods that were applied to ``model``."""
    before = protection_of(model)
    applied = (*(before.applied if before is not None else ()), (method, _as_json(options)))
    left = (*(before.skipped if before is not None else ()), *skipped)
    coded = fingerprint(result) if error_correction_of(result) is not None else network
    attach(result, Protection(applied, sites, network, left, coded))
    return result.eval()


def _is_classification(model: nn.Module, samples: Data, objective: Objective) -> bool:
    """Whether the user gave a metric, or outputs and targets are those of a classifier."""
    if samples.validation.targets is None:
        return False
    if objective.metric is not None:
        return True
    logits = objective.class_logits(model, examples(samples.train))
    return logits is not None and samples.validation.class_labels is not None


def _check_samples(
    model: nn.Module, method: str, found: ClipMethod, samples: Data, objective: Objective
) -> None:
    trains = issubclass(found.options, TrainedOptions)
    for split in (samples.train, samples.validation):
        if found.judges:
            objective.check(model, split, method, trains)
            continue
        logits = objective.class_logits(model, examples(split))
        if logits is not None and split.class_labels is not None:
            check_fit(logits, split.class_labels)


def _skipped(
    model: nn.Module, samples: Data, options: ClipOptions, forward: Forward
) -> tuple[str, ...]:
    """The modules of the activations that the user leaves alone, one for each activation."""
    if not options.skip:
        return ()
    example = examples(samples.train)
    return traced_sites(model, example, options.activations, forward, options.skip).skipped


def _merged(before: Iterable[Site], now: Iterable[Site]) -> tuple[Site, ...]:
    """The sites of all clips.

    If a clip replaced another clip, the site is that of the first one, in the unprotected model.
    """
    merged = {site.name: site for site in now}
    return tuple((merged | {site.name: site for site in before}).values())


def check_options(method: str, options: dict[str, Any]) -> Any:
    """The options of a method as its dataclass.

    Raises:
        ValueError: an unknown method, or an invalid value.
        TypeError: an option that the method does not have, or a value of the wrong type.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise unknown("method", method, METHODS)
    kind = _method(method).options
    known = [field.name for field in fields(kind)]
    for name in options:
        if name not in known:
            raise TypeError(f"{method} has the options {', '.join(known)}; got {short_repr(name)}")
    return kind(**options)


def _identity(
    method: str, options: Any, model: nn.Module, images: Data, objective: Objective
) -> str:
    """A digest of everything that determines the thresholds."""
    facts: dict[str, Any] = {
        "method": method,
        "options": _as_json(options),
        "network": ModelDigest(model).of_content,
        "images": [images.train.digest, images.validation.digest],
        **TorchSettings.current().facts(images.train.device),
    }
    if objective != CLASSES:
        forward = objective.forward
        own = (forward.call, forward.output, objective.loss, objective.metric)
        facts["objective"] = [content_of(each) if callable(each) else each for each in own]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _as_json(options: Any) -> dict[str, Any]:
    """The options as JSON returns them, with encodings by name."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options), default=_named))
    return plain


def _named(option: Any) -> str:
    return option.name if isinstance(option, Encoding) else str(option)


def _ignore(line: str) -> None:
    """Discards a line of progress."""
