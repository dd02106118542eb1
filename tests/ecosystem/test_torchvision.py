"""Do torchvision's models go through as they are?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import CLASSES, check_campaign, check_clips, check_protected

from proact import protect
from proact.nn import HyReLU, find_sites
from proact.nn.forward import Forward

tv = pytest.importorskip(
    "torchvision.models",
    reason="torchvision is not installed or not of this torch; make test-ecosystem installs it",
    exc_type=Exception,
)
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(
    ("name", "size", "sites"),
    [
        ("alexnet", 64, 7),
        ("vgg11_bn", 32, 10),
        ("resnet18", 32, 17),
        ("resnet50", 32, 49),
        ("squeezenet1_1", 32, 26),
        ("densenet121", 32, 121),
        ("googlenet", 32, 57),
        ("mobilenet_v2", 32, 35),
        ("mobilenet_v3_small", 32, 14),
        ("mnasnet0_5", 32, 35),
        ("shufflenet_v2_x0_5", 32, 37),
        ("regnet_y_400mf", 32, 65),
    ],
)
def test_networks_with_relu(name: str, size: int, sites: int) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = tv.get_model(name, weights=None, num_classes=CLASSES, **options)
    assert check_protected(model, size) == sites


@pytest.mark.parametrize(
    ("name", "size", "kinds", "sites"),
    [
        ("mobilenet_v3_small", 32, ("relu", "hardswish"), 33),
        ("efficientnet_b0", 32, ("silu",), 49),
        ("convnext_tiny", 64, ("gelu",), 18),
    ],
)
def test_networks_with_other_activations(
    name: str, size: int, kinds: tuple[str, ...], sites: int
) -> None:
    torch.manual_seed(0)
    model = tv.get_model(name, weights=None, num_classes=CLASSES)
    assert check_protected(model, size, kinds) == sites


def test_a_resnet_is_trained_by_proact() -> None:
    torch.manual_seed(0)
    model = tv.resnet18(num_classes=2)
    data = (torch.randn(30, 3, 32, 32), torch.arange(30) % 2)
    hardened = protect.protect(model, "proact", data, epochs=1, decays=(0.1,), tolerance=1.0)
    last = hardened.get_submodule("layer4.1.relu_2")
    assert isinstance(last, HyReLU)
    assert last.threshold.numel() == 512


def test_networks_without_relu_are_measured_and_named() -> None:
    torch.manual_seed(0)
    model = tv.VisionTransformer(32, 16, 2, 2, 64, 128, num_classes=CLASSES)
    torch.nn.init.normal_(model.heads.head.weight)  # torchvision starts it at 0: all logits alike
    check_campaign({"vit": model}, 32)
    with pytest.raises(ValueError, match="VisionTransformer has no ReLU"):
        check_protected(model, 32)
    assert check_protected(model, 32, ("gelu",)) == 2


def test_segmentation_and_the_backbone_of_a_detector() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    none: dict[str, Any] = {"weights": None, "weights_backbone": None}
    deeplab = tv.segmentation.deeplabv3_resnet50(**none, num_classes=4)
    assert check_clips(deeplab, images, Forward(output="out")) == 56
    detector = tv.detection.fasterrcnn_resnet50_fpn(**none, num_classes=4).eval()
    assert check_clips(detector.backbone, images) == 49
    # Heads that run on several maps have no site of their own; the rest of the detector has.
    boxes = [image.clamp(0, 1) for image in images[:2]]
    with pytest.raises(ValueError, match=r"'rpn.head.conv.0' runs more than once .* skip="):
        find_sites(detector, boxes)
    assert len(find_sites(detector, boxes, skip=("rpn", "roi_heads"))) == 49


def test_segmentation_is_trained_by_proact() -> None:
    torch.manual_seed(0)
    model = tv.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    images = torch.randn(15, 3, 32, 32)
    targets = model(images)["out"].argmax(1)
    hardened = protect.protect(
        model,
        "proact",
        (images, targets),
        loss=torch.nn.functional.cross_entropy,
        metric=protect.pixel_accuracy,
        activations=("hardswish",),
        skip=("backbone.1?",),
        granularity="layer",
        epochs=1,
        decays=(0.1,),
        tolerance=1.0,
    )
    protection = protect.protection_of(hardened)
    assert protection is not None
    assert all(name.startswith("backbone.1") for name in protection.skipped)
    assert any(isinstance(module, HyReLU) for module in hardened.modules())
