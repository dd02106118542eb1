"""Does a plan rank encodings and guards by accuracy under the same faults, within the budget?"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import models
from proact.data import Data, Split
from proact.encodings import encoding_named
from proact.faults import BitFlip, Where, encoding_report
from proact.ops.seeds import derived_seed
from proact.protect import Plan, pixel_accuracy, plan, protect
from proact.protect.fault_scoring import FaultScorer
from proact.protect.plan_candidates import bits_per_weight, default_encodings
from proact.protect.plan_options import PlanOptions

QUICK: dict[str, Any] = {"trials": 16, "images_per_trial": 10_000, "margin": 0.2}


@pytest.fixture(scope="module")
def compared(trained_cnn: nn.Module, digits: Data) -> Plan:
    return plan(
        trained_cnn,
        digits,
        ber=(3e-3, 1e-2),
        candidates=["float32", "float32+bch2", "float32+tmr", "int8+mset", "int2", "q15.16+secded"],
        **{**QUICK, "margin": 0.001},
    )


def test_the_code_that_corrects_most_is_best(compared: Plan) -> None:
    assert compared.best.encoding == "float32+bch2"
    assert compared.best.difference == (0.0, 0.0, 0.0)
    estimates = [row.accuracy.estimate for row in compared.rows]
    assert estimates == sorted(estimates, reverse=True)
    plain = next(
        row for row in compared.given_up if (row.encoding, row.guard) == ("float32", "none")
    )
    assert plain.dropped == "worse than the best after 8 fault patterns"
    assert plain.trials == 8
    assert plain.difference.high < 0.0
    assert not compared.is_margin_reached
    assert {row.trials for row in compared.rows} == {16}


def test_nothing_vanishes_without_a_word(compared: Plan) -> None:
    measured = {(row.encoding, row.guard) for row in (*compared.rows, *compared.given_up)}
    assert measured == {
        (encoding, guard)
        for encoding in ("float32", "float32+bch2", "q15.16+secded")
        for guard in ("none", "weight-range")
    }
    found = {(each.encoding, each.guard): (each.kind, each.reason) for each in compared.unmeasured}
    assert found["float32+tmr", ""] == (
        "over the budget",
        "96 bits a weight exceed the budget of 32",
    )
    assert found["int8+mset", ""][0] == "not possible for this model"
    assert "mset fits float16, bfloat16, float32 and float64" in found["int8+mset", ""][1]
    assert found["int2", "none"][0] == found["int2", "weight-range"][0]
    assert "more than the tolerance of 1.5" in found["int2", "none"][1]
    assert len(found) == 4


def test_scores_are_those_of_the_scorer_under_the_same_patterns(
    compared: Plan, trained_cnn: nn.Module, digits: Data
) -> None:
    for row in compared.rows:
        model = trained_cnn if row.guard == "none" else protect(trained_cnn, row.guard)
        images = digits.validation
        encoding, seed = encoding_named(row.encoding), derived_seed(0, "plan")
        scorer = FaultScorer(model, encoding, images, 16, len(images), seed)
        for ber, interval in row.by_ber.items():
            assert scorer.accuracy(BitFlip(ber)) == pytest.approx(interval.estimate, abs=1e-12)
        mean = sum(each.estimate for each in row.by_ber.values()) / 2
        assert row.accuracy.estimate == pytest.approx(mean, abs=1e-12)
        assert row.clean == pytest.approx(models.accuracy(scorer.model, images), abs=1e-12)
        assert row.clean_cost == pytest.approx(compared.clean - row.clean, abs=1e-12)
        gap = row.accuracy.estimate - compared.best.accuracy.estimate
        assert row.difference.estimate == pytest.approx(gap, abs=1e-12)


def test_a_plan_tells_memory_and_time(compared: Plan, trained_cnn: nn.Module) -> None:
    by_name = {(r.encoding, r.guard): r for r in (*compared.rows, *compared.given_up)}
    for (encoding, guard), row in by_name.items():
        model = trained_cnn if guard == "none" else protect(trained_cnn, guard)
        report = encoding_report(model, encoding)
        numbers = sum(loss.elements for loss in encoding_report(trained_cnn, encoding).tensors)
        assert row.bits == sum(loss.bits for loss in report.tensors) / numbers
        assert row.bits_per_weight == 32.0
        assert (row.decode_ns > 0.0) == ("+" in encoding)
        assert (row.latency == 1.0) == (guard == "none")
        assert row.saturated == report.saturated
    assert by_name["float32+bch2", "weight-range"].bits > 32.0


def test_a_plan_can_be_shown_and_stored(compared: Plan) -> None:
    frame = compared.to_pandas()
    assert list(frame["encoding"])[: len(compared.rows)] == [r.encoding for r in compared.rows]
    assert frame["accuracy_low"][0] == compared.best.accuracy.low
    assert frame["accuracy_0.01_high"][0] == compared.best.by_ber[1e-2].high
    assert len(frame) == len(compared.rows) + len(compared.given_up)
    caption = str(compared.table().caption)
    assert "1 over the budget" in caption
    assert "2 too much clean accuracy lost" in caption
    worse = sum(row.dropped.startswith("worse than") for row in compared.given_up)
    assert f"{worse} worse than the best" in caption
    assert "the trials ended before all intervals were within 0.1 points" in caption
    document = json.loads(json.dumps(compared.document()))
    assert document["rows"][0]["encoding"] == compared.best.encoding
    assert document["rows"][0]["by_ber"]["0.01"]["low"] == compared.best.by_ber[1e-2].low
    assert str(compared).startswith("float32+bch2")


def test_no_test_image_is_read_and_the_model_is_left_alone(
    trained_cnn: nn.Module, digits: Data
) -> None:
    class Forbidden:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the test split's {name} was read")

    blind = Data("blind", digits.train, digits.validation, Forbidden(), 10)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in trained_cnn.state_dict().items()}
    trained_cnn.train()
    try:
        plan(trained_cnn, blind, ber=1e-2, candidates=["float32"], **QUICK)
        assert trained_cnn.training
    finally:
        trained_cnn.eval()
    assert all(torch.equal(before[name], t) for name, t in trained_cnn.state_dict().items())


def test_the_same_seed_gives_the_same_plan(trained_cnn: nn.Module, digits: Data) -> None:
    def accuracies(seed: int) -> list[tuple[str, float]]:
        found = plan(
            trained_cnn, digits, ber=1e-2, candidates=["float32+secded", "bfloat16"],
            guards=["none"], seed=seed, **QUICK,
        )  # fmt: skip
        return [(row.encoding, row.accuracy.estimate) for row in (*found.rows, *found.given_up)]

    assert accuracies(3) == accuracies(3)
    assert accuracies(3) != accuracies(4)


def test_patterns_end_when_the_margin_is_reached(trained_cnn: nn.Module, digits: Data) -> None:
    """Without a flip all trials are alike: a margin of 0.2 takes about 15 of them on [-1, 1]."""
    found = plan(
        trained_cnn, digits, ber=0.0, candidates=["float32", "float32+bch2"], guards=["none"],
        margin=0.2, trials=400,
    )  # fmt: skip
    assert found.is_margin_reached
    assert {row.trials for row in found.rows} == {16}
    assert [row.accuracy.estimate for row in found.rows] == [found.rows[0].clean] * 2
    assert found.best.encoding == "float32", "of equal ones, the one without a decoder"


def test_only_finalists_go_on(trained_cnn: nn.Module, digits: Data) -> None:
    found = plan(
        trained_cnn, digits, ber=1e-6, guards=["none"], finalists=2, trials=64, margin=1e-4,
        images_per_trial=50, candidates=["float32+bch2", "float32+bch3", "float32+secded"],
    )  # fmt: skip
    assert {row.trials for row in found.rows} == {64}
    assert len(found.rows) == 2
    (left,) = found.given_up
    assert (left.trials, left.dropped) == (32, "not among the 2 best after 32 fault patterns")


def test_variants_and_encodings_by_tensor_take_part(trained_cnn: nn.Module, digits: Data) -> None:
    clipped = protect(trained_cnn, "ranger", digits)
    few = Where(kind=("bias", "threshold"))
    found = plan(
        trained_cnn, digits, ber=1e-3, guards=["none"], variants={"clipped": clipped},
        candidates=[{few: "float32+tmr", "*": "bfloat16+secded"}], bits=16, **QUICK,
    )  # fmt: skip
    rows = (*found.rows, *found.given_up)
    assert {row.guard for row in rows} == {"none", "clipped"}
    assert all(row.bits_per_weight == 16.0 < row.bits for row in rows)
    with pytest.raises(ValueError, match=r"'\*\.runing_mean' applies to no stored tensor"):
        plan(
            trained_cnn, digits, ber=1e-3, guards=["none"],
            candidates=[{"*.runing_mean": "float32+tmr", "*": "float32"}],
        )  # fmt: skip
    with pytest.raises(ValueError, match="the name 'none' is that of a guard"):
        plan(trained_cnn, digits, ber=1e-3, variants={"none": clipped})
    with pytest.raises(TypeError, match="variants: expected a mapping of names to models"):
        plan(trained_cnn, digits, ber=1e-3, variants=[clipped])  # type: ignore[arg-type]


def test_clamped_numbers_are_counted(trained_cnn: nn.Module, digits: Data) -> None:
    options: dict[str, Any] = {"ber": 1e-6, "guards": ["none"], "tolerance": 1.0, **QUICK}
    found = plan(trained_cnn, digits, candidates=["q0.15", "float32"], **options)
    clamped = {row.encoding: row.saturated for row in found.rows}
    assert clamped["q0.15"] == encoding_report(trained_cnn, "q0.15").saturated > 0
    assert clamped["float32"] == 0
    assert "numbers\nclamped" in [str(column.header) for column in found.table().columns]
    alone = plan(trained_cnn, digits, candidates=["float32"], **options)
    assert "numbers\nclamped" not in [column.header for column in alone.table().columns]


def test_patterns_that_the_code_corrects_are_not_run(trained_cnn: nn.Module, digits: Data) -> None:
    scorer = FaultScorer(
        trained_cnn, encoding_named("float32+bch2"), digits.validation, 4, 32, seed=0
    )
    clean = scorer.clean_values()
    assert float(clean.mean()) == pytest.approx(models.accuracy(scorer.model, digits.validation))
    calls: list[int] = []
    scorer.model.register_forward_hook(lambda *_: calls.append(1))
    for trial in range(4):
        value, before = scorer.trial(BitFlip(1e-5), trial, clean)
        assert value == before
    assert not calls
    scorer.trial(BitFlip(0.05), 0, clean)
    assert calls


def test_default_candidates_follow_the_range_of_the_model() -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.fill_(0.25)
        model.weight[0, 0] = 5.0
        model.bias.fill_(0.5)
    found = list(default_encodings(model))
    assert {"q3.12", "q3.12+secded", "float32+bch3", "int8+tmr", "q15.16"} <= set(found)
    assert bits_per_weight(model, encoding_named("q3.12+secded32")) == 16 * 39 / 32
    with torch.no_grad():
        model.weight[0, 0] = 1e6
    names = {name.partition("+")[0] for name in default_encodings(model)}
    assert names == {"float32", "q15.16", "float16", "bfloat16", "int8", "int4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ber": 1.5}, r"ber: .*\[0, 1\].*1.5"),
        ({"ber": []}, "ber: expected at least one"),
        ({"ber": (0.1, 0.1)}, "0.1 twice"),
        ({"ber": (1e-3, 1.0000001e-3)}, "ber: expected rates that differ .* got 0.001 twice"),
        ({"bits": None}, "bits: expected a value, got None"),
        ({"trials": None}, "trials: expected a value, got None"),
        ({"bits": 0}, "bits: expected a finite number above 0"),
        ({"tolerance": 2}, r"tolerance: expected a number in \[0, 1\]"),
        ({"candidates": "float32"}, "candidates: expected a list of encodings"),
        ({"candidates": []}, "candidates: expected at least one encoding"),
        ({"candidates": ["float31"]}, "candidates: an encoding is one of"),
        ({"guards": ["weight-rage"]}, "did you mean 'weight-range'"),
        ({"guards": "none"}, "guards: expected a list of guards"),
        ({"trials": 1}, "trials: expected an integer"),
        ({"finalists": 0}, "finalists: expected an integer"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        PlanOptions(**options)


def test_impossible_plans_are_refused(trained_cnn: nn.Module, digits: Data) -> None:
    weights = 9 * 8 + 72 * 16 + 144 * 16 + 64 * 64 + 64 * 10
    least = 4 + 32 * (8 + 16 + 16 + 64 + 10) / weights  # int4, and a float32 scale a channel
    with pytest.raises(ValueError, match=f"at least {least:.4g} bits a weight, .* got 3.5"):
        plan(trained_cnn, digits, bits=3.5)
    with pytest.raises(ValueError, match="within the tolerance of 0.015: raise the tolerance"):
        plan(trained_cnn, digits, candidates=["int2"])
    with pytest.raises(ValueError, match="no candidate can store the model: the code mset"):
        plan(trained_cnn, digits, candidates=["int8+mset"])
    with pytest.raises(ValueError, match="plan needs targets"):
        plan(trained_cnn, digits.validation.inputs)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got"):
        plan("small-cnn", digits)  # type: ignore[arg-type]


class Noisy(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.randn(len(x), self.out_features)


def test_a_model_with_random_outputs_is_refused() -> None:
    x = torch.randn(60, 8)
    with pytest.raises(ValueError, match="Noisy gives different outputs for the same inputs"):
        plan(Noisy(8, 4), (x, torch.arange(60) % 4), trials=4, candidates=["float32"])


def test_a_variant_whose_output_depends_on_earlier_calls_is_refused(
    trained_cnn: nn.Module, digits: Data
) -> None:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.calls = trained_cnn, 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.model(x) * (-1) ** self.calls

    with pytest.raises(ValueError, match="variants: 'odd' gives different outputs"):
        plan(
            trained_cnn, digits, guards=["none"], variants={"odd": Alternating()},
            candidates=["float32"], **QUICK,
        )  # fmt: skip


class LargestSeen(nn.Module):
    """Divides by the largest input so far, which a fault may make huge."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.abs().max()))
        return x / self.largest


def test_state_that_faults_leave_behind_does_not_reach_the_next_trial() -> None:
    torch.manual_seed(0)
    images = torch.randn(80, 8)
    layers = nn.Linear(8, 16), LargestSeen(), nn.Linear(16, 4)
    model = nn.Sequential(*layers).eval()
    data = Split(images, model(images).argmax(1))
    fault = BitFlip(3e-3)

    def scorer() -> FaultScorer:
        return FaultScorer(model, encoding_named("float32"), data, 12, 40, seed=0)

    clean = scorer().clean_values()
    alone = [scorer().trial(fault, trial, clean) for trial in range(12)]
    one = scorer()
    assert [one.trial(fault, trial, clean) for trial in range(12)] == alone
    assert one.accuracy(fault) == pytest.approx(sum(value for value, _ in alone) / 12)
    assert torch.equal(one.clean_values(), clean)


def test_thresholds_are_not_judged_by_the_faults_that_selected_them(
    trained_cnn: nn.Module, digits: Data, patterns_met: list[set[tuple[int, int]]]
) -> None:
    met = patterns_met
    met.append(set())
    clipped = protect(trained_cnn, "ft-clipact", digits, patterns=4)
    met.append(set())
    plan(
        trained_cnn, digits, guards=["none"], variants={"clipped": clipped},
        candidates=["float32"], **QUICK,
    )  # fmt: skip
    assert all(met)
    assert met[0].isdisjoint(met[1])


@pytest.mark.filterwarnings("ignore:12 validation samples cannot show")
@pytest.mark.filterwarnings("ignore:the clips lower the accuracy")
@pytest.mark.parametrize("guard", ["ft-clipact", "proact"])
def test_guards_are_made_with_the_loss_and_the_metric_of_the_plan(guard: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(60, 3, 6, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    calls = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(logits.shape)
        return nn.functional.cross_entropy(logits, targets)

    found = plan(
        model, (images, model(images).argmax(1)), guards=[guard], candidates=["float32"],
        loss=loss, metric=pixel_accuracy, trials=2, tolerance=1.0,
    )  # fmt: skip
    assert found.best.guard == guard
    assert bool(calls) == (guard == "proact")


def test_a_candidate_is_listed_once(trained_cnn: nn.Module, digits: Data) -> None:
    given = ["float32+tmr", "float32", "float32", "float32+tmr"]
    found = plan(trained_cnn, digits, guards=["none", "none"], candidates=given, **QUICK)
    assert [row.encoding for row in found.rows] == ["float32"]
    assert [each.encoding for each in found.unmeasured] == ["float32+tmr"]


def test_the_reason_is_named_if_no_candidate_can_be_measured() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 8)
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    data = x, model(x).argmax(1)
    with pytest.raises(ValueError, match=r"no candidate can be measured; float32\+bch2 with ecc: "):
        plan(model, data, trials=4, candidates=["float32+bch2"], guards=["ecc"])
