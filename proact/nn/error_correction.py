"""A guard on stored words: check bits in their lowest bits, and a scrub before each forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from proact.errors import ProactError
from proact.nn.background import BackgroundCalls, WeakOwner
from proact.nn.coded_words import bound_side, write_check_bits
from proact.nn.replacements import replacement_for
from proact.nn.scrub_state import ScrubCounts, Scrubs
from proact.nn.stored_guard import LOCK, StoredGuard
from proact.nn.tensor_inventory import stored_tensors
from proact.nn.watched_buffers import WatchedBuffers
from proact.nn.weight_range import WeightRange
from proact.ops.in_place_code import TensorCode, encode_words_
from proact.ops.scrub_plan import Scrubbed, ScrubPlan
from proact.ops.sweep_counts import SweepTotals
from proact.text import short_repr

Bounds = tuple[Tensor, Tensor]

_BUFFER = "replacements"
_REPLACEMENTS = f"error_correction.{_BUFFER}"


class ErrorCorrection(StoredGuard):
    """Check bits in the lowest bits of a model's own words, and a scrub that corrects errors.

    The guard is a submodule of the model, named ``error_correction``. Creating it writes check bits
    into the tensors: their dtypes and their memory stay, floats are truncated to the other bits,
    and a reader takes the check bits as part of the number. Without the guard, the model is a plain
    PyTorch model.

    A scrub corrects every codeword that the code can correct. Numbers of a codeword whose error is
    only detected become the value nearest to 0 in the range that the tensor's values had when they
    were coded: 0, unless all of them had one sign. A bound or a threshold becomes the loosest one
    of its tensor, because one of 0 would replace every number that it bounds; a running variance
    becomes the largest one, and another number of a normalisation the median. Integers become 0. A
    code that masks clears bits instead.

    Scrubs are permanent. While faults are injected, what the guard writes is logged and undone when
    the injection ends. The guard needs the hooks of the model, as `WeightRange` does, and raises
    the same errors.

    Args:
        model: the model to guard; its tensors are coded in place.
        label: the codes as text, which becomes the attribute ``code``.
        codes: the code of each guarded tensor by its name, as `proact.encodings.codes.words_code`
            makes it.
        replacement_codes: the code of ``replacements`` by the size of their words in bytes.
        every: a scrub precedes every n-th forward, the first included; 0 for `scrub` calls only.
        interval: the seconds between scrubs by a background thread; None for no thread. The thread
            ends with the model. Copies and pickles of the model have a thread of their own from
            their first forward on.

    Attributes:
        replacements: (tensors whose replacement is not 0,), a buffer of coded numbers that is not
            part of the state_dict; absent if no tensor needs one.

    Raises:
        ValueError: no tensors, a tensor with NaN or infinity, or another ``every`` or ``interval``.
    """

    own_name = "error_correction"
    method = "ecc"
    trained_reason = "a step of an optimizer does not write check bits"
    removal = "proact.nn.without_error_correction(model)"

    replacements: Tensor

    def __init__(
        self,
        model: nn.Module,
        label: str,
        codes: Mapping[str, TensorCode],
        replacement_codes: Mapping[int, TensorCode],
        every: int = 1,
        interval: float | None = None,
    ) -> None:
        super().__init__()
        self.every, self.interval = checked_schedule(every, interval)
        if not codes:
            raise ValueError(
                f"ecc needs at least one tensor whose words the code {label} fits, got none"
            )
        self.code = label
        self.names = tuple(codes)
        # Private, because public attributes are part of a model's identity.
        self._codes = dict(codes)
        self._replacement_codes = dict(replacement_codes)
        tensors = self.tensors(model)
        for name, tensor in zip(self.names, tensors, strict=True):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} holds NaN or infinity, whose check bits would change it, and ecc "
                    "needs finite values"
                )
        self._dtypes = {name: t.dtype for name, t in zip(self.names, tensors, strict=True)}
        stored = {each.name: each for each in stored_tensors(model)}
        self._buffer_names = [
            n for n in self.names if stored[n].is_buffer and stored[n].kind != "bound"
        ]
        #: The tensors whose replacement is not 0, in the order of the buffer.
        self._replaced: tuple[str, ...] = ()
        self._forwards = 0
        self._totals = SweepTotals((0, 0))
        self._last: ScrubCounts = []
        self._watch = WatchedBuffers()
        self._scrubs = Scrubs()
        self._owner = WeakOwner()
        self._background = BackgroundCalls()
        write_check_bits(model, dict(zip(self.names, tensors, strict=True)), self._codes, label)
        self.measure(model)

    @property
    def corrected(self) -> int:
        """The count of codewords whose error was corrected, summed over all scrubs so far.

        Reading this and the other counts waits until a GPU has made the scrubs.
        """
        return self._totals.read()[0]

    @property
    def detected(self) -> int:
        """The count of codewords whose error was only detected, summed over all scrubs so far."""
        return self._totals.read()[1]

    @property
    def last_scrub(self) -> dict[str, Scrubbed]:
        """The numbers of corrected and of detected codewords in the last scrub, by the names of the
        tensors that had any."""
        return {
            name: found
            for names, counts in self._last
            for name, found in zip(names, counts.read(), strict=True)
            if any(found)
        }

    def measure(self, model: nn.Module) -> None:
        """Sets the replacements by the current values of ``model``, which are codewords."""
        coded = set(self.names)
        values = {
            stored.name: value
            for stored in stored_tensors(model)
            if stored.name in coded and stored.tensor.is_floating_point()
            if (value := replacement_for(stored))
        }
        self._replaced = tuple(values)
        self._buffers.pop(_BUFFER, None)
        self._non_persistent_buffers_set.discard(_BUFFER)
        if not values:
            return
        dtype = reduce(torch.promote_types, (self._dtypes[name] for name in values))
        numbers = torch.tensor(list(values.values()), dtype=dtype)
        self._codes[_REPLACEMENTS] = self._replacement_codes[numbers.element_size()]
        encode_words_(numbers, self.code_of(_REPLACEMENTS))
        device = self._tensor(model, self._replaced[0]).device
        self.register_buffer(_BUFFER, numbers.to(device), persistent=False)

    def scrub(self) -> None:
        """Scrubs the model now; `last_scrub` then holds the counts.

        Raises:
            ProactError: the model is not known, because this guard is part of a copy that has not
                run yet, or memory of the model was converted or freed.
        """
        model = self._owner()
        if model is None or model._modules.get(self.own_name) is not self:
            raise ProactError(
                "this ecc guard is part of a copied or loaded model that has not run yet: call "
                "proact.nn.scrub(model)"
            )
        self.scrub_model(model)

    def scrub_model(self, model: nn.Module) -> None:
        """Scrubs ``model``, whose guard this is, now."""
        with LOCK:
            self._background.raise_error()
            self._scrub(model, self.coded(model))

    def start(self, model: nn.Module) -> None:
        """Notes the model, and starts the background thread if the guard has an interval."""
        self._owner.set(model)
        if self.interval is not None:
            self._background.ensure(model, self.interval, _scrub_in_background)

    def begin(self, model: nn.Module) -> None:
        with LOCK:
            self.refuse_training(model)
            tensors = self.coded(model)
            if not all(map(self.has_memory, tensors.values())):
                return  # the forward computes shapes only
            self._background.raise_error()
            self.start(model)
            self._scrubs.order()
            if self.every and self._forwards % self.every == 0:
                self._scrub(model, tensors)
            if torch.is_grad_enabled():
                self._scrubs.settle()  # versions must be right before autograd saves values
            self._forwards += 1
            buffers = {name: tensors[name] for name in self._buffer_names}
            self._watch = WatchedBuffers(buffers, self._totals_of_guards(model))

    def end(self) -> None:
        """ProactError if the forward wrote to a coded buffer, whose check bits are now wrong."""
        with LOCK:
            model = self._owner()
            written = None
            if model is not None and not self._scrubs.injections:
                written = self._watch.written(model, self._totals_of_guards(model))
            self._watch = WatchedBuffers()
            if written is not None:
                raise ProactError(
                    f"the forward pass writes to {written}, so that its check bits do not stay "
                    f"valid: let code= begin with {written!r}: 'none', as in "
                    f"code={{{written!r}: 'none', '*': 'bch2'}}"
                )

    def _totals_of_guards(self, model: nn.Module) -> list[SweepTotals]:
        guard = WeightRange.of(model)
        return [self._totals] if guard is None else [self._totals, guard.totals]

    def finish(self) -> None:
        """Ends the background thread."""
        self._background.stop()

    def begin_injection(self) -> tuple[Callable[[], None], Callable[[], None]]:
        with LOCK:
            scrubs = self._scrubs
            scrubs.injections += 1
            first = scrubs.logged

        def undo() -> None:
            with LOCK:
                scrubs.undo(first)

        def end() -> None:
            with LOCK:
                scrubs.injections -= 1
                scrubs.mark_undone()

        return undo, end

    def more_hooks(self, model: nn.Module) -> tuple[RemovableHandle, ...]:
        return (
            model.register_load_state_dict_pre_hook(_before_loading),
            model.register_load_state_dict_post_hook(_after_loading),
        )

    def forget(self, submodule: str) -> None:
        self.names = tuple(n for n in self.names if not n.startswith(f"{submodule}."))
        self._dtypes = {name: self._dtypes[name] for name in self.names}
        self._buffer_names = [name for name in self._buffer_names if name in self.names]

    def extra_repr(self) -> str:
        return (
            f"code={self.code!r}, tensors={len(self.names)}, every={self.every}, "
            f"interval={self.interval}"
        )

    def in_background(self, model: nn.Module) -> None:
        """A scrub by the background thread, which leaves models with injected faults alone."""
        with LOCK:
            if not self._scrubs.injections:
                self._scrub(model, self.coded(model))

    def check_words(self, state: Mapping[str, Any], prefix: str) -> None:
        """ValueError if tensors of a state_dict are no codewords."""
        for name in self.names:
            tensor = state.get(prefix + name)
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            words = tensor.detach().to("cpu", self._dtypes[name]).contiguous().clone()
            (found,) = ScrubPlan([words], [self.code_of(name)], [None], [name]).scrub().read()
            if found != (0, 0):
                raise ValueError(
                    f"{prefix}{name} in the state_dict has {sum(found):,} words or groups of words "
                    f"without valid check bits of {self.code}: load it into the unprotected model "
                    "and protect that again"
                )

    def _scrub(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        guard = WeightRange.of(model)
        if guard is not None and guard.has_repaired:
            return  # another forward runs, and will restore words; it began with a scrub
        self._last = self._scrubs.run(tensors, id(guard), lambda: self._plans(model, tensors))
        for _, counts in self._last:
            self._totals = self._totals.plus(counts)

    def _plans(
        self, model: nn.Module, tensors: Mapping[str, Tensor]
    ) -> list[tuple[list[str], ScrubPlan]]:
        """The plans of a scrub: replacements and bounds are scrubbed before they are read."""
        self.refuse_converted(tensors)
        bounds = self.bounds(model, tensors)
        stages: list[list[str]] = [[], [], []]
        for name in tensors:
            is_bound = bound_side(model, name) is not None
            stages[0 if name not in self.names else 1 if is_bound else 2].append(name)
        return [
            (
                names,
                ScrubPlan(
                    [tensors[name].detach() for name in names],
                    [self.code_of(name) for name in names],
                    [bounds.get(name) for name in names],
                    names,
                ),
            )
            for names in stages
            if names
        ]

    def coded(self, model: nn.Module) -> dict[str, Tensor]:
        """All coded tensors by name in ``model``, the replacements included."""
        tensors = dict(zip(self.names, self.tensors(model), strict=True))
        buffer = self._buffers.get(_BUFFER)
        if buffer is not None:
            tensors[_REPLACEMENTS] = buffer
        return tensors

    def code_of(self, name: str) -> TensorCode:
        """The code of the words of a coded tensor."""
        return self._codes[name]

    def bounds(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Bounds]:
        """The bounds of replacements by tensor, for all tensors whose replacement is not 0."""
        bounds: dict[str, Bounds] = {}
        if (guard := WeightRange.of(model)) is not None:
            bounds |= guard.by_tensor(guard.low, guard.high)
        buffer = self._buffers.get(_BUFFER)
        if buffer is not None:
            numbers = buffer.detach()
            bounds |= {name: (numbers[i], numbers[i]) for i, name in enumerate(self._replaced)}
        return {
            name: pair
            for name, pair in bounds.items()
            if name in tensors and pair[0].device == tensors[name].device
        }

    def refuse_converted(self, tensors: Mapping[str, Tensor]) -> None:
        """ProactError if a tensor has another dtype than when it was coded."""
        for name, dtype in self._dtypes.items():
            if (tensor := tensors[name]).dtype != dtype:
                raise ProactError(
                    f"{name} was converted to {tensor.dtype}, and its check bits were written into "
                    f"words of {dtype}: convert {self.removal}, and protect that again"
                )


def checked_schedule(every: int, interval: float | None) -> tuple[int, float | None]:
    """``every`` and ``interval``; ValueError for values out of range."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise ValueError(
            "every must be a number of forwards, or 0 for scrubs on demand only; got "
            f"{short_repr(every)}"
        )
    is_number = isinstance(interval, (int, float)) and not isinstance(interval, bool)
    if interval is not None and not (is_number and 0 < interval < math.inf):
        raise ValueError(f"interval must be None or seconds above 0, got {short_repr(interval)}")
    return every, interval


def _scrub_in_background(model: nn.Module) -> None:
    if (guard := ErrorCorrection.of(model)) is not None:
        guard.in_background(model)


def _before_loading(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    if (guard := ErrorCorrection.of(module)) is not None:
        guard.check_words(state, prefix)


def _after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    if (guard := ErrorCorrection.of(module)) is not None:
        guard.measure(module)
