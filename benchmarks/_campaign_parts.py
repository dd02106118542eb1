"""Parts of a campaign's time and memory, each measured alone."""

from __future__ import annotations

import copy
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
from _numpy_flips import distinct_by_sorting
from _timing import Call, compare, interleave
from torch import Tensor, nn

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
#: At this rate every trial has flips, so that every contender runs its forward pass.
_DEVICE_RATE = 1e-4
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


def device_rates(model: nn.Module, images: Split, device: str, repeats: int) -> dict[str, Any]:
    """Trials per second on the CPU and on a device, and of a careful script on that device.

    The script flips bits by `torch.bitwise_xor`, in lists that numpy draws, and flips them back
    after the forward pass. All take turns, by images per trial.
    """
    found: dict[str, Any] = {}
    for size in (8, 64):
        runners = {
            "cpu": _job(model, images, size).runner(0),
            "device": _job(
                copy.deepcopy(model).to(device), images.to(torch.device(device)), size
            ).runner(0),
        }
        contenders = {name: _trials_of(runner) for name, runner in runners.items()}
        contenders["script"] = _ScriptOnDevice(runners["device"], size).trial
        times = interleave(contenders, repeats, device=device)
        rates = {name: 1 / float(np.median(seconds)) for name, seconds in times.items()}
        over_cpu, over_script = (
            compare(times, "device", other, faster=True) for other in ("cpu", "script")
        )
        found[str(size)] = {
            "trials_per_second": rates,
            "faster_than_cpu": over_cpu._asdict(),
            "faster_than_script": over_script._asdict(),
        }
    return found


def _trials_of(runner: TrialRunner) -> Call:
    trials = count()
    return lambda: runner.run(BitFlip(_DEVICE_RATE), next(trials))


class _ScriptOnDevice:
    """A trial as a careful torch user would write it, on the model and images of a runner."""

    def __init__(self, runner: TrialRunner, size: int) -> None:
        self._model, self._random = runner.model, np.random.default_rng(0)
        data = runner.measurement.data
        self._images, self._labels = data.images[:size].clone(), data.labels[:size].clone()
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._words = [
            each.detach().view(-1).view(torch.int32) for each in tensors if each.is_floating_point()
        ]

    def trial(self) -> int:
        flipped = []
        for words in self._words:
            bits = 32 * words.numel()
            drawn = distinct_by_sorting(
                self._random, bits, int(self._random.binomial(bits, _DEVICE_RATE))
            )
            word, first = np.unique(drawn >> 5, return_index=True)
            if not len(word):
                continue
            masks = np.bitwise_or.reduceat(np.left_shift(np.uint32(1), drawn & 31), first)
            at = torch.from_numpy(word.astype(np.int64)).to(words.device)
            flipped.append((words, at, torch.from_numpy(masks.view(np.int32)).to(words.device)))
        self._xor(flipped)
        with torch.inference_mode():
            right = (self._model(self._images).argmax(1) == self._labels).sum()
        self._xor(flipped)
        return int(right)

    @staticmethod
    def _xor(flipped: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for words, at, masks in flipped:
            words[at] = torch.bitwise_xor(words[at], masks)


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
