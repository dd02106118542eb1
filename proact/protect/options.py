"""Options that several methods share, and checks of options."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proact.data import Data
from proact.limits import SEEDS
from proact.nn import Site
from proact.nn.activations import checked_kinds
from proact.nn.forward import DEFAULT, Forward
from proact.nn.skipping import checked_skip
from proact.ops.hyrelu import check_mode_and_slope
from proact.ops.plan import checked_integer
from proact.protect.activation_profile import check_quantile, profile_quantiles
from proact.protect.checkpointing import MethodRun
from proact.text import short_repr

#: How far thresholds lie above the profile, as a share of their size.
MARGIN = 1e-4


@dataclass(frozen=True)
class ClipOptions:
    """Options of every method that clips activations.

    Attributes:
        quantile: the start of each threshold, as a quantile of the profile in (0, 1]: this share of
            the training images does not exceed it anywhere in the layer, channel or neuron. The
            papers use 1, the profile's maximum. Thresholds start `MARGIN` above the quantile.
        activations: the kinds of activation that are clipped: ``"relu"`` (all forms), ``"gelu"``
            (all forms), ``"silu"``, ``"hardswish"``; or the text ``"all"``.
        skip: names of modules, or patterns such as ``"layer4.*"``, whose activations stay as they
            are, with those of all modules inside them.
    """

    quantile: float = 1.0
    activations: tuple[str, ...] | str = ("relu",)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_quantile(self.quantile)
        object.__setattr__(self, "activations", checked_kinds(self.activations))
        object.__setattr__(self, "skip", checked_skip(self.skip))

    def profiled(
        self,
        model: nn.Module,
        data: Data,
        granularity: str,
        run: MethodRun | None = None,
        forward: Forward = DEFAULT,
    ) -> dict[Site, Tensor]:
        """The thresholds to start from, for each site in execution order.

        ``run`` gets the largest activation of each site.
        """
        (thresholds,) = self.profiled_at(model, data, granularity, (self.quantile,), run, forward)
        return thresholds

    def profiled_at(
        self,
        model: nn.Module,
        data: Data,
        granularity: str,
        quantiles: tuple[float, ...],
        run: MethodRun | None,
        forward: Forward = DEFAULT,
    ) -> list[dict[Site, Tensor]]:
        """The thresholds a little above each of several quantiles of the profile."""
        *found, maxima = profile_quantiles(
            model,
            data.train,
            granularity,
            (*quantiles, 1.0),
            kinds=self.activations,
            forward=forward,
            skip=self.skip,
        )
        if run is not None:
            run.maxima = {site: raised(value.amax()) for site, value in maxima.items()}
        return [{site: raised(value) for site, value in each.items()} for each in found]


def raised(threshold: Tensor) -> Tensor:
    """The thresholds, moved up by `MARGIN` of their size, or to the next number of their dtype.

    In zero mode an activation above the threshold becomes 0. Without the margin the last digit of
    the largest activation would decide, and it differs with the batch size and the machine. A
    threshold of 0 stays, because nothing above 0 was seen.
    """
    highest = torch.finfo(threshold.dtype).max
    wide = threshold.double()
    moved = (wide + MARGIN * wide.abs()).clamp(max=highest).to(threshold.dtype)
    following = torch.nextafter(threshold, torch.full_like(threshold, highest))
    return torch.where(threshold == 0, threshold, torch.maximum(moved, following))


@dataclass(frozen=True)
class TrainedOptions(ClipOptions):
    """Options of every method that trains thresholds, in addition to those of `ClipOptions`.

    Attributes:
        mode: the mode of the clips in the result: ``"zero"``, ``"saturate"``, or ``"soft"``, the
            trained one.
        tolerance: the accuracy, in [0, 1], that the clips may cost, in the mode of the result. What
            they cost on validation samples has to lie below it by the error of these samples, at a
            one-sided confidence of 95 % (`proact.protect.tolerance`).
        slope: the steepness k of the soft clip, per unit of activation.
        epochs: the number of passes over the training images.
        batch: the number of images in a step.
        samples: the most training images that are used for training, the same share of every class;
            None uses all. The profile always uses all.
        validation_samples: the most validation images that judge thresholds, likewise. With 2,500
            images and a tolerance of 1.5 points, thresholds may cost about 1.1 points on them.
        seed: determines the order of the images; in [0, 2^63).
    """

    mode: str = "zero"
    tolerance: float = 0.015
    slope: float = 20.0
    epochs: int = 5
    batch: int = 64
    samples: int | None = 10_000
    validation_samples: int | None = 2_500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mode_and_slope(self.mode, self.slope)
        if not (is_number(self.tolerance) and 0.0 <= self.tolerance <= 1.0):
            raise ValueError(
                "tolerance is a difference of accuracies in [0, 1], got "
                f"{short_repr(self.tolerance)}"
            )
        for name in ("epochs", "batch", "samples", "validation_samples"):
            count = getattr(self, name)
            if count is not None or name in ("epochs", "batch"):
                checked_count(name, count)
        checked_integer("seed", self.seed, SEEDS)


def check_deployed_mode(mode: str) -> None:
    """Raises ValueError unless ``mode`` is one that a method without training can deploy."""
    if mode not in ("zero", "saturate"):
        raise ValueError(f"mode is 'zero' or 'saturate', got {short_repr(mode)}")


def checked_count(name: str, count: int) -> None:
    """Raises ValueError or TypeError unless ``count`` is an integer of at least 1."""
    if checked_integer(name, count, 1 << 62) == 0:
        raise ValueError(f"{name} is at least 1, got 0")


def checked_positive(name: str, value: float) -> None:
    """Raises ValueError unless ``value`` is a finite number above 0."""
    if not (is_number(value) and 0.0 < value < math.inf):
        raise ValueError(f"{name} is a finite number above 0, got {short_repr(value)}")


def checked_factors(name: str, values: tuple[float, ...]) -> None:
    """Raises ValueError unless ``values`` is a filled tuple or list of finite numbers >= 0."""
    if not isinstance(values, (tuple, list)) or not values:
        raise ValueError(f"{name} is a tuple of numbers, got {short_repr(values)}")
    for value in values:
        if not (is_number(value) and 0.0 <= value < math.inf):
            raise ValueError(f"{name} takes finite numbers of at least 0, got {short_repr(value)}")


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
