"""Protect one model and write its thresholds to a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from proact import protect
from proact.config.experiment import Experiment
from proact.config.parsing import THRESHOLDS, VariantRecipe
from proact.config.progress import Stages
from proact.config.runner import MODELS, checked
from proact.config.variants import CleanEvaluation, costs, hardened, trained, units_of
from proact.errors import ProactError
from proact.interruption import INTERRUPTIONS
from proact.protect import Cost
from proact.report.cost_tables import cost_table
from proact.report.units import MetricUnits
from proact.text import label, short_repr


@dataclass(frozen=True)
class Protected:
    """A protection that was written to a file.

    Attributes:
        path: the file of `proact.protect.save`.
        variant: the applied methods with all options.
        costs: of the unprotected and the protected model, by name.
        encoding: the name of the encoding that the costs assume.
        units: of the metric in the costs.
    """

    path: Path
    variant: VariantRecipe
    costs: Mapping[str, Cost]
    encoding: str
    units: MetricUnits

    def document(self) -> dict[str, Any]:
        """Return the protection as values that JSON can hold."""
        return {
            "thresholds": str(self.path),
            "variant": self.variant.to_plain(),
            "encoding": self.encoding,
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
        }


def protected_table(protected: Protected) -> Table:
    """Make a table of the cost of the protection."""
    costs = {name: asdict(cost) for name, cost in protected.costs.items()}
    return cost_table(costs, protected.encoding, protected.units)


def protect_into(path: Path, experiment: Experiment, stages: Stages) -> Protected:
    """Protect the model of ``experiment`` by its last variant, and save the thresholds.

    The trained model and the progress of an interrupted run are kept beside ``path``.

    Raises:
        ValueError, TypeError, ProactError: the errors of `proact.protect.protect`, an unprotected
            variant, or a file that cannot be written.
        KeyboardInterrupt: the run was interrupted; a message explains how to continue.
    """
    name, variant = list(experiment.variants.items())[-1]
    if not variant.steps:
        raise ValueError(f"--method: expected a method of protection, got {label(name)}")
    if path.suffix != THRESHOLDS:
        raise ValueError(f"--out: expected a file *{THRESHOLDS}, got {short_repr(str(path))}")
    torch.set_num_threads(experiment.threads)
    images, given = checked(experiment)
    _check_writable(path)
    try:
        kept = path.parent / MODELS
        plain = trained(experiment, given, images, kept, stages)
        unfinished = path.with_name(f"{path.stem}.unfinished{THRESHOLDS}")
        model = stages.run(
            f"{label(name)}: protect",
            lambda stage: hardened(
                variant, plain, images, unfinished, stage, experiment.protect_options
            ),
        )
    except INTERRUPTIONS:
        stages.say(
            f"interrupted: finished work is kept in {path.parent}; rerun the command to continue"
        )
        raise
    protect.save(model, path)
    models = {next(iter(experiment.variants)): plain, name: model}
    evaluate = CleanEvaluation(experiment, images)
    found = costs(experiment, models, plain, images, evaluate)
    return Protected(path, variant, found, experiment.encoding_name, units_of(experiment))


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ProactError(f"{path} cannot be written: {error.strerror}") from None
    if path.is_dir():
        raise ProactError(f"{path} cannot be written: it is a folder")
