"""Data sets as tensors: decoded once, split once, known by a digest of their content."""

from proact.data.datasets import load, names
from proact.data.splits import Augmentation, Data, Split, as_data, as_evaluation, from_parts

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
