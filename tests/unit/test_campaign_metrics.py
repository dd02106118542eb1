"""Do rows count what they say, and do metrics of one's own and dense outputs work?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.campaign import Metric
from proact.campaign.built_in_metrics import CLASS_METRICS
from proact.campaign.counts import Counts, class_columns, counts_from, reference_of
from proact.data import Data
from proact.faults import BitFlip, encode, inject
from proact.protect import protect
from proact.results.metric_info import HIGHEST_LOSS


def count(output: Tensor, labels: Tensor | None, reference: Tensor) -> Counts:
    columns = class_columns(output, labels, reference)
    return counts_from(columns.sum(0).tolist(), len(output))


def counted_by_hand(output: Tensor, labels: Tensor, clean: Tensor) -> tuple[object, ...]:
    correct = top5 = agreeing = sdc5 = sdc10 = sdc20 = non_finite = 0
    losses = []
    for row, label, reference in zip(output.tolist(), labels.tolist(), clean.tolist(), strict=True):
        best = reference.index(max(reference))
        exponentials = [math.exp(value - max(reference)) for value in reference]
        confidence = max(exponentials) / sum(exponentials)
        if not all(map(math.isfinite, row)):
            non_finite, sdc5, sdc10, sdc20 = non_finite + 1, sdc5 + 1, sdc10 + 1, sdc20 + 1
            losses.append(HIGHEST_LOSS)
            continue
        ranked = sorted(range(len(row)), key=lambda i: -row[i])
        correct += ranked[0] == label
        top5 += label in ranked[:5]
        agreeing += ranked[0] == best
        sdc5 += best not in ranked[:5]
        faulty = [math.exp(value - max(row)) for value in row]
        change = abs(max(faulty) / sum(faulty) / confidence - 1)
        sdc10 += change > 0.1
        sdc20 += change > 0.2
        losses.append(min(HIGHEST_LOSS, math.log(sum(faulty)) + max(row) - row[label]))
    return correct, top5, sum(losses) / len(losses), agreeing, sdc5, sdc10, sdc20, non_finite


def test_images_without_a_clean_answer_cannot_be_corrupted() -> None:
    clean = torch.tensor([[math.nan, 1.0], [2.0, 1.0]])
    for output in (clean, torch.tensor([[0.0, 1.0], [math.inf, 1.0]])):
        found = count(output, None, reference_of(clean))
        bad = int(not torch.isfinite(output[1]).all())
        assert found[3:8] == (2 - bad, bad, bad, bad, bad)


def test_counts_equal_those_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(200, 10, generator=generator)
    output = clean + 0.6 * torch.randn(200, 10, generator=generator)
    output[0, 3], output[1, 0], output[2] = math.nan, math.inf, -math.inf
    output[3, 4] = 1e30
    labels = torch.randint(0, 10, (200,), generator=generator)
    expected = counted_by_hand(output, labels, clean)
    found = count(output, labels, reference_of(clean))
    assert found[:2] == expected[:2]
    assert found[3:8] == expected[3:]
    assert found[2] == pytest.approx(expected[2], abs=1e-5)
    assert expected[-1] == 3
    assert 0 < found.sdc5 < found.sdc10  # type: ignore[operator]
    without = count(output, None, reference_of(clean))
    assert without[:3] == (None, None, None)
    assert without[3:] == found[3:]


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_built_in_metrics_equal_the_counts(name: str, trained_cnn: nn.Module, digits: Data) -> None:
    fault = BitFlip(1e-4)
    result = campaign.run(
        {"m": trained_cnn}, digits, [fault], trials=8, images_per_trial=50, metric=name
    )
    for row in result.rows("m", fault):
        assert row.correct is not None
        assert row.top5 is not None
        assert row.agreeing is not None
        expected = {
            "top-1": row.correct / 50,
            "top-5": row.top5 / 50,
            "loss": row.loss,
            "sdc": 1 - row.agreeing / 50,
        }[name]
        assert row.value == pytest.approx(expected, rel=1e-6)
    assert result.to_pandas()["accuracy" if name == "top-1" else name].notna().all()


def test_a_loss_of_float64_logits_beyond_float32_is_a_number() -> None:
    output = torch.tensor([[1e200, 0.0], [1e200, 1e201], [-1e200, 0.0]], dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.int64)
    columns = class_columns(output, labels, reference_of(torch.zeros_like(output)))
    assert columns[:, -1].tolist() == [0.0, HIGHEST_LOSS, HIGHEST_LOSS]
    assert CLASS_METRICS["loss"].of(output, labels, None, 3).tolist() == columns[:, -1].tolist()


@pytest.mark.parametrize("metric", ["top-1", "loss"])
def test_rows_of_a_model_of_float64_have_a_loss(metric: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 6).double().eval()
    fault = BitFlip(0.05, bits=(61, 62))  # its weights reach 1e300
    inputs = torch.randn(20, 8, dtype=torch.float64)
    data = inputs, model(inputs).argmax(1)
    result = campaign.run(
        {"m": model}, data, [fault], encoding="native", metric=metric, trials=5, executor=1
    )
    rows = result.rows("m", fault)
    assert len(rows) == 5
    assert all(row.loss is not None for row in rows)


def test_no_labels_no_top_1(trained_cnn: nn.Module, digits: Data) -> None:
    images = digits.test.images
    with pytest.raises(ValueError, match="expected targets for the metric top-1, got none"):
        campaign.run({"m": trained_cnn}, images, [BitFlip(1e-4)], trials=2)
    result = campaign.run(
        {"m": trained_cnn}, images, [BitFlip(1e-4)], trials=20, metric="sdc", images_per_trial=30
    )
    labelled = campaign.run(
        {"m": trained_cnn}, digits, [BitFlip(1e-4)], trials=20, metric="sdc", images_per_trial=30
    )
    assert result.cells[0].value == labelled.cells[0].value
    assert result.cells[0].value.estimate > 0
    assert "top5" not in result.to_pandas(with_details=True)


class Segmenter(nn.Module):
    """A class for every pixel, as torchvision's networks return it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(x)}


def intersection_over_union(
    output: dict[str, Tensor], targets: Tensor | None, clean: object
) -> Tensor:
    assert targets is not None
    predicted = output["out"].argmax(1)
    both = ((predicted == 1) & (targets == 1)).flatten(1).sum(1)
    either = ((predicted == 1) | (targets == 1)).flatten(1).sum(1)
    return both / either


def test_dense_outputs_through_a_metric_of_ones_own() -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 1, 6, 6)
    targets = torch.randint(0, 3, (40, 6, 6))
    model, fault = Segmenter(), BitFlip(3e-3)
    metric = Metric("IoU", intersection_over_union)
    result = campaign.run(
        {"m": model}, (images, targets), [fault], trials=10, images_per_trial="all", metric=metric
    )
    encoded = encode(model, "float32").eval()
    with torch.no_grad():
        clean = encoded(images)
    assert result.clean["m"] == pytest.approx(
        float(intersection_over_union(clean, targets, clean).mean())
    )
    for row in result.rows("m", fault):
        with inject(encoded, fault, trial=row.trial), torch.no_grad():
            output = encoded(images)
        expected = intersection_over_union(output, targets, clean).nan_to_num(0.0).double().mean()
        assert row.value == pytest.approx(float(expected))
        assert row.correct is None
        assert row.agreeing is None
    assert list(result.to_pandas().columns[3:4]) == ["IoU"]
    with pytest.raises(
        ValueError, match="expected class labels .n,. int64, got targets of shape .* top-1 needs"
    ):
        campaign.run({"m": model}, (images, targets), [fault], trials=2)


def test_regression_against_the_clean_outputs() -> None:
    torch.manual_seed(0)

    def error(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
        return (output - clean).abs().mean(1)

    metric = Metric("error", error, 0.0, 5.0, worst=5.0, needs_targets=False)
    result = campaign.run(
        {"m": nn.Linear(4, 2)}, torch.randn(30, 4), [BitFlip(1e-2)], trials=40, metric=metric,
        images_per_trial=10,
    )  # fmt: skip
    rows = result.rows("m", BitFlip(1e-2))
    assert all(0 <= row.value <= 5 and row.clean == 0 for row in rows)
    assert 0 < result.cells[0].value.estimate < 5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda output, targets, clean: output, "one number per image"),
        (lambda output, targets, clean: 1.0, "one number per image"),
    ],
)
def test_metrics_that_give_something_else(
    bad: object, words: str, trained_cnn: nn.Module, digits: Data
) -> None:
    metric = Metric("bad", bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        campaign.run({"m": trained_cnn}, digits, [BitFlip(1e-4)], trials=2, metric=metric)


def test_nan_and_what_lies_outside_the_range() -> None:
    metric = Metric("m", lambda output, targets, clean: output[:, 0], 0.0, 1.0, worst=0.25)
    values = metric.of(torch.tensor([[math.nan], [2.0], [-1.0], [0.5]]), None, None, 4)
    assert values.tolist() == [0.25, 1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match=r"\[lowest, highest\]"):
        Metric("m", intersection_over_union, 1.0, 1.0)
    with pytest.raises(TypeError, match="callable"):
        Metric("m", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'top-2'"):
        campaign.run({"m": nn.Linear(2, 2)}, torch.ones(3, 2), [BitFlip(0.1)], metric="top-2")


def test_critical_trials_and_quantiles(trained_cnn: nn.Module, digits: Data) -> None:
    fault = BitFlip(1e-5)
    result = campaign.run(
        {"m": trained_cnn}, digits, [fault], trials=300, images_per_trial="all", encoding="q15.16"
    )
    found = result.details(limit=0.1, quantiles=(0.05, 0.5))["m", str(fault)]
    rows = result.rows("m", fault)
    losing = sum(row.clean - row.value > 0.1 for row in rows) / len(rows)
    assert found.critical.low < losing < found.critical.high
    assert found.critical.estimate == pytest.approx(losing, abs=0.03)
    values = sorted(row.value for row in rows)
    assert found.quantiles[0.05].estimate == values[14]
    assert found.quantiles[0.5].low <= values[149] <= found.quantiles[0.5].high
    for name in ("top5", "sdc5", "sdc10", "sdc20"):
        assert 0 <= found.shares[name].low <= found.shares[name].high <= 1


class Masked(nn.Module):
    """Never answers the last class, by a logit of minus infinity."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).clone()
        logits[..., -1] = -torch.inf
        return logits


@pytest.mark.parametrize("metric", list(CLASS_METRICS))
def test_masked_classes_are_no_failures(metric: str, trained_cnn: nn.Module, digits: Data) -> None:
    faults, variants = [BitFlip(1e-4)], {"masked": Masked(trained_cnn).eval()}
    with pytest.raises(ValueError, match="minus infinity for class 9 of the first .* output="):
        campaign.run(variants, digits, faults, metric=metric, trials=2)
    with pytest.raises(ValueError, match="fitact counts .* minus infinity for class 9"):
        protect(variants["masked"], "fitact", digits)
    result = campaign.run(
        variants, digits, faults, metric="top-1", trials=2, output=lambda y: y.clamp(min=-1e4)
    )
    assert result.clean["masked"] > 0.7


def test_masked_tokens_are_no_failures() -> None:
    torch.manual_seed(0)
    model = Masked(nn.Linear(4, 6)).eval()
    data = torch.randn(8, 3, 4), torch.zeros(8, 3, dtype=torch.int64)
    for metric in ("token-accuracy", "token-loss"):
        with pytest.raises(ValueError, match="minus infinity for class 5"):
            campaign.run({"masked": model}, data, [BitFlip(1e-4)], metric=metric, trials=2)
