"""The identity of a task: the facts that determine a row, beside the digest of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from proact.campaign.draws import DRAW_VERSION
from proact.campaign.metrics import describe
from proact.encodings import Encoding
from proact.models.code_digest import content_of
from proact.models.torch_settings import TorchSettings
from proact.nn.batches import Batch, map_tensors
from proact.ops import native_info
from proact.results.policy import Policy

if TYPE_CHECKING:
    from proact.campaign.measurement import Measurement


def laid_out(inputs: Batch, policy: Policy) -> Batch:
    """Return inputs in the policy's memory layout; a copy only where theirs differs."""
    order = torch.channels_last if policy.channels_last else torch.contiguous_format
    return map_tensors(
        lambda tensor: tensor.contiguous(memory_format=order) if tensor.dim() == 4 else tensor,
        inputs,
    )


def task_facts(measurement: Measurement, encoding: Encoding, seed: int) -> dict[str, Any]:
    """Return the facts that all rows of a campaign share, without the policy."""
    forward = measurement.forward
    called = None if forward.call is None else content_of(forward.call)
    selected = content_of(forward.output) if callable(forward.output) else forward.output
    return {
        "data": measurement.data.digest,
        "draw": DRAW_VERSION,
        "encoding": encoding.name if encoding.revision == 1 else [encoding.name, encoding.revision],
        **describe(measurement.metric),
        "forward": called,
        "output": selected,
        "on_error": measurement.on_error,
        "sampler": native_info()["sampler_version"],
        "seed": seed,
        "state": measurement.state,
        # Without this entry where the kernels may run, so that older stores continue.
        **({} if measurement.fast_path else {"fast_path": False}),
        **TorchSettings.current().facts(measurement.data.device),
    }


def with_policy(facts: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """Return all facts of a task."""
    return {**facts, "policy": policy.to_facts()}
