"""Clips as modules, with a threshold that is stored, saved and faulted like any parameter."""

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


class ClippedActivation(HyReLU):
    """GELU, SiLU or another function that is at least 0 where it is large, clipped where it is
    positive: HyReLU of what it gives, and below 0 what it gives. NaN gives 0.

    Args:
        function: computes the activation element by element; it has no parameters. Not a child
            module: what it gives before the clip is no layer of its own.
        threshold, mode, slope: as for `HyReLU`, of the function's value.

    Shape:
        (samples, ...) in, the same out.
    """

    def __init__(
        self,
        function: nn.Module,
        threshold: Tensor | float,
        mode: str = "zero",
        slope: float = 20.0,
    ) -> None:
        super().__init__(threshold, mode, slope)
        self._function = (function,)  # a tuple hides it from torch

    @property
    def function(self) -> nn.Module:
        return self._function[0]

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        # The minimum of each of these functions is finite, and so is all that it gives below 0.
        return torch.where(value <= 0, value, super().forward(value))

    def extra_repr(self) -> str:
        return f"{type(self.function).__name__}, {super().extra_repr()}"
