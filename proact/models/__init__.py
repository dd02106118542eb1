"""Models by name, a recipe that trains them, and their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.models.evaluation import accuracy, logits
    from proact.models.recipe import Recipe, recipe_for
    from proact.models.registry import create, names
    from proact.models.training import train, trained

__all__ = ["Recipe", "accuracy", "create", "logits", "names", "recipe_for", "train", "trained"]

__getattr__ = lazy_names(
    __name__,
    {
        "Recipe": "recipe",
        "accuracy": "evaluation",
        "create": "registry",
        "logits": "evaluation",
        "names": "registry",
        "recipe_for": "recipe",
        "train": "training",
        "trained": "training",
    },
)
