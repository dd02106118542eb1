"""proact: fault injection and hardening for PyTorch models in memory with bit errors."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from proact.errors import ProactError
from proact.results.rendering import install_renderer

if TYPE_CHECKING:
    from proact import (  # noqa: F401
        campaign,
        data,
        encodings,
        faults,
        models,
        nn,
        ops,
        protect,
        report,
        results,
    )

__version__ = version("proact")
__all__ = ["ProactError", "build_info"]

_PACKAGES = (
    "campaign",
    "data",
    "encodings",
    "faults",
    "models",
    "nn",
    "ops",
    "protect",
    "report",
    "results",
)


install_renderer(lambda: importlib.import_module("proact.report.render"))


def __getattr__(name: str) -> Any:
    # Packages load on first use, so that a store can be read without loading torch.
    if name in _PACKAGES:
        return importlib.import_module(f"proact.{name}")
    raise AttributeError(f"module 'proact' has no attribute {name!r}")


def build_info() -> dict[str, Any]:
    """Return the version of proact and facts about its native code.

    The keys are ``version`` and those of `proact.ops.native_info`, such as the chosen instruction
    set (``isa``; the environment variable PROACT_ISA forces one).
    """
    from proact.ops import native_info

    return {"version": __version__, **native_info()}
