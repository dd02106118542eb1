"""The identity of a task: the content that determines a row, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.code_digest import behaviour_of
from proact.campaign.evaluation import DRAW_VERSION, Evaluation
from proact.campaign.metrics import Metric, describe
from proact.data.dataset import content
from proact.encodings import Encoding
from proact.ops import native_info
from proact.results.policy import Policy


def laid_out(inputs: Tensor, policy: Policy) -> Tensor:
    """The inputs in the memory order of the policy; a copy only where they are in another."""
    if inputs.dim() != 4:
        return inputs
    order = torch.channels_last if policy.channels_last else torch.contiguous_format
    return inputs.contiguous(memory_format=order)


def task_facts(data: Evaluation, encoding: Encoding, metric: Metric, seed: int) -> dict[str, Any]:
    """The content that all rows of a campaign share, without its policy."""
    return {
        "data": data.digest,
        "draw": DRAW_VERSION,
        "encoding": encoding.name,
        **describe(metric),
        "sampler": native_info()["sampler_version"],
        "seed": seed,
    }


def with_policy(facts: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """All facts of a task."""
    return {**facts, "policy": asdict(policy)}


class ModelDigest:
    """SHA-256 of a model: its architecture as it prints, every parameter and buffer, and the source
    of forward methods, hooks and plain attributes."""

    def __init__(self, model: nn.Module) -> None:
        self._content = hashlib.sha256(f"{model!r}{behaviour_of(model)}".encode())
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._content.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            self._content.update(content(tensor))

    @property
    def of_content(self) -> str:
        """The digest without outputs, in hexadecimal."""
        return self._content.hexdigest()

    def with_outputs(self, clean: Tensor) -> str:
        """The digest that identifies a variant: of the content and its fault-free outputs.

        Outputs count as classes, or rounded to three digits: last digits differ among machines.
        """
        digest = self._content.copy()
        if clean.dim() == 2:
            digest.update(content(clean.argmax(1)))
        else:
            mean = clean.mean(dtype=torch.float64).float()
            digest.update(f"{float(mean):.3g}".encode())
        return digest.hexdigest()
