"""Runs a campaign: every variant meets the same faults on the same images."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal

from torch import nn

from proact.campaign.campaign_run import Session
from proact.campaign.evaluation import EvaluationData
from proact.campaign.executors import checked_executor
from proact.campaign.identity import Policy
from proact.campaign.metrics import Metric
from proact.campaign.progress import Progress
from proact.campaign.settings import Order, Settings
from proact.campaign.validation import (
    checked_faults,
    checked_images,
    checked_notes,
    checked_variants,
)
from proact.encodings import Encoding
from proact.faults import Fault
from proact.ops.plan import TRIALS, checked_integer
from proact.results.result import Result
from proact.results.statistics import StoppingRule

DEFAULT_MARGIN = 0.01


def run(
    variants: Mapping[str, nn.Module],
    data: EvaluationData,
    faults: Sequence[Fault],
    *,
    encoding: str | Encoding = "float32",
    margin: float | None = None,
    confidence: float = 0.95,
    trials: int | None = None,
    images_per_trial: int | Literal["auto", "all"] | None = "auto",
    metric: str | Metric = "top-1",
    seed: int = 0,
    store: str | Path | None = None,
    name: str | None = None,
    executor: Executor | int | None = None,
    progress: Progress = None,
    policy: Policy | None = None,
    shortcuts: bool = True,
    retry_failed: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Result:
    """Measures what each variant keeps under each fault.

    A trial is one fault pattern, judged on some of the evaluation images. Trial t of every variant
    meets the same faults in the tensors that the variants share by name, on the same images, so
    their differences are paired. An image whose output holds NaN or infinity counts as wrong.

    A cell (a variant under a fault) stops when its interval is as narrow as the margin. Which
    trials that takes, and with them the table, depends on nothing but the arguments down to
    ``seed`` and what "auto" chose: not on executors, interruptions, or what else is in the store.
    (Last digits of outputs can differ between machines, as PyTorch's do.)

    Args:
        variants: networks by name; copies of them are encoded and faulted.
        data: the evaluation images: what `proact.data.load` returns (its test split), a pair
            (images, labels), a `Dataset`, or for metrics of your own inputs with any targets, or
            inputs alone.
        faults: of `proact.faults`' kinds; one cell a variant and fault.
        encoding: the stored form of the parameters.
        margin: half the width of the interval at which a cell stops, in the metric's unit, in
            (0, 1]; 0.01 where neither this nor ``trials`` is given.
        confidence: of the intervals, two-sided, in (0, 1).
        trials: fault patterns a cell, in [1, 2^32); with a margin, the most.
        images_per_trial: each trial is judged on so many of the images, drawn for (seed, trial)
            without replacement; ``"all"`` or None takes all. ``"auto"`` chooses the number with
            which the margin is reached soonest, from the variances and costs that a pilot measures
            here; the choice is kept in the store, for this margin. To repeat it elsewhere, give
            `Result.images_per_trial`.
        metric: ``"top-1"``, ``"top-5"``, ``"loss"``, ``"sdc"`` (share of predictions that differ
            from those without faults; needs no labels), or a `Metric`.
        seed: names the experiment; in [0, 2^63). Same seed, same rows.
        store: SQLite file for the rows, written as they are done; rows that it already holds for
            this very content are not run again. None keeps them in memory.
        name: of the campaign, for people. A name stands for one task: the store refuses it for
            another.
        executor: who runs the trials: any `concurrent.futures.Executor`, such as Dask's
            ``Client.get_executor()``; a number of processes; 1 for this process; None for processes
            of this machine where there are cores to use and enough to do.
        progress: None shows a table in a notebook, and where standard error is a terminal; True and
            False do, and do not. A function is called with (trials done, trials in all as now
            expected).
        policy: how trials are run, instead of what a warm-up measures here: that of another run's
            ``Result.settled.policy``, to repeat it to the last digit. Decides ``images_per_trial``
            too.
        shortcuts: whether trials go on from kept activations where images are fixed and the faults
            are late in the network. It changes no row.
        retry_failed: tries trials again that an earlier run recorded as failed.
        notes: what else there is to know, in terms of JSON, kept in the store with the run for who
            reads it. Reports show two of them: ``costs``, by variant the fields of a
            `proact.protect.Cost`, and ``experiment``, what would repeat the run.

    Raises:
        ValueError, TypeError: an argument out of range, no variants, no faults, a network that the
            encoding cannot store, outputs that do not fit the labels or each other; nothing is run
            or written. ProactError: a store that cannot be used or belongs to another task, an
            executor that takes no work. KeyboardInterrupt: after what is done was stored.
    """
    if margin is None and trials is None:
        margin = DEFAULT_MARGIN
    if trials is not None and checked_integer("trials", trials, TRIALS) == 0:
        raise ValueError("a campaign needs at least one trial a cell, got 0")
    settings = Settings(
        encoding=encoding,
        metric=metric,
        images_per_trial=checked_images(images_per_trial),
        confidence=confidence,
        margin_of_pilot=margin or DEFAULT_MARGIN,
        seed=seed,
        shortcuts=shortcuts,
        retry_failed=retry_failed,
        policy=policy,
    )
    rule = None
    if margin is not None:
        rule = StoppingRule(margin, confidence, trials or TRIALS - 1)
    variants = checked_variants(variants)
    faults = checked_faults(faults)
    executor = checked_executor(executor)
    order = Order(margin, trials, name, notes=checked_notes(notes))
    with Session(variants, data, faults, settings, order, store, executor, progress) as session:
        try:
            session.work(rule if rule is not None else _fixed(trials))
        except KeyboardInterrupt:
            print(_how_to_go_on(session, store), file=sys.stderr)
            raise
        return session.result(rule)


def _fixed(trials: int | None) -> int:
    assert trials is not None
    return trials


def _how_to_go_on(session: Session, store: str | Path | None) -> str:
    if store is None:
        return "Interrupted: the rows were in memory and are gone; store=... would have kept them."
    return (
        f"Interrupted: {session.stored} trials are kept in {store}; run the same again to go on "
        "from there."
    )
