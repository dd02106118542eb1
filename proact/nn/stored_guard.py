"""The base of guards on stored values: submodules that act on memory around each forward."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils.hooks import RemovableHandle

from proact.errors import ProactError
from proact.nn.inner_tensors import scales_beside
from proact.nn.model_kinds import checked_module

#: Threads may share a model, so sweeps and their rollbacks exclude each other.
LOCK = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A child process must not begin while another thread of its parent holds the lock.
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )


Guard = TypeVar("Guard", bound="StoredGuard")


class StoredGuard(nn.Identity):
    """A submodule of a model that guards the model's stored values.

    Hooks on the model call `begin` before each forward and `end` after it. (As part of an
    `nn.Sequential` the guard returns its input.) The tensors are looked up by name in each forward,
    so that a copy of a model guards its own tensors.

    Attributes:
        names: the names of the guarded tensors in the model.
    """

    #: The name of the guard as a submodule of the model that it guards.
    own_name: ClassVar[str]
    #: The name of the method of protection.
    method: ClassVar[str]
    #: The reason why a guarded model cannot be trained.
    trained_reason: ClassVar[str]
    #: The call that gives a model without this guard.
    removal: ClassVar[str]

    names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        #: The handles of the hooks on the model.
        self.handles: tuple[RemovableHandle, ...] = ()

    @classmethod
    def of(cls: type[Guard], model: nn.Module) -> Guard | None:
        """The guard of this class of ``model`` itself; guards of its submodules do not count."""
        guard = checked_module(model)._modules.get(cls.own_name)
        return guard if isinstance(guard, cls) else None

    def begin(self, model: nn.Module) -> None:
        """Called before a forward of ``model``; each call needs a call of `end`."""
        raise NotImplementedError

    def end(self) -> None:
        """Called after a forward, even if it raised."""
        raise NotImplementedError

    def more_hooks(self, model: nn.Module) -> tuple[RemovableHandle, ...]:
        """Places the other hooks that the guard needs on ``model``."""
        return ()

    def forget(self, submodule: str) -> None:
        """Called when a guard is removed, whose own tensors are then no longer guarded."""

    def finish(self) -> None:
        """Ends what is unfinished, such as a forward that was interrupted."""
        raise NotImplementedError

    def begin_injection(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Called before bits are flipped.

        Returns:
            A function that undoes the guard's writes, called before the flips are undone, and one
            that is called after that.
        """
        return self.finish, _nothing

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """The guarded tensors of ``model``, in the order of ``names``."""
        return [self._tensor(model, name) for name in self.names]

    def refuse_training(self, model: nn.Module) -> None:
        """ProactError in training mode with autograd."""
        if model.training and torch.is_grad_enabled():
            raise ProactError(
                f"a model with {self.article} guard cannot be trained, because "
                f"{self.trained_reason}: call eval(), or train {self.removal}"
            )

    def refuse_export(self) -> None:
        """ProactError while the model is exported or traced."""
        is_exporting = getattr(torch.compiler, "is_exporting", bool)
        if is_exporting() or torch._C._get_tracing_state() is not None:
            raise ProactError(
                f"a model with {self.article} guard cannot be exported, because the guard repairs "
                f"memory before each forward: export {self.removal}"
            )

    @property
    def article(self) -> str:
        """The method's name with its article."""
        return f"{'an' if self.method[0] in 'aeiou' else 'a'} {self.method}"

    def has_memory(self, tensor: Tensor) -> bool:
        """Whether a tensor has memory to guard; ProactError inside torch.func transforms."""
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise ProactError(
                f"{self.method} repairs memory, and tensors inside torch.func transforms have no "
                f"memory of their own: transform {self.removal}"
            )
        return not tensor.is_meta and not isinstance(tensor, FakeTensor)

    def _tensor(self, model: nn.Module, name: str) -> Tensor:
        tensor = tensor_named(model, name)
        if tensor is None:
            raise ProactError(
                f"{self.method} guards {name}, which the model no longer has: apply {self.method} "
                "after every change that replaces tensors"
            )
        return tensor


def tensor_named(model: nn.Module, name: str) -> Tensor | None:
    """The parameter, buffer, inner tensor or scale with a name; None if the model lacks it."""
    module, path = model, name.split(".")
    while len(path) > 1 and (child := module._modules.get(path[0])) is not None:
        module = child
        del path[0]
    for members in (module._parameters, module._buffers):
        tensor = members.get(path[0])
        if tensor is not None and path[1:]:
            scale = scales_beside(tensor, module).get(".".join(path[1:]))
            if scale is not None:
                return scale
        for attribute in path[1:]:  # inner tensors of a wrapper subclass
            tensor = getattr(tensor, attribute, None)
        if tensor is not None:
            return tensor
    return None


def mark_written(tensors: list[Tensor]) -> None:
    """Raises the version counters: autograd must not compute with values that it has not saved."""
    torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])


def _nothing() -> None:
    pass
