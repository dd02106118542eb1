"""Hooks on layers that flip bits of activations, or note how large they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from proact.encodings import Bits, Encoding, Word, encoding_named
from proact.encodings.scaled_words import ScaledWord, StoredScale, scales_of
from proact.errors import ProactError
from proact.faults.activations import ActivationFlip, layers_of
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.record import Record
from proact.faults.selectors import Selector
from proact.faults.target_memory import Target, native_plan
from proact.nn.outputs import output_tensors
from proact.nn.site import without_fast_path
from proact.nn.tensor_inventory import StoredTensor, activation
from proact.ops.plain_memory import lack_of_memory
from proact.ops.seeds import stream_of
from proact.text import short_repr


class UnhitActivationError(ProactError):
    """A selected layer computes floats in which no bit can flip.

    It is an error of the campaign and not an effect of its faults, so it counts for no trial.
    """


class ActivationFaultHooks:
    """Forward hooks that flip activation bits during one trial."""

    def __init__(
        self, fault: ActivationFlip, record: Record, seed: int, trial: int, log: bool
    ) -> None:
        self._fault, self._record, self._log = fault, record, log
        self._seed, self._trial = seed, trial
        self._encoding: Encoding = encoding_named(fault.encoding)
        self._largest = dict(fault.largest or ())
        self._calls: Counter[str] = Counter()
        self._has_ended = False

    def attach(self, name: str, module: nn.Module) -> RemovableHandle:
        if self._fault.at == "input":

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return self._hit_all(name, (args, kwargs), in_place=False)

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(called: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
            return self._hit_all(name, out, _owns_output(called, args, kwargs, out))

        return module.register_forward_hook(after, with_kwargs=True)

    def end(self) -> None:
        """Stops the faults, also in copies of the model that were made with these hooks."""
        self._has_ended = True

    def _hit_all(self, layer: str, values: Any, in_place: bool) -> Any:
        if self._has_ended:
            return values
        call = self._calls[layer]
        self._calls[layer] += 1
        if isinstance(values, Tensor):
            return self._hit(layer, 0, call, values, in_place)
        leaves, tree = pytree.tree_flatten(values)
        hit: dict[int, Any] = {}  # a tensor that occurs twice is one activation
        for position, leaf in enumerate(leaves):
            if id(leaf) not in hit:
                hit[id(leaf)] = self._hit(layer, position, call, leaf, in_place)
        return pytree.tree_unflatten([hit[id(leaf)] for leaf in leaves], tree)

    def _hit(self, layer: str, position: int, call: int, value: Any, in_place: bool) -> Any:
        if not isinstance(value, Tensor):
            self._refuse_hidden(layer, value)
            return value
        if not _holds_floats(value):
            return value
        if value.is_complex():
            raise self._not_hit(layer, f"is a tensor of the dtype {value.dtype}")
        if value.is_neg():
            value, in_place = value.resolve_neg(), True
        if (lack := lack_of_memory(value)) is not None:
            raise self._not_hit(layer, f"is {lack.partition(':')[0]}")
        name = f"{layer}:{self._fault.at}[{position}]:{call}"
        is_expanded = 0 in value.stride()
        if not in_place or value.requires_grad or is_expanded:
            value = value.clone()
        memory = value.detach()
        dense = memory if memory.is_contiguous() else memory.contiguous()
        word = self._encoding.activation_word(name, dense, self._largest.get(layer))
        rounded = word.rounded(dense)
        if rounded is not dense:
            dense.copy_(rounded)
        self._flip(name, dense, word)
        if dense is not memory:
            memory.copy_(dense)
        return value

    def _refuse_hidden(self, layer: str, value: Any) -> None:
        """UnhitActivationError for an object that holds numbers in attributes or arrays."""
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return
        if any(map(_holds_floats, output_tensors(value))):
            raise self._not_hit(layer, f"holds an object of the type {type(value).__name__}")

    def _not_hit(self, layer: str, what: str) -> UnhitActivationError:
        return UnhitActivationError(
            f"the {self._fault.at} of the layer {short_repr(layer)} {what}, and bits flip "
            "only in plain tensors of floats, also in tuples, lists and dictionaries: leave the "
            f"layer out, as in where=Where(exclude={layer!r})"
        )

    def _flip(self, name: str, memory: Tensor, word: Word) -> None:
        exposed = _exposed(activation(name, memory), word, self._fault.bits)
        self._record.activation_bits += sum(each.bits for each in exposed)
        plan = None if self._log or len(exposed) > 1 else native_plan(exposed)
        if plan is not None:
            self._record.activation_flips += plan.flip_unlogged(
                self._fault.ber, self._seed, self._trial
            )
            return
        flips = Target(exposed).flips_at(self._fault.ber, self._seed, self._trial).applied()
        self._record.activation_flips += len(flips)
        if self._log:
            # The activation is freed after the next layer; the record keeps only its description.
            described = activation(name, memory.new_empty(0))
            gone = [replace(exposed[0], stored=described)]
            for each in exposed[1:]:
                assert isinstance(each.stored, StoredScale)
                gone.append(replace(each, stored=replace(each.stored, of=described)))
            self._record.log_activation(gone, flips.columns())


def _exposed(stored: StoredTensor, word: Word, bits: Bits) -> list[ExposedTensor]:
    """An activation with its exposed bits, and the scales of its blocks.

    The one scale of integers is a constant of the program and not stored with the activation.
    Scales that lack the named bits are left out.
    """
    exposed = [ExposedTensor(stored, word, word.mask(bits), stream_of(stored.name))]
    if not (isinstance(word, ScaledWord) and word.is_block):
        return exposed
    for scale in scales_of(stored, word):
        try:
            mask = scale.part.word.mask(bits)
        except ValueError:
            continue
        exposed.append(ExposedTensor(scale, scale.part.word, mask, stream_of(scale.name)))
    return exposed


def _owns_output(layer: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> bool:
    """Whether nothing else uses the memory of a layer's output, so that bits can flip in place."""
    # A user-defined layer may keep a reference to its output, in a cache for example.
    if not type(layer).__module__.startswith(("torch.nn.", "proact.nn.")):
        return False
    outputs = list({id(tensor): tensor for tensor in _tensors(out)}.values())
    memories = {_storage(tensor) for tensor in outputs}
    if len(memories) < len(outputs):
        return False
    read = {_storage(tensor) for tensor in _tensors((args, kwargs) if kwargs else args)}
    # A layer has no children, and torch's iterators cost more than a small layer.
    for members in (layer._parameters, layer._buffers):
        read.update(_storage(tensor) for tensor in members.values() if _is_strided(tensor))
    return memories.isdisjoint(read)


def observe_activations(
    model: nn.Module, images: Tensor, *, where: Selector = "*", at: str = "output"
) -> dict[str, float]:
    """The largest finite magnitude of each layer's activations in one forward pass.

    The result is meant as ``largest`` of an `ActivationFlip` with the same ``where`` and ``at``.

    Args:
        model: the model; called once, in its current mode, under ``torch.no_grad()``.
        images: the model's input, of shape (samples, ...).
        where, at: the layers, and which side of them is observed; as for `ActivationFlip`.

    Returns:
        Magnitudes, at least 0, by qualified layer name; 0 for a layer that did not run.

    Raises:
        ValueError, TypeError: as `ActivationFlip`, and if ``where`` matches no layer.
    """
    layers = layers_of(model, ActivationFlip(0.0, where=where, at=at))
    found = dict.fromkeys(layers, 0.0)

    def note(layer: str, values: Any) -> None:
        for value in _tensors(values):
            if value.is_floating_point() and value.numel():
                top = torch.nan_to_num(value.detach(), 0.0, 0.0, 0.0).abs().max().item()
                found[layer] = max(found[layer], top)

    def hook(layer: str, module: nn.Module) -> RemovableHandle:
        if at == "input":
            return module.register_forward_pre_hook(
                lambda _, args, kwargs: note(layer, (args, kwargs)), with_kwargs=True
            )
        return module.register_forward_hook(lambda _, args, out: note(layer, out))

    with ExitStack() as hooks:
        for layer, module in layers.items():
            hooks.callback(hook(layer, module).remove)
        hooks.enter_context(without_fast_path())
        with torch.no_grad():
            model(images)
    return found


def _holds_floats(tensor: Tensor) -> bool:
    """Whether a tensor has floats, or complex numbers, in memory."""
    return (
        (tensor.is_floating_point() or tensor.is_complex())
        and not (tensor.is_meta or isinstance(tensor, FakeTensor))  # only shapes are computed
        and tensor.numel() > 0
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_strided(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        if _is_strided(values):
            yield values
    elif isinstance(values, tuple):  # the usual case, faster than pytree
        for value in values:
            yield from _tensors(value)
    else:
        yield from filter(_is_strided, pytree.tree_leaves(values))
