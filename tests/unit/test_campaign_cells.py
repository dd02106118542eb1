"""Do cells say what their rows say where things go wrong, or mean something else than usual?"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import slow
from proact import ProactError, campaign
from proact.campaign import Metric
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, ExactFlips, encode, inject
from proact.results.statistics import Prior, StoppingRule, StratifiedRule, Trials, trial_mean


def test_faults_in_rounded_activations_are_not_clean_without_a_flip(
    trained_cnn: nn.Module, digits: Data
) -> None:
    fault = ActivationFlip(0.0, encoding="int2")
    result = campaign.run({"m": trained_cnn}, digits, [fault], trials=30, images_per_trial=40)
    rows = result.rows("m", fault)
    (cell,) = result.cells
    assert all(row.flips == 0 for row in rows)
    assert np.mean([row.value for row in rows]) < cell.clean - 0.2
    assert cell.value.estimate == pytest.approx(np.mean([row.value for row in rows]), abs=0.02)
    assert cell.sdc is not None
    assert cell.sdc.estimate > 0.2


def test_failed_trials_count_among_those_that_flip() -> None:
    trials = Trials(np.array([0.1]), np.array([0.9]), np.array([5000.0]), 90_000, 5000)
    mean = trial_mean(trials, Prior(0.9, unflipped=0.9))
    # Had the failed ones kept everything, or nothing.
    assert mean.high >= 0.9 * 0.9 + 0.1 * (0.5 * 0.1 + 0.5)
    assert mean.low <= 0.9 * 0.9 + 0.1 * (0.5 * 0.1)


class Fragile(nn.Module):
    """Raises on what is not finite or large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x.flatten(1)))
        if not bool((output.abs() < 1e4).all()):
            raise ArithmeticError("too large")
        return output


def test_a_network_that_raises_in_the_pilot_too(digits: Data) -> None:
    fault = BitFlip(1e-3)
    result = campaign.run({"m": Fragile()}, digits, [fault], trials=20, on_error="exclude")
    (cell,) = result.cells
    assert cell.trials + cell.failed == 20
    assert 3 < cell.failed < 20
    assert cell.value.high - cell.value.low > cell.failed / 20
    details = result.details()["m", str(fault)]
    assert details.critical.high - details.critical.low > cell.failed / 20
    reasons = result.failures()["m", str(fault)]
    assert len(reasons) == cell.failed
    assert all("ArithmeticError: too large" in reason for _, reason in reasons)


def test_sweeps_end_where_trials_fail(digits: Data) -> None:
    options = {"images_per_trial": 16, "on_error": "exclude"}
    sweep = campaign.per_layer(Fragile(), digits, ExactFlips(20), margin=0.1, **options)
    assert len(sweep.strata) == 2
    assert sweep.failures()
    always = Metric("never", raising, needs_targets=False)
    with pytest.raises(ValueError, match="metric never does not take the outputs .* always"):
        campaign.per_layer(Fragile(), digits, metric=always, images_per_trial=16)


def raising(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
    raise ZeroDivisionError("always")


def test_trials_that_all_fail_are_an_error(digits: Data) -> None:
    options = {"margin": 0.01, "images_per_trial": 16, "on_error": "exclude"}
    with pytest.raises(ProactError, match="all 20 trials failed.* ArithmeticError: too large"):
        campaign.run({"m": Fragile()}, digits, [BitFlip(0.3)], trials=20, **options)
    faults = [BitFlip(0.3), BitFlip(1e-5)]
    given_up, fine = campaign.run({"m": Fragile()}, digits, faults, **options).cells
    assert given_up.failed >= 20
    assert (given_up.value.low, given_up.value.high) == pytest.approx((0.0, 1.0), abs=0.1)
    assert fine.trials > 20


def test_forward_passes_that_raise_count_as_wrong_answers(digits: Data) -> None:
    fault = BitFlip(1e-3)
    options = {"trials": 60, "images_per_trial": "all"}
    result = campaign.run({"m": Fragile()}, digits, [fault], **options)
    (cell,) = result.cells
    assert (cell.trials, cell.failed) == (60, 0)
    model = encode(Fragile(), "float32").eval()
    images, labels = digits.test.images, digits.test.labels
    shares = []
    for trial in range(60):
        with inject(model, fault, trial=trial), torch.no_grad():
            try:
                right = (model(images).argmax(1) == labels).double().mean()
                shares.append((float(right), 0))
            except ArithmeticError:
                shares.append((0.0, len(images)))
    rows = result.rows("m", fault)
    assert [(row.value, row.raised) for row in rows] == [
        (pytest.approx(value), raised) for value, raised in shares
    ]
    assert 0 < sum(raised for _, raised in shares) < 60 * len(images)
    assert all(row.value == row.agreeing == row.top5 == 0 for row in rows if row.raised)
    assert all(row.sdc20 == len(images) for row in rows if row.raised)
    details = result.details()["m", str(fault)]
    assert details.shares["raised"].estimate == pytest.approx(cell.raised, abs=0.02)
    excluded = campaign.run({"m": Fragile()}, digits, [fault], on_error="exclude", **options)
    assert excluded.cells[0].failed == sum(raised > 0 for _, raised in shares)


class OfOneSize(nn.Linear):
    """Takes batches of 4 or more, and no others."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 3:
            raise RuntimeError("no three")
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("executor", [1, *slow(2)])
def test_an_error_without_faults_ends_the_run(digits: Data, executor: int) -> None:
    model = OfOneSize(64, 10)
    options = {"trials": 30, "executor": executor}
    with pytest.raises(RuntimeError, match="no three"):
        campaign.run({"m": model}, digits, [BitFlip(1e-2)], images_per_trial=3, **options)
    calls = count_calls()
    with pytest.raises(ZeroDivisionError):
        campaign.run({"m": model}, digits, [BitFlip(1e-2)], metric=calls, **options)


def count_calls() -> Metric:
    """A metric that raises on NaN alone, and so in trials only."""

    def function(output: Tensor, targets: Tensor, clean: Tensor) -> Tensor:
        if not bool((output.abs() < 1e6).all()):
            raise ZeroDivisionError
        return (output.argmax(1) == targets).double()

    return Metric("odd", function)


@pytest.mark.long
def test_less_is_better_for_some_metrics(trained_cnn: nn.Module, digits: Data) -> None:
    fault = BitFlip(1e-3)
    options = {"encoding": "q15.16", "images_per_trial": 40, "metric": "sdc"}
    result = campaign.run({"m": trained_cnn}, digits, [fault], trials=40, **options)
    assert result.details()["m", str(fault)].critical.estimate > 0.9
    sweep = campaign.per_bit(trained_cnn, digits, trials=1100, **options)
    losses = {int(stratum.name): stratum.loss.estimate for stratum in sweep.strata}
    assert losses[30] > 0.1 > losses[2] >= 0


def test_a_mean_is_corrected_where_its_spread_stopped_it() -> None:
    values = np.array([0.1, 0.9])
    trials = Trials(values, np.array([0.9, 0.9]), np.array([3.0, 197.0]))
    known = Prior(0.9)
    rule = StoppingRule(0.05)
    plain = trial_mean(trials, known, rule.confidence_at_stop)
    stopped = rule.interval(trials, known)
    # Nearly one more failure, which the interval holds too.
    moved = plain.estimate - stopped.estimate
    assert 0.5 * 0.8 / 200 < moved < 0.8 / 200
    assert stopped == pytest.approx((plain.estimate - moved, plain.low - moved, plain.high))
    ended = StoppingRule(0.0001, most=200).interval(trials, known)
    assert ended.estimate == plain.estimate


def test_a_cell_that_failed_trials_ended_is_not_corrected() -> None:
    values = np.array([0.9, 0.4, 1.0])
    trials = Trials(values, np.full(3, 0.9), np.array([36.0, 1.0, 4.0]), failed=45)
    rule = StratifiedRule(0.1, is_relative=True)
    found = rule.interval([1.0], [trials], [Prior(0.9)])
    assert found == pytest.approx(trial_mean(trials, Prior(0.9), rule.confidence_at_stop))


def test_outputs_of_one_number_an_image() -> None:
    torch.manual_seed(0)
    metric = Metric("same", lambda out, targets, clean: (out == clean).double(), worst=0.0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    targets = torch.tensor([-1, 7, 3, 100])
    result = campaign.run(
        {"m": model}, (torch.randn(4, 4), targets), [BitFlip(1e-2)], trials=10, metric=metric
    )
    assert result.cells[0].sdc is None
    regression = campaign.run(
        {"m": nn.Linear(4, 3)}, (torch.randn(4, 4), torch.randn(4, 3)), [BitFlip(1e-2)], trials=5,
        metric=Metric("error", lambda out, targets, clean: (out - targets).abs().amax(1), 0.0, 9.0),
    )  # fmt: skip
    assert regression.cells[0].sdc is None
    for lowest, highest, worst in ((-np.inf, 1.0, None), (0.0, np.inf, None), (0.0, 1.0, np.nan)):
        with pytest.raises(ValueError, match="expected a metric"):
            Metric("m", raising, lowest, highest, worst)
    for name in ("lowest", "highest", "worst"):
        message = f"expected a number as a metric's {name} value, got 'low'"
        with pytest.raises(TypeError, match=message):
            Metric("m", raising, **{name: "low"})  # type: ignore[arg-type]


class CallsOff(Executor):
    """Calls off whatever holds trial 7."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        if len(args) == 4 and args[2].first <= 7 < args[2].end:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def test_an_executor_that_cancels_a_unit_ends_the_campaign(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    store = tmp_path / "rows.sqlite"
    options: dict[str, Any] = {"trials": 12, "images_per_trial": 16, "store": store}
    with pytest.raises(ProactError, match=r"cancelled a unit: .* continues from the trials"):
        campaign.run({"m": trained_cnn}, digits, [BitFlip(1e-3)], executor=CallsOff(), **options)
    result = campaign.run({"m": trained_cnn}, digits, [BitFlip(1e-3)], executor=1, **options)
    assert (result.cells[0].trials, result.failures()) == (12, {})


@pytest.mark.long
def test_parametrized_networks_run_here_and_in_workers(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))
    options = {"trials": 3, "images_per_trial": 16}
    here, there = (
        campaign.run({"m": model}, digits, [BitFlip(1e-3)], executor=executor, **options)
        for executor in (1, 2)
    )
    assert here.cells[0].trials == 3
    columns = ["accuracy", "low", "high", "flips"]
    assert here.to_pandas()[columns].equals(there.to_pandas()[columns])


def test_models_that_cannot_be_sent_say_so(digits: Data) -> None:
    class Unsendable(nn.Linear):
        def __reduce_ex__(self, protocol: object) -> object:
            raise TypeError("not to be sent")

        def __deepcopy__(self, memo: object) -> nn.Module:
            return Unsendable(64, 10)

    model = nn.Sequential(nn.Flatten(), Unsendable(64, 10))
    with pytest.raises(ProactError, match="use executor=1 to run in this process"):
        campaign.run({"m": model}, digits, [BitFlip(1e-3)], trials=3, executor=2)
