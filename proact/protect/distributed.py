"""Protect a model in several processes at once, as torchrun starts them.

Each process holds the whole model and works on its own images: image i belongs to process i modulo
the number of processes, whatever the batch. Sums over a batch are added up over all processes, so
each process takes the step that a single process would take, up to the rounding of sums. (torch's
DDP averages over processes instead, which is the same only if each has as many images of a batch.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class DistributedContext:
    """The rank of this process, and the collective operations that protection methods need.

    Without an initialised torch.distributed there is one process and every operation is local.
    Broadcast a value that depends on the process (a file, a clock) before branching on it:
    processes that disagree wait for each other forever.

    Attributes:
        rank: the number of this process, from 0.
        world_size: the number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @staticmethod
    def current() -> DistributedContext:
        """The context of the default process group."""
        if dist.is_available() and dist.is_initialized():
            return DistributedContext(dist.get_rank(), dist.get_world_size())
        return DistributedContext()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only process that writes files and reports progress."""
        return self.rank == 0

    def shard(self, samples: Tensor) -> Tensor:
        """The samples that belong to this process, out of all samples along the first dimension."""
        return samples[self.rank :: self.world_size]

    def shard_indices(self, indices: Tensor) -> Tensor:
        """Those of the global ``indices`` that belong to this process, as indices into `shard`."""
        if self.world_size == 1:
            return indices
        return indices[indices % self.world_size == self.rank] // self.world_size

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, equal in each of them bit by bit."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, compute: Callable[[], _Value]) -> _Value:
        """Calls ``compute`` in rank 0 only and returns its value in every process.

        An exception of ``compute`` is raised in every process.
        """
        if self.world_size == 1:
            return compute()
        message: list[Any] = [None, None]
        if self.rank == 0:
            try:
                message[0] = compute()
            except Exception as error:
                message[1] = error
        dist.broadcast_object_list(message, 0)
        if message[1] is not None:
            raise message[1]
        value: _Value = message[0]
        return value
