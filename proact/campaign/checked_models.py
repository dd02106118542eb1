"""Encode the models of a campaign, and check them with its data and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from proact.campaign.measurement import Measurement
from proact.campaign.metrics import Metric
from proact.campaign.model_checks import check_model
from proact.campaign.options import RunOptions
from proact.campaign.validation import (
    check_guards,
    check_images,
    check_measurement,
    check_outputs,
    check_policy,
)
from proact.data import as_evaluation
from proact.data.dataset import SamplesOrData
from proact.encodings import Encoding
from proact.faults import ActivationFlip, Fault, Injector, encode
from proact.faults.encode import selector_of
from proact.faults.mixed_encoding import MixedEncoding, checked_encoding
from proact.nn.forward import Forward
from proact.nn.module_copy import copy_model
from proact.nn.site import has_fast_path
from proact.nn.tensor_inventory import stored_tensors


@dataclass(frozen=True)
class CheckedModels:
    """The encoded models of a campaign, which fit its data and faults.

    Attributes:
        names: of the variants.
        models: the encoded variants, in eval mode.
        injectors: one for each variant.
        encoding: the stored form of all variants.
        measurement: the data, the metric and the forward pass.
        findings: by variant, what the checks noticed, as values that JSON can hold.
    """

    names: Sequence[str]
    models: Sequence[nn.Module]
    injectors: Sequence[Injector]
    encoding: Encoding
    measurement: Measurement
    findings: Mapping[str, Any]


def checked_models(
    variants: Mapping[str, nn.Module],
    data: SamplesOrData,
    faults: Sequence[Fault],
    metric: Metric,
    options: RunOptions,
) -> CheckedModels:
    """Encode all variants and run each of them on one input.

    Raises:
        ProactError, ValueError, TypeError: a model, the data, a fault or an option is not accepted,
            or they do not fit together.
    """
    encoding = checked_encoding(options.encoding)
    # The data first: reading it is quicker than encoding models.
    split = as_evaluation(data, options.collate, in_batches=options.unit == "batch")
    check_guards(variants)
    where = selector_of(faults)
    models = [encode(_in_eval_mode(model), encoding, where=where) for model in variants.values()]
    if isinstance(encoding, MixedEncoding):
        encoding.refuse_unused(map(stored_tensors, models))
    injectors = [Injector(model, encoding) for model in models]
    for injector in injectors:
        for fault in faults:
            injector.expected_ber(fault)  # raises if the fault does not fit the model
    measurement = Measurement(
        split.to(injectors[0].device),
        metric,
        Forward(options.forward, options.output),
        options.on_error,
        options.state,
        # Every pass is computed alike, so that clean results fit those under faults.
        fast_path=not (
            any(isinstance(fault, ActivationFlip) for fault in faults)
            and any(map(has_fast_path, models))
        ),
    )
    check_measurement(measurement)
    check_images(options.images_per_trial, split)
    names = list(variants)
    measurement = check_outputs(dict(zip(names, models, strict=True)), measurement)
    # Answers must be functions of memory and input.
    found = {
        name: check_model(name, model, injector, faults, measurement)
        for (name, model), injector in zip(variants.items(), injectors, strict=True)
    }
    if options.policy is not None:
        check_policy(options.policy, split)
    return CheckedModels(
        names,
        models,
        injectors,
        encoding,
        measurement,
        {name: each.to_dict() for name, each in found.items() if each},
    )


def _in_eval_mode(model: nn.Module) -> nn.Module:
    """The model, or a copy of it in eval mode.

    A model may change its parameters when its mode changes, as adapters do that are merged into
    weights. So the mode changes before the model is rounded to its encoding.
    """
    if not any(module.training for module in model.modules()):
        return model
    return copy_model(model).eval()
