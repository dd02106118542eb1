"""Do Hugging Face's image classifiers, which return objects with logits, go through as they are?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import CLASSES, check_campaign, check_protected

hf = pytest.importorskip(
    "transformers", reason="transformers is not installed; make test-ecosystem installs it"
)
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (
            "ResNetConfig",
            {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1] * 4},
        ),
        ("RegNetConfig", {"embedding_size": 16, "hidden_sizes": [64] * 4, "depths": [1] * 4}),
        ("MobileNetV2Config", {"depth_multiplier": 0.35}),
    ],
)
def test_networks_with_relu(config: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    chosen = getattr(hf, config)(num_labels=CLASSES, **options)
    model = hf.AutoModelForImageClassification.from_config(chosen)
    assert check_protected(model, 64) > 5


def test_networks_without_relu_are_measured() -> None:
    torch.manual_seed(0)
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        num_labels=CLASSES,
    )
    model = hf.ViTForImageClassification(config)
    check_campaign({"vit": model}, 32)
    assert check_protected(model, 32, ("gelu",)) == 2
