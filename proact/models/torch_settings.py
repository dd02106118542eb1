"""The settings of torch that decide what a model computes, which workers take from the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from proact.errors import ProactError

#: The operations of `torch.backends` that may round float32, by type of device.
_ROUNDING = {
    "cpu": ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "cuda": ("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
}
_UNROUNDED = ("none", "ieee")


@dataclass(frozen=True)
class TorchSettings:
    """What torch computes with, in one thread of a process.

    Attributes:
        default_dtype, default_device: of tensors that a forward pass makes.
        deterministic, warns: whether only deterministic algorithms run, and whether others warn
            instead of raising.
        precision: what float32 is rounded to, by operation of `torch.backends`.
        autocast: the dtype of autocast by type of device, where it is on.
    """

    default_dtype: torch.dtype
    default_device: torch.device
    deterministic: bool
    warns: bool
    precision: tuple[tuple[str, str], ...]
    autocast: tuple[tuple[str, torch.dtype], ...]

    @classmethod
    def current(cls) -> TorchSettings:
        """The settings of this thread."""
        return cls(
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            tuple((name, _precision(name)) for names in _ROUNDING.values() for name in names),
            tuple(
                (kind, torch.get_autocast_dtype(kind))
                for kind in _ROUNDING
                if torch.is_autocast_enabled(kind)
            ),
        )

    def facts(self, device: torch.device) -> dict[str, Any]:
        """The settings that change more than last digits on a device, as JSON values.

        Settings of a new process on a CPU are left out.
        """
        facts: dict[str, Any] = {}
        if self.default_dtype != torch.float32:
            facts["default_dtype"] = str(self.default_dtype)
        if self.autocast:
            facts["autocast"] = {kind: str(dtype) for kind, dtype in self.autocast}
        if rounding := self.rounding(device):
            facts["float32_precision"] = rounding
        return facts

    def rounding(self, device: torch.device) -> dict[str, str]:
        """What float32 is rounded to on a device, by operation, where it is."""
        return {
            name: precision
            for name, precision in self.precision
            if name in _ROUNDING.get(device.type, ()) and precision not in _UNROUNDED
        }

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Computes with these settings in this thread until the block ends.

        Those that belong to the process stay afterwards, because other threads may use them.

        Raises:
            ProactError: another thread, or the block itself, has changed the settings.
        """
        with ExitStack() as stack:
            self._set_in_process()
            now = TorchSettings.current()
            if now.default_device != self.default_device:
                stack.enter_context(self.default_device)
            for kind in _ROUNDING:
                dtype = dict(self.autocast).get(kind)
                if dtype != dict(now.autocast).get(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled=dtype is not None))
            yield
            if TorchSettings.current() != self:
                raise ProactError(
                    "settings of torch, such as the default dtype, changed while trials ran: let "
                    "neither the model nor another thread of the process change them"
                )

    def _set_in_process(self) -> None:
        now = TorchSettings.current()
        if now.default_dtype != self.default_dtype:
            torch.set_default_dtype(self.default_dtype)
        if (now.deterministic, now.warns) != (self.deterministic, self.warns):
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warns)
        for name, precision in self.precision:
            if precision != dict(now.precision)[name]:
                attrgetter(name)(torch.backends).fp32_precision = precision


def _precision(operation: str) -> str:
    precision: str = attrgetter(operation)(torch.backends).fp32_precision
    return precision
