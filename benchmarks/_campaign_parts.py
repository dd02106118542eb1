"""Where a campaign's time and memory go: parts of the engine, measured alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import compare, interleave
from torch import nn

from proact import campaign, data, models
from proact.campaign.evaluation import evaluation_of
from proact.campaign.executors import LocalProcesses
from proact.campaign.jobs import Job, WorkUnit
from proact.campaign.metrics import METRICS
from proact.campaign.trial_runner import TrialRunner, clean_outputs_of, outputs
from proact.data import Split
from proact.encodings import encoding_named
from proact.faults import BitFlip, encode
from proact.results.policy import Policy
from proact.results.store import Row, Store

_RATE = 1e-6
_SOME_IMAGES = 512
_TURNS, _TRIALS_A_TURN = 6, 160


def _job(model: nn.Module, images: Split, images_per_trial: int) -> Job:
    encoding = encoding_named("float32")
    encoded = encode(model, encoding).eval()
    policy = Policy(images_per_trial, 64, False)
    evaluation = evaluation_of((images.images[:_SOME_IMAGES], images.labels[:_SOME_IMAGES]))
    clean, _ = clean_outputs_of(encoded, evaluation, METRICS["top-1"], policy)
    faults = [BitFlip(_RATE)]
    return Job([encoded], [clean], faults, encoding, evaluation, METRICS["top-1"], policy, 0)


def overhead(model: nn.Module, images: Split, repeats: int) -> dict[str, Any]:
    """Seconds of a trial over those of its bare forward pass, on one thread, by images a trial."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for count in (16, 64):
        runner: TrialRunner = _job(model, images, count).runner(0)
        trials = iter(range(1 << 32))
        batch = runner.data.inputs[:count].clone()

        def forward(runner: TrialRunner = runner, batch: torch.Tensor = batch) -> None:
            with torch.inference_mode():
                outputs(runner.model, [batch])

        def trial(runner: TrialRunner = runner, trials: Any = trials) -> None:
            runner.run(BitFlip(_RATE), next(trials))

        times = interleave({"trial": trial, "forward": forward}, repeats)
        ratio, low, high, noisy = compare(times, "trial", "forward", faster=False)
        # The difference of medians is steadier than their ratio where the machine is not.
        extra = float(np.median(times["trial"] - times["forward"]))
        found[str(count)] = {
            "ratio": ratio, "low": low, "high": high, "noisy": noisy, "extra_seconds": extra,
            "forward_seconds": float(np.median(times["forward"])),
        }  # fmt: skip
    torch.set_num_threads(threads)
    return found


def workers_rates(model: nn.Module, images: Split, seed: int) -> dict[str, Any]:
    """Trials a second of one and of two worker processes of one thread each, in turns."""
    job = _job(model, images, 64)
    rates: dict[int, list[float]] = {1: [], 2: []}
    crews = {count: LocalProcesses(job, count, 1) for count in rates}
    try:
        for crew in crews.values():
            crew.processes()
        for turn in range(_TURNS):
            for count in (1, 2) if turn % 2 else (2, 1):
                start = time.perf_counter()
                portion = 8
                futures = [
                    crews[count].submit(WorkUnit(0, 0, first, first + portion))
                    for first in range(0, _TRIALS_A_TURN, portion)
                ]
                for future in futures:
                    future.result()
                rates[count].append(_TRIALS_A_TURN / (time.perf_counter() - start))
    finally:
        for crew in crews.values():
            crew.close()
    ratios = np.array(rates[2]) / np.array(rates[1])
    return {
        "one": float(np.median(rates[1])),
        "two": float(np.median(rates[2])),
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
    }


def store_share(seed: int) -> dict[str, float]:
    """The share of a campaign's time that writing rows takes, on the network that ships."""
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
                {"network": model}, digits, [BitFlip(1e-4)], encoding="q15.16", trials=5000,
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
    """The coordinator's largest memory at so many trials, and what ten times as many add."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (trials, 10 * trials):
            done = subprocess.run(
                [sys.executable, "-c", _MANY_TRIALS, str(count), f"{folder}/{count}.sqlite"],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks.append(int(done.stdout) / 1024)
    return {"mib": peaks[0], "growth_mib": peaks[1] - peaks[0], "trials": trials}
