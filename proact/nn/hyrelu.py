"""Clips as modules; the threshold is a parameter, and is saved and faulted like any other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from proact.ops import hyrelu
from proact.ops.hyrelu import check_mode_and_slope
from proact.text import short_repr


class HyReLU(nn.Module):
    """Clipped ReLU with a stored threshold; `proact.ops.hyrelu` gives the equations.

    Args:
        threshold: a number or tensor that broadcasts against one sample: () for a layer,
            (channels, 1, 1) for channels, or the shape of a sample for neurons. It is copied into
            a parameter that does not require grad. Integers become torch's default dtype.
        mode: ``"zero"`` (deployment), ``"soft"`` (training) or ``"saturate"`` (Ranger).
        slope: the steepness k of ``"soft"``, per unit of activation.
        ceiling: the largest value of the activation that is replaced (6 for ReLU6); inf for none.
            Inputs above it count as the ceiling, so saturating at T gives min(x, ceiling, T).

    Shape:
        (samples, ...) in, the same out.

    Raises:
        ValueError: an unknown mode, a slope that is not a finite number above 0, or a ceiling of
            NaN. The forward raises it for a threshold that does not broadcast against a sample.
        TypeError: an argument of another type.
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
        _check_ceiling(ceiling)
        try:
            value = torch.as_tensor(threshold)
        except (RuntimeError, TypeError, ValueError):
            raise TypeError(
                f"threshold: expected a number or a tensor, got {short_repr(threshold)}"
            ) from None
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


def _check_ceiling(ceiling: float) -> None:
    if isinstance(ceiling, bool) or not isinstance(ceiling, (int, float)):
        raise TypeError(f"ceiling: expected a number, got {short_repr(ceiling)}")
    if math.isnan(ceiling):
        raise ValueError("ceiling: expected a number, or inf for none, got nan")


class ClippedActivation(HyReLU):
    """GELU, SiLU or a similar function, clipped where its value is positive.

    The result is HyReLU of the function's value where this is above 0, and the value itself
    elsewhere. NaN gives 0.

    Args:
        function: computes the activation element by element and has no parameters. It is not
            registered as a child module, so its output before the clip is not a fault target.
        threshold, mode, slope: as for `HyReLU`; they apply to the function's value.
        kind: the kind of a function that is not torch's, as in ``activations=``: ``"relu"``,
            ``"gelu"``, ``"silu"`` or ``"hardswish"``.

    Shape:
        (samples, ...) in, the same out.

    Raises:
        ValueError, TypeError: as `HyReLU`.
    """

    def __init__(
        self,
        function: nn.Module,
        threshold: Tensor | float,
        mode: str = "zero",
        slope: float = 20.0,
        kind: str = "",
    ) -> None:
        super().__init__(threshold, mode, slope)
        self.kind = kind
        self._function = (function,)  # a tuple, so that torch does not register it

    @property
    def function(self) -> nn.Module:
        """The module that computes the activation before the clip."""
        return self._function[0]

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        # Each of these functions has a finite minimum, so values below 0 need no clip.
        return torch.where(value <= 0, value, super().forward(value))

    def extra_repr(self) -> str:
        return f"{type(self.function).__name__}, {super().extra_repr()}"
