"""Data sets as tensors: decoded once, split once, known by a digest of their content."""

from proact.data.dataset import Augmentation, Data, Split, as_data, as_evaluation, from_parts
from proact.data.registry import load, names

__all__ = [
    "Augmentation",
    "Data",
    "Split",
    "as_data",
    "as_evaluation",
    "from_parts",
    "load",
    "names",
]
