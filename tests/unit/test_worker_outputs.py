"""Is a model that computes something else in a worker refused, before it gives a row?"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from proact import ProactError, campaign
from proact.campaign import Metric, jobs
from proact.campaign.jobs import Job, WorkUnit
from proact.data import Data
from proact.faults import BitFlip
from proact.results import read

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
SOURCE = """
import torch

SHIFT = 0

class Shifted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(4, 3)

    def forward(self, inputs):
        return self.line(inputs).roll(SHIFT, 1)
"""


@pytest.fixture
def shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with a model that reads a global variable; it differs from that in the file."""
    (tmp_path / "shifted_model.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("shifted_model")
    module.SHIFT = 1  # type: ignore[attr-defined]
    yield module
    del sys.modules["shifted_model"]


def run(model: nn.Module, **options: Any) -> None:
    labels = torch.zeros(len(INPUTS), dtype=torch.int64)
    campaign.run({"m": model}, (INPUTS, labels), [BitFlip(1e-3)], trials=4, **options)


def test_a_global_variable_that_differs_in_workers(shifted: Any, tmp_path: Path) -> None:
    model, path = shifted.Shifted().eval(), tmp_path / "rows.sqlite"
    with pytest.raises(ProactError, match="Shifted gives other outputs in a worker than in"):
        run(model, executor=2, store=path)
    assert [cell.trials for result in read(path) for cell in result.cells] == [0]
    run(model, executor=1, store=path)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, trained_cnn: nn.Module, digits: Data) -> Job:
    """The job of a campaign, as its coordinator leaves it."""
    closed: list[Job] = []

    def note(job: Job) -> None:
        closed.append(job)

    monkeypatch.setattr(Job, "close", note)
    campaign.run({"m": trained_cnn}, digits, [BitFlip(1e-4)], trials=2, executor=1)
    monkeypatch.undo()
    return closed[0]


def sent(job: Job) -> Job:
    received: Job = cloudpickle.loads(job.for_workers(1))
    return received


def test_rounding_in_a_worker_may_differ(job: Job) -> None:
    received = sent(job)
    expected = [[output * 1.01 for output in own] for own in received.expected]
    assert not replace(received, expected=expected).run(WorkUnit(0, 0, 0, 2)).error
    expected = [[output * 1.1 for output in own] for own in received.expected]
    error = replace(received, expected=expected).run(WorkUnit(0, 0, 0, 2)).error
    assert isinstance(error, ProactError)


def test_one_batch_may_differ_by_a_threshold(job: Job) -> None:
    received = sent(job)
    assert len(received.expected[0]) == jobs._COMPARED_BATCHES
    first, *others = received.expected[0]
    assert not replace(received, expected=[[first + 9.0, *others]]).run(WorkUnit(0, 0, 0, 2)).error


def test_models_that_keep_state_are_not_run_for_it(job: Job) -> None:
    kept = replace(job, measurement=replace(job.measurement, state="keep"))
    assert sent(kept).expected == [[]]


def test_few_numbers_of_large_outputs_are_sent(job: Job) -> None:
    class Wide(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).repeat(1, 10_000)

    (found,) = sent(replace(job, models=[Wide()])).expected
    assert [len(numbers) for numbers in found] == [4 * 64 * 10_000 // 157 + 1] * 3
    pixels = job.measurement.data.first(4).inputs
    assert torch.equal(found[0].unique(), pixels.unique())


def test_outputs_of_several_tensors_are_not_compared(job: Job) -> None:
    class Found(nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [image[image > 0] for image in images]

    measurement = replace(job.measurement, metric=Metric("found", len, reads_logits=False))
    assert sent(replace(job, models=[Found()], measurement=measurement)).expected == [[]]


def test_a_unit_in_which_the_settings_of_torch_changed_has_no_rows(job: Job) -> None:
    assert len(job.run(WorkUnit(0, 0, 0, 2)).rows) == 2
    job._runners.clear()
    (model,) = job.models

    def change(module: nn.Module, inputs: object) -> None:
        torch.set_default_dtype(torch.float64)

    handle = model.register_forward_pre_hook(change)
    try:
        found = job.run(WorkUnit(0, 0, 0, 2))
    finally:
        handle.remove()
        torch.set_default_dtype(torch.float32)
    assert found.rows == ()
    assert "settings of torch" in str(found.error)
