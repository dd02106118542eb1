"""A model that notes the worker processes that run it, or ends them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proact.faults import encode, inject
from proact.faults.fault import Fault


class Frail(nn.Module):
    """A linear model with habits in worker processes, but never in the process that made it.

    Args:
        folder: where it counts its deaths and notes its workers.
        habit: ``"note"``: notes each worker that reads the job, and its threads. ``"start"``: dies
            while the job is read. ``"between"``: dies when its trial runner is made. ``"forward"``:
            dies in any forward pass. ``"deadly"``: dies of a flip in the sign of its first weight.
            ``"exit"``: calls sys.exit.
        times: how often it dies at most.
        pause: how long each call takes in a worker, in seconds.
    """

    def __init__(
        self, folder: Path, habit: str = "", times: int = 1000, pause: float = 0.0
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(64, 10)
        with torch.no_grad():
            self.linear.weight[0, 0] = 0.1
        self.folder, self.habit, self.home = str(folder), habit, os.getpid()
        self.times, self.pause = times, pause

    def die(self, habit: str) -> None:
        is_spared = self.deaths() >= self.times or (Path(self.folder) / "spared").exists()
        if self.habit != habit or os.getpid() == self.home or is_spared:
            return
        (Path(self.folder) / f"{os.getpid()}.death").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def spare(self) -> None:
        """Let it live from now on. It stays the same model, with the rows that it has."""
        (Path(self.folder) / "spared").touch()

    def deaths(self) -> int:
        return len(list(Path(self.folder).glob("*.death")))

    def loads(self) -> Counter[int]:
        """How often each worker process read the job."""
        return Counter(pid for pid, _ in self._notes())

    def threads(self) -> set[int]:
        """The numbers of torch's threads in these workers."""
        return {threads for _, threads in self._notes()}

    def _notes(self) -> list[tuple[int, int]]:
        lines = (Path(self.folder) / "loads").read_text().splitlines()
        return [(int(pid), int(threads)) for pid, threads in map(str.split, lines)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.update(state)
        if self.habit == "note" and os.getpid() != self.home:
            with (Path(self.folder) / "loads").open("a") as file:
                file.write(f"{os.getpid()} {torch.get_num_threads()}\n")
        self.die("start")

    def named_parameters(self, *args: Any, **options: Any) -> Any:
        self.die("between")
        return super().named_parameters(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        self.die("forward")
        if self.linear.weight[0, 0] < 0:
            self.die("deadly")
        if os.getpid() != self.home:
            if self.habit == "exit":
                sys.exit(0)
            time.sleep(self.pause)
        output: Tensor = self.linear(x.flatten(1))
        return output


def deadly_trials(folder: Path, fault: Fault, seed: int, trials: int) -> list[int]:
    """The trials whose faults turn the sign of the first weight."""
    encoded = encode(Frail(folder), "float32").eval()
    deadly = []
    for trial in range(trials):
        with inject(encoded, fault, "float32", seed=seed, trial=trial):
            if encoded.get_parameter("linear.weight")[0, 0] < 0:
                deadly.append(trial)
    assert deadly
    return deadly
