"""Check the arguments of a campaign before anything runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.built_in_metrics import has_classes_last, is_of_classes
from proact.campaign.measurement import Measurement
from proact.campaign.metrics import Metric
from proact.campaign.options import CampaignOptions
from proact.data import Split
from proact.faults import Fault
from proact.models.evaluation import refuse_masked
from proact.nn import ErrorCorrection
from proact.nn.batches import Batch
from proact.nn.forward import described
from proact.nn.outputs import output_tensors
from proact.nn.written_state import restored
from proact.results.policy import Policy
from proact.results.statistics import checked_margin
from proact.text import check_name, label, short_repr


def checked_variants(variants: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return at least one model by name.

    Raises:
        TypeError, ValueError: a value is not a `torch.nn.Module`, or there are no variants.
    """
    if not isinstance(variants, Mapping):
        raise TypeError(
            "variants: expected a mapping of names to models, such as {'relu': model}, got "
            f"{type(variants).__name__}"
        )
    for name, model in variants.items():
        try:
            check_name("a variant", name)
        except (TypeError, ValueError) as error:
            raise type(error)(f"variants: {error}") from None
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"variants: expected torch.nn.Module, got {type(model).__name__} for {label(name)}"
            )
    if not variants:
        raise ValueError("variants: expected at least one, got none")
    return dict(variants)


def check_guards(variants: Mapping[str, nn.Module]) -> None:
    """Raise ValueError if the answers of a model depend on when its memory is scrubbed."""
    for name, model in variants.items():
        for module in model.modules():
            if not isinstance(module, ErrorCorrection):
                continue
            if module.every != 1 or module.interval is not None:
                raise ValueError(
                    f"variants: {short_repr(name)} is protected by ecc with every={module.every} "
                    f"and interval={module.interval}, so that its answers depend on the time of "
                    "the last scrub: protect it with every=1 and interval=None for a campaign"
                )


def checked_faults(faults: Sequence[Fault]) -> list[Fault]:
    """Return at least one fault; all differ.

    Raises:
        TypeError, ValueError: not a sequence of distinct `proact.faults.Fault`, or empty.
    """
    if isinstance(faults, Fault):
        raise TypeError(f"faults: expected a list of faults, got a single {type(faults).__name__}")
    if not faults:
        raise ValueError("faults: expected at least one, got none")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(
                "faults: expected kinds of proact.faults, such as BitFlip(1e-5), got "
                f"{type(fault).__name__}"
            )
    if len(set(faults)) != len(faults):
        raise ValueError("faults: expected distinct faults, got one twice")
    return list(faults)


def check_margin(margin: float | None, metric: Metric) -> None:
    """Raise ValueError for a margin that is not above 0, or that the metric's whole range meets."""
    if margin is None:
        return
    half = 0.5 * (metric.highest - metric.lowest)
    try:
        if checked_margin(margin) >= half:
            raise ValueError(
                f"a margin is below {half:g}, because an interval of the metric's whole range "
                f"needs no trial; got {short_repr(margin)}"
            )
    except ValueError as error:
        raise ValueError(f"margin: {error} ({label(metric.name)})") from None


def check_difference_margin(options: CampaignOptions, metric: Metric) -> None:
    """Raise ValueError for a margin of differences that does not fit the metric, or that is given
    without a margin of cells."""
    margin = options.difference_margin
    if not margin:
        return
    if options.margin_or_default is None:
        raise ValueError(
            f"difference_margin={short_repr(margin)} needs a margin, got only "
            f"trials={options.trials}, which is the number of pairs too"
        )
    try:
        checked_margin(margin, metric.highest - metric.lowest)
    except ValueError as error:
        raise ValueError(f"difference_margin: {error} ({label(metric.name)})") from None


def check_strata(options: CampaignOptions) -> None:
    """Raise ValueError if strata are asked for without a margin."""
    if options.strata is True and options.margin_or_default is None:
        raise ValueError(
            f"strata=True needs a margin, got only trials={options.trials}: the margin decides how "
            "many trials each stratum gets"
        )


def check_policy(policy: Policy, data: Split) -> None:
    """Raise ValueError for a policy that does not fit the data."""
    images = policy.images
    if images is not None and not 1 <= images <= len(data):
        raise ValueError(f"policy: expected images in [1, {len(data)}], got {images}")
    _refuse_unequal_batches("policy", images, data)
    if policy.batch < 1:
        raise ValueError(f"policy: expected a batch of at least 1, got {policy.batch}")
    if policy.trials_at_once < 1:
        raise ValueError(f"policy: expected at least 1 trial at once, got {policy.trials_at_once}")


def check_measurement(measurement: Measurement) -> None:
    """Raise ValueError if the metric needs other targets than the data have."""
    metric, data = measurement.metric, measurement.data
    if not metric.needs_targets:
        return
    if data.targets is None:
        raise ValueError(f"data: expected targets for the metric {label(metric.name)}, got none")
    if is_of_classes(metric):
        try:
            _ = data.labels
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{error}, which the metric {label(metric.name)} needs: choose another metric for "
                "other targets"
            ) from None


def check_images(images: object, data: Split) -> None:
    """Warn if there are fewer images; refuse to draw batches of different sizes.

    Raises:
        ValueError: batches of different sizes would be drawn, and would weigh the same.
    """
    if isinstance(images, int) and images > len(data):
        warnings.warn(
            f"images_per_trial: {images} is more than the {len(data)} test images, so each trial "
            "takes all of them",
            stacklevel=2,
        )
    _refuse_unequal_batches("images_per_trial", images, data)


def _refuse_unequal_batches(option: str, images: object, data: Split) -> None:
    is_number = isinstance(images, int) and images < len(data)
    if is_number and data.batch_sizes and len(set(data.batch_sizes)) > 1:
        raise ValueError(
            f"{option}: expected all images for fixed batches of different sizes, got {images}: "
            "give batches of one size (drop_last=True), or use all images"
        )


def check_outputs(models: Mapping[str, nn.Module], measurement: Measurement) -> Measurement:
    """Run each model on two samples (or one batch) and check that the metric takes its outputs.

    Returns:
        The measurement, in the mode of torch in which all models run.

    Raises:
        ValueError: a model does not run on the inputs, outputs differ in shape between models or do
            not have the samples of the inputs, or the metric does not take them or would take
            masked classes for failures.
    """
    metric = measurement.metric
    part = replace(measurement, data=measurement.data.first(2))
    inputs, targets, samples = next(part.batches(None, Policy(None, 2, False)))
    shapes: dict[str, list[str]] = {}
    for name, model in models.items():
        with torch.no_grad():
            output = _output(part, model, inputs, samples, name)
            if is_of_classes(metric):
                _check_classes(output, measurement, samples, name)
            try:
                _check_value(metric, output, targets, samples)
            except Exception as error:  # an own metric may raise anything
                raise ValueError(
                    f"the metric {label(metric.name)} does not take the outputs of {label(name)}, "
                    f"{described(output)}: {error}"
                ) from error
            if has_classes_last(metric):
                refuse_masked(output, f"the metric {label(metric.name)}", label(name))
        shapes.setdefault(_shape(output), []).append(name)
    if len(shapes) > 1:
        listed = ", ".join(
            f"{shape} from {' and '.join(map(label, names))}" for shape, names in shapes.items()
        )
        raise ValueError(f"variants: expected outputs of one shape per image, got {listed}")
    # Last, so that what a model keeps from its first pass is no tensor of inference mode.
    runs = all(_runs_in_inference_mode(model, measurement) for model in models.values())
    return measurement if runs else replace(measurement, inference=False)


def _runs_in_inference_mode(model: nn.Module, measurement: Measurement) -> bool:
    """Whether a model runs in this mode; an error that it raises in others too is left to them."""
    part = replace(measurement, data=measurement.data.first(2))
    with torch.inference_mode():
        inputs = next(part.batches(None, Policy(None, 2, False))).inputs
        try:
            _raw(part, model, inputs)
        except Exception:  # the user's forward may raise anything
            return False
    return True


def _raw(measurement: Measurement, model: nn.Module, inputs: Batch) -> Any:
    with restored(model) if measurement.state == "restore" else nullcontext():
        return measurement.raw(model, inputs)


def _output(
    measurement: Measurement, model: nn.Module, inputs: Batch, samples: int, name: str
) -> Any:
    try:
        raw = _raw(measurement, model, inputs)
    except Exception as error:  # the user's forward may raise anything
        count = "one sample" if samples == 1 else f"{samples} samples"
        raise ValueError(
            f"{label(name)} raises an error for {count} of the inputs, {described(inputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        return measurement.selected(raw)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label(name)}: {error}") from None


def _check_value(metric: Metric, output: Any, targets: Any, samples: int) -> None:
    if metric.of_trial:
        metric.of_batches([output], [targets], [output])
        return
    metric.of(output, targets, output, samples)
    values = metric.function(output, targets, output)
    if values.isnan().all():
        raise ValueError(f"it gives NaN for every one of {samples} samples without faults")


def _check_classes(output: Tensor, measurement: Measurement, samples: int, name: str) -> None:
    labels = measurement.data.class_labels if measurement.metric.needs_targets else None
    least = 1 if labels is None else int(labels.max()) + 1
    if output.dim() == 2 and len(output) == samples and output.shape[1] >= least:
        return
    wanted = f"labels go up to {least - 1}, so " if labels is not None else ""
    given = f"{tuple(output.shape)} for {'one image' if samples == 1 else f'{samples} images'}"
    raise ValueError(
        f"{wanted}the metric {label(measurement.metric.name)} expects outputs of shape (images, "
        f"classes) with at least {least} classes; {label(name)} gives {given}"
    )


def _shape(output: Any) -> str:
    """The shapes of an output per sample."""
    shapes = [str(tuple(tensor.shape[1:])) for tensor in output_tensors(output)]
    # The number of objects that a detector finds depends on its weights.
    return ", ".join(shapes) if isinstance(output, Tensor) else str(len(shapes) > 0)
