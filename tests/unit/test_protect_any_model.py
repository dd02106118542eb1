"""Are models with any inputs and outputs protected, and what protection costs told?"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact import protect
from proact.data import Data
from proact.data.split import Split
from proact.nn import HyReLU, weight_range_of
from proact.protect import held_out
from proact.protect.objective import Objective, class_dimension, soft_cross_entropy
from proact.protect.options import MARGIN, raised

TOKENS: dict[str, Any] = {
    "loss": protect.token_cross_entropy,
    "metric": protect.token_accuracy,
}
METHODS: dict[str, dict[str, Any]] = {
    "ranger": {},
    "ft-clipact": {"patterns": 1, "images_per_pattern": 8},
    "fitact": {"epochs": 1, "tolerance": 1.0},
    "proact": {"epochs": 1, "decays": (0.1,), "tolerance": 1.0},
    "resilience-aware-proact": {
        "epochs": 1,
        "decays": (0.1,),
        "quantiles": (1.0,),
        "patterns": 1,
        "images_per_pattern": 8,
        "tolerance": 1.0,
    },
}


class Causal(nn.Module):
    """A small transformer that reads token ids and a mask by name, and returns a dict."""

    def __init__(self, length: int = 6, vocabulary: int = 12) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 8), nn.Embedding(length, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down, self.act = nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU()
        self.head = nn.Linear(8, vocabulary)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Any]:
        length = input_ids.shape[1]
        hidden = self.embed(input_ids) + self.place(torch.arange(length))
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        hidden = hidden + self.attention(hidden, hidden, hidden, attn_mask=future)[0]
        hidden = hidden + self.down(self.act(self.up(hidden)))
        return {"logits": self.head(hidden), "hidden": hidden}


class Tagger(nn.Module):
    def __init__(self, cell: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(12, 8), cell(8, 8, batch_first=True)
        self.up, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.embed(ids))[0]
        return self.head(F.relu(self.up(hidden))), hidden


def ids(samples: int = 60, length: int = 6) -> Tensor:
    return torch.randint(0, 12, (samples, length), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def quiet() -> Iterator[None]:
    """Small models on few samples: what clips cost is not the question."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*held-out samples")
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", METHODS)
def test_a_causal_transformer(method: str) -> None:
    torch.manual_seed(0)
    model, tokens = Causal().eval(), ids()
    targets = model(tokens)["logits"].argmax(2)
    targets[:, -1] = -100
    hardened = protect.protect(
        model,
        method,
        ({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, targets),
        output="logits",
        activations="all",
        granularity="layer",
        **TOKENS,
        **METHODS[method],
    )
    (clip,) = (module for module in hardened.modules() if isinstance(module, HyReLU))
    with torch.no_grad():
        highest = F.gelu(model.up(_hidden(model, tokens))).max()
    assert 0 < float(clip.threshold) < 2 * float(highest)
    if method == "ranger":
        assert float(clip.threshold) <= float(highest) * (1 + 2 * MARGIN)
    assert hardened(tokens)["logits"].shape == (60, 6, 12)


def _hidden(model: Causal, tokens: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = model.up.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model(tokens)
    hook.remove()
    return found[0]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_a_recurrent_tagger_that_returns_a_tuple(method: str, cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, tokens = Tagger(cell).eval(), ids()
    data = (tokens, model(tokens)[0].argmax(2))
    options = {"output": 0, "granularity": "layer", **TOKENS, **METHODS[method]}
    hardened = protect.protect(model, method, data, **options)
    again = protect.protect(model, method, data, **options)
    assert torch.equal(*(m.get_parameter("relu_1.threshold") for m in (hardened, again)))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", METHODS)
def test_segmentation(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 3, 1)).eval()
    images = torch.randn(40, 2, 6, 6)
    data = (images, model(images).argmax(1))
    hardened = protect.protect(
        model,
        method,
        data,
        loss=F.cross_entropy,
        metric=protect.pixel_accuracy,
        activations=("silu",),
        granularity="layer",
        **METHODS[method],
    )
    cost = protect.cost(hardened, data, unprotected=model, metric=protect.pixel_accuracy)
    expected = protect.pixel_accuracy(hardened(images), data[1]).mean()
    assert (cost.clean, cost.clean_before) == (pytest.approx(float(expected)), 1.0)
    protect.save(hardened, tmp_path / "silu.safetensors")
    loaded = protect.load(model, tmp_path / "silu.safetensors")
    assert torch.equal(loaded(images), hardened(images))


class OwnSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Options(nn.Module):
    """Functions in attributes, a module of its own, and a rewritten forward with an option."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.first, self.second = F.relu, OwnSwish()
        self.relu = nn.ReLU()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(self.second(self.b(self.first(self.a(x)))), None)
        return out


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = F.relu(self.a(F.relu(x)))
        return out if mask is None else out * mask


@pytest.mark.usefixtures("quiet")
def test_every_kind_of_site_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Options().eval(), 2 * torch.randn(80, 8)
    hardened = protect.protect(model, "ranger", x, activations="all", mode="zero", quantile=0.5)
    protect.save(hardened, tmp_path / "file.safetensors")
    loaded = protect.load(model, tmp_path / "file.safetensors")
    names = {"first", "second", "inner.relu_1", "inner.relu_2"}
    assert {name for name, m in loaded.named_modules() if isinstance(m, HyReLU)} == names
    with torch.no_grad():
        assert torch.equal(loaded(x), hardened(x))
        assert not torch.equal(loaded(x), model(x))
    other = Options().eval()
    other.load_state_dict(model.state_dict())
    other.second = nn.SiLU()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="threshold for the silu 'second', which Options does not"):
        protect.load(other, tmp_path / "file.safetensors")


def test_weight_range_needs_no_data_and_ranger_no_targets() -> None:
    torch.manual_seed(0)
    model, tokens = Tagger().eval(), ids()
    assert weight_range_of(protect.protect(model, "weight-range")) is not None
    named = protect.protect(model, "ranger", {"ids": tokens})
    plain = protect.protect(model, "ranger", (tokens, None))
    assert torch.equal(*(m.get_parameter("relu_1.threshold") for m in (named, plain)))
    for method in ("ranger", "proact"):
        with pytest.raises(ValueError, match=f"{method} .* none"):
            protect.protect(model, method)
    with pytest.raises(ValueError, match="proact needs targets .* ranger and weight-range work"):
        protect.protect(model, "proact", tokens)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {},
            r"the model gives \(2, 6, 4\) and the targets .* \(2, 6\) .*: give loss= and metric= "
            r"\(on the command line --loss and --validation-metric\), functions of",
        ),
        (
            {"loss": TOKENS["loss"]},
            r"give metric= \(.* --validation-metric\), a function of .logits, targets.",
        ),
        (TOKENS | {"loss": lambda o, t: torch.zeros(())}, "does not depend on any threshold of Ta"),
        (TOKENS | {"loss": lambda o, t: o}, r"loss: expected the mean .* \(2,\), got \(2, 6, 4\)"),
        (TOKENS | {"loss": lambda o, t: o.sum() * math.nan}, "loss: expected a finite loss"),
        (TOKENS | {"metric": lambda o, t: o.mean()}, r"metric: expected one value .* got \(\)"),
        (TOKENS | {"metric": lambda o, t: o.sum((1, 2)) + 9}, r"metric: expected values in \[0, 1"),
        (TOKENS | {"output": "scores"}, "output='scores' is not in the model's output"),
    ],
)
def test_losses_and_metrics_that_do_not_fit_are_named(options: Any, words: str) -> None:
    torch.manual_seed(0)
    tokens = ids()
    with pytest.raises(ValueError, match=words):
        protect.protect(
            Tagger().eval(), "proact", (tokens, tokens % 4), **({"output": 0} | options)
        )


def test_an_ambiguous_output_and_a_loss_that_is_no_function() -> None:
    tokens = ids()
    with pytest.raises(TypeError, match=r"a tuple of 2 tensors .* choose a part of it with output"):
        protect.protect(Tagger().eval(), "proact", (tokens, tokens % 4), **TOKENS)
    with pytest.raises(
        TypeError, match="metric: expected a function of .logits, targets., got str"
    ):
        protect.protect(Tagger().eval(), "proact", (tokens, tokens % 4), metric="top-1")  # type: ignore[arg-type]


def test_a_model_that_takes_no_single_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    # The profile runs 257 samples as one batch, and none alone.
    samples = torch.randn(322, 4)
    hardened = protect.protect(model, "ranger", samples)
    assert hardened(samples).shape == (322, 3)
    whole = Split(samples)
    one = Data("one", Split(samples[:1]), whole, whole, 0)
    with pytest.raises(ValueError, match=r"\(samples, 4\) torch.float32, tried for one image"):
        protect.protect(model, "ranger", one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_thresholds_lie_above_the_profile(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1e-3, 1.0, 3.7, 300.0, -2.5]).to(dtype)
    found = raised(values)
    assert found.dtype == dtype
    assert found[0] == 0
    assert bool((found[1:] > values[1:]).all())
    assert bool((found[1:].double() < values[1:].double() + 0.01 * values[1:].double().abs()).all())
    highest = torch.tensor(torch.finfo(dtype).max, dtype=dtype)
    assert raised(highest) == highest
    if dtype == torch.float64:
        torch.testing.assert_close(found, values + MARGIN * values.abs())


@pytest.mark.usefixtures("quiet")
def test_the_profiled_samples_keep_their_outputs_in_other_batches() -> None:
    """Another batch size changes last digits, which the largest activation of each neuron has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    x = torch.randn(100, 64)
    hardened = protect.protect(model, "ranger", x, mode="zero", granularity="neuron")
    (clip,) = (module for module in hardened.modules() if isinstance(module, HyReLU))
    profiled = x[_profiled(x)]
    with torch.no_grad():
        hidden = F.relu(model[0](profiled))
        assert bool((clip.threshold >= hidden.amax(0)).all())
        jittered = hidden * (1 + 5e-5)
        assert torch.equal(clip(jittered), jittered)
        assert not torch.equal(clip(hidden * (1 + 3e-4)), hidden * (1 + 3e-4))


def _profiled(x: Tensor) -> Tensor:
    from proact.data.dataset import as_data

    train = as_data(x).train.images
    return torch.tensor([int((x == row).all(1).nonzero()) for row in train])


class Wrapped(nn.Module):
    """Returns its logits in an object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(x))


def warnings_of(model: nn.Module, data: Data) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        protect.protect(model, "ranger", data, mode="zero", granularity="neuron")
    return [str(each.message) for each in told]


def test_clips_that_cost_more_than_the_tolerance_are_told(
    trained_cnn: nn.Module, digits: Data
) -> None:
    few = Data("few", digits.train.take(torch.arange(6)), digits.validation, digits.test, 10)
    texts = warnings_of(trained_cnn, few)
    assert len(texts) == 2
    assert "held-out samples have an activation above the profile of 6 samples" in texts[0]
    assert re.search(r"lower the accuracy .* on 269 held-out samples from 0\.9\d+ to 0\.", texts[1])
    assert "more than the tolerance of 0.015" in texts[1]
    unlabelled = Data(
        "unlabelled", *(Split(part.inputs) for part in (few.train, few.validation, few.test)), 0
    )
    changed = warnings_of(trained_cnn, unlabelled)[1]
    assert re.search(r"change the predicted class of \d+\.\d% of 269", changed)
    wrapped = Wrapped(trained_cnn)
    assert warnings_of(wrapped, unlabelled)[1] == changed
    assert warnings_of(wrapped, few)[1] == texts[1]
    # The whole training part is enough, and saturating at a layer's maximum costs nothing.
    protect.protect(trained_cnn, "ranger", digits)


def test_the_share_above_the_profile_is_counted(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)).eval()
    (site,) = protect.profile(model, digits.train)
    with torch.no_grad():
        highest = model[:3](digits.validation.images).amax(1)
    bound = highest.median()
    found = held_out.share_above(model, digits.validation, {site: bound}, Objective().forward)
    assert found == pytest.approx(float((highest > bound).double().mean()))
    assert 0.4 < found <= 0.5


def test_at_most_2500_samples_of_equal_shares_are_held_out() -> None:
    labels = torch.arange(6_000) % 3 // 2  # two thirds in class 0
    few = held_out.held_out_samples(Split(torch.zeros(6_000, 1), labels))
    assert few.labels.bincount().tolist() == [1_667, 833]
    batches = Split(torch.zeros(6_000, 1)).in_fixed_batches(1_500)
    assert held_out.held_out_samples(batches) is batches


def test_a_few_held_out_samples_are_not_measured() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).eval()
    with pytest.warns(UserWarning, match=r"saw only 6 samples: .* 2 activation sites, up to 29%"):
        protect.protect(model, "ranger", torch.zeros(8, 4))


def test_skipped_activations_are_told_and_recorded(mlp: nn.Module, tmp_path: Path) -> None:
    lines: list[str] = []
    x = torch.randn(200, 6)
    hardened = protect.protect(mlp, "ranger", x, skip=("1",), progress=lines.append)
    assert lines[0] == "1 activation in 1 skipped"
    assert type(hardened.get_submodule("1")) is nn.ReLU
    assert isinstance(hardened.get_submodule("3"), HyReLU)
    protection = protect.protection_of(hardened)
    assert protection is not None
    assert protection.skipped == ("1",)
    protect.save(hardened, tmp_path / "some.safetensors")
    loaded = protect.protection_of(protect.load(mlp, tmp_path / "some.safetensors"))
    assert loaded is not None
    assert loaded.skipped == ("1",)


@pytest.mark.parametrize(
    ("logits", "targets", "dimension"),
    [
        ((5, 3), (5,), 1),
        ((5, 7, 3), (5, 7), 2),
        ((5, 3, 7), (5, 7), 1),
        ((5, 3, 7, 8), (5, 7, 8), 1),
        ((5, 7, 7), (5, 7), None),
        ((5, 3), (5, 3), None),
        ((5,), (5,), None),
    ],
)
def test_the_dimension_of_classes(
    logits: tuple[int, ...], targets: tuple[int, ...], dimension: int | None
) -> None:
    whole = torch.zeros(targets, dtype=torch.int64)
    assert class_dimension(torch.zeros(logits), whole) == dimension
    assert class_dimension(torch.zeros(logits), whole.float()) is None


def test_soft_targets_are_averaged_over_the_tokens_that_count() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(3, 4, 5), torch.randn(3, 4, 5).softmax(2)
    targets = torch.zeros(3, 4, dtype=torch.int64)
    targets[0, 1:] = -100
    found = soft_cross_entropy(logits, targets, teacher, 2)
    every = -(teacher * logits.log_softmax(2)).sum(2)
    torch.testing.assert_close(found, every[0, 0] + every[1:].mean(1).sum())
    images = soft_cross_entropy(logits.transpose(1, 2), targets, teacher.transpose(1, 2), 1)
    torch.testing.assert_close(images, found)


def test_tokens_and_pixels_are_judged_one_by_one() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]).repeat(2, 1, 1)
    targets = torch.tensor([[0, 1, -100], [1, 1, 1]])
    assert protect.token_accuracy(logits, targets).tolist() == [1.0, pytest.approx(1 / 3)]
    pixels = logits.transpose(1, 2)[..., None]
    assert protect.pixel_accuracy(pixels, targets[..., None]).tolist() == [
        1.0,
        pytest.approx(1 / 3),
    ]
    losses = protect.token_cross_entropy(logits, targets)
    expected = F.cross_entropy(logits[0, :2], targets[0, :2])
    torch.testing.assert_close(losses[0], expected)


def test_fixed_batches_are_profiled_and_not_trained_on() -> None:
    torch.manual_seed(0)
    model = Tagger().eval()
    batches = tuple(ids(8, length) for length in (3, 4, 5, 6, 4, 5, 3, 6, 5, 4))
    targets = tuple(batch % 4 for batch in batches)
    ragged = Split(batches, targets, (8,) * 10)
    hardened = protect.protect(model, "ranger", ragged, output=0, metric=TOKENS["metric"])
    highest = max(float(F.relu(model.up(model(batch)[1])).max().detach()) for batch in batches)
    assert float(hardened.get_parameter("relu_1.threshold")) <= highest * (1 + 2 * MARGIN)
    for method in ("proact", "ft-clipact"):
        with pytest.raises(ValueError, match="fixed batches: pad the samples"):
            protect.protect(model, method, ragged, output=0, **TOKENS)


class UNet(nn.Module):
    """Skips a connection over two resolutions, and pads by computed sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 4), (4, 8)))
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(F.max_pool2d(first, 2)), inplace=True)
        up = self.up(second)
        missing = first.shape[-1] - up.shape[-1]
        up = F.relu(F.pad(up, [0, missing, 0, first.shape[-2] - up.shape[-2]]))
        out: Tensor = self.last(torch.cat([first, up], 1))
        return out


@pytest.mark.usefixtures("quiet")
def test_a_u_net_on_images_of_odd_size() -> None:
    torch.manual_seed(0)
    model, images = UNet().eval(), torch.randn(30, 1, 7, 9)
    data = (images, model(images).argmax(1))
    options: dict[str, Any] = {"loss": F.cross_entropy, "metric": protect.pixel_accuracy}
    for method in ("ranger", "proact"):
        hardened = protect.protect(
            model, method, data, granularity="channel", **options, **METHODS[method]
        )
        shapes = {n: tuple(p.shape) for n, p in hardened.named_parameters() if "threshold" in n}
        assert shapes == {f"relu_{n}.threshold": (c, 1, 1) for n, c in ((1, 4), (2, 8), (3, 4))}
        assert hardened(torch.randn(2, 1, 12, 6)).shape == (2, 3, 12, 6)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_bfloat16(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).eval().bfloat16()
    x = torch.randn(100, 6).bfloat16()
    options = METHODS[method] | ({"encoding": "bfloat16"} if "patterns" in METHODS[method] else {})
    hardened = protect.protect(
        model, method, (x, model(x).argmax(1)), activations="all", granularity="layer", **options
    )
    threshold = hardened.get_parameter("1.threshold")
    assert threshold.dtype == torch.bfloat16
    assert float(threshold.detach()) > 0


def test_the_cost_of_a_model_that_does_not_classify_needs_a_metric() -> None:
    """Comparing (n, 1) or (n, height, width) with class predictions gave a "share" above 1."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    zeros = torch.zeros(40, 1)
    with pytest.raises(ValueError, match=r"judges outputs .* \(2, 1\) .*: give metric="):
        protect.cost(model, (inputs, zeros))
    with pytest.raises(ValueError, match="needs targets beside the inputs, or metric="):
        protect.cost(model, inputs)
    found = protect.cost(model, (inputs, zeros), metric=lambda o, t: o.isfinite().all(1))
    assert found.clean == 1.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_wrong(broken: float) -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 0] = broken
    logits[1, :, 1] = broken
    for targets in (torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)):
        shares = [float(targets[0, 0] == 0) * 2 / 3, 0.0]
        assert protect.token_accuracy(logits, targets).tolist() == pytest.approx(shares)
        assert protect.pixel_accuracy(logits.mT, targets).tolist() == pytest.approx(shares)


def test_masks_of_minus_infinity_are_refused_where_they_count_as_wrong() -> None:
    class Masked(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids).masked_fill(torch.arange(4) == 3, -math.inf)

    ids = torch.randint(0, 5, (40, 3))
    with pytest.raises(ValueError, match="gives minus infinity for class 3 of the first samples"):
        protect.cost(Masked(5, 4), (ids, ids % 3), metric=protect.token_accuracy)
