"""Build the variants of an experiment: train, protect and measure costs.

Trained weights and thresholds are kept as files. A digest of everything that determines them is
part of the file name. An interrupted run therefore continues, and a repeated run trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact import models, protect
from proact.campaign import Metric
from proact.campaign.clean_results import clean_value
from proact.config.experiment import Experiment
from proact.config.names import is_user_code
from proact.config.parsing import THRESHOLDS, VariantRecipe
from proact.config.progress import Stage, Stages
from proact.data import Data
from proact.errors import ProactError
from proact.models.code_digest import ModelDigest, content_of
from proact.models.torch_settings import TorchSettings
from proact.nn.forward import Forward
from proact.protect import Cost
from proact.report.units import MetricUnits
from proact.text import label, storable

_MOST_BYTES = 80


def trained(
    experiment: Experiment, given: nn.Module, images: Data, folder: Path, stages: Stages
) -> nn.Module:
    """Train the named model or read it from ``folder``; return a user's model unchanged.

    Args:
        experiment: names the model and the data; its seed determines initial weights, order and
            augmentation of images.
        given: the untrained model, or the user's model.
        images: the training data.
        folder: keeps the trained weights.
        stages: show the progress.
    """
    name = experiment.model
    if is_user_code(name):
        return given
    recipe = models.recipe_for(images, given)
    if experiment.epochs is not None:
        recipe = replace(recipe, epochs=experiment.epochs)
    return stages.run(
        f"{label(name)} on {label(experiment.data)}: train",
        lambda stage: models.trained(name, images, experiment.seed, folder, stage.steps, recipe),
    )


def built(
    experiment: Experiment, plain: nn.Module, images: Data, folder: Path, stages: Stages
) -> dict[str, nn.Module]:
    """Build the model of each variant from ``plain``, which stays unprotected."""
    variants: dict[str, nn.Module] = {}
    for name, variant in experiment.variants.items():
        if variant.is_plain:
            variants[name] = plain
        elif variant.thresholds is not None:
            variants[name] = protect.load(plain, variant.thresholds)
        else:
            variants[name] = _protected(name, variant, plain, images, folder, stages, experiment)
    return variants


def hardened(
    variant: VariantRecipe,
    plain: nn.Module,
    images: Data,
    unfinished: Path,
    stage: Stage,
    options: Mapping[str, Any],
) -> nn.Module:
    """Apply all steps of a variant to ``plain``, which is not modified.

    Args:
        variant: the steps.
        plain: the unprotected model.
        images: the data for profiling, training and validation.
        unfinished: a file with the finished sites of a resumable method. It exists only while the
            method runs or after it was interrupted.
        stage: shows the progress.
        options: `Experiment.protect_options`.
    """
    model = plain
    for number, step in enumerate(variant.steps):
        resumes = step.method in protect.resumable_methods()
        model = protect.protect(
            model,
            step.method,
            images,
            progress=stage.line,
            resume=unfinished.with_name(f"{number}-{unfinished.name}") if resumes else None,
            **options,
            **step.options,
        )
    return model


class CleanEvaluation:
    """The experiment's metric of a model without faults on all test samples.

    Equal models are evaluated once: the encoded form of a variant often equals the variant, and the
    unprotected model is compared with each variant. All models must be copies of one model, with or
    without protection, because a digest does not cover the functions that a forward method calls.
    """

    def __init__(self, experiment: Experiment, images: Data) -> None:
        options = experiment.campaign_options
        self._evaluate = partial(
            clean_value,
            data=images.test,
            metric=options["metric"],
            forward=Forward(options["forward"], options["output"]),
        )
        self._known: dict[str, float] = {}

    def __call__(self, model: nn.Module) -> float:
        digest = ModelDigest(model).of_content
        if digest not in self._known:
            self._known[digest] = self._evaluate(model)
        return self._known[digest]


def costs(
    experiment: Experiment,
    variants: Mapping[str, nn.Module],
    plain: nn.Module,
    images: Data,
    evaluate: CleanEvaluation,
) -> dict[str, Cost]:
    """Measure the cost of each variant without faults, compared with the ``plain`` model."""
    options = experiment.campaign_options
    found = {}
    for name, model in variants.items():
        protection = protect.protection_of(model)
        applied = protection.applied if protection is not None else ()
        soft = any(method in protect.trained_methods() for method, _ in applied)
        found[name] = protect.cost(
            model,
            images,
            experiment.encoding,
            soft,
            plain,
            forward=options["forward"],
            evaluate=evaluate,
        )
    return found


def units_of(experiment: Experiment) -> MetricUnits:
    """Return the units of the experiment's metric."""
    metric: Metric = experiment.campaign_options["metric"]
    return MetricUnits.of_range(metric.name, metric.lowest, metric.highest, metric.is_better_higher)


def _protected(
    name: str,
    variant: VariantRecipe,
    plain: nn.Module,
    images: Data,
    folder: Path,
    stages: Stages,
    experiment: Experiment,
) -> nn.Module:
    options = experiment.protect_options
    identity = _identity(variant, plain, images, options)
    path = folder / f"{_safe(name)}-{identity[:12]}{THRESHOLDS}"

    def harden(stage: Stage) -> nn.Module:
        if path.exists():
            return _kept(path, plain)
        unfinished = path.with_name(f"{path.stem}.unfinished{THRESHOLDS}")
        model = hardened(variant, plain, images, unfinished, stage, options)
        protect.save(model, path)
        return model

    return stages.run(f"{label(name)}: protect", harden)


def _kept(path: Path, plain: nn.Module) -> nn.Module:
    try:
        return protect.load(plain, path)
    except (ProactError, ValueError) as error:
        raise ProactError(
            f"{path} does not hold the expected thresholds ({error}): delete it"
        ) from None


def _identity(
    variant: VariantRecipe, plain: nn.Module, images: Data, options: Mapping[str, Any]
) -> str:
    """Return a digest of everything that determines the thresholds."""
    facts = {
        "variant": variant.to_plain(),
        "network": ModelDigest(plain).of_content,
        "images": [images.train.digest, images.validation.digest],
        "options": {
            name: content_of(value) if callable(value) else value
            for name, value in options.items()
            if value is not None
        },
        # The last digits of a sum depend on the number of threads.
        "machine": [torch.__version__, torch.get_num_threads()],
        **TorchSettings.current().facts(images.train.device),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _safe(name: str) -> str:
    """Return a part of a file's name; the identity beside it distinguishes names."""
    part = re.sub(r"[^\w.-]+", "_", storable(name))
    # File systems count bytes.
    return part.encode()[:_MOST_BYTES].decode(errors="ignore")
