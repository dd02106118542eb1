"""Which network it was: a digest of what it stores, without what protections have added."""

from __future__ import annotations

import hashlib

from torch import nn

from proact.data.splits import content
from proact.nn import HyReLU, WeightRange


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, in hexadecimal;
    thresholds and bounds of weight-range are left out."""
    added = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if isinstance(module, (HyReLU, WeightRange))
        for own in (*module._parameters, *module._buffers)
    }
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name not in added:
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(content(tensor))
    return digest.hexdigest()
