"""Identity: the content that determines a row, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from proact.data import Split
from proact.faults.encodings import Encoding
from proact.ops import native_info

#: Raise it when a row comes to count something else.
METRIC = "top-1; an output with NaN or infinity is wrong and disagrees; version 1"


def task_facts(images: Split, encoding: Encoding, seed: int) -> dict[str, Any]:
    """What all rows of a campaign share."""
    return {
        "data": images.digest,
        "encoding": encoding.name,
        "images": "all",
        "metric": METRIC,
        "sampler": native_info()["sampler_version"],
        "seed": seed,
    }


def facts_digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def model_digest(model: nn.Module) -> str:
    """SHA-256 of the architecture as it prints and of every stored tensor.

    The code of a forward method is not part of it: give a changed network another store.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
    return digest.hexdigest()
