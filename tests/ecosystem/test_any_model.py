"""Do models of other kinds than image classifiers go through inject, protect and a campaign?

The clean figure of each campaign is compared with one that plain torch computes. Weights are
random: what is tested is that the numbers are right, not that they are good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from proact import campaign, protect
from proact.faults import BitFlip, inject

hf = pytest.importorskip(
    "transformers", reason="transformers is not installed; make test-ecosystem installs it"
)
torchvision = pytest.importorskip(
    "torchvision", reason="torchvision is not installed; make test-ecosystem installs it"
)
pytestmark = pytest.mark.filterwarnings("default")

VOCABULARY, TOKENS, SAMPLES = 97, 12, 24
SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}


def token_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (SAMPLES, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    mask[::3, -4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def causal_language_model(config: Any) -> tuple[nn.Module, Any, str, float]:
    model, batch = hf.AutoModelForCausalLM.from_config(config).eval(), token_batch()
    targets = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100).roll(-1, 1)
    targets[:, -1] = -100
    losses = []
    with torch.no_grad():
        for i in range(SAMPLES):
            one = {name: tensor[i : i + 1] for name, tensor in batch.items()}
            loss = functional.cross_entropy(model(**one).logits[0], targets[i])
            losses.append(float(loss))
    return model, (batch, targets), "token-loss", sum(losses) / SAMPLES


def gpt2() -> tuple[nn.Module, Any, str, float]:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=32, n_positions=TOKENS
    )
    return causal_language_model(config)


def llama() -> tuple[nn.Module, Any, str, float]:
    config = hf.LlamaConfig(vocab_size=VOCABULARY, intermediate_size=64, **SMALL)
    return causal_language_model(config)


def bert() -> tuple[nn.Module, Any, str, float]:
    config = hf.BertConfig(vocab_size=VOCABULARY, intermediate_size=64, num_labels=3, **SMALL)
    model, batch = hf.BertForSequenceClassification(config).eval(), token_batch()
    labels = torch.arange(SAMPLES) % 3
    with torch.no_grad():
        right = (model(**batch).logits.argmax(1) == labels).double().mean()
    return model, (batch, labels), "top-1", float(right)


def vit() -> tuple[nn.Module, Any, str, float]:
    config = hf.ViTConfig(intermediate_size=64, image_size=32, num_labels=3, **SMALL)
    model = hf.ViTForImageClassification(config).eval()
    images = torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(SAMPLES) % 3
    with torch.no_grad():
        right = (model(images).logits.argmax(1) == labels).double().mean()
    return model, (images, labels), "top-1", float(right)


def segmentation() -> tuple[nn.Module, Any, str, float]:
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 64, 64, generator=generator)
    masks = torch.randint(0, 3, (6, 64, 64), generator=generator)
    masks[:, :5] = 255
    with torch.no_grad():
        predicted = model(images)["out"].argmax(1)[masks != 255]
    wanted, shares = masks[masks != 255], []
    for label in range(3):
        both = ((predicted == label) & (wanted == label)).sum()
        either = ((predicted == label) | (wanted == label)).sum()
        shares.append(float(both / either))
    return model, (images, masks), "mean-iou", sum(shares) / 3


@pytest.mark.parametrize(
    ("task", "activations"),
    [
        (gpt2, "gelu"),
        (llama, "silu"),
        (bert, "gelu"),
        (vit, "gelu"),
        (segmentation, "all"),
    ],
)
def test_inject_protect_and_measure(
    task: Callable[[], tuple[nn.Module, Any, str, float]], activations: str
) -> None:
    torch.manual_seed(0)
    model, data, metric, expected = task()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with inject(model, BitFlip(1e-4)) as record:
        assert record.flips > 0
    guarded = protect.protect(model, "weight-range")
    kinds = "all" if activations == "all" else (activations,)
    clipped = protect.protect(model, "ranger", data, activations=kinds)
    variants = {"plain": model, "weight-range": guarded, "ranger": clipped}
    result = campaign.run(variants, data, [BitFlip(1e-3)], metric=metric, trials=8, executor=1)
    for name in ("plain", "weight-range"):
        assert result.clean[name] == pytest.approx(expected, abs=1e-5)
    assert not math.isnan(result.clean["ranger"])
    assert all(cell.trials == 8 for cell in result.cells)
    assert all(cell.flips > 10 for cell in result.cells)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_detection() -> None:
    coco = pytest.importorskip(
        "torchmetrics.detection", reason="torchmetrics is not installed; make test-ecosystem does"
    )
    pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0
    ).eval()
    items = []
    for i in range(4):
        image = torch.rand(3, 60 + 10 * i, 80)
        with torch.no_grad():
            (found,) = model([image])
        # Some of the model's own boxes are the objects, so that the precision is not 0.
        items.append((image, {"boxes": found["boxes"][::9], "labels": found["labels"][::9]}))

    def collated(batch: list[Any]) -> tuple[list[Tensor], list[Any]]:
        return [image for image, _ in batch], [target for _, target in batch]

    loader = torch.utils.data.DataLoader(items, batch_size=2, collate_fn=collated)  # type: ignore[arg-type]
    by_torch = coco.MeanAveragePrecision()
    with torch.no_grad():
        for images, targets in loader:
            by_torch.update(model(images), targets)
    expected = float(by_torch.compute()["map"])
    assert expected > 0.05
    guarded = protect.protect(model, "weight-range")
    result = campaign.run(
        {"plain": model, "guarded": guarded}, loader, [BitFlip(1e-5)],
        metric="mean-average-precision", trials=3, executor=1, unit="batch",
    )  # fmt: skip
    assert result.clean["plain"] == pytest.approx(expected, abs=1e-6)
    assert result.clean["guarded"] == pytest.approx(expected, abs=1e-6)
    plain, kept = result.cells
    assert plain.value.estimate < kept.value.estimate + 1e-9
