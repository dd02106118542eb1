"""The variants of one network that protection.py compares."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from proact import protect
from proact.data import Data

#: Methods that go on where they were interrupted.
_LONG = ("ft-clipact", "proact", "resilience-aware-proact")


@dataclass(frozen=True)
class Settings:
    """What all methods share."""

    encoding: str
    tolerance: float
    epochs: int
    samples: int
    patterns: int
    seed: int


def methods(settings: Settings) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """For each variant the methods to apply, one after the other."""

    def maxima(granularity: str) -> list[tuple[str, dict[str, Any]]]:
        return [("ranger", {"mode": "zero", "granularity": granularity})]

    trained = {
        "tolerance": settings.tolerance,
        "epochs": settings.epochs,
        "samples": settings.samples,
        "seed": settings.seed,
    }
    faulty = {
        "encoding": settings.encoding,
        "patterns": settings.patterns,
    }
    hybrid = ("proact", {"granularity": "hybrid", **trained})
    guard: tuple[str, dict[str, Any]] = ("weight-range", {})
    return {
        "relu": [],
        "ranger (saturate)": [("ranger", {})],
        "ranger (zero)": maxima("layer"),
        "hybrid maxima": maxima("hybrid"),
        "channel maxima": maxima("channel"),
        "neuron maxima": maxima("neuron"),
        "channel quantile 0.95": [
            ("ranger", {"mode": "zero", "granularity": "channel", "quantile": 0.95})
        ],
        "ft-clipact": [
            ("ft-clipact", {"encoding": settings.encoding, "seed": settings.seed}),
        ],
        "fitact": [("fitact", trained)],
        "proact (hybrid)": [hybrid],
        "proact (channel)": [("proact", {"granularity": "channel", **trained})],
        "resilience-aware (channel)": [
            (
                "resilience-aware-proact",
                {"granularity": "channel", "decays": (0.3,), **trained, **faulty},
            )
        ],
        "weight-range": [guard],
        "proact (hybrid) + weight-range": [hybrid, guard],
    }


def protected(
    model: nn.Module, images: Data, settings: Settings, folder: Path
) -> dict[str, nn.Module]:
    """Each variant; thresholds that an earlier run saved are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    variants: dict[str, nn.Module] = {}
    for name, steps in methods(settings).items():
        result, done, stem = model, "", ""
        for method, options in steps:
            done += f"{method} {options} "
            stem += f"{method}-"
            digest = hashlib.sha256(done.encode()).hexdigest()[:12]
            file = folder / f"{stem}{digest}.safetensors"
            if file.exists():
                result = protect.load(model, file)
                continue
            start = time.monotonic()
            resume = file.with_suffix(".unfinished") if method in _LONG else None
            result = protect.protect(
                result, method, images, progress=_telling(name), resume=resume, **options
            )
            print(f"{name}: {method} took {time.monotonic() - start:.0f} s", flush=True)
            protect.save(result, file)
        variants[name] = result
    return variants


def _telling(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name}: {line}", flush=True)
