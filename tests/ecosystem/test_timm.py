"""Do timm's classifiers go through as they are?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import CLASSES, check_campaign, check_clips, check_protected

timm = pytest.importorskip(
    "timm",
    reason="timm is not installed or its torchvision not of this torch; make test-ecosystem "
    "installs both",
    exc_type=Exception,
)
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32),
        ("resnet26d", 32),
        ("vgg11_bn", 32),
        ("densenet121", 32),
        ("regnety_002", 32),
        ("mobilenetv3_small_050", 32),
        ("res2net50_26w_4s", 32),
    ],
)
def test_networks_with_relu(name: str, size: int) -> None:
    torch.manual_seed(0)
    assert check_protected(timm.create_model(name, num_classes=CLASSES), size) > 5


def test_networks_without_relu_are_measured() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=CLASSES)
    check_campaign({"vit": model}, 32)
    assert check_protected(model, 32, ("gelu",)) == 12


@pytest.mark.parametrize(
    ("name", "options", "sites"),
    [
        ("dla34", {}, 33),  # optional tensors
        ("hrnet_w18_small", {}, 75),  # lists that forwards fill
        ("efficientnet_b0", {"drop_path_rate": None}, 49),
    ],
)
def test_networks_with_options_and_lists(name: str, options: dict[str, Any], sites: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **options)
    assert check_clips(model, torch.randn(10, 3, 64, 64)) == sites
