"""Loads the compiled module, or keeps the reason why it could not.

Only ``proact.ops`` uses this. Without the compiled module everything still works, through the plain
torch and plain Python references, and slowly.
"""

from __future__ import annotations

import warnings
from types import ModuleType

from proact.errors import ProactError

#: Must equal ``sampler_version`` in csrc/core/fault_block.hpp: what (seed, trial) means.
SAMPLER_VERSION = 1

module: ModuleType | None = None
#: Why `module` is None; empty otherwise.
reason = ""

try:
    from proact import _proact as module  # type: ignore[no-redef]
except ImportError as error:
    reason = str(error)
    warnings.warn(
        f"proact runs without its native module and will be slow ({reason}); "
        "reinstall it with a C++17 compiler at hand",
        RuntimeWarning,
        stacklevel=2,
    )

if module is not None:
    if module.sampler_version != SAMPLER_VERSION:
        raise ProactError(
            f"the native module has sampler version {module.sampler_version}, this proact needs "
            f"{SAMPLER_VERSION}: install proact again"
        )
    try:
        module.isa()
    except RuntimeError as error:  # PROACT_ISA names what this machine lacks
        raise ProactError(str(error)) from None
