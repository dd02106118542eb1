"""Networks by name, and training them."""

from proact.models.registry import create, names
from proact.models.training import accuracy, logits, train, trained

__all__ = ["accuracy", "create", "logits", "names", "train", "trained"]
