"""Options that several methods have in common, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from proact.data import Data
from proact.limits import SEEDS
from proact.nn import Site
from proact.nn.sites import check_kinds
from proact.ops.hyrelu import check_mode_and_slope
from proact.ops.plan import checked_integer
from proact.protect.profile import check_quantile, profile_quantiles


@dataclass(frozen=True)
class ClipOptions:
    """Of every method that clips activations.

    Attributes:
        quantile: where thresholds start: at what this share of the training images does not exceed
            anywhere in the layer, channel or neuron; 1, the profile's maximum, is published.
        activations: which are clipped: ``"relu"`` (all of its forms), ``"gelu"``, ``"silu"``,
            ``"hardswish"``.
    """

    quantile: float = 1.0
    activations: tuple[str, ...] = ("relu",)

    def __post_init__(self) -> None:
        check_quantile(self.quantile)
        check_kinds(self.activations)

    def profiled(self, model: nn.Module, data: Data, granularity: str) -> dict[Site, Tensor]:
        """The thresholds to start from, in execution order."""
        images = data.train.images
        (thresholds,) = profile_quantiles(
            model, images, granularity, (self.quantile,), kinds=self.activations
        )
        return thresholds


@dataclass(frozen=True)
class TrainedOptions(ClipOptions):
    """Of every method that trains thresholds, beside those of `ClipOptions`.

    Attributes:
        mode: what the result deploys: ``"zero"``, ``"saturate"``, or ``"soft"``, the trained form.
        tolerance: the most validation accuracy, in [0, 1], that may be lost against the unclipped
            network, in the soft form and in the deployed one; a gain is never held against a
            threshold.
        slope: the steepness k of the soft clip, per unit of activation.
        epochs: passes over the training images.
        batch: images a step.
        samples: at most so many training images, the same share of every class, are trained on;
            None takes all. The profile always takes all.
        seed: decides the order of the images.
    """

    mode: str = "zero"
    tolerance: float = 0.015
    slope: float = 20.0
    epochs: int = 5
    batch: int = 64
    samples: int | None = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mode_and_slope(self.mode, self.slope)
        if not (is_number(self.tolerance) and 0.0 <= self.tolerance <= 1.0):
            raise ValueError(
                f"tolerance is a share of the accuracy in [0, 1], got {self.tolerance!r}"
            )
        counts = {"epochs": self.epochs, "batch": self.batch}
        if self.samples is not None:
            counts["samples"] = self.samples
        for name, count in counts.items():
            checked_count(name, count)
        checked_integer("seed", self.seed, SEEDS)


def check_deployed_mode(mode: str) -> None:
    """ValueError unless a method that trains nothing can deploy ``mode``."""
    if mode not in ("zero", "saturate"):
        raise ValueError(f"mode is 'zero' or 'saturate', got {mode!r}")


def checked_count(name: str, count: int) -> None:
    """ValueError or TypeError unless ``count`` is an integer of at least 1."""
    if checked_integer(name, count, 1 << 62) == 0:
        raise ValueError(f"{name} is at least 1, got 0")


def checked_positive(name: str, value: float) -> None:
    if not (is_number(value) and 0.0 < value < math.inf):
        raise ValueError(f"{name} is a finite number above 0, got {value!r}")


def checked_factors(name: str, values: tuple[float, ...]) -> None:
    """ValueError unless ``values`` is a filled tuple or list of finite numbers of at least 0."""
    if not isinstance(values, (tuple, list)) or not values:
        raise ValueError(f"{name} is a tuple of numbers, got {values!r}")
    for value in values:
        if not (is_number(value) and 0.0 <= value < math.inf):
            raise ValueError(f"{name} are finite numbers of at least 0, got {value!r}")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
