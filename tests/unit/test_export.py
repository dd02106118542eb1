"""Do protected networks go through torch.export and to ONNX, and compute the same there?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import slow
from proact import ProactError, protect
from proact.data import Data
from proact.nn import ClippedActivation, HyReLU, without_weight_range

MODES = ("zero", "soft", "saturate")
BATCH = ({0: torch.export.Dim("batch")},)


def every_clip(mode: str) -> nn.Module:
    return nn.Sequential(
        HyReLU(torch.tensor([1.0, 2.0, 0.5]), mode),
        HyReLU(1.5, mode, ceiling=6.0),
        ClippedActivation(nn.GELU(), 0.7, mode),
        ClippedActivation(nn.SiLU(), 0.7, mode),
        ClippedActivation(nn.Hardswish(), 0.7, mode),
    ).eval()


def hard_inputs() -> Tensor:
    rows = [[math.nan, math.inf, -1.0], [1.0, 2.0, 0.5], [1.1, 2.1, -math.inf], [0.3, 0.4, 0.1]]
    return torch.tensor(rows)


@pytest.mark.parametrize("mode", MODES)
def test_exported_clips_compute_the_same_for_any_batch(mode: str) -> None:
    net = every_clip(mode)
    exported = torch.export.export(net, (torch.randn(6, 3),), dynamic_shapes=BATCH)
    assert not any("proact" in str(node.target) for node in exported.graph.nodes)
    x = hard_inputs()
    torch.testing.assert_close(exported.module()(x), net(x))


def test_a_protected_network_is_exported_and_keeps_its_thresholds(
    trained_cnn: nn.Module, digits: Data
) -> None:
    hardened = protect.protect(trained_cnn, "ranger", digits, mode="zero", granularity="hybrid")
    images = digits.test.images
    exported = torch.export.export(hardened, (images[:4],), dynamic_shapes=BATCH)
    assert torch.equal(exported.module()(images), hardened(images))
    assert {n for n in exported.state_dict if n.endswith("threshold")} == {
        f"relu{number}.threshold" for number in (1, 2, 3, 4)
    }


def test_a_guarded_network_is_exported_without_its_guard(
    trained_cnn: nn.Module, digits: Data
) -> None:
    clipped = protect.protect(trained_cnn, "ranger", digits)
    guarded = protect.protect(clipped, "weight-range", digits)
    images = digits.test.images[:4]
    with pytest.raises(ProactError, match="export proact.nn.without_weight_range"):
        torch.export.export(guarded, (images,))
    exported = torch.export.export(without_weight_range(guarded), (images,))
    torch.testing.assert_close(exported.module()(images), guarded(images))


def away_from_thresholds(net: nn.Module, images: Tensor) -> Tensor:
    """The images of which no activation lies so close to its threshold that rounding decides
    whether it passes: two runtimes add up in different orders, and the clip to zero is a step."""
    clear = torch.ones(len(images), dtype=torch.bool)

    def watch(clip: nn.Module, inputs: tuple[Tensor]) -> None:
        distance = (inputs[0] - clip.get_parameter("threshold")).abs()
        clear.logical_and_((distance > 1e-4).flatten(1).all(1))

    clips = [module for module in net.modules() if isinstance(module, HyReLU)]
    handles = [clip.register_forward_pre_hook(watch) for clip in clips]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return images[clear]


@pytest.mark.long
# torch's exporter uses what torch deprecates.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("mode", ["soft", *slow(*(mode for mode in MODES if mode != "soft"))])
def test_onnx_computes_the_same(
    mode: str, trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    hardened = protect.protect(
        trained_cnn, "proact", digits, mode=mode, granularity="channel", epochs=1, decays=(0.1,)
    )
    images = away_from_thresholds(hardened, digits.test.images)[:50].clone()
    assert len(images) == 50
    images[0, 0, 0, 0] = 1e30  # something that clips have to stop
    cases = {"clips": (every_clip(mode), hard_inputs()), "network": (hardened, images)}
    for name, (net, inputs) in cases.items():
        path = tmp_path / f"{name}.onnx"
        example = torch.randn(6, *inputs.shape[1:])
        torch.onnx.export(
            net, (example,), path, dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, net(inputs).numpy(), rtol=1e-4, atol=1e-4)
