"""Do trials that share a forward pass have the rows that they have alone?"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trial_runners import (
    NEEDS_EVEN_KERNELS,
    Reordering,
    images,
    rows_by_groups,
    runner,
    small_cnn,
)

from conftest import bits_of, same_bits, slow
from proact.campaign import trial_groups
from proact.campaign.draws import drawn_units
from proact.campaign.scoring import DetectedError
from proact.campaign.stacked_model import StackedModel
from proact.campaign.stacking_checks import agrees
from proact.campaign.trial_groups import SEVERAL_TRIALS
from proact.data import Split
from proact.faults import (
    ActivationFlip,
    BitFlip,
    BitFlipStratum,
    Burst,
    ExactFlips,
    Fault,
    StuckAt,
    encode,
    inject,
)
from proact.results import Row

pytestmark = NEEDS_EVEN_KERNELS

TRIALS = range(11)
FAULTS = [
    BitFlip(1e-4),
    BitFlip(3e-3),
    ExactFlips(2),
    StuckAt(1, 1e-3),
    Burst(3, 1e-3),
    BitFlip(1e-2, where="7.*"),
    BitFlipStratum(1e-3, (6, 5), ("0.weight", "5.weight"), in_field=(1, 2)),
]


def same_rows(found: list[Any], expected: list[Any]) -> None:
    """Rows of other kernels: equal, but for rounding."""
    assert [row.trial for row in found] == [row.trial for row in expected]
    for one, other in zip(found, expected, strict=True):
        exact = ("flips", "images", "value", "clean", "correct", "top5", "agreeing", "non_finite")
        assert [getattr(one, name) for name in exact] == [getattr(other, name) for name in exact]
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def by_loop(model: nn.Module, fault: Fault, encoding: str, per_trial: int | None) -> list[Row]:
    """The rows' first fields from a plain loop over trials: the oracle."""
    data, encoded, found = images(), encode(model, encoding).eval(), []
    seed = fault.seed(3) if isinstance(fault, BitFlipStratum) else 3
    for trial in TRIALS:
        units = range(40) if per_trial is None else drawn_units(seed, trial, 40, per_trial)
        x, labels = data.images[list(units)], data.labels[list(units)]
        with torch.no_grad(), inject(encoded, fault, encoding, seed=3, trial=trial) as record:
            output = encoded(x)
            flips = record.flips
        finite = torch.isfinite(output).all(1)
        right = finite & (output.argmax(1) == labels)
        found.append((trial, flips, len(x), int(right.sum()), int((~finite).sum())))
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("encoding", ["float32", *slow("int8", "q15.16")])
@pytest.mark.parametrize("per_trial", [8, None])
def test_rows_are_those_of_a_plain_loop(fault: Fault, encoding: str, per_trial: int | None) -> None:
    model = small_cnn()
    grouped = runner(model, 4, per_trial, encoding=encoding)
    assert grouped.can_group(fault)
    before = bits_of(grouped.model)
    rows = rows_by_groups(grouped, fault, TRIALS)
    assert [
        (row.trial, row.flips, row.images, row.correct, row.non_finite) for row in rows
    ] == by_loop(model, fault, encoding, per_trial)
    same_rows(rows, rows_by_groups(runner(model, 1, per_trial, encoding=encoding), fault, TRIALS))
    assert same_bits(before, grouped.model)
    copies = grouped._groups.stacked_for(fault)
    assert copies is not None
    for name, stacked in copies._stacked.items():
        own = copies._own[name]
        assert all(torch.equal(copy, own) for copy in stacked), name


def test_only_the_copies_for_the_last_fault_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []

    def counted(*args: Any) -> bool:
        checks.append(1)  # not the arguments, which hold the copies
        return agrees(*args)

    monkeypatch.setattr(trial_groups, "agrees", counted)
    grouped, alone = runner(small_cnn(), 4), runner(small_cnn(), 1)
    faults = [BitFlip(3e-3, where="0.*"), BitFlip(3e-3, where="7.*"), BitFlip(3e-3)]
    made = []
    for fault in [*faults, *faults]:
        copies = grouped._groups.stacked_for(fault)
        assert copies is not None
        made.append(weakref.ref(copies))
        del copies
        gc.collect()
        assert [each() is not None for each in made] == [False] * (len(made) - 1) + [True]
        rows = rows_by_groups(grouped, fault, TRIALS)
        same_rows(rows, rows_by_groups(alone, fault, TRIALS))
    assert len(checks) == len(faults)


@pytest.mark.parametrize("encoding", ["int8", "q15.16"])
def test_other_words(encoding: str) -> None:
    model, fault = small_cnn(), BitFlip(1e-3)
    rows = rows_by_groups(runner(model, 4, encoding=encoding), fault, TRIALS)
    same_rows(rows, rows_by_groups(runner(model, 1, encoding=encoding), fault, TRIALS))
    assert len({row.value for row in rows}) > 1


@pytest.mark.parametrize("metric", ["loss", "sdc", "cosine"])
def test_other_metrics_and_a_hardened_model(metric: str) -> None:
    model, fault = small_cnn(is_hardened=True), BitFlip(1e-3)
    grouped = runner(model, 4, metric=metric)
    assert grouped.can_group(fault)
    rows = rows_by_groups(grouped, fault, TRIALS)
    alone = rows_by_groups(runner(model, 1, metric=metric), fault, TRIALS)
    assert [row.value for row in rows] == pytest.approx([row.value for row in alone], rel=1e-4)
    assert [row.flips for row in rows] == [row.flips for row in alone]


@pytest.mark.parametrize("at_once", [3, 16])
@pytest.mark.parametrize("fault", [BitFlip(1e-4), BitFlip(1e-2)], ids=str)
def test_rows_do_not_depend_on_the_trials_that_share_a_pass(at_once: int, fault: Fault) -> None:
    model = small_cnn(is_hardened=True)
    together = rows_by_groups(runner(model, at_once), fault, range(20))
    other = runner(model, at_once)
    apart = [
        row
        for part in (range(5), range(5, 6), range(6, 20))
        for row in rows_by_groups(other, fault, part)
    ]
    assert apart == together
    assert rows_by_groups(other, fault, [13, 2, 7]) == [together[trial] for trial in (13, 2, 7)]
    alone = [other.run(fault, trial)._replace(seconds=0) for trial in range(20)]
    assert alone == together


def test_outputs_that_are_not_finite() -> None:
    model, fault = small_cnn(), BitFlip(2e-2)
    rows = rows_by_groups(runner(model, 4), fault, TRIALS)
    assert sum(row.non_finite for row in rows) > 5
    same_rows(rows, rows_by_groups(runner(model, 1), fault, TRIALS))


def test_trials_that_change_nothing_take_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    fault, passes = BitFlip(1e-5), []
    grouped = runner(small_cnn(), 4)
    assert grouped.can_group(fault)
    outputs = StackedModel.outputs
    monkeypatch.setattr(StackedModel, "outputs", lambda *given: passes.append(1) or outputs(*given))
    rows = list(grouped.run_many(fault, range(60)))
    needing = sum(row.flips > 0 for row in rows if isinstance(row, Row))
    assert 0 < needing < 30
    assert len(passes) == -(-needing // 4)
    assert all((row.seconds > 0) == (row.flips > 0) for row in rows if isinstance(row, Row))


def test_what_is_noted_before_a_trial_runs() -> None:
    noted: list[int] = []
    grouped = runner(small_cnn(), 2)
    for _ in grouped.run_many(ExactFlips(1), range(3), noted.append):
        pass
    assert noted == [0, 1, SEVERAL_TRIALS, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("on_error", ["worst", "exclude"])
def test_a_model_that_raises_under_faults(on_error: str) -> None:
    model, fault = Reordering(), BitFlip(2e-3)
    grouped = runner(model, 4, encoding="native", on_error=on_error)
    assert grouped.can_group(fault)
    found = rows_by_groups(grouped, fault, range(16))
    alone = rows_by_groups(runner(model, 1, encoding="native", on_error=on_error), fault, range(16))
    assert found == [row for t in range(16) for row in rows_by_groups(grouped, fault, [t])]
    excluded = [each for each in found if not isinstance(each, Row)]
    assert excluded == [each for each in alone if not isinstance(each, Row)]
    rows, others = ([each for each in r if isinstance(each, Row)] for r in (found, alone))
    same_rows(rows, others)
    assert [row.raised for row in rows] == [row.raised for row in others]
    if on_error == "worst":
        assert 0 < sum(row.raised > 0 for row in rows) < 16
    else:
        assert 0 < len(excluded) < 16
        with pytest.raises(DetectedError, match="IndexError"):
            grouped.run(fault, excluded[0][0])


def test_faults_in_activations_run_one_by_one() -> None:
    fault = ActivationFlip(1e-3)
    grouped = runner(small_cnn(), 4)
    assert not grouped.can_group(fault)
    assert rows_by_groups(grouped, fault, range(4)) == rows_by_groups(
        runner(small_cnn(), 1), fault, range(4)
    )


def test_only_the_tensors_that_a_fault_can_change_are_copied() -> None:
    grouped = runner(small_cnn(), 4, None)
    late, everywhere = BitFlip(1e-2, where="7.*"), BitFlip(1e-3)
    copies = [grouped._groups.stacked_for(fault) for fault in (late, everywhere)]
    assert [None if each is None else len(each.names) for each in copies] == [2, 10]
    assert copies[0] is not None
    assert copies[0].names == ["7.bias", "7.weight"]


def test_an_error_of_the_metric_leaves_the_model_clean() -> None:
    grouped = runner(small_cnn(), 4)
    fault, before = BitFlip(1e-2), bits_of(grouped.model)
    expected = rows_by_groups(runner(small_cnn(), 4), fault, range(8))

    def failing(*given: Any) -> Any:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_groups, "scored", failing)
        with pytest.raises(ZeroDivisionError):
            rows_by_groups(grouped, fault, range(6))
    assert same_bits(before, grouped.model)
    assert rows_by_groups(grouped, fault, range(8)) == expected


def test_memory_that_does_not_suffice_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = runner(small_cnn(), 4)
    assert grouped.can_group(ExactFlips(1))

    def short(*given: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(StackedModel, "outputs", short)
    with pytest.raises(torch.OutOfMemoryError):
        list(grouped.run_many(ExactFlips(1), range(4)))


def test_no_samples_are_lost_between_units() -> None:
    assert np.array_equal(
        [row.trial for row in rows_by_groups(runner(small_cnn(), 4), ExactFlips(1), range(9))],
        range(9),
    )


def test_the_host_reads_numbers_of_fixed_batches_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = runner(small_cnn(), 1, data=images().in_fixed_batches(8))
    in_samples = runner(small_cnn(), 1)
    monkeypatch.setattr(Split, "device", torch.device("meta"))  # in place of a GPU
    batches, samples = (each.units(BitFlip(1e-3), 0) for each in (own, in_samples))
    assert batches is not None
    assert samples is not None
    assert batches.device.type == "cpu"
    assert samples.device.type == "meta"
