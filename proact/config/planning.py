"""Plan the storage of one model: which encoding and guard keep the most accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from proact import protect
from proact.config.experiment import Experiment
from proact.config.progress import Stages
from proact.config.reading import read_options
from proact.config.user_code import load_model_for
from proact.config.variants import trained
from proact.protect import Plan
from proact.protect.plan_options import PlanOptions


def plan_options(values: Mapping[str, Any], flags: Mapping[str, str]) -> PlanOptions:
    """Read the options of a plan from plain values; ``flags`` are named in errors."""
    return read_options(PlanOptions, values, flags=flags)


def planned(experiment: Experiment, options: PlanOptions, kept: Path, stages: Stages) -> Plan:
    """Plan the storage of the model of an experiment.

    Args:
        experiment: the model, the data and the user's functions; its variants are not used.
        options: the options of the plan.
        kept: the folder that keeps the trained model.
        stages: show the progress.

    Raises:
        ValueError, TypeError, ProactError: the errors of `proact.protect.plan`, or a model or data
            that cannot be loaded.
    """
    torch.set_num_threads(experiment.threads)
    images = experiment.load_data()
    given = load_model_for(experiment.model, images)
    plain = trained(experiment, given, images, kept, stages)
    chosen = {field.name: getattr(options, field.name) for field in fields(options)}
    return stages.run(
        "compare encodings and guards",
        lambda stage: protect.plan(
            plain, images, progress=stage.line, **experiment.protect_options, **chosen
        ),
    )
