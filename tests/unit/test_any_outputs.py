"""Do campaigns take any inputs and outputs, and refuse what they cannot judge before a trial?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from conftest import slow
from proact import campaign, protect
from proact.campaign import Metric
from proact.campaign.built_in_metrics import METRICS
from proact.faults import ActivationFlip, BitFlip, ExactFlips, StuckAt, encode, inject
from proact.results import Policy

FAULT = BitFlip(1e-3)
OPTIONS: dict[str, Any] = {"trials": 12, "images_per_trial": "all", "executor": 1}


def value_of(name: str, output: Tensor, targets: Any = None, clean: Any = None) -> list[float]:
    metric = METRICS[name]
    if metric.of_trial:
        return [metric.of_batches([output], [targets], [clean])]
    values: list[float] = metric.of(output, targets, clean, len(output)).tolist()
    return values


def test_token_metrics_are_means_over_the_tokens_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator)
    targets = torch.randint(0, 4, (3, 5), generator=generator)
    targets[0, 2:], targets[1, 0] = -100, -100
    logits[2, 1, 3] = math.nan
    losses, hits = [], []
    for sample in range(3):
        counted = [t for t in range(5) if targets[sample, t] != -100]
        nats, right = 0.0, 0
        for t in counted:
            row, label = logits[sample, t], int(targets[sample, t])
            if torch.isfinite(row).all():
                nats += float(row.exp().sum().log() - row[label])
                right += int(row.argmax()) == label
            else:
                nats += 20.0
        losses.append(nats / len(counted))
        hits.append(right / len(counted))
    assert value_of("token-loss", logits, targets) == pytest.approx(losses, abs=1e-5)
    assert value_of("token-accuracy", logits, targets) == pytest.approx(hits)


def test_a_sample_without_a_token_that_counts_is_refused() -> None:
    targets = torch.zeros(2, 3, dtype=torch.int64)
    targets[1] = -100
    for name in ("token-loss", "token-accuracy"):
        with pytest.raises(ValueError, match="a token that counts in each sample"):
            value_of(name, torch.zeros(2, 3, 4), targets)


def test_mean_iou_counts_the_pixels_of_a_whole_trial() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 5, 5, generator=generator)
    targets = torch.randint(0, 3, (6, 5, 5), generator=generator)  # class 3 never occurs
    targets[0, :2] = 255
    logits[1, 0, 0, 0] = math.inf
    predicted = logits.argmax(1)
    predicted[1, 0, 0] = -1
    shares = []
    for label in range(4):
        counted = targets != 255
        both = ((predicted == label) & (targets == label) & counted).sum()
        either = (((predicted == label) | (targets == label)) & counted).sum()
        shares.append(float(both / either))
    expected = sum(shares) / 4
    assert value_of("mean-iou", logits, targets) == [pytest.approx(expected)]
    halves = METRICS["mean-iou"].of_batches(
        [logits[:2], logits[2:]], [targets[:2], targets[2:]], [None, None]
    )
    assert halves == pytest.approx(expected)


def test_the_cosine_of_equal_outputs_is_one() -> None:
    output = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    other = output.clone()
    other[1], other[2], other[3, 0, 0] = -output[1], 0.0, math.nan
    assert value_of("cosine", other, None, output) == [1.0, pytest.approx(-1.0), 0.0, -1.0]


class Two(nn.Module):
    """Returns its features and its logits in a form that is given."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head, self.form = nn.Linear(6, 16), nn.Linear(16, 3), form

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        features = self.hidden(x if scale is None else x * scale).relu()
        return self.form(features, self.head(features))


def pair() -> tuple[Tensor, Tensor]:
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(90) % 3


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda features, logits: logits, None),
        (lambda features, logits: SimpleNamespace(logits=logits), None),
        (lambda features, logits: {"features": features, "logits": logits}, None),
        (lambda features, logits: {"out": logits}, None),
        (lambda features, logits: (logits,), None),
        (lambda features, logits: (features, logits), 1),
        (lambda features, logits: {"a": features, "b": logits}, "b"),
        (lambda features, logits: SimpleNamespace(answer=logits), "answer"),
        (lambda features, logits: [features, {"x": logits}], lambda output: output[1]["x"]),
    ],
)
def test_forms_of_outputs_give_the_same_rows(form: Any, output: Any) -> None:
    plain = campaign.run({"m": Two(lambda _, logits: logits)}, pair(), [FAULT], **OPTIONS)
    other = campaign.run({"m": Two(form)}, pair(), [FAULT], output=output, **OPTIONS)
    assert other.clean == plain.clean
    assert [row._replace(seconds=0) for row in other.rows("m", FAULT)] == [
        row._replace(seconds=0) for row in plain.rows("m", FAULT)
    ]


@pytest.mark.parametrize("executor", [1, *slow(2)])
def test_forms_of_inputs_give_the_same_rows(executor: int) -> None:
    x, labels = pair()
    scale, model = torch.full((90, 1), 2.0), Two(lambda _, logits: logits)
    options = {**OPTIONS, "executor": executor}
    expected = campaign.run({"m": model}, (2.0 * x, labels), [FAULT], **options)
    items = [{"x": x[i], "scale": scale[i], "labels": labels[i]} for i in range(90)]
    forms: list[tuple[Any, dict[str, Any]]] = [
        (((x, scale), labels), {}),
        (({"x": x, "scale": scale}, labels), {}),
        ({"x": x.numpy(), "scale": scale, "labels": labels}, {}),
        (items, {}),
        (DataLoader(items, 7), {}),  # type: ignore[arg-type]
        ((x, labels), {"forward": lambda model, x: model(x, scale=torch.full((len(x), 1), 2.0))}),
    ]
    for data, more in forms:
        found = campaign.run({"m": model}, data, [FAULT], **options, **more)
        assert found.clean == expected.clean
        assert [row.value for row in found.rows("m", FAULT)] == [
            row.value for row in expected.rows("m", FAULT)
        ]


def test_integers_are_inputs_of_top_1() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    data = (torch.randint(0, 9, (50, 5)), torch.arange(50) % 3)
    result = campaign.run({"m": model}, data, [FAULT], **OPTIONS)
    with torch.no_grad():
        right = (model(data[0]).argmax(1) == data[1]).double().mean()
    assert result.clean["m"] == pytest.approx(float(right))


class Mixing(nn.Module):
    """Normalises by the statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.norm(self.layer(x))
        return mixed


def test_batches_are_units_where_an_answer_depends_on_its_batch() -> None:
    x, labels = pair()
    loader = DataLoader(list(zip(x, labels, strict=True)), 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'norm' .*unit='batch'"):
        campaign.run({"m": Mixing()}, (x, labels), [FAULT], **OPTIONS)
    options: dict[str, Any] = {"trials": 40, "executor": 1, "unit": "batch"}
    harmless = BitFlip(1e-3, bits=[0, 1])
    result = campaign.run(
        {"m": Mixing()}, loader, [harmless], images_per_trial=20, metric="sdc", **options
    )
    assert all(row.images == 20 and row.value == 0.0 for row in result.rows("m", harmless))
    whole = campaign.run({"m": Mixing()}, loader, [FAULT], **options)
    model = encode(Mixing(), "float32").eval()
    for row in whole.rows("m", FAULT):
        with inject(model, FAULT, trial=row.trial), torch.no_grad():
            answers = torch.cat([model(part).argmax(1) for part in x.split(10)])
        assert row.value == pytest.approx(float((answers == labels).double().mean()))


def test_metrics_of_whole_trials_see_batches() -> None:
    x, labels = pair()
    model = Two(lambda _, logits: {"logits": logits})

    def share(outputs: list[Any], targets: list[Any], clean: list[Any]) -> float:
        right = sum(
            int((output["logits"].argmax(1) == target).sum())
            for output, target in zip(outputs, targets, strict=True)
        )
        assert [len(each["logits"]) for each in clean] == [len(target) for target in targets]
        return right / sum(map(len, targets))

    metric = Metric("share", share, of_trial=True)
    expected = campaign.run({"m": model}, (x, labels), [FAULT], **OPTIONS)
    for images in ("all", 12):
        options = {**OPTIONS, "images_per_trial": images}
        by_class = campaign.run({"m": model}, (x, labels), [FAULT], **options)
        found = campaign.run({"m": model}, (x, labels), [FAULT], metric=metric, **options)
        assert found.clean["m"] == pytest.approx(expected.clean["m"])
        assert [(row.value, row.clean) for row in found.rows("m", FAULT)] == [
            (pytest.approx(row.value), pytest.approx(row.clean))
            for row in by_class.rows("m", FAULT)
        ]


def nan(output: Tensor, targets: Any, clean: Any) -> Tensor:
    return torch.full((len(output),), math.nan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": "logit"}, "m: output='logit' is not in the model's output, .* tensor"),
        ({"output": 1}, "output=1 is not in the model's output"),
        ({"output": 1.5}, "output: expected the name of an attribute or key"),
        ({"forward": 3}, "forward: expected a function"),
        ({"forward": lambda model, x: model(x, 1, 2, 3)}, "m raises an error for 2 samples"),
        ({"metric": "token-loss"}, "metric token-loss does not take the outputs of m"),
        ({"metric": "perplexity"}, "'token-loss', whose exponential is the perplexity"),
        ({"metric": Metric("m", nan)}, "NaN for every"),
        ({"metric": Metric("m", lambda o, t, c: o)}, r"one number per image, \(2,\)"),
        ({"unit": "image batch"}, "unit: .* 'image batch'"),
        ({"on_error": "ignore"}, "on_error: .* 'ignore'"),
        ({"collate": "x"}, "collate: expected a function"),
    ],
)
def test_options_that_do_not_fit(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    model, options = Two(lambda _, logits: logits), {**OPTIONS, **change}
    with pytest.raises((TypeError, ValueError), match=words):
        campaign.run({"m": model}, pair(), [FAULT], store=store, **options)
    assert not store.exists()


def test_outputs_of_several_tensors_are_refused() -> None:
    model = Two(lambda features, logits: (features, logits))
    with pytest.raises(ValueError, match="m: .*a tuple of 2 tensors .* choose a part"):
        campaign.run({"m": model}, pair(), [FAULT], **OPTIONS)


def test_findings_are_told_with_the_result() -> None:
    class Counting(Two):
        def __init__(self) -> None:
            super().__init__(lambda _, logits: logits)
            self.spare = nn.Linear(2, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
            self.calls += 1
            return super().forward(x, scale)

    findings = campaign.run({"m": Counting()}, pair(), [FAULT], **OPTIONS).findings
    assert findings == [
        "No input reads spare.weight, spare.bias of m, so faults there are harmless.",
        "The forward pass of m writes calls; the values are put back after each pass.",
    ]
    plain = Two(lambda _, logits: logits)
    assert campaign.run({"m": plain}, pair(), [FAULT], **OPTIONS).findings == []


def test_perplexity_is_the_exponential_of_the_token_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))
    ids = torch.randint(0, 7, (20, 5))
    result = campaign.run({"m": model}, (ids, ids), [FAULT], metric="token-loss", **OPTIONS)
    with torch.no_grad():
        logits = model(ids)
    by_torch = functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).exp()
    assert math.exp(result.clean["m"]) == pytest.approx(float(by_torch), rel=1e-5)


def test_guards_activation_faults_and_sweeps_take_a_mapping() -> None:
    x, _ = pair()
    model = Two(lambda _, logits: SimpleNamespace(logits=logits))
    batch = {"x": x, "scale": torch.ones(90, 1)}
    with torch.no_grad():
        labels = model(**batch).logits.argmax(1)
    guarded = protect.protect(model, "weight-range")
    faults = [BitFlip(3e-3), ActivationFlip(1e-2)]
    result = campaign.run({"m": model, "g": guarded}, (batch, labels), faults, **OPTIONS)
    stored, transient, guarded_stored, guarded_transient = result.cells
    assert (stored.variant, guarded_stored.variant) == ("m", "g")
    assert stored.value.estimate < guarded_stored.value.estimate
    assert transient.value == guarded_transient.value
    # One policy, because another batch size or several trials at once can change a nearly tied
    # prediction, and both are chosen by measurement.
    policy = Policy(images=None, batch=90, channels_last=False)
    for sweep in (campaign.per_layer, campaign.per_bit):
        plain, called = (
            sweep(model, data, ExactFlips(3), trials=64, executor=1, policy=policy, **more).strata
            for data, more in (
                ((x, labels), {}),
                ((x, labels), {"forward": lambda model, x: model(x), "output": "logits"}),
            )
        )
        assert [part.loss for part in plain] == [part.loss for part in called]


def test_another_forward_is_another_task(tmp_path: Path) -> None:
    store, model = tmp_path / "rows.sqlite", Two(lambda _, logits: logits)
    options: dict[str, Any] = {**OPTIONS, "store": store}

    def rows(**more: Any) -> int | None:
        return campaign.run({"m": model}, pair(), [FAULT], **options, **more).sessions[-1].rows

    assert [rows(), rows()] == [12, 0]
    assert rows(forward=lambda model, x: model(x)) == 12
    assert rows(on_error="exclude") == 12


def test_outputs_that_are_not_finite_without_faults_are_not_counted() -> None:
    """Padding that is NaN, as in half of these samples, is no failure that faults cause."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": torch.where(x[:, :1] < 0, math.nan, self.linear(x))}

    def finite(output: Any, targets: Any, clean: Any) -> Tensor:
        return torch.isfinite(output["scores"]).all(1).float()

    model, x = Padded(), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    fault = StuckAt(1, 0.8)
    metric = Metric("finite", finite, needs_targets=False)
    found = campaign.run({"m": model}, x, [fault], metric=metric, **OPTIONS)
    was_finite = x[:, 0] >= 0
    expected = []
    for trial in range(OPTIONS["trials"]):
        with inject(model, fault, trial=trial), torch.no_grad():
            now = torch.isfinite(model(x)["scores"]).all(1)
        expected.append(int((was_finite & ~now).sum()))
    assert 0 < int(was_finite.sum()) < 40
    assert sum(expected) > 0
    assert [row.non_finite for row in found.rows("m", fault)] == expected
