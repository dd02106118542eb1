"""What is installed on this machine, and which data sets are found on it."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import proact
from proact import data, models, protect
from proact.campaign.metrics import METRICS
from proact.data import cifar, file_lookup, mnist

_ENCODINGS = (
    "float16, bfloat16, float32, float64, int8, int8-tensor (down to int2), native, qM.N of up to "
    "32 bits such as q15.16"
)
_PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "torchvision", "scikit-learn")
NO_GPU_YET = "CUDA code has been compiled and its source run on the CPU; it has not run on a GPU"


def machine() -> dict[str, Any]:
    """In terms of JSON; a data set's place is None where its files were not found."""
    return {
        "build": proact.build_info(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": {
            "built_in": proact.build_info()["cuda"] is not None,
            "devices": torch.cuda.device_count(),
            "note": NO_GPU_YET,
        },
        "data_sets": {name: _place(name) for name in data.names()},
        "looked_for_data_in": [str(place) for place in file_lookup.candidates("", None)[::2]],
        "networks": models.names(),
        "methods": protect.methods(),
        "encodings": _ENCODINGS,
        "metrics": list(METRICS),
        "cache": str(file_lookup.cache()),
    }


def machine_table(found: dict[str, Any]) -> Table:
    """To print with rich."""
    build, cuda = found["build"], found["cuda"]
    native = f"{build['compiler']}, {build['isa']} of {', '.join(build['isas'])}"
    data_sets = [f"{name}: {place or 'not found'}" for name, place in found["data_sets"].items()]
    built = f"runtime {build['cuda']} built in" if cuda["built_in"] else "not built in"
    rows = {
        "proact": build["version"],
        "native code": native if build["native"] else f"none: {build['native_error']}",
        "Python": f"{found['python']} on {found['platform']}",
        "packages": ", ".join(f"{k} {v or 'missing'}" for k, v in found["packages"].items()),
        "threads of torch": str(build["threads"]),
        "CUDA": f"{built}, {cuda['devices']} devices. {cuda['note']}",
        "data sets": "\n".join(data_sets),
        "looked for in": "\n".join(found["looked_for_data_in"]),
        "networks": ", ".join(found["networks"]),
        "methods": ", ".join(found["methods"]),
        "encodings": found["encodings"],
        "metrics": ", ".join(found["metrics"]),
        "downloads": f"{found['cache']} (trained networks: in the folder of each run)",
    }
    table = Table(title="proact on this machine", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in rows.items():
        table.add_row(heading, text)
    return table


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _place(name: str) -> str | None:
    """Where the first of a data set's files is; nothing is read."""
    if name == "digits":
        return "with scikit-learn" if importlib.util.find_spec("sklearn") else None
    if name in cifar.SETS:
        return _text(
            file_lookup.find(file_lookup.candidates(name, None), tuple(cifar.SETS[name].md5))
        )
    if name in mnist.SETS:
        known = mnist.SETS[name]
        roots = file_lookup.candidates(name, None, known.system)
        raw = [root / known.torchvision_class / "raw" for root in roots]
        first = next(iter(known.md5))
        return _text(file_lookup.find([*roots, *raw], (f"{first}.gz", first)))
    return "wherever --data-folder says"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.parent)
