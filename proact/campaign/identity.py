"""Identity: the content that determines a row, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.code_digest import behaviour_of
from proact.campaign.evaluation import DRAW_VERSION, Evaluation
from proact.campaign.metrics import Metric, describe
from proact.data.dataset import content
from proact.encodings import Encoding
from proact.ops import native_info


@dataclass(frozen=True)
class Policy:
    """How a trial is run, as far as that decides the last digits of its outputs.

    Attributes:
        images: of a trial, drawn for each; None takes all.
        batch: images in one forward pass.
        channels_last: the order in memory in which four-dimensional inputs are given.
    """

    images: int | None
    batch: int
    channels_last: bool

    def laid_out(self, inputs: Tensor) -> Tensor:
        """The inputs in their order in memory; a copy only where they are in another."""
        if inputs.dim() != 4:
            return inputs
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return inputs.contiguous(memory_format=order)


def task_facts(data: Evaluation, encoding: Encoding, metric: Metric, seed: int) -> dict[str, Any]:
    """What all rows of a campaign share, whatever its policy."""
    return {
        "data": data.digest,
        "draw": DRAW_VERSION,
        "encoding": encoding.name,
        **describe(metric),
        "sampler": native_info()["sampler_version"],
        "seed": seed,
    }


def with_policy(facts: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """The facts of a task."""
    return {**facts, "policy": asdict(policy)}


def model_digest(model: nn.Module, clean: Tensor) -> str:
    """SHA-256 of the architecture as it prints, of every parameter and buffer, of what forward
    methods, hooks and plain attributes say, and of the ``clean`` outputs.

    Outputs count as classes, or rounded to three digits: their last ones differ among machines.
    """
    digest = hashlib.sha256(f"{model!r}{behaviour_of(model)}".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(content(tensor))
    seen = clean.argmax(1) if clean.dim() == 2 else clean.mean(dtype=torch.float64).float()
    digest.update(content(seen) if clean.dim() == 2 else f"{float(seen):.3g}".encode())
    return digest.hexdigest()
