"""How much memory do inject + restore take at their peak? As a program, this file measures one
case.

Each case gets a fresh process: memory that an earlier case freed would serve the next one unseen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import _process_memory
import torch

from proact import ProactError
from proact.ops.plan import FlipPlan


@dataclass(frozen=True)
class PeakMemory:
    """One measured case.

    Attributes:
        model_bytes: size of the model's parameters.
        flips: flipped bits (count).
        threads: threads of the plan (count).
        extra_bytes: peak during inject + restore, less the resident memory before.
    """

    model_bytes: int
    flips: int
    threads: int
    extra_bytes: int

    @property
    def bytes_per_flip(self) -> float:
        return self.extra_bytes / self.flips


def measure(quick: bool, threads: int) -> list[PeakMemory]:
    """Three cases, or none where the kernel does not report memory.

    The second case has four times the flips of the first; the third has the flips of the second in
    a model of four times the size. Unless ``quick``, the third is repeated with several threads.
    """
    if not _process_memory.is_measurable():
        return []
    words, ber = (1 << 22 if quick else 1 << 24), 0.01
    cases = [(words, ber / 4, 1), (words, ber, 1), (4 * words, ber / 4, 1)]
    if threads > 1 and not quick:
        cases.append((4 * words, ber / 4, threads))
    # Cases can run at once, because each process has a peak of its own.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda case: _in_a_fresh_process(*case), cases))


def _in_a_fresh_process(words: int, ber: float, threads: int) -> PeakMemory:
    done = subprocess.run(
        [sys.executable, __file__, str(words), repr(ber), str(threads)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProactError(f"the measurement of memory failed: {done.stderr.strip()[-300:]}")
    return PeakMemory(**json.loads(done.stdout))


def _measure_here(words: int, ber: float, threads: int) -> PeakMemory:
    model = torch.full((words,), 0.5)  # written, hence resident
    plan = FlipPlan()
    plan.add(model, 1, (1 << 32) - 1, None)
    plan.flip(1e-6, 0, 0, threads).restore(threads)  # the first call allocates buffers that stay
    _process_memory.reset_peak()
    before = _process_memory.peak_bytes()
    log = plan.flip(ber, 0, 1, threads)
    log.restore(threads)
    return PeakMemory(4 * words, len(log), threads, _process_memory.peak_bytes() - before)


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_here(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))))
