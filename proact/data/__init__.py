"""Load data sets as tensors: decoded and split once, identified by a digest of their content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.data.dataset import Augmentation, Data, as_data, as_evaluation, from_parts
    from proact.data.reading import as_split
    from proact.data.registry import load, names
    from proact.data.split import Split

__all__ = [
    "Augmentation",
    "Data",
    "Split",
    "as_data",
    "as_evaluation",
    "as_split",
    "from_parts",
    "load",
    "names",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Augmentation": "dataset",
        "Data": "dataset",
        "Split": "split",
        "as_data": "dataset",
        "as_evaluation": "dataset",
        "as_split": "reading",
        "from_parts": "dataset",
        "load": "registry",
        "names": "registry",
    },
)
