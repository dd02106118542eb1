"""The words that sweeps over memory overwrote, to undo the sweeps."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from proact import _native
from proact.ops._device_sweep import DeviceSweepLog
from proact.ops.plain_memory import MemoryGuard, has_plain_memory, is_writable, refuse_lost


class SweepPlan(Protocol):
    """A plan whose sweeps can be logged."""

    _native: Any
    _memory: MemoryGuard


class SweepLog:
    """The words that one sweep overwrote; empty until a plan fills it. Keeps the tensors alive."""

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan  # the log writes to its tensors
        self._native: Any = plan._native and _native_log()
        self._on_gpus = DeviceSweepLog()
        self._plain = ReferenceSweepLog()

    def keep_used_slots(self) -> None:
        """Gives back memory of GPUs that holds no old words; waits until the sweep was made."""
        self._on_gpus.keep_used_slots()

    def restore(self) -> None:
        """Writes the old words back, even if the memory has changed since.

        If the storage of a tensor has moved, the words are written where it is now. On a GPU, this
        is queued after the sweep and all work that met its result; the host does not wait.

        Raises:
            ProactError: memory that was freed. All words elsewhere are restored.
        """
        lost: list[str] = []
        if self._native is not None:
            lost += self._plan._memory.follow(self._native)
            self._native.restore()
        lost += self._on_gpus.restore()
        lost += self._plain.restore()
        refuse_lost(lost)


class ReferenceSweepLog:
    """The words that sweeps overwrote, and their positions."""

    def __init__(self) -> None:
        self._written: list[tuple[str, Tensor, tuple[Tensor, ...], Tensor]] = []

    def note(self, name: str, words: Tensor, places: tuple[Tensor, ...]) -> None:
        self._written.append((name, words, places, words[places]))

    def restore(self) -> list[str]:
        """Writes the words back; returns the names of tensors whose memory is gone."""
        lost = []
        # Inference tensors can only be written in inference mode.
        with torch.inference_mode():
            for name, words, places, before in self._written:
                if has_plain_memory(words) and is_writable(words):
                    words[places] = before
                else:
                    lost.append(name)
        return lost


def _native_log() -> Any:
    module: Any = _native.module
    return module.SweepLog()
