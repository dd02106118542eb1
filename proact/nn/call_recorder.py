"""Record the activation calls of one forward pass."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.activations import (
    Activation,
    FunctionModule,
    activation_of_call,
    activation_of_module,
    kinds_of_values,
    name_of,
    telling_inputs,
)
from proact.nn.batches import Batch, cloned
from proact.nn.call_binding import described_call
from proact.nn.forward import Forward
from proact.nn.hyrelu import ClippedActivation
from proact.nn.site import eval_mode, without_fast_path
from proact.nn.skipping import Skip
from proact.text import short_repr


@dataclass(eq=False)
class ActivationCall:
    """A call of an activation module, or of a function if ``module`` is None.

    Attributes:
        caller: the module whose forward makes the call.
        module: the activation module.
        shape, dtype: of one sample of the activations.
        activation: the function.
        function: the model's own module or function, if it is not torch's.
        attribute: the plain attribute of the caller that holds the called function.
        is_batch: false for clamped indices and scalars.
        is_skipped: whether the user leaves it alone.
        is_site: whether it is a site; false for other kinds too.
    """

    caller: nn.Module | None
    module: nn.Module | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    activation: Activation
    function: nn.Module | None = None
    attribute: str | None = None
    is_batch: bool = True
    is_skipped: bool = False
    is_site: bool = True

    @property
    def place(self) -> nn.Module:
        """The activation module, or the caller of the function."""
        place = self.module or self.caller
        assert place is not None
        return place


@dataclass
class Recording:
    """The activation calls of one forward pass.

    Attributes:
        calls: in execution order.
        runs: how often each module ran.
        arguments: two descriptions of the last call of each module (`described_call`), without and
            with bound numbers.
    """

    calls: list[ActivationCall] = field(default_factory=list)
    runs: Counter[nn.Module] = field(default_factory=Counter)
    arguments: dict[nn.Module, tuple[str, str]] = field(default_factory=dict)


def record_calls(
    model: nn.Module, example: Batch, kinds: Collection[str], forward: Forward, skip: Skip
) -> Recording:
    """Run ``model`` on ``example`` in eval mode and record its activation calls.

    Args:
        model: left as it was.
        example: a batch.
        kinds: the kinds that are sites.
        forward: runs the model.
        skip: the modules that are left alone.

    Raises:
        ValueError: activations of a site that are not finite.
    """
    recorder = _Recorder(model, kinds, skip)
    with eval_mode(model), without_fast_path(), torch.no_grad(), ExitStack() as undo:
        recorder.watch(undo)
        with _DispatchRecorder(recorder):
            forward(model, cloned(example))
    return recorder.recording


@dataclass
class _RunningModule:
    """A module that is running; the input of a module that may be an activation of its own."""

    module: nn.Module
    first_call: int
    probe: Tensor | None


class _Recorder:
    def __init__(self, model: nn.Module, kinds: Collection[str], skip: Skip) -> None:
        self.recording = Recording()
        self._names = {module: name for name, module in model.named_modules()}
        self._kinds, self._skip = kinds, skip
        self._running: list[_RunningModule] = []
        self._last: tuple[int, int] = (0, 0)  # memory of input and output of the last function
        self._is_comparing = False
        self._own_kinds: dict[int, str] = {}

    def watch(self, undo: ExitStack) -> None:
        for module in self._names:
            hook = module.register_forward_pre_hook(self._enter, with_kwargs=True)
            undo.callback(hook.remove)
            undo.callback(module.register_forward_hook(self._leave).remove)
            for name, value in list(vars(module).items()):
                if _is_function(name, value):
                    vars(module)[name] = self._watched(module, name, value)
                    undo.callback(vars(module).__setitem__, name, value)

    def on_call(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Note a torch operator if it is an activation."""
        found = activation_of_call(name, args, kwargs)
        # No module is running while a hook of the whole model does.
        if found is None or not self._running or not isinstance(output, Tensor):
            return
        if self._is_comparing:
            return
        caller = self._running[-1].module
        if activation_of_module(caller) is None:
            self._note(ActivationCall(caller, None, *_sample(output), found), output)
            self._last = (args[0].data_ptr(), output.data_ptr())

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.recording.runs[module] += 1
        self.recording.arguments[module] = (
            described_call(module.forward, args, kwargs, numbers=False),
            described_call(module.forward, args, kwargs, numbers=True),
        )
        probe = args[0] if _may_be_own(module) and len(args) == 1 and not kwargs else None
        self._running.append(_RunningModule(module, len(self.recording.calls), _probe(probe)))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        run = self._running.pop()
        found, function = activation_of_module(module), None
        if found is None and run.probe is not None and not self.recording.calls[run.first_call :]:
            found, function = self._own(module, run.probe, output), module
        if isinstance(module, ClippedActivation) and found is not None and found.own:
            function = module.function
        if found is None:
            return
        caller = self._running[-1].module if self._running else None
        if isinstance(output, Tensor):
            self._note(ActivationCall(caller, module, *_sample(output), found, function), output)

    def _watched(
        self, module: nn.Module, name: str, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A function that computes the same, and marks the activation that it is."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            before = len(self.recording.calls)
            probe = _probe(args[0] if args else None)
            pointer = args[0].data_ptr() if probe is not None else None
            output = function(*args, **kwargs)
            calls = self.recording.calls[before:]
            if not self._running or self._running[-1].module is not module or probe is None:
                return output
            if not calls and len(args) == 1 and not kwargs:
                found = self._own(function, probe, output)
                if found is not None:
                    own = ActivationCall(module, None, *_sample(output), found)
                    own.function, own.attribute = FunctionModule(function), name
                    self._note(own, output)
            elif (
                len(calls) == 1
                and calls[0].caller is module
                and isinstance(output, Tensor)
                and self._last == (pointer, output.data_ptr())
            ):
                calls[0].attribute = name
                self._decide(calls[0])
            return output

        return call

    def _own(self, function: Callable[..., Any], x: Tensor, output: object) -> Activation | None:
        """The activation that the model's own function computed, or None.

        A function that was recognised once is recognised again, whatever its input.
        """
        known = self._own_kinds.get(id(function))
        if known is None:
            self._is_comparing = True
            try:
                known = _kind_of(function, x, output)
            finally:
                self._is_comparing = False
        if known is None:
            return None
        self._own_kinds[id(function)] = known
        return Activation(known, own=name_of(function))

    def _note(self, call: ActivationCall, output: Tensor) -> None:
        self.recording.calls.append(call)
        call.is_batch = output.is_floating_point() and output.dim() > 0
        self._decide(call)
        if call.is_site and not torch.isfinite(output).all():
            raise ValueError(
                f"the activations at {short_repr(self._names[call.place])} are not finite on the "
                "example: check the model's parameters and the range of the input"
            )

    def _decide(self, call: ActivationCall) -> None:
        """Decide whether a call is a site."""
        is_wanted = call.is_batch and call.activation.kind in self._kinds
        call.is_skipped = is_wanted and (
            self._skip.covers(call.place)
            or (call.caller is not None and self._skip.covers(call.caller))
            or (call.caller is not None and call.attribute is not None
                and self._skip.covers(call.caller, call.attribute))
        )  # fmt: skip
        call.is_site = is_wanted and not call.is_skipped


class _DispatchRecorder(TorchDispatchMode):
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._recorder.on_call(func.overloadpacket.__name__, args, kwargs or {}, output)
        return output


def _sample(output: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(output.shape[1:]), output.dtype


def _is_function(name: str, value: object) -> bool:
    is_function = isinstance(value, (FunctionType, BuiltinFunctionType, functools.partial))
    return is_function and name != "forward" and not name.startswith("_")


def _may_be_own(module: nn.Module) -> bool:
    """Whether a module may be an activation that is not torch's: it holds no state."""
    is_torchs = type(module).__module__.startswith("torch.nn.")
    return not (is_torchs or module._modules or module._parameters or module._buffers)


def _probe(x: object) -> Tensor | None:
    """A copy of the input, because activations may write to theirs."""
    return x.detach().clone() if isinstance(x, Tensor) and x.is_floating_point() else None


def _kind_of(function: Callable[..., Any], x: Tensor, output: object) -> str | None:
    """The kind of activation that ``function`` computes, or None.

    A function that maps ``x`` to ``output`` as an activation does is compared at more numbers.
    """
    kinds = kinds_of_values(x, output)
    for probe in telling_inputs(x) if kinds else ():
        found = kinds_of_values(probe, _on_a_copy(function, probe))
        kinds = [kind for kind in kinds if kind in found]
    return kinds[0] if kinds else None


def _on_a_copy(function: Callable[..., Any], x: Tensor) -> object:
    """What a function, or a copy of a module, gives for ``x``; None if it raises an error."""
    try:
        copied = copy.deepcopy(function) if isinstance(function, nn.Module) else function
        if isinstance(copied, nn.Module):
            copied._forward_hooks.clear()
            copied._forward_pre_hooks.clear()
        return copied(x.clone())
    except Exception:  # the model's own function may raise anything
        return None
