"""Thresholds of one protection, as a file."""

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
from proact.config.runner import NETWORKS, checked
from proact.config.variants import costs, hardened, trained
from proact.errors import ProactError
from proact.protect import Cost
from proact.report.tables import cost_table


@dataclass(frozen=True)
class Protected:
    """What was written.

    Attributes:
        path: the file of `proact.protect.save`.
        variant: what was applied, with all options.
        costs: of the unprotected and the protected network, by name.
    """

    path: Path
    variant: VariantRecipe
    costs: Mapping[str, Cost]
    encoding: str

    def document(self) -> dict[str, Any]:
        """In terms of JSON."""
        return {
            "thresholds": str(self.path),
            "variant": self.variant.to_plain(),
            "encoding": self.encoding,
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
        }


def protected_table(protected: Protected) -> Table:
    """The cost of the protection."""
    costs = {name: asdict(cost) for name, cost in protected.costs.items()}
    return cost_table(costs, protected.encoding)


def protect_into(path: Path, experiment: Experiment, stages: Stages) -> Protected:
    """Protects the network of ``experiment`` as its last variant says, and saves the thresholds.

    The trained network, and what an interrupted run has done, are kept beside ``path``.

    Raises:
        ValueError, TypeError, ProactError: what `proact.protect.protect` raises, a variant that is
            not protected, a file that cannot be written. KeyboardInterrupt: after a word on how to
            go on.
    """
    name, variant = list(experiment.variants.items())[-1]
    if not variant.steps:
        raise ValueError(f"--method {name}: expected a method of protection")
    if path.suffix != THRESHOLDS:
        raise ValueError(f"--out: thresholds are a file *{THRESHOLDS}, got {str(path)!r}")
    torch.set_num_threads(experiment.threads)
    images, given = checked(experiment)
    _check_writable(path)
    try:
        kept = path.parent / NETWORKS
        plain = trained(
            experiment.model, given, images, experiment.seed, kept, stages, experiment.data
        )
        unfinished = path.with_name(f"{path.stem}.unfinished{THRESHOLDS}")
        model = stages.run(
            f"{name}: choose thresholds",
            lambda stage: hardened(variant, plain, images, unfinished, stage),
        )
    except KeyboardInterrupt:
        stages.say(f"interrupted: what is done is kept in {path.parent}; the same command goes on")
        raise
    protect.save(model, path)
    networks = {next(iter(experiment.variants)): plain, name: model}
    found = costs(networks, plain, images, experiment.encoding)
    return Protected(path, variant, found, experiment.encoding)


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ProactError(f"{path} cannot be written: {error.strerror}") from None
    if path.is_dir():
        raise ProactError(f"{path} cannot be written: it is a folder")
