"""Do timm's classifiers go through as they are?"""

from __future__ import annotations

import pytest
import torch
from checks import CLASSES, check_campaign, check_protected

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


def test_a_forward_that_fills_its_list_of_inputs_is_named() -> None:
    with pytest.raises(ValueError, match="forward of 'stage2.0' cannot be distinguished"):
        check_protected(timm.create_model("hrnet_w18_small", num_classes=CLASSES), 64)
