"""Parts of a campaign's time and memory, each measured alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import compare, interleave
from torch import nn

from proact import campaign, data, models
from proact.campaign.built_in_metrics import METRICS
from proact.campaign.clean_results import clean_results
from proact.campaign.jobs import Job, WorkUnit
from proact.campaign.local_processes import LocalProcesses
from proact.campaign.measurement import Measurement
from proact.campaign.trial_runner import TrialRunner
from proact.data import Split
from proact.encodings import encoding_named
from proact.faults import BitFlip, Fault, encode
from proact.results.policy import Policy
from proact.results.store import Row, Store

_RATE = 1e-6
_IMAGES = 512
_TURNS, _TRIALS_PER_TURN, _TRIALS_PER_UNIT = 6, 160, 8


def _job(model: nn.Module, images: Split, images_per_trial: int) -> Job:
    return trial_job(model, images.first(_IMAGES), images_per_trial, BitFlip(_RATE))


def trial_job(model: nn.Module, images: Split, images_per_trial: int | None, fault: Fault) -> Job:
    """The job of one model in float32 under one fault; None takes all images."""
    encoding = encoding_named("float32")
    encoded = encode(model, encoding).eval()
    policy = Policy(images_per_trial, 64, False)
    measurement = Measurement(images, METRICS["top-1"])
    clean = clean_results(measurement, encoded, policy)
    return Job([encoded], [clean], [fault], encoding, measurement, policy, 0)


def overhead(model: nn.Module, images: Split, repeats: int) -> dict[str, Any]:
    """The time of a trial over that of its forward pass, on one thread, by images per trial."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for size in (16, 64):
        runner: TrialRunner = _job(model, images, size).runner(0)
        trials = count()
        batch = runner.measurement.data.images[:size].clone()

        def forward(runner: TrialRunner = runner, batch: torch.Tensor = batch) -> None:
            with torch.inference_mode():
                runner.measurement.output(runner.model, batch)

        def trial(runner: TrialRunner = runner, trials: Iterator[int] = trials) -> None:
            runner.run(BitFlip(_RATE), next(trials))

        times = interleave({"trial": trial, "forward": forward}, repeats)
        ratio = compare(times, "trial", "forward")
        found[str(size)] = {
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "noisy": ratio.is_noisy,
            # On a noisy machine this is steadier than the ratio.
            "extra_seconds": float(np.median(times["trial"] - times["forward"])),
            "forward_seconds": float(np.median(times["forward"])),
        }
    torch.set_num_threads(threads)
    return found


def workers_rates(model: nn.Module, images: Split) -> dict[str, Any]:
    """Trials per second of one and of two worker processes of one thread each, in turns."""
    job = _job(model, images, 64)
    rates: dict[int, list[float]] = {1: [], 2: []}
    pools = {workers: LocalProcesses(job, workers, 1) for workers in rates}
    try:
        for pool in pools.values():
            pool.process_ids()
        for turn in range(_TURNS):
            for workers in (1, 2) if turn % 2 else (2, 1):
                start = time.perf_counter()
                futures = [
                    pools[workers].submit(WorkUnit(0, 0, first, first + _TRIALS_PER_UNIT))
                    for first in range(0, _TRIALS_PER_TURN, _TRIALS_PER_UNIT)
                ]
                for future in futures:
                    future.result()
                rates[workers].append(_TRIALS_PER_TURN / (time.perf_counter() - start))
    finally:
        for pool in pools.values():
            pool.close()
    ratios = np.array(rates[2]) / np.array(rates[1])
    return {
        "one": float(np.median(rates[1])),
        "two": float(np.median(rates[2])),
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
    }


def store_share(seed: int) -> dict[str, float]:
    """The share of a campaign's time that writing rows takes, on the smallest model."""
    digits = data.load("digits")
    model = models.trained("small-cnn", digits, 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    storing = 0.0
    add = Store.add

    def timed(self: Store, cell: Any, rows: list[Row]) -> None:
        nonlocal storing
        start = time.perf_counter()
        add(self, cell, rows)
        storing += time.perf_counter() - start

    Store.add = timed  # type: ignore[method-assign, assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            campaign.run(
                {"model": model}, digits, [BitFlip(1e-4)], encoding="q15.16", trials=5000,
                images_per_trial=16, seed=seed, store=Path(folder) / "rows.sqlite", executor=1,
                progress=False,
            )  # fmt: skip
            seconds = time.perf_counter() - start
    finally:
        Store.add = add  # type: ignore[method-assign]
        torch.set_num_threads(threads)
    return {"share": storing / seconds, "seconds": seconds, "trials": 5000}


_MANY_TRIALS = """
import resource, sys, torch
from torch import nn
from proact import campaign
from proact.faults import BitFlip
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 4))
images = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
result = campaign.run({"m": model}, images, [BitFlip(1e-3)], trials=int(sys.argv[1]),
                      images_per_trial=16, store=sys.argv[2], executor=1, progress=False)
assert result.cells[0].trials == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def growth(trials: int = 5000) -> dict[str, float]:
    """The coordinator's peak memory for some trials, and its growth for ten times as many."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for number in (trials, 10 * trials):
            done = subprocess.run(
                [sys.executable, "-c", _MANY_TRIALS, str(number), f"{folder}/{number}.sqlite"],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks.append(int(done.stdout) / 1024)
    return {"mib": peaks[0], "growth_mib": peaks[1] - peaks[0], "trials": trials}
