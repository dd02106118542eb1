"""Identity: the content that determines a row, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from proact.data import Split
from proact.data.splits import content
from proact.faults.encodings import Encoding
from proact.ops import native_info

#: Raise it when a row comes to count something else.
METRIC = "top-1; an output with NaN or infinity is wrong and disagrees; version 1"


def task_facts(
    images: Split, encoding: Encoding, seed: int, images_per_trial: int | None = None
) -> dict[str, Any]:
    """What all rows of a campaign share."""
    return {
        "data": images.digest,
        "encoding": encoding.name,
        "images": "all" if images_per_trial is None else f"{images_per_trial} a trial, version 1",
        "metric": METRIC,
        "sampler": native_info()["sampler_version"],
        "seed": seed,
    }


def facts_digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def model_digest(model: nn.Module, clean: Tensor) -> str:
    """SHA-256 of the architecture as it prints, of every parameter and buffer, and of the ``clean``
    predictions, in which what a forward method does beyond these shows."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(content(tensor))
    digest.update(content(clean))
    return digest.hexdigest()
