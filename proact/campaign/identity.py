"""The identity of a task: the facts and model digests that determine a row."""

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
    """Return the inputs (n, ...) in the policy's memory layout; a copy only if theirs differs."""
    if inputs.dim() != 4:
        return inputs
    order = torch.channels_last if policy.channels_last else torch.contiguous_format
    return inputs.contiguous(memory_format=order)


def task_facts(data: Evaluation, encoding: Encoding, metric: Metric, seed: int) -> dict[str, Any]:
    """Return the facts that all rows of a campaign share, without the policy."""
    return {
        "data": data.digest,
        "draw": DRAW_VERSION,
        "encoding": encoding.name,
        **describe(metric),
        "sampler": native_info()["sampler_version"],
        "seed": seed,
    }


def with_policy(facts: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """Return all facts of a task."""
    return {**facts, "policy": asdict(policy)}


class ModelDigest:
    """SHA-256 of a model.

    The digest covers the model's `repr`, every parameter and buffer, and the code of forward
    methods, hooks and plain attributes.
    """

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
        """Return the digest that identifies a variant, in hexadecimal.

        It covers the model and its clean outputs (n, ...). Logits (n, classes) enter as predicted
        classes, other outputs as their mean in three digits, because last digits differ between
        machines.
        """
        digest = self._content.copy()
        if clean.dim() == 2:
            digest.update(content(clean.argmax(1)))
        else:
            mean = clean.mean(dtype=torch.float64).float()
            digest.update(f"{float(mean):.3g}".encode())
        return digest.hexdigest()
