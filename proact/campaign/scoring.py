"""Score the outputs of a trial: values of the metric and counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proact.campaign.clean_results import CleanResults
from proact.campaign.counts import Counts, counts_from, raised_columns
from proact.campaign.measurement import EvaluatedBatch, Measurement
from proact.nn.batches import Batch
from proact.results.store import Row


class Raised(NamedTuple):
    """Stands for the output of a forward pass that raised an error under faults."""

    error: Exception


class DetectedError(Exception):
    """A forward pass raised an error because of a fault, and such trials are excluded.

    Args:
        reason: the error.
        trial: the number of the trial.
    """

    def __init__(self, reason: str, trial: int) -> None:
        super().__init__(reason)
        self.trial = trial


class Score(NamedTuple):
    """The result of a trial.

    Attributes:
        value, clean: the metric with faults, and without faults on the same samples.
        counts: see `Counts`.
        samples: the number of samples.
    """

    value: float
    clean: float
    counts: Counts
    samples: int


def scored(
    measurement: Measurement,
    batches: Iterable[tuple[EvaluatedBatch, Any]],
    clean: CleanResults,
    clean_value: float | None = None,
) -> tuple[Score, Tensor | None]:
    """Score the outputs of a trial, one batch at a time.

    Args:
        measurement: holds the metric.
        batches: the batches of the trial, each with the output, which can be `Raised`.
        clean: the clean results of the same samples.
        clean_value: a metric of whole trials on these results, if it is known.

    Returns:
        The score, and the metric of each sample, (n,) float64; None for a metric of whole trials.
    """
    metric = measurement.metric
    columns: list[Tensor] = []
    values: list[Tensor | None] = []
    # For a metric of whole trials:
    outputs: list[Any] = []
    targets: list[Batch | None] = []
    sizes: list[int] = []
    start = raised = 0
    for number, (batch, output) in enumerate(batches):
        part = slice(start, start + batch.samples)
        start = part.stop
        sizes.append(batch.samples)
        targets.append(batch.targets)
        if isinstance(output, Raised):
            raised += batch.samples
            columns.append(raised_columns(batch.samples, clean.columns))
            values.append(clean.columns.new_full((batch.samples,), metric.worst_value))
            continue
        mine = measurement.columns(output, batch.targets, batch.samples, clean.reference[part])
        expected = clean.output(number, part)
        columns.append(mine)
        values.append(measurement.values(output, batch.targets, expected, mine))
        if metric.of_trial:
            outputs.append(output)
    every = torch.cat(columns)
    if metric.of_trial:
        counts = counts_from(every.sum(0).tolist(), start, raised)
        kept = clean.batch_outputs(sizes)
        if clean_value is None:
            clean_value = metric.of_batches(kept, targets, kept)
        value = metric.worst_value if raised else metric.of_batches(outputs, targets, kept)
        return Score(value, clean_value, counts, start), None
    found = torch.cat([each for each in values if each is not None])
    assert clean.values is not None
    # One sum, and so one transfer from a GPU, for everything.
    sums = torch.cat((every, torch.stack((found, clean.values), 1)), 1).sum(0).tolist()
    counts = counts_from(sums[:-2], start, raised)
    return Score(sums[-2] / start, sums[-1] / start, counts, start), found


def row_of(trial: int, flips: int, score: Score, seconds: float) -> Row:
    """The row of a trial."""
    return Row(
        trial, flips, score.samples, score.value, score.clean, *score.counts, seconds=seconds
    )
