"""Injection: faults go in, the block runs, every byte comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proact.errors import ProactError
from proact.faults.encodings import Encoding, encoding_named, stored_tensors
from proact.faults.kinds import BitFlip
from proact.faults.space import ExposedTensor, fault_space
from proact.ops.plan import SEEDS, TRIALS, FlipLog, FlipPlan, checked_integer


class Record:
    """What one trial did to the parameters."""

    def __init__(self, log: FlipLog, space: list[ExposedTensor], encoding: Encoding) -> None:
        self._log, self._space, self._encoding = log, space, encoding

    @property
    def flips(self) -> int:
        """The realised number of flipped bits."""
        return len(self._log)

    @property
    def ber(self) -> float:
        """The realised bit error rate: flips over exposed bits."""
        return self.flips / sum(tensor.bits for tensor in self._space)

    def faults(self) -> NDArray[np.void]:
        """One row a flipped bit, in the order in which they were made.

        Fields: ``tensor`` (qualified name), ``element`` (row-major index), ``bit`` (of the stored
        word, 0 the lowest), ``before`` and ``after`` (the values around this flip; a word with two
        flips has two rows, the second beginning where the first ended).
        """
        columns = self._log.columns()
        names = np.array([tensor.name for tensor in self._space])
        rows = np.empty(
            len(columns.bit),
            dtype=[
                ("tensor", names.dtype),
                ("element", "u8"),
                ("bit", "u1"),
                ("before", "f8"),
                ("after", "f8"),
            ],
        )
        rows["tensor"] = names[columns.tensor]
        rows["element"], rows["bit"] = columns.element, columns.bit
        before = np.empty(len(rows), np.uint64)
        for index in np.unique(columns.tensor):
            mine = columns.tensor == index
            width = self._space[index].tensor.element_size()
            before[mine] = self._encoding.words(columns.before[mine].astype(f"u{width}"))
        _chain_repeated(columns.tensor, columns.element, columns.bit, before)
        flipped = before ^ (np.uint64(1) << columns.bit.astype(np.uint64))
        rows["before"] = self._encoding.values(before)
        rows["after"] = self._encoding.values(flipped)
        return rows


def _chain_repeated(
    tensor: NDArray[np.uint32],
    element: NDArray[np.uint64],
    bit: NDArray[np.uint8],
    before: NDArray[np.uint64],
) -> None:
    """Lets a word's second flip start from the stored word that its first one left.

    The logged memory may be a float that the stored word was rounded to.
    """
    order = np.lexsort((np.arange(len(bit)), element, tensor))
    same = (np.diff(tensor[order].astype(np.int64)) == 0) & (
        element[order][1:] == element[order][:-1]
    )
    for i in np.flatnonzero(same):
        first, second = order[i], order[i + 1]
        before[second] = before[first] ^ (np.uint64(1) << np.uint64(bit[first]))


class Injector:
    """A network prepared for many trials.

    Args:
        model: a network on the CPU whose parameters already are in the encoding (see `encode`).
        encoding: the stored form of its parameters.

    Raises:
        ValueError, TypeError: no parameters, or one that the encoding cannot store or has not
            rounded.
    """

    def __init__(self, model: nn.Module, encoding: str | Encoding = "float32") -> None:
        self.model = model
        self.encoding = encoding_named(encoding)
        fault_space(model, self.encoding)
        for name, tensor in _unrounded(model, self.encoding):
            raise ValueError(
                f"{name} is not rounded to {self.encoding.name} yet "
                f"(off by up to {(tensor - self.encoding.rounded(tensor)).abs().max():.3g}): "
                "encode the model first"
            )
        self._plans: dict[tuple[str, str | int | None], tuple[FlipPlan, list[ExposedTensor]]] = {}

    @contextmanager
    def trial(self, fault: BitFlip, seed: int = 0, trial: int = 0) -> Iterator[Record]:
        """`inject`, for a prepared network."""
        seed, trial = _checked_pattern(fault, seed, trial)
        plan, space = self.prepare(fault)
        log = FlipLog(plan)
        try:
            plan.flip_into(log, fault.ber, seed, trial)
            _mark_changed(space)
            yield Record(log, space, self.encoding)
        except BaseException as error:
            log.restore()
            self._refuse_moved(space, error)
            raise
        else:
            log.restore()
            self._refuse_moved(space)
        finally:
            _mark_changed(space)

    def prepare(self, fault: BitFlip) -> tuple[FlipPlan, list[ExposedTensor]]:
        """The tensors that ``fault`` exposes and the plan over them, made once; raises what
        `fault_space` does."""
        if fault.selection not in self._plans:
            space = fault_space(self.model, self.encoding, fault.where, fault.bits)
            plan = FlipPlan()
            for exposed in space:
                plan.add(exposed.tensor, exposed.stream, exposed.mask, self.encoding.fixed)
            self._plans[fault.selection] = plan, space
        return self._plans[fault.selection]

    def _refuse_moved(self, space: list[ExposedTensor], cause: BaseException | None = None) -> None:
        now = {name: tensor.data_ptr() for name, tensor in stored_tensors(self.model)}
        for exposed in space:
            if now.get(exposed.name) != exposed.tensor.data_ptr():
                raise ProactError(
                    f"{exposed.name} was moved or replaced while faults were injected; only the "
                    "memory it had before has been restored"
                ) from cause


@contextmanager
def inject(
    model: nn.Module,
    fault: BitFlip,
    encoding: str | Encoding = "float32",
    seed: int = 0,
    trial: int = 0,
) -> Iterator[Record]:
    """Faults ``model`` inside the block and restores every flipped word on the way out.

    Whatever ends the block, exceptions and Ctrl-C included, and whatever the network wrote over a
    faulted word. What else the block changes (training, batch statistics) is its own.

    With an encoding that rounds, the whole network is rounded to it on entry and un-rounded on
    exit; `encode` and `Injector` do that once for many trials.

    Args:
        model: a network on the CPU. The same object is faulted in place: no copy.
        fault: what flips, and where.
        encoding: the stored form of the parameters: ``"float32"``, ``"q15.16"``, ...
        seed: names the experiment; in [0, 2^63).
        trial: names the fault pattern; in [0, 2^32). The same (seed, trial) faults a tensor of the
            same name and shape alike in every network.

    Yields:
        A `Record` with the realised flips.

    Raises:
        ValueError, TypeError: a parameter that the encoding cannot store, an argument out of range;
            nothing is changed. ProactError: parameters moved inside the block.
    """
    encoding = encoding_named(encoding)
    seed, trial = _checked_pattern(fault, seed, trial)
    fault_space(model, encoding, *fault.selection)
    originals = [(tensor, tensor.detach().clone()) for _, tensor in _unrounded(model, encoding)]
    try:
        with torch.no_grad():
            for tensor, original in originals:
                tensor.copy_(encoding.rounded(original))
        with Injector(model, encoding).trial(fault, seed, trial) as record:
            yield record
    finally:
        with torch.no_grad():
            for tensor, original in originals:
                tensor.copy_(original)


def _unrounded(model: nn.Module, encoding: Encoding) -> Iterator[tuple[str, Tensor]]:
    """The tensors that storing would change, by a bit or more."""
    for name, tensor in stored_tensors(model):
        rounded = encoding.rounded(tensor.detach())
        if rounded.data_ptr() != tensor.data_ptr() and not _same_bits(rounded, tensor):
            yield name, tensor


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))


def _checked_pattern(fault: BitFlip, seed: int, trial: int) -> tuple[int, int]:
    if not isinstance(fault, BitFlip):
        raise TypeError(f"fault is a proact.faults.BitFlip, got {type(fault).__name__}")
    return checked_integer("seed", seed, SEEDS), checked_integer("trial", trial, TRIALS)


def _mark_changed(space: list[ExposedTensor]) -> None:
    """Lets autograd notice that what it saved for backward has changed."""
    torch.autograd.graph.increment_version(
        [exposed.tensor for exposed in space if not exposed.tensor.is_inference()]
    )
