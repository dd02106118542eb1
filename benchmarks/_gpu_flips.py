"""Inject + restore in the memory of a GPU.

`inject` is compared with two things that one can do without it. The first is to fault a copy of the
model in host memory and to copy its parameters to the GPU, for the faults and again to undo them.
The second, without drawing, is to flip a list of bits that lies on the GPU by `torch.bitwise_xor`,
and to flip it back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from _flip_kernels import Case, ParameterMemory
from _model_shapes import MODELS
from _timing import Call, Goal, Ratio, Row, Times, compare, interleave, is_noisy
from torch import Tensor, nn

from proact.faults import BitFlip, inject
from proact.ops.plan import FlipLog

OURS, BY_COPIES, XOR_LIST = "inject() on the GPU", "inject() on the CPU and copies", "XOR of a list"
LARGE = ("VGG-16", "ResNet-50")
FASTER = Goal(f"{OURS} >= 10x faster than {BY_COPIES}", 10.0, at_most=False)
LATENCY = Goal(f"{OURS} takes at most 50 microseconds, BER 1e-6 or lower", 50.0, at_most=True)
GOALS = (FASTER, LATENCY)


def measure(
    wanted: list[Case], repeats: int, seed: int, budget_seconds: float, device: str = "cuda"
) -> Iterator[list[Row]]:
    """Yields the rows of each case; cases of a model are neighbours."""
    name = ""
    for case in wanted:
        if case.model != name:
            name = case.model
            memory = ParameterMemory(MODELS[name](), seed)
            on_host = memory.model()
            on_device = copy.deepcopy(on_host).to(device)
        contenders = {
            OURS: _injecting(on_device, case.ber, seed),
            BY_COPIES: _copying(on_host, on_device, case.ber, seed),
            XOR_LIST: XorOnDevice(memory, on_device, case.ber, seed).flip_and_flip_back,
        }
        times = interleave(contenders, repeats, seed, budget_seconds, device=device)
        yield _rows(case, times, case.ber * memory.bits)


def _injecting(model: nn.Module, ber: float, seed: int) -> Call:
    trials = count()

    def run() -> None:
        with inject(model, BitFlip(ber), seed=seed, trial=next(trials)):
            pass

    return run


def _copying(on_host: nn.Module, on_device: nn.Module, ber: float, seed: int) -> Call:
    trials = count()
    pairs = list(zip(on_device.parameters(), on_host.parameters(), strict=True))

    def copy_all() -> None:
        with torch.no_grad():
            for theirs, mine in pairs:
                theirs.copy_(mine, non_blocking=True)

    def run() -> None:
        with inject(on_host, BitFlip(ber), seed=seed, trial=next(trials)):
            copy_all()
        copy_all()

    return run


class XorOnDevice:
    """The flips of one trial as lists of words and masks on the device, for each tensor."""

    def __init__(self, memory: ParameterMemory, model: nn.Module, ber: float, seed: int) -> None:
        log: FlipLog = memory.plan().flip(ber, seed, 0)
        flips = log.columns()
        log.restore()
        self._lists: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, parameter in enumerate(model.parameters()):
            mine = flips.tensor == number
            word, place = np.unique(flips.element[mine].astype(np.int64), return_inverse=True)
            if not len(word):
                continue
            mask = np.zeros(len(word), np.uint32)
            np.bitwise_xor.at(mask, place, np.uint32(1) << flips.bit[mine].astype(np.uint32))
            self._lists.append(
                (
                    parameter.detach().view(-1).view(torch.int32),
                    torch.from_numpy(word).to(parameter.device),
                    torch.from_numpy(mask.view(np.int32)).to(parameter.device),
                )
            )

    def flip(self) -> None:
        for words, at, masks in self._lists:
            words[at] = torch.bitwise_xor(words[at], masks)

    def flip_and_flip_back(self) -> None:
        self.flip()
        self.flip()


def _rows(case: Case, times: Times, flips: float) -> list[Row]:
    def row(question: str, ratio: Ratio, goal: Goal | None, against: str) -> Row:
        labels: dict[str, str | int | float] = {
            "part": "flips",
            "against": against,
            "model": case.model,
            "ber": case.ber,
        }
        ours = float(np.median(times[OURS]))
        return Row(question, str(case), "flip", 1e9 * ours / flips, ratio, goal, labels=labels)

    microseconds = 1e6 * times[OURS]
    low, middle, high = np.quantile(microseconds, (0.25, 0.5, 0.75)).tolist()
    latency = Ratio(middle, low, high, is_noisy(times[OURS]))
    is_large = case.model in LARGE
    than_copies, than_list = (
        compare(times, OURS, other, faster=True) for other in (BY_COPIES, XOR_LIST)
    )
    return [
        row(f"faster than {BY_COPIES}", than_copies, FASTER if is_large else None, BY_COPIES),
        row(f"faster than {XOR_LIST}", than_list, None, XOR_LIST),
        row("microseconds", latency, LATENCY if case.ber <= 1e-6 else None, "microseconds"),
    ]
