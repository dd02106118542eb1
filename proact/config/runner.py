"""Runs an experiment: everything checked first, then networks, faults, sweeps and files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact import campaign, faults, models
from proact.campaign import Result, Sweep
from proact.config import defaults
from proact.config.experiment import Experiment
from proact.config.progress import Stages
from proact.config.user_code import dataset, network
from proact.config.variants import built, costs, trained
from proact.data import Data
from proact.errors import ProactError
from proact.protect import Cost
from proact.report.tables import Gain
from proact.results.store import Store

EXPERIMENT, STORE, NETWORKS = "experiment.yaml", "rows.sqlite", "networks"


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        experiment: as it was run.
        folder: where its files are.
        result: of the campaign.
        costs: of each variant, without faults.
        sweeps: by variant and kind.
        images: how many evaluation images there are.
    """

    experiment: Experiment
    folder: Path
    result: Result
    costs: Mapping[str, Cost]
    sweeps: Mapping[tuple[str, str], Sweep]
    images: int

    @property
    def store(self) -> Path:
        return self.folder / STORE

    @property
    def file(self) -> Path:
        """The experiment that repeats the run."""
        return self.folder / EXPERIMENT

    def gains(self, baseline: str | None = None) -> list[Gain]:
        """Over the baseline (the first variant unless given), of every other variant."""
        over = self.experiment.baseline if baseline is None else baseline
        return [
            Gain(variant, str(fault), self.result.bers[variant, fault], gain)
            for variant in self.experiment.variants
            if variant != over
            for fault, gain in self.result.difference(variant, over).items()
        ]


def run(
    experiment: Experiment, folder: Path, stages: Stages, extra_files: Sequence[str] = ()
) -> Outcome:
    """Runs ``experiment`` and leaves its files in ``folder``.

    The folder gets ``experiment.yaml``, which repeats the run; ``rows.sqlite``, the store; and
    ``networks/`` with what was trained. An interrupted run goes on from there, and so does another
    experiment with the same networks.

    Args:
        extra_files: other files of the folder that the caller is going to write.

    Raises:
        ValueError, TypeError, ProactError: before anything is trained or written, where something
            is wrong with the experiment or the folder; later, what `proact.protect.protect` and
            `proact.campaign.run` raise. KeyboardInterrupt: after a word on how to go on.
    """
    torch.set_num_threads(experiment.threads)
    images, given = checked(experiment)
    _make_writable(folder, [EXPERIMENT, *extra_files])
    Store(folder / STORE).close()
    experiment.write(folder / EXPERIMENT, _REMARK)
    try:
        outcome = _run(experiment, folder, stages, images, given)
    except KeyboardInterrupt:
        stages.say(f"interrupted: what is done is kept in {folder}; the same command goes on")
        raise
    # What "auto" chose by this machine's clock is part of what repeats the run.
    chosen = {"images_per_trial": outcome.result.images_per_trial or "all"}
    experiment.model_copy(update=chosen).write(folder / EXPERIMENT, _REMARK)
    return outcome


_REMARK = "Repeats this run, from the folder in which it was started: proact campaign THIS_FILE"


def checked(experiment: Experiment) -> tuple[Data, nn.Module]:
    """The images and the untrained network, or the user's own."""
    images = dataset(
        experiment.data,
        experiment.data_folder,
        download=experiment.download,
        image_size=experiment.image_size,
    )
    given = network(experiment.network, images.num_classes, images.train.images.shape[1])
    # Its parameters have the dtypes of the trained ones: can the encoding hold them?
    faults.FaultSpace(given, experiment.encoding)
    for name, variant in experiment.variants.items():
        if variant.thresholds is not None and not Path(variant.thresholds).is_file():
            raise ProactError(f"variants.{name}.thresholds: there is no file {variant.thresholds}")
    return images, given


def _run(
    experiment: Experiment, folder: Path, stages: Stages, images: Data, given: nn.Module
) -> Outcome:
    kept = folder / NETWORKS
    plain = trained(
        experiment.network, given, images, experiment.seed, kept, stages, experiment.data
    )
    networks = built(experiment, plain, images, kept, stages)

    def on_test(network: nn.Module) -> float:
        return models.accuracy(network, images.test)

    for name, model in networks.items():
        stages.say(f"{name} in {faults.encoding_report(model, experiment.encoding, on_test)}")
    cost = costs(networks, plain, images, experiment.encoding)
    common: dict[str, Any] = {
        "encoding": experiment.encoding,
        "confidence": experiment.confidence,
        "images_per_trial": experiment.images_per_trial,
        "metric": experiment.metric,
        "seed": experiment.seed,
        "store": folder / STORE,
        "notes": {
            "costs": {name: asdict(each) for name, each in cost.items()},
            "experiment": experiment.to_plain(),
        },
    }
    with _executor(experiment) as executor:
        result = stages.run(
            f"inject: {len(networks)} variants x {len(experiment.faults)} faults",
            lambda stage: campaign.run(
                networks,
                images,
                experiment.faults,
                trials=experiment.trials,
                margin=experiment.margin,
                executor=executor,
                progress=stage.steps,
                **common,
            ),
        )
        sweeps = _sweeps(experiment, networks, images, {**common, "executor": executor}, stages)
    return Outcome(experiment, folder, result, cost, sweeps, len(images.test))


def _sweeps(
    experiment: Experiment,
    networks: Mapping[str, nn.Module],
    images: Data,
    common: dict[str, Any],
    stages: Stages,
) -> dict[tuple[str, str], Sweep]:
    functions = {"layer": campaign.per_layer, "bit": campaign.per_bit}
    margin = experiment.sweep_margin
    if margin is None and experiment.sweep_trials is None:
        margin = experiment.margin or defaults.MARGIN
    return {
        (name, kind): stages.run(
            f"sweep: {name}, each {kind}",
            lambda stage, name=name, kind=kind: functions[kind](  # type: ignore[misc]
                networks[name],
                images,
                experiment.sweep_fault,
                margin=margin,
                trials=experiment.sweep_trials,
                name=name,
                progress=stage.steps,
                **common,
            ),
        )
        for name, kind in experiment.swept
    }


def _make_writable(folder: Path, files: Sequence[str]) -> None:
    """Makes the folder, and finds whatever will be written in it writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / NETWORKS):
            if place.exists():
                tempfile.TemporaryFile(dir=place).close()
        for name in files:
            with (folder / name).open("ab"):
                pass
            if (folder / name).stat().st_size == 0:
                (folder / name).unlink()
    except OSError as error:
        raise ProactError(
            f"the output folder {folder} cannot be written: {error.filename}: {error.strerror}"
        ) from None


@contextmanager
def _executor(experiment: Experiment) -> Iterator[Executor | int | None]:
    """Who runs the trials."""
    if experiment.scheduler is None:
        yield experiment.workers
        return
    try:
        from distributed import Client
    except ImportError:
        raise ProactError("a scheduler needs Dask: pip install 'proact[dask]'") from None
    try:
        client = Client(experiment.scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ProactError(
            f"there is no Dask scheduler at {experiment.scheduler} (tcp://host:port): {error}"
        ) from None
    with client:
        yield client.get_executor()
