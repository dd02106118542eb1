"""Networks by name, a recipe that trains them, and what they answer."""

from proact.models.evaluation import accuracy, logits
from proact.models.recipe import Recipe, recipe_for
from proact.models.registry import create, names
from proact.models.training import train, trained

__all__ = ["Recipe", "accuracy", "create", "logits", "names", "recipe_for", "train", "trained"]
