"""A model that ends the worker processes that run it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proact.faults import encode, inject
from proact.faults.kinds import Fault


class Frail(nn.Module):
    """A linear model that ends workers, but never the process that made it.

    Args:
        folder: where it counts its deaths.
        habit: ``"start"``: dies while the job is read. ``"between"``: dies when its trial runner is
            made. ``"deadly"``: dies of a flip in the sign of its first weight. ``"exit"``: calls
            sys.exit.
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.update(state)
        self.die("start")

    def named_parameters(self, *args: Any, **options: Any) -> Any:
        self.die("between")
        return super().named_parameters(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
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
