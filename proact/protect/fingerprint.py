"""The digest that identifies a model without the tensors that protections added."""

from __future__ import annotations

import hashlib

from torch import nn

from proact.models.code_digest import described_tensors
from proact.nn import HyReLU
from proact.nn.stored_guard import StoredGuard


def fingerprint(model: nn.Module) -> str:
    """The hexadecimal SHA-256 digest of a model without thresholds and the tensors of guards.

    It covers names, dtypes, shapes and bytes of all other parameters and buffers.
    """
    added = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if isinstance(module, (HyReLU, StoredGuard))
        for own in (*module._parameters, *module._buffers)
    }
    digest = hashlib.sha256()
    for part in described_tensors(model, left_out=added):
        digest.update(part)
    return digest.hexdigest()
