"""Training recipes: hyperparameters and image augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from proact.data import Augmentation, Data
from proact.data.dataset import checked_data
from proact.nn.model_kinds import checked_module
from proact.text import short_repr

_FEW_IMAGES = 10_000
_SHALLOW, _DEEP = 6, 10  # layers with weights
_NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, a one-cycle learning rate (L. N. Smith and N. Topin, arXiv
    1708.07120), cross-entropy without label smoothing.

    Attributes:
        epochs: passes over the training images, at least 1.
        batch: images per step, at least 1; an incomplete last batch of an epoch is dropped. Fewer
            training images than this are one batch.
        peak: the highest learning rate, at least 0, reached after 30 % of the steps.
        momentum: of SGD, fixed, in [0, 1).
        weight_decay: of every parameter, at least 0.
        augment: whether images are shifted and mirrored, as the data set's
            `proact.data.Augmentation` says.

    Raises:
        ValueError: a number out of range, or a value of another type.
    """

    epochs: int = 10
    batch: int = 128
    peak: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} is an integer of at least 1, got {short_repr(count)}")
        for name, highest in (("peak", math.inf), ("momentum", 1.0), ("weight_decay", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value < highest:
                raise ValueError(f"{name} is a number in [0, {highest:g}), got {short_repr(value)}")


def checked_recipe(recipe: Recipe) -> Recipe:
    """Return ``recipe``, or raise TypeError unless it is a `Recipe`."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe: expected a proact.models.Recipe, got {short_repr(recipe)}")
    return recipe


def recipe_for(data: Data, model: nn.Module) -> Recipe:
    """Return the default recipe of `train` for a data set and a model.

    Data sets of fewer than 10,000 training images get more and smaller steps. Models without
    normalisation get a lower learning rate, because deep ones do not learn at a higher one: a
    quarter from 7 layers with weights on (AlexNet), a tenth from 11 on (plain VGG).

    Raises:
        TypeError: ``data`` is not a `proact.data.Data`, or ``model`` is not a torch module.
    """
    few = len(checked_data(data).train) < _FEW_IMAGES
    recipe = Recipe(epochs=40, batch=64, peak=0.1) if few else Recipe()
    layers = [m for m in checked_module(model).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    normalised = any(isinstance(m, _NORMALISATIONS) for m in model.modules())
    if normalised or len(layers) <= _SHALLOW:
        return recipe
    return replace(recipe, peak=recipe.peak / (10 if len(layers) > _DEEP else 4))


def augmented(
    images: Tensor, indices: Tensor, how: Augmentation, generator: torch.Generator
) -> Tensor:
    """The chosen images, each shifted by up to ``how.shift`` pixels each way and mirrored by the
    toss of a coin; (chosen, channels, height, width), channels last in memory. What is no image is
    chosen alone.

    The edge is repeated where a shift uncovers it: a border of zeros would be grey, which no
    normalised photograph has for an edge.
    """
    if images.dim() != 4:
        return images[indices]
    count, (height, width) = len(indices), images.shape[2:]

    def shifted(size: int) -> Tensor:
        offsets = torch.randint(-how.shift, how.shift + 1, (count, 1), generator=generator)
        return (torch.arange(size) + offsets).clamp_(0, size - 1)

    rows, columns = shifted(height), shifted(width)
    if how.mirror:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    chosen = images[indices[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)
