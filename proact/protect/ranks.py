"""Training in several processes at once, as torchrun starts them.

Every process holds the whole network and works on its own images: number i belongs to process i
modulo their number, whatever the batch. Sums over a batch are added up over the processes, so that
each takes the step that a single one would take.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among its like; alone where torch.distributed was not initialised.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @staticmethod
    def current() -> Ranks:
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size())
        return Ranks()

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes files and reports."""
        return self.rank == 0

    def share(self, of_all: Tensor) -> Tensor:
        """The images, labels or outputs that belong to this process."""
        return of_all[self.rank :: self.world]

    def own(self, indices: Tensor) -> Tensor:
        """Which of all images (by index) belong to this process, by their index in its share."""
        if self.world == 1:
            return indices
        return indices[indices % self.world == self.rank] // self.world

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same to the bit in each."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def agreed(self, value: float) -> float:
        """The first process's value, in each."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)
