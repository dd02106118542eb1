"""Injection: faults go in, the block runs, every byte comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from proact.faults.activations import ActivationFaults, ActivationFlip, layers_of
from proact.faults.active import Active, begin, end, going_on
from proact.faults.encodings import Encoding, encoding_named
from proact.faults.encodings.base import SIGNED
from proact.faults.guard import no_training
from proact.faults.kinds import Fault, StoredFault
from proact.faults.prepared import Prepared, known, remember
from proact.faults.record import Flipped, Record
from proact.faults.replay import Replay
from proact.faults.stored import StoredTensor
from proact.faults.target import Target
from proact.ops.plan import SEEDS, TRIALS, checked_integer


class Injector:
    """A network prepared for many trials.

    Args:
        model: a network whose parameters already are in the encoding (see `encode`).
        encoding: the stored form of its parameters.

    Raises:
        ValueError, TypeError: no parameters, or one that the encoding has not rounded.
    """

    def __init__(self, model: nn.Module, encoding: str | Encoding = "float32") -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"faults go into a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.encoding = encoding_named(encoding)
        self._ready()

    def _ready(self) -> Prepared:
        """What is prepared for the numbers that the network has now."""
        prepared = _ready_made(self.model, self.encoding)
        if prepared is None:
            prepared = Prepared(self.model, self.encoding)
            for stored, rounded in prepared.unrounded():
                raise ValueError(
                    f"{stored.name} is not rounded to {self.encoding.name} yet (off by up to "
                    f"{(stored.tensor - rounded).abs().max():.3g}): encode the model first"
                )
            remember(self.model, prepared)
        return prepared

    def exposed_bits(self, fault: Fault) -> int:
        """How many stored bits ``fault`` can hit (a list: those of the tensors that it names).

        Raises what `FaultSpace` does, and ValueError for a fault that does not fit the network.
        """
        return sum(target.bits for target in _targets(self._ready(), fault))

    def expected_ber(self, fault: Fault) -> float:
        """The share of its exposed bits that ``fault`` hits on average (`StuckAt`: stuck bits).

        Raises what `exposed_bits` does.
        """
        if isinstance(fault, ActivationFlip):
            layers_of(self.model, fault)
        return fault.expected_ber([t.bits for t in _targets(self._ready(), fault)])

    @contextmanager
    def trial(
        self,
        fault: Fault | Sequence[Fault],
        seed: int = 0,
        trial: int = 0,
        *,
        allow_training: bool = False,
        log_activations: bool = False,
    ) -> Iterator[Record]:
        """`inject`, for a prepared network."""
        faults, seed, trial = checked_pattern(fault, seed, trial)
        job = _Job(self.model, faults, seed, trial, allow_training, log_activations)
        with job.run(self._ready()) as record:
            yield record


@contextmanager
def inject(
    model: nn.Module,
    fault: Fault | Sequence[Fault],
    encoding: str | Encoding = "float32",
    seed: int = 0,
    trial: int = 0,
    *,
    allow_training: bool = False,
    log_activations: bool = False,
) -> Iterator[Record]:
    """Faults ``model`` inside the block and restores every flipped word on the way out.

    Whatever ends the block, exceptions and Ctrl-C included, and whatever the network wrote over a
    faulted word. What else the block changes (batch statistics) is its own and stays.

    With an encoding that rounds, the whole network is rounded to it on entry and, where nothing
    else changed it, un-rounded on exit, unless it is in the encoding already: `encode` does that
    once for many trials. An encoded network that was written to past torch's version counters
    (through ``.data`` or numpy) since then is not looked at again.

    Args:
        model: a network. The same object is faulted in place: no copy.
        fault: what happens, and where; several faults happen one after the other, with the same
            seed and trial.
        encoding: the stored form of the parameters: ``"float32"``, ``"int8"``, ``"q15.16"``, ...
        seed: names the experiment; in [0, 2^63).
        trial: names the fault pattern; in [0, 2^32). The same (seed, trial) faults a tensor of the
            same name and shape alike in every network.
        allow_training: lets optimisers step inside the block. Flipped words lose what a step made
            of them; all others keep it.
        log_activations: `Record.faults` lists flips in activations too, at the price of memory.

    Yields:
        A `Record` with the realised flips.

    Raises:
        ValueError, TypeError: a parameter that the encoding cannot store, an argument out of range,
            a fault that does not fit the network; nothing is changed. ProactError: parameters were
            moved or converted inside the block, or an optimiser was about to train faulted ones.
    """
    encoding = encoding_named(encoding)
    faults, seed, trial = checked_pattern(fault, seed, trial)
    if not isinstance(model, nn.Module):
        raise TypeError(f"faults go into a torch.nn.Module, got {type(model).__name__}")
    job = _Job(model, faults, seed, trial, allow_training, log_activations)
    prepared = _ready_made(model, encoding)
    if prepared is None:
        prepared = Prepared(model, encoding)
        job.check(prepared)  # before anything is rounded
        if prepared.is_exact:
            remember(model, prepared)
        else:
            prepared = job.round_to(prepared)
    with job.run(prepared) as record:
        yield record


def _ready_made(model: nn.Module, encoding: Encoding) -> Prepared | None:
    return going_on(model, encoding) or known(model, encoding)


class _Job:
    """One injection from its beginning to its end."""

    def __init__(
        self,
        model: nn.Module,
        faults: tuple[Fault, ...],
        seed: int,
        trial: int,
        allow_training: bool,
        log_activations: bool,
    ) -> None:
        self._model, self._faults, self._seed, self._trial = model, faults, seed, trial
        self._allow_training, self._log_activations = allow_training, log_activations
        self._active: Active | None = None
        self._changed: list[StoredTensor] = []

    def check(self, prepared: Prepared) -> None:
        """Raises where a fault does not fit the network."""
        for fault in self._faults:
            _targets(prepared, fault)
            if isinstance(fault, ActivationFlip):
                layers_of(self._model, fault)

    def round_to(self, prepared: Prepared) -> Prepared:
        """Puts the network into the encoding for the time of the injection."""
        self._active = active = begin(self._model)
        try:
            for stored, rounded in prepared.unrounded():
                self._changed.append(stored)
                active.undos.append(_unrounding(stored.tensor, rounded))
                stored.tensor.copy_(rounded)
        except BaseException:
            end(self._model, active)
            raise
        return Prepared(self._model, prepared.encoding)

    @contextmanager
    def run(self, prepared: Prepared) -> Iterator[Record]:
        active = self._active = self._active or begin(self._model)
        active.prepared = prepared
        try:
            record = Record(prepared.encoding.name)
            active.undos.append(record.restore)
            with ExitStack() as stack:
                self._attach(stack, prepared, record)
                stack.enter_context(self._flipped(prepared, record, active))
                yield record
        finally:
            end(self._model, active)  # where something went wrong before the flips

    def _attach(self, stack: ExitStack, prepared: Prepared, record: Record) -> None:
        self.check(prepared)
        record.exposed_bits = sum(
            target.bits for fault in self._faults for target in _targets(prepared, fault)
        )
        if not self._allow_training:
            stack.enter_context(no_training(prepared))
        for fault in self._faults:
            if isinstance(fault, ActivationFlip):
                pattern = ActivationFaults(
                    fault, record, self._seed, self._trial, self._log_activations
                )
                stack.callback(pattern.end)
                for name, module in layers_of(self._model, fault).items():
                    stack.callback(pattern.attach(name, module).remove)

    @contextmanager
    def _flipped(self, prepared: Prepared, record: Record, active: Active) -> Iterator[None]:
        hit: list[Target] = []
        is_undone = False
        try:
            for fault in self._faults:
                if not isinstance(fault, (StoredFault, Replay)):
                    continue
                for target, unmade in prepared.flips(fault, self._seed, self._trial):
                    hit.append(target)
                    self._changed.extend(exposed.stored for exposed in target.exposed)
                    record.add(Flipped(target.exposed, unmade.flips))
                    _mark_changed([target])
                    unmade.make()
            yield
        except BaseException as error:
            is_undone = end(self._model, active)
            prepared.refuse_moved(self._model, self._changed, error)
            raise
        else:
            is_undone = end(self._model, active)
            prepared.refuse_moved(self._model, self._changed)
        finally:
            _mark_changed(hit)
            if is_undone:
                prepared.changed_back(hit, marks=2)


def _unrounding(tensor: Tensor, rounded: Tensor) -> Callable[[], object]:
    """Writes the original numbers back where nobody changed the rounded ones."""
    original, as_integers = tensor.clone(), SIGNED[tensor.element_size()]

    def undo() -> None:
        is_rounded = tensor.view(as_integers) == rounded.view(as_integers)
        tensor.copy_(torch.where(is_rounded, original, tensor))

    return undo


def _targets(prepared: Prepared, fault: Fault) -> tuple[Target, ...]:
    """The stored tensors that ``fault`` hits; raises where it does not fit the network."""
    if isinstance(fault, StoredFault):
        return prepared.targets(fault)
    return (prepared.replay_target(fault),) if isinstance(fault, Replay) else ()


def checked_pattern(
    fault: Fault | Sequence[Fault], seed: int, trial: int
) -> tuple[tuple[Fault, ...], int, int]:
    """Faults as a tuple, and both numbers checked."""
    faults = tuple(fault) if isinstance(fault, Sequence) else (fault,)
    for each in faults:
        if not isinstance(each, Fault):
            raise TypeError(
                "a fault is of proact.faults' kinds, such as BitFlip(1e-5), got "
                f"{type(each).__name__}"
            )
    if not faults:
        raise ValueError("at least one fault is injected, got an empty sequence")
    return (
        faults,
        checked_integer("seed", seed, SEEDS),
        checked_integer("trial", trial, TRIALS),
    )


def _mark_changed(targets: Sequence[Target]) -> None:
    """Lets autograd notice that what it saved for backward has changed."""
    for target in targets:
        torch.autograd.graph.increment_version(target.versioned)
