"""Digests that identify a model, with and without the tensors that protections added."""

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
    return _digest(model, added)


def full_fingerprint(model: nn.Module) -> str:
    """The `fingerprint` of a model, including thresholds and bounds."""
    return _digest(model, set())


def _digest(model: nn.Module, left_out: set[str]) -> str:
    digest = hashlib.sha256()
    for name, tensor in (
        *model.named_parameters(),
        *model.named_buffers(),
        *named_scales_beside(model),
    ):
        if name not in left_out:
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(content(tensor))
    return digest.hexdigest()
