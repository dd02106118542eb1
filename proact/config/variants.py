"""The networks of an experiment: trained or fetched, protected, and what that cost.

Trained networks and chosen thresholds are kept as files, named by what determines them, so that an
interrupted run goes on, and the same run again trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from proact import models, protect
from proact.config.experiment import Experiment
from proact.config.names import is_user_code
from proact.config.parsing import THRESHOLDS, VariantRecipe
from proact.config.progress import Stage, Stages
from proact.data import Data
from proact.errors import ProactError
from proact.protect import Cost
from proact.protect.fingerprint import fingerprint


def trained(
    text: str, given: nn.Module, images: Data, seed: int, folder: Path, stages: Stages, named: str
) -> nn.Module:
    """The named network, trained or read from ``folder``; the user's own as it was ``given``.

    Args:
        named: how the data set is called where progress is shown.
    """
    if is_user_code(text):
        return given
    return stages.run(
        f"{text} on {named}: train",
        lambda stage: models.trained(text, images, seed, folder, stage.steps),
    )


def built(
    experiment: Experiment, plain: nn.Module, images: Data, folder: Path, stages: Stages
) -> dict[str, nn.Module]:
    """The networks by name of the variant; ``plain`` is the unprotected one, which is untouched."""
    networks: dict[str, nn.Module] = {}
    for name, variant in experiment.variants.items():
        if variant.is_plain:
            networks[name] = plain
        elif variant.thresholds is not None:
            networks[name] = protect.load(plain, variant.thresholds)
        else:
            networks[name] = _protected(name, variant, plain, images, folder, stages)
    return networks


def hardened(
    variant: VariantRecipe, plain: nn.Module, images: Data, unfinished: Path, stage: Stage
) -> nn.Module:
    """``plain`` after all steps of the variant.

    Args:
        unfinished: a file for the sites that are done, of methods that go site by site; it is there
            only while such a method runs, or after it was interrupted.
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
            **step.options,
        )
    return model


def costs(
    networks: Mapping[str, nn.Module], plain: nn.Module, images: Data, encoding: str
) -> dict[str, Cost]:
    """What each protection costs without faults, compared with the ``plain`` network."""
    found = {}
    for name, model in networks.items():
        protection = protect.protection_of(model)
        applied = protection.applied if protection is not None else ()
        soft = any(method in protect.trained_methods() for method, _ in applied)
        found[name] = protect.cost(model, images, encoding, soft, plain)
    return found


def _protected(
    name: str, variant: VariantRecipe, plain: nn.Module, images: Data, folder: Path, stages: Stages
) -> nn.Module:
    path = folder / f"{_safe(name)}-{_identity(variant, plain, images)[:12]}{THRESHOLDS}"

    def harden(stage: Stage) -> nn.Module:
        if path.exists():
            return _kept(path, plain)
        unfinished = path.with_name(f"{path.stem}.unfinished{THRESHOLDS}")
        model = hardened(variant, plain, images, unfinished, stage)
        protect.save(model, path)
        return model

    return stages.run(f"{name}: choose thresholds", harden)


def _kept(path: Path, plain: nn.Module) -> nn.Module:
    try:
        return protect.load(plain, path)
    except (ProactError, ValueError) as error:
        raise ProactError(
            f"{path} does not hold the thresholds that it should ({error}): delete it"
        ) from None


def _identity(variant: VariantRecipe, plain: nn.Module, images: Data) -> str:
    """Of all that determines the thresholds."""
    facts = {
        "variant": variant.to_plain(),
        "network": fingerprint(plain),
        "modules": [f"{name} {type(m).__qualname__}" for name, m in plain.named_modules()],
        "images": [images.train.digest, images.validation.digest],
        # The last digits of a sum depend on the number of threads.
        "machine": [torch.__version__, torch.get_num_threads()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:80]
