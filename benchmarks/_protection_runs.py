"""The variants of one network that protection.py compares, and the trials that compare them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proact import campaign, protect
from proact.campaign.store import Row
from proact.data import Data, Split
from proact.faults import Fault

#: Methods that go on where they were interrupted.
_LONG = ("ft-clipact", "proact", "resilience-aware-proact")
#: Trials that share their images: then others are drawn.
TRIALS_A_DRAW = 10


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
            ("resilience-aware-proact", {"granularity": "channel", **trained, **faulty})
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
        result, done = model, ""
        for method, options in steps:
            done += f"{method} {options} "
            file = folder / f"{re.sub(r'[^a-z0-9.]+', '-', done).strip('-')[:150]}.safetensors"
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


def measured(
    variants: dict[str, nn.Module],
    test: Split,
    faults: Sequence[Fault],
    encoding: str,
    trials: int,
    images: int,
    seed: int,
    store: Path,
) -> campaign.Result:
    """The trials of a campaign that draws other images after each `TRIALS_A_DRAW` of them."""
    rows: dict[tuple[str, Fault], list[Row]] = {}
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    clean = dict.fromkeys(variants, 0.0)
    draws = -(-trials // TRIALS_A_DRAW)
    for draw in range(draws):
        first = draw * TRIALS_A_DRAW
        start = draw * images % (len(test) - images + 1)
        part = campaign.run(
            variants,
            test.take(order[start : start + images]),
            faults,
            encoding=encoding,
            trials=min(TRIALS_A_DRAW, trials - first),
            seed=seed + draw,
            store=store,
        )
        for cell, found in part.rows.items():
            pooled = rows.setdefault(cell, [])
            pooled.extend(row._replace(trial=first + row.trial) for row in found)
        for name, accuracy in part.clean.items():
            clean[name] += accuracy / draws
        print(f"{min(first + TRIALS_A_DRAW, trials)} of {trials} trials", flush=True)
    return campaign.Result(rows, part.bers, clean, part.confidence)


def _telling(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name}: {line}", flush=True)
