"""Loads the compiled module, or keeps the reason why it cannot be loaded.

Only ``proact.ops`` imports this module. Without the compiled module, the slow references in torch
and Python are used instead.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from proact.errors import ProactError

#: The version of the flips that (seed, trial) stands for; must equal ``sampler_version`` in
#: csrc/core/fault_block.hpp.
SAMPLER_VERSION = 1

module: ModuleType | None = None
#: The reason why `module` is None; empty otherwise.
reason = ""

try:
    module = importlib.import_module("proact._proact")
except ImportError as error:
    reason = str(error)
    warnings.warn(
        f"proact runs without its native module and will be slow ({reason}): install a C++17 "
        "compiler and reinstall proact",
        RuntimeWarning,
        stacklevel=2,
    )

if module is not None:
    if module.sampler_version != SAMPLER_VERSION:
        raise ProactError(
            f"the native module has sampler version {module.sampler_version}, and this version of "
            f"proact needs {SAMPLER_VERSION}: reinstall proact"
        )
    try:
        module.isa()
    except RuntimeError as error:  # PROACT_ISA names an instruction set that this machine lacks
        raise ProactError(str(error)) from None
