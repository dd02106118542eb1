"""The digest that identifies a model without the tensors that protections added."""

from __future__ import annotations

import hashlib

from torch import nn

from proact.data.split import content
from proact.nn import HyReLU
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import named_scales_beside


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
    for name, tensor in (
        *model.named_parameters(),
        *model.named_buffers(),
        *named_scales_beside(model),
    ):
        if name not in added:
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(content(tensor))
    return digest.hexdigest()
