"""HyReLU as a module with a threshold that is stored, saved and faulted like any parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from proact.ops import hyrelu
from proact.ops.hyrelu import check_mode_and_slope


class HyReLU(nn.Module):
    """Clipped ReLU with a stored threshold; `proact.ops.hyrelu` gives the equations.

    Args:
        threshold: a number or tensor that broadcasts against one sample: 0-dimensional for a whole
            layer, one value per channel or per neuron. Copied into a parameter that does not
            require grad until a training method asks for it.
        mode: ``"zero"`` (deployment), ``"soft"`` (training) or ``"saturate"`` (Ranger).
        slope: the steepness k of ``soft``.
        ceiling: of the activation that it stands for: inputs above it count as the ceiling (6 for
            ReLU6), so that saturating at T gives min(x, ceiling, T).

    Shape:
        (samples, ...) in, the same out.
    """

    threshold: nn.Parameter

    def __init__(
        self,
        threshold: Tensor | float,
        mode: str = "zero",
        slope: float = 20.0,
        ceiling: float = math.inf,
    ) -> None:
        super().__init__()
        check_mode_and_slope(mode, slope)
        value = torch.as_tensor(threshold)
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        self.threshold = nn.Parameter(value.detach().clone(), requires_grad=False)
        self.mode = mode
        self.slope = slope
        self.ceiling = ceiling

    def forward(self, x: Tensor) -> Tensor:
        if self.ceiling < math.inf:
            x = x.clamp(max=self.ceiling)
        return hyrelu(x, self.threshold, self.mode, self.slope)

    def extra_repr(self) -> str:
        text = f"threshold={tuple(self.threshold.shape)}, mode={self.mode!r}, slope={self.slope:g}"
        return text if math.isinf(self.ceiling) else f"{text}, ceiling={self.ceiling:g}"
