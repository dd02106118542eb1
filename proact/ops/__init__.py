"""Operators on tensors: HyReLU, bit flips and range restriction.

Only this package calls the native module.
"""

from typing import Any

import torch

from proact import _native
from proact.ops.flips import flip_bits_, flip_exactly_
from proact.ops.hyrelu import hyrelu, hyrelu_
from proact.ops.restrict_range import restrict_range_

__all__ = ["flip_bits_", "flip_exactly_", "hyrelu", "hyrelu_", "native_info", "restrict_range_"]


def native_info() -> dict[str, Any]:
    """The native module's build and the machine's instruction sets.

    Returns:
        A dictionary with the keys ``native`` (whether the module is loaded), ``native_error`` (the
        reason if it is not, else an empty text), ``compiler``, ``isas`` (the instruction sets that
        this machine can run), ``isa`` (the chosen one), ``cuda`` (the version of the CUDA runtime
        that was built in: 13000 for 13.0; None without), ``sampler_version`` (equal versions give
        the same flips for the same seed and trial) and ``threads`` (the number of torch's
        threads). ``compiler`` and ``isa`` are None without the module.
    """
    module = _native.module
    return {
        "native": module is not None,
        "native_error": _native.reason,
        "compiler": module.compiler if module else None,
        "isas": module.isas() if module else [],
        "isa": module.isa() if module else None,
        "cuda": module.cuda_runtime_version() if module and module.cuda else None,
        "sampler_version": _native.SAMPLER_VERSION,
        "threads": torch.get_num_threads(),
    }
