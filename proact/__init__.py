"""proact: fault injection and hardening for PyTorch networks in memory that fails."""

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
    # Packages load when first used: a store can be read without waiting for torch.
    if name in _PACKAGES:
        return importlib.import_module(f"proact.{name}")
    raise AttributeError(f"module 'proact' has no attribute {name!r}")


def build_info() -> dict[str, Any]:
    """The version, the compiler, the instruction sets (`isas`) and the chosen one (`isa`; the
    environment variable PROACT_ISA forces one), the version of the CUDA runtime that was built in
    (`cuda`: 13000 for 13.0, None without), torch's threads.
    """
    from proact.ops import native_info

    return {"version": __version__, **native_info()}
