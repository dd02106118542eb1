"""Whether several copies of a model can run in one pass and give the rows of single passes.

A row must be a function of its trial. So the output of a copy may depend neither on its place nor
on the other copies, to the last bit, and it must agree with the model's own output up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.measurement import Measurement
from proact.campaign.output_comparison import equal_bits, equal_up_to, tolerance_of
from proact.campaign.read_memory import memory_used, storages_of
from proact.campaign.stacked_model import StackedModel, members_of
from proact.nn.forward import Forward
from proact.nn.model_kinds import is_compiled
from proact.nn.stored_guard import StoredGuard
from proact.nn.written_state import written_state

#: The other copies of a check hold the model's numbers times this.
_OTHER = 0.75
#: The switch for operators without a batching rule belongs to the process.
_LOCK = threading.Lock()


def may_stack(model: nn.Module, measurement: Measurement, names: Collection[str]) -> bool:
    """Whether copies of a model's tensors ``names`` may run in one pass, by what the model is.

    Guards repair the model's own memory, and state that a pass writes belongs to one trial.
    """
    members = members_of(model)
    modules = list(model.modules())
    return (
        bool(names)
        and measurement.forward == Forward()
        and measurement.state == "restore"
        and isinstance(measurement.data.inputs, Tensor)
        and measurement.data.batch_sizes is None
        and not model.training
        and not written_state(model)
        and not any(isinstance(m, (StoredGuard, torch.jit.ScriptModule)) for m in modules)
        and not any(map(is_compiled, modules))
        and all(name in members and _is_plain(members[name]) for name in names)
        and _are_apart(model, names)
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
    )


def _are_apart(model: nn.Module, names: Collection[str]) -> bool:
    """Whether none of the tensors shares its storage with another tensor of the model."""
    owners: dict[object, set[int]] = {}
    for members in (model.named_parameters, model.named_buffers):
        for _, tensor in members(remove_duplicate=False):
            for storage in storages_of(tensor):
                owners.setdefault(storage, set()).add(id(tensor))
    tensors = members_of(model)
    return all(len(owners.get(s, ())) == 1 for name in names for s in storages_of(tensors[name]))


def agrees(
    stacked: StackedModel,
    model: nn.Module,
    measurement: Measurement,
    batches: Sequence[Tensor],
    is_shared: bool,
) -> bool:
    """Whether passes of a stacked model give the outputs of single passes.

    A model that raises an error in a pass of several copies does not agree, and neither does one
    with an operator that torch can only run copy by copy.

    Args:
        stacked: the copies of ``model``, without faults before and after the call.
        model: without faults.
        measurement: selects outputs.
        batches: inputs of each shape that the trials have.
        is_shared: whether all trials have the same inputs.
    """
    try:
        with torch.inference_mode(), _without_loops():
            return _computes_with(stacked, model, batches[0]) and all(
                _is_alike(stacked, model, measurement, batch, is_shared) for batch in batches
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        return False  # a model that is not made for it may raise anything
    finally:
        stacked.clear()


def _computes_with(stacked: StackedModel, model: nn.Module, batch: Tensor) -> bool:
    """Whether the model reads tensors that it is given, and not its own in their place."""
    given = stacked.values()
    read = memory_used(model, lambda: stacked.output_with(given, batch.clone())).read
    members = members_of(model)
    return not any(s in read for name in stacked.names for s in storages_of(members[name]))


def _is_alike(
    stacked: StackedModel,
    model: nn.Module,
    measurement: Measurement,
    batch: Tensor,
    is_shared: bool,
) -> bool:
    copies = range(stacked.copies)

    def outputs() -> Tensor:
        given = batch if is_shared else batch.expand(len(copies), *batch.shape)
        return stacked.outputs(given.clone(memory_format=torch.contiguous_format), is_shared)

    others = {
        name: value * _OTHER if value.is_floating_point() else value
        for name, value in stacked.values().items()
    }
    clean, changed = measurement.output(model, batch), stacked.output_with(others, batch.clone())
    if not (isinstance(clean, Tensor) and isinstance(changed, Tensor)):
        return False
    tolerance = tolerance_of([clean, *members_of(model).values()])
    found = outputs()
    first = {False: found[0]}
    if not (
        equal_up_to(tolerance, clean, found[0])
        and all(equal_bits(found[0], found[copy]) for copy in copies)
    ):
        return False
    for turn in (0, 1):
        for copy in copies[turn::2]:
            stacked.set(copy, others)
        found = outputs()
        stacked.clear()
        first.setdefault(True, found[turn])
        if not all(equal_bits(first[copy % 2 == turn], found[copy]) for copy in copies):
            return False
    return equal_up_to(tolerance, changed, first[True])


@contextmanager
def _without_loops() -> Iterator[None]:
    """Let vmap raise an error for an operator that it can only run copy by copy."""
    functions: Any = torch._C._functorch
    with _LOCK:
        before = functions._is_vmap_fallback_enabled()
        functions._set_vmap_fallback_enabled(False)
        try:
            yield
        finally:
            functions._set_vmap_fallback_enabled(before)
