"""Training in several processes at once, as torchrun starts them.

Every process holds the whole network and works on its own images: number i belongs to process i
modulo their number, whatever the batch. Sums over a batch are added up over the processes, so that
each takes the step that a single one would take, up to the rounding of sums. (DDP as torch has it
averages over processes, which is the same only where each has as many images of a batch.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

_Given = TypeVar("_Given")


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

    def from_first(self, give: Callable[[], _Given]) -> _Given:
        """What ``give`` returns in the first process, which alone calls it, in every process; what
        it raises there is raised in every process."""
        if self.world == 1:
            return give()
        parcel: list[Any] = [None, None]
        if self.rank == 0:
            try:
                parcel[0] = give()
            except Exception as error:
                parcel[1] = error
        dist.broadcast_object_list(parcel, 0)
        if parcel[1] is not None:
            raise parcel[1]
        given: _Given = parcel[0]
        return given
