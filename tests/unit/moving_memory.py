"""Run by test_moving_memory.py in a process of its own: a write to freed memory would end it.

Prints one line for each fault kind and each way to move memory inside an injection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.multiprocessing  # its pickling moves storages to shared memory
from torch import nn

from conftest import SignedMagnitude, bits_of, same_bits
from proact import ProactError
from proact.encodings import Encoding
from proact.faults import BitFlip, Burst, ExactFlips, Replay, StuckAt, inject
from proact.faults.fault import Fault

LOW = tuple(range(7))
KINDS: list[Fault] = [
    BitFlip(0.2, bits=LOW),
    ExactFlips(3000, bits=LOW),
    StuckAt(1, 0.3, bits=LOW),
    Burst(3, 0.2, bits=LOW),
    Replay((("0.weight", 3, 0), ("0.weight", 3, 5))),
]


def network() -> Any:
    torch.manual_seed(0)
    # Large enough that freed memory goes back to the system.
    return nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 3))


def free(model: Any) -> None:
    model[0].weight.untyped_storage().resize_(0)


def shrink(model: Any) -> None:
    model[0].weight.untyped_storage().resize_(64)


def freed_for_good(model: Any) -> None:
    free(model)
    model[0].weight = nn.Parameter(torch.zeros(600, 600))


MOVES: dict[str, Callable[[Any], object]] = {
    "share": lambda model: model.share_memory(),
    "pickled for a process": ForkingPickler.dumps,
    "half": lambda model: model.half(),
    "to": lambda model: model.to(torch.float64),
    "assign": lambda model: model.load_state_dict(network().state_dict(), assign=True),
    "data": lambda model: setattr(model[0].weight, "data", torch.zeros(600, 600)),
    "set": lambda model: model[0].weight.detach().set_(torch.zeros(600, 600)),
    "freed": free,
    "shrunk": shrink,
    "freed for good": freed_for_good,
}


def outcome(move: str, fault: Fault, encoding: str | Encoding) -> str:
    """What became of the model: "restored", or the error that names the tensor."""
    model = network()
    before = bits_of(model)
    memory = dict(model.state_dict())  # the tensors that it has before
    values = {name: tensor.clone() for name, tensor in memory.items()}
    flips = -1
    try:
        with inject(model, fault, encoding) as record:
            flips = record.flips
            MOVES[move](model)
    except RuntimeError as error:
        if "not resizable" not in str(error):  # torch does not resize memory that numpy has seen
            raise
    except ProactError as error:
        lost = move in ("freed", "shrunk", "freed for good")
        kept = [name for name in memory if not (lost and name == "0.weight")]
        assert all(torch.equal(memory[n], values[n]) for n in kept), "other words are lost"
        return str(error)
    finally:
        assert flips > 0
    return "restored" if same_bits(before, model) else "changed"


def main() -> None:
    encoding: str | Encoding = sys.argv[1]
    if encoding == "numpy":
        encoding = SignedMagnitude()
    for move in MOVES:
        for fault in KINDS:
            kind = type(fault).__name__
            print(f"{move}|{kind}|{outcome(move, fault, encoding)}", flush=True)


if __name__ == "__main__":
    main()
