"""Run an experiment: check everything, then train, protect, inject, sweep and write files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact import campaign, faults
from proact.campaign.built_in_metrics import metric_named
from proact.campaign.clean_results import check_clean_value
from proact.config.experiment import Experiment
from proact.config.progress import Stages
from proact.config.reading import read_experiment, write_experiment
from proact.config.user_code import UsersCodeError, load_model_for, users_error
from proact.config.variants import CleanEvaluation, built, costs, trained
from proact.data import Data
from proact.encodings.base import MemoryWord
from proact.errors import ProactError
from proact.files import read_regular, refuse_special
from proact.interruption import INTERRUPTIONS
from proact.nn.forward import Forward
from proact.protect import Cost
from proact.report.tables import Gain, gains_of
from proact.results.result import Result, read
from proact.results.store import Store
from proact.text import label, storable_values

EXPERIMENT, STORE, MODELS = "experiment.yaml", "rows.sqlite", "models"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """The results of an experiment.

    Attributes:
        experiment: the experiment that was run.
        folder: the folder of its files.
        result: the result of the campaign.
        costs: the cost of each variant without faults.
        sweeps: the result of each sweep, by (variant, kind).
        images: the number of evaluation images.
    """

    experiment: Experiment
    folder: Path
    result: Result
    costs: Mapping[str, Cost]
    sweeps: Mapping[tuple[str, str], Result]
    images: int

    @property
    def store(self) -> Path:
        return self.folder / STORE

    @property
    def file(self) -> Path:
        """The experiment file that repeats the run."""
        return self.folder / EXPERIMENT

    def gains(self, baseline: str | None = None) -> list[Gain]:
        """Return the gain of each other variant over ``baseline``, by default the first variant."""
        return gains_of(self.result, baseline or self.experiment.baseline)


def run(
    experiment: Experiment,
    folder: Path,
    stages: Stages,
    extra_files: Sequence[str] = (),
    retry_failed: bool = False,
) -> Outcome:
    """Run ``experiment`` and write its files into ``folder``.

    The folder receives ``experiment.yaml``, which repeats the run; ``rows.sqlite``, the store; and
    ``models/`` with trained weights and thresholds. An interrupted run continues from these
    files, and another experiment with the same models reuses them. The ``experiment.yaml`` of
    another experiment is kept as ``experiment-1.yaml`` (or the next free number), and a message
    names the keys that differ.

    Args:
        experiment: the experiment.
        folder: the output folder; it is made if it does not exist.
        stages: show the progress.
        extra_files: names of other files that the caller writes into the folder.
        retry_failed: whether to repeat the trials that failed in an earlier run.

    Raises:
        ValueError, TypeError, ProactError: the experiment or the folder is invalid; then nothing is
            trained or written. Later, the errors of `proact.protect.protect` and
            `proact.campaign.run`.
        KeyboardInterrupt: the run was interrupted; a message explains how to continue.
    """
    torch.set_num_threads(experiment.threads)
    images, given = checked(experiment)
    _make_writable(folder, [EXPERIMENT, *extra_files])
    Store(folder / STORE).close()
    _keep_other(folder, experiment, stages)
    write_experiment(experiment, folder / EXPERIMENT, _REMARK)
    try:
        outcome = _run(experiment, folder, stages, images, given, retry_failed)
    except INTERRUPTIONS:
        stages.say(f"interrupted: finished work is kept in {folder}; rerun the command to continue")
        raise
    # "auto" depends on this machine's speed; its choice is needed to repeat the run.
    chosen = replace(experiment, images_per_trial=outcome.result.images_per_trial or "all")
    write_experiment(chosen, folder / EXPERIMENT, _REMARK)
    return outcome


_REMARK = "Repeat this run from the folder in which it was started: proact campaign THIS_FILE"


def checked(experiment: Experiment) -> tuple[Data, nn.Module]:
    """Load the images and the model (untrained if it is built in), and check all variants.

    Raises:
        ValueError, TypeError, ProactError: the model, data, encoding or a file is invalid.
    """
    images = experiment.load_data()
    given = load_model_for(experiment.model, images)
    chosen = campaign.RunOptions(**experiment.campaign_options)  # checks the user's functions
    _check_metric(given, images, chosen)
    # Check that the encoding can store the parameters: training keeps their dtypes.
    space = faults.FaultSpace(given, experiment.encoding)
    is_as_stored = all(
        isinstance(each.word, MemoryWord) for each in space if each.tensor.is_floating_point()
    )
    for name, variant in experiment.variants.items():
        if not is_as_stored and any(step.method == "ecc" for step in variant.steps):
            raise ValueError(
                f"variants.{label(name)}: ecc keeps check bits in the words that memory holds, and "
                f"the encoding {label(experiment.encoding_name)} stores other words: use the "
                "encoding native"
            )
        if variant.thresholds is not None and not Path(variant.thresholds).is_file():
            raise ProactError(
                f"variants.{label(name)}.thresholds: there is no file {variant.thresholds}"
            )
    return images, given


def _check_metric(model: nn.Module, images: Data, options: campaign.RunOptions) -> None:
    """Check that model, data and metric fit. What the user's own code raises is raised as it is."""
    forward = Forward(options.forward, options.output)
    try:
        check_clean_value(model, images.test, metric_named(options.metric), forward)
    except ValueError as error:
        cause = error.__cause__
        is_users = isinstance(cause, UsersCodeError)
        if cause is not None and (is_users or users_error(cause) is not None):
            raise cause from None
        raise


def _run(
    experiment: Experiment,
    folder: Path,
    stages: Stages,
    images: Data,
    given: nn.Module,
    retry_failed: bool,
) -> Outcome:
    kept = folder / MODELS
    plain = trained(experiment, given, images, kept, stages)
    variants = built(experiment, plain, images, kept, stages)
    evaluate = CleanEvaluation(experiment, images)
    is_top_1 = experiment.metric == "top-1" and experiment.forward is experiment.output is None
    for name, model in variants.items():
        report = faults.encoding_report(model, experiment.encoding, evaluate if is_top_1 else None)
        stages.say(f"{label(name)} in {report}")
    cost = costs(experiment, variants, plain, images, evaluate)
    common: dict[str, Any] = {
        **experiment.campaign_options,
        "collate": None,  # the data are collated already
        "store": folder / STORE,
        "retry_failed": retry_failed,
        "notes": {
            "costs": {name: asdict(each) for name, each in cost.items()},
            # A folder whose name is no UTF-8 has lone surrogates in Python.
            "experiment": storable_values(experiment.to_plain()),
        },
    }
    faults_of_all = experiment.all_faults
    with _executor(experiment) as executor:
        common["executor"] = executor
        result = stages.run(
            f"inject: {len(variants)} variants x {len(faults_of_all)} faults",
            lambda stage: campaign.run(
                variants, images, faults_of_all, **common, progress=stage.campaign
            ),
        )
        sweeps = _sweeps(experiment, variants, images, common, stages)
    return Outcome(experiment, folder, result, cost, sweeps, len(images.test))


def _sweeps(
    experiment: Experiment,
    variants: Mapping[str, nn.Module],
    images: Data,
    common: Mapping[str, Any],
    stages: Stages,
) -> dict[tuple[str, str], Result]:
    functions: Mapping[str, Callable[..., Result]] = {
        "layer": campaign.per_layer,
        "bit": campaign.per_bit,
    }
    margin, trials = experiment.sweep_margin, experiment.sweep_trials
    if margin is None and trials is None:
        margin = experiment.absolute_margin
    # The strata of a sweep are its layers or bits; one model has no differences; the campaign has
    # searched for the worst case.
    options = {
        **common,
        "margin": margin,
        "trials": trials,
        "strata": False,
        "difference_margin": None,
        "worst_flips": None,
    }

    def sweep(name: str, kind: str) -> Result:
        return stages.run(
            f"sweep: {label(name)}, each {kind}",
            lambda stage: functions[kind](
                variants[name],
                images,
                experiment.sweep_fault,
                **options,
                name=name,
                progress=stage.campaign,
            ),
        )

    return {(name, kind): sweep(name, kind) for name, kind in experiment.swept}


def _keep_other(folder: Path, experiment: Experiment, stages: Stages) -> None:
    """Keep the file of an experiment that differs from ``experiment``, and say so."""
    file = folder / EXPERIMENT
    if not file.exists():
        return
    now = experiment.to_plain()
    try:
        before = read_experiment(file).to_plain()
    except (ValueError, TypeError, ProactError):
        different = "a file that is no experiment of this version"
    else:
        keys = [key for key in now if json.dumps(before[key]) != json.dumps(now[key])]
        # A finished run leaves the number of images that it chose for "auto" in its file.
        if not keys or (keys == ["images_per_trial"] and _has_run(folder / STORE, now)):
            return
        different = f"an experiment that differs in {', '.join(keys)}"
    text = read_regular(file, "an experiment file", _MOST_BYTES)
    names = (f"{file.stem}-{number}{file.suffix}" for number in count(1))
    kept = next(
        name
        for name in names
        if not (folder / name).exists()
        or read_regular(folder / name, "an experiment file", _MOST_BYTES) == text
    )
    file.replace(folder / kept)
    stages.say(
        f"{folder} holds {different}: its {EXPERIMENT} is now {kept}, and its trials stay in "
        f"{STORE} (proact report --run)"
    )


def _has_run(store: Path, experiment: Mapping[str, Any]) -> bool:
    """Whether the last campaign of a store is that of ``experiment``."""
    campaigns = [each for each in read(store) if each.spec.kind == "campaign"]
    noted = campaigns[-1].spec.notes.get("experiment") if campaigns else None
    return json.dumps(noted) == json.dumps(storable_values(experiment))


def _make_writable(folder: Path, files: Sequence[str]) -> None:
    """Make the folder and check that all output files can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / MODELS):
            if place.exists():
                tempfile.TemporaryFile(dir=place).close()
        for name in files:
            refuse_special(folder / name, "a file to be written")
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
    """Yield the executor of the experiment, and close it at the end."""
    if experiment.scheduler is None:
        yield experiment.workers
        return
    try:
        from distributed import Client
    except ImportError:
        raise ProactError(
            "scheduler: expected Dask to be installed: pip install 'proact[dask]'"
        ) from None
    try:
        client = Client(experiment.scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ProactError(
            f"there is no Dask scheduler at {experiment.scheduler} (tcp://host:port): {error}"
        ) from None
    with client:
        yield client.get_executor()
