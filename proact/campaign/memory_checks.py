"""Check that the memory which faults hit is the memory that a model computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from proact.campaign.module_outputs import described
from proact.campaign.output_comparison import equal_bits
from proact.campaign.read_memory import (
    WatchedMemory,
    memory_used,
    storages_by_name,
    storages_of,
    unregistered_tensors,
)
from proact.encodings.scaled_words import owner_of
from proact.faults import ActivationFlip, BitFlip, Fault, FaultSpace, Injector
from proact.faults.encode import selector_of
from proact.nn.batches import cloned
from proact.nn.model_kinds import is_compiled
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import StoredTensor
from proact.nn.written_state import Place, keep_written_state, restored, written_state
from proact.text import label

#: Expected flips of the faults of which one must change an output.
_FLIPS = (30.0, 2e3, 6e4, 2e6)
#: In place of the output of a forward pass that raised an error.
_RAISED = object()


class MemoryChecks:
    """The checks of one encoded model's memory.

    Args:
        name: of the variant, as messages show it.
        original: the model that was encoded.
        injector: of the encoded model, which is in eval mode.
        faults: of the campaign.
        run: a forward pass of the encoded model, with its output.

    Attributes:
        undecided: the checks that could not be made, as sentences.
    """

    def __init__(
        self,
        name: str,
        original: nn.Module,
        injector: Injector,
        faults: Sequence[Fault],
        run: Callable[[], Any],
    ) -> None:
        self._name, self._original, self._injector = name, original, injector
        self._faults, self._run, self._model = faults, run, injector.model
        self._selector = selector_of(faults)
        self.undecided: list[str] = []

    def refuse_idle_guards(self) -> None:
        """Refuse a model whose guards do not act, because ``forward=`` calls past them."""
        guarded = {
            name.rpartition(".")[0]: guard.method
            for name, guard in self._model.named_modules()
            if isinstance(guard, StoredGuard)
        }
        called: set[str] = set()
        hooks = [
            self._model.get_submodule(name).register_forward_pre_hook(
                lambda module, args, name=name: called.add(name)
            )
            for name in guarded
        ]
        try:
            if guarded:
                self._run()
        finally:
            for hook in hooks:
                hook.remove()
        for name, method in guarded.items():
            if name not in called:
                raise ValueError(
                    f"{self._name}: the forward pass does not call "
                    f"{described(self._model, name)}, so that its guard ({method}) does not act: "
                    "call it itself, not one of its methods or submodules, in forward="
                )

    def unread_and_unregistered(
        self, written: Sequence[Place]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The exposed tensors that a forward pass does not read, and the tensors that it reads and
        that are neither parameters nor buffers.

        Args:
            written: the state that the forward pass writes, which is not listed.

        Raises:
            ValueError: the forward pass reads memory of the original, writes to a parameter, or
                reads a copy of a parameter in place of the parameter.
        """
        watched = memory_used(self._model, self._run)
        self._refuse_reads_of_original(watched.read)
        self._refuse_written_parameters(watched)
        found = {
            place: tensor
            for place, tensor in unregistered_tensors(self._model, watched).items()
            if place not in written
        }
        unregistered = tuple(dict.fromkeys(map(path_of, found)))
        if self._selector is None:
            return (), unregistered
        space = FaultSpace(self._model, self._injector.encoding, self._selector)
        exposed = list(dict.fromkeys(owner_of(each.stored) for each in space))
        unread = [stored for stored in exposed if _is_unread(stored, watched.read)]
        if len(unread) < len(exposed):
            self._refuse_cached_parameters(unread, found)
            return tuple(stored.name for stored in unread), unregistered
        self.undecided.append(
            f"which parameters of {self._name} are read, because it does not compute with "
            "operators that can be watched"
        )
        return (), unregistered

    def written_under_faults(self) -> tuple[Place, ...]:
        """The state that a forward pass writes under faults alone, such as a latched error or the
        range of an observer. `preserved` puts it back from now on."""
        known = written_state(self._model)
        found = dict.fromkeys(known)
        for _, places in self._faulty_passes:
            found.update(dict.fromkeys(places))
        written = tuple(found)
        if len(written) > len(known):
            keep_written_state(self._model, written)
        return written[len(known) :]

    def refuse_harmless(self, clean: Any) -> None:
        """Refuse faults in parameters that change no output.

        Args:
            clean: the output of the forward pass without faults.
        """
        if self._selector is not None and not any(
            output is _RAISED or not equal_bits(clean, output) for output, _ in self._faulty_passes
        ):
            raise ValueError(
                f"no output of {self._name} depends on the parameters that faults hit"
                f"{self._suspect()}: faults in them would be measured as harmless"
            )

    def refuse_absent_activations(self) -> None:
        """Refuse faults in activations that a forward pass does not have."""
        for fault in self._faults:
            if not isinstance(fault, ActivationFlip):
                continue
            # Nothing flips, so an error is no effect of the faults: a layer cannot be hit.
            with self._injector.trial(replace(fault, ber=0.0)) as record:
                self._run()
            if record.activation_bits == 0:
                raise ValueError(
                    f"{self._name}: no activation that {fault} can hit occurs in a forward pass: "
                    "the layers that it selects are not called as modules"
                )

    @cached_property
    def _faulty_passes(self) -> list[tuple[Any, tuple[Place, ...]]]:
        """Of forward passes under faults: the output, or `_RAISED`, and the state that was written
        and put back."""
        if self._selector is None:
            return []
        passes = []
        bits = self._injector.exposed_bits(BitFlip(0.5, where=self._selector))
        for ber in dict.fromkeys(min(flips / bits, 0.5) for flips in _FLIPS):
            fault = BitFlip(ber, where=self._selector)
            with (
                self._injector.trial(fault, 0, 0) as record,
                restored(self._model) as before,
            ):
                try:
                    output = cloned(self._run())
                except Exception:  # the forward pass noticed the faults
                    output = _RAISED
                if record.flips:
                    passes.append((output, (*before.changed(), *before.added())))
        return passes

    def _refuse_reads_of_original(self, reads: dict[Any, str]) -> None:
        originals = storages_by_name(self._original)
        for storage in storages_by_name(self._model):
            originals.pop(storage, None)
        for storage, module in reads.items():
            if storage in originals:
                raise ValueError(
                    f"{self._name}: faults hit a copy of the model, and "
                    f"{described(self._model, module)} of the copy computes with "
                    f"{originals[storage]} of the original: refer to modules and tensors through "
                    "attributes of self, not through global variables or class attributes"
                )

    def _refuse_written_parameters(self, watched: WatchedMemory) -> None:
        for name, parameter in self._model.named_parameters():
            for storage in storages_of(parameter):
                if storage in watched.written:
                    module = described(self._model, watched.written[storage])
                    raise ValueError(
                        f"{self._name}: the forward pass of {module} writes to the parameter "
                        f"{label(name)}, so that faults in it could not be removed: let forward "
                        "passes leave parameters alone (max_norm=None in an nn.Embedding)"
                    )

    def _refuse_cached_parameters(
        self, unread: Sequence[StoredTensor], unregistered: Mapping[Place, Tensor]
    ) -> None:
        """Refuse a module that reads a copy of a parameter in place of the parameter."""
        for stored in unread:
            if stored.is_buffer:
                continue
            owner = stored.name.rpartition(".")[0]
            for place, tensor in unregistered.items():
                if place[0] == owner and tensor.numel() == stored.tensor.numel():
                    raise ValueError(
                        f"{self._name}: the forward pass reads {path_of(place)}, which is not "
                        f"registered, and not {label(stored.name)}: faults in a parameter with a "
                        "cached copy would be measured as harmless; compute the copy in each "
                        "forward pass, or clear it before the campaign"
                    )

    def _suspect(self) -> str:
        """The module that most likely computes with other memory, as part of a sentence."""
        for name, module in self._model.named_modules():
            place = described(self._model, name)
            if is_compiled(module):
                return f", because {place} is compiled and holds the values of its parameters"
            if "forward" in vars(module):
                return f", because the forward of {place} was replaced"
        return ""


def path_of(place: Place) -> str:
    """The qualified name of a buffer or attribute."""
    return ".".join(filter(None, place))


def _is_unread(stored: StoredTensor, reads: dict[Any, str]) -> bool:
    # The bounds of a guard are read by its native sweep.
    return stored.kind != "bound" and not any(
        storage in reads for storage in storages_of(stored.tensor)
    )
