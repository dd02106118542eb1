"""Report installed versions and the data sets on this machine."""

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
from proact.data import cifar, file_lookup, mnist
from proact.encodings.names import CODE_NAMES, ENCODING_NAMES, OTHER_NAMES
from proact.report.tables import Column, make_table
from proact.results.metric_info import BUILT_IN_METRICS

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "torchvision", "scikit-learn")
NO_GPU_YET = "CUDA code has been compiled and its source run on the CPU; it has not run on a GPU"


def system_info() -> dict[str, Any]:
    """Return the report as values that JSON can hold; a data set that is not found is None."""
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
        "models": models.names(),
        "methods": protect.methods(),
        "encodings": [*ENCODING_NAMES, "int7 to int2", *OTHER_NAMES],
        "codes": list(CODE_NAMES),
        "metrics": list(BUILT_IN_METRICS),
        "cache": str(file_lookup.cache()),
    }


def system_table(found: dict[str, Any]) -> Table:
    """Make a table of the report."""
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
        "data sets": tuple(data_sets),
        "looked for in": tuple(found["looked_for_data_in"]),
        "models": ", ".join(found["models"]),
        "methods": ", ".join(found["methods"]),
        "encodings": ", ".join(found["encodings"]),
        "metrics": ", ".join(found["metrics"]),
        "downloads": f"{found['cache']} (trained models: in the folder of each run)",
    }
    columns = [Column("", is_text=True), Column("", is_text=True)]
    return make_table(columns, list(rows.items()), "proact on this machine", show_header=False)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _place(name: str) -> str | None:
    """Return the folder of a data set's first file, or None; the file is not read."""
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
    return "the folder of --data-folder"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.parent)
