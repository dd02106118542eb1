"""`flip_bits_` and `flip_exactly_`: bit flips in one tensor or array, in place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.ops import plan as plans

_library = torch.library.Library("proact", "FRAGMENT")
_library.define(
    "flip_bits_(Tensor(a!) tensor, float ber, int seed, int trial, int stream, int bit_mask)"
    " -> SymInt"
)


def flip_bits_(
    tensor: Tensor | NDArray[np.generic],
    ber: float,
    *,
    seed: int = 0,
    trial: int = 0,
    stream: int | str = 0,
    bit_mask: int | None = None,
) -> int:
    """Flips each exposed bit of each element with probability ``ber``, independently and in place.

    The number of flips is binomial and the flipped bits are distinct. They are a function of
    (seed, trial, stream, shape, ber, bit_mask) alone: calling again with the same arguments flips
    the same bits back. Cost grows with the number of flips.

    Args:
        tensor: a contiguous CPU or CUDA tensor of any dtype with 8, 16, 32 or 64 bits that does not
            require grad, or a writable C-contiguous numpy array. Any shape. On a GPU the returned
            number waits for the flips.
        ber: bit error rate, a probability per exposed bit, in [0, 1], ends included.
        seed: names the experiment; in [0, 2^63).
        trial: names one fault pattern of it; in [0, 2^32).
        stream: names the tensor, as an integer in [0, 2^48) or a string that is hashed to one;
            two tensors of one trial need two streams, or they get the same flips.
        bit_mask: the exposed bits of a word, 1 for exposed, bit 0 the lowest; None exposes all.

    Returns:
        The number of bits flipped.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, memory that is
            read-only, not contiguous or on another device. The tensor is then unchanged.
            ProactError: a GPU that this build of proact cannot use.
    """
    memory, seed, trial, stream, bit_mask = _checked(tensor, seed, trial, stream, bit_mask)
    ber = plans.checked_ber(ber)
    # An operator's integers are signed: the upper half of the 64-bit masks goes in as negative.
    signed_mask = bit_mask - (1 << 64) if bit_mask >> 63 else bit_mask
    flips: int = torch.ops.proact.flip_bits_(memory, ber, seed, trial, stream, signed_mask)
    return flips


def flip_exactly_(
    tensor: Tensor | NDArray[np.generic],
    flips: int,
    *,
    seed: int = 0,
    trial: int = 0,
    stream: int | str = 0,
    bit_mask: int | None = None,
) -> None:
    """Flips exactly ``flips`` distinct exposed bits, in place; every such set is equally likely.

    The bits are a function of (seed, trial, stream, shape, flips, bit_mask) alone: calling again
    with the same arguments flips them back. Cost and memory grow with ``flips``, and are several
    times those of `flip_bits_`. Not compiled by torch.compile.

    Args:
        tensor: as for `flip_bits_`, in CPU memory.
        flips: from 0 to the number of exposed bits, both included.
        seed, trial, stream, bit_mask: as for `flip_bits_`.

    Raises:
        As `flip_bits_`; ValueError for more flips than exposed bits. The tensor is then unchanged.
    """
    memory, seed, trial, stream, bit_mask = _checked(tensor, seed, trial, stream, bit_mask)
    plan = plans.FlipPlan()
    plan.add(memory, stream, bit_mask, None)
    torch.autograd.graph.increment_version(memory)
    plan.flip_exactly(flips, seed, trial)


def _checked(
    tensor: Tensor | NDArray[np.generic],
    seed: int,
    trial: int,
    stream: int | str,
    bit_mask: int | None,
) -> tuple[Tensor, int, int, int, int]:
    memory = _as_tensor(tensor)
    plans.checked_memory("tensor", memory)
    if memory.is_complex() or memory.dtype == torch.bool or memory.is_quantized:
        raise TypeError(f"tensor has words of 8 to 64 bits, got {memory.dtype}")
    if memory.requires_grad and torch.is_grad_enabled():
        raise ValueError("tensor is one that does not require grad: pass tensor.detach()")
    seed = plans.checked_integer("seed", seed, plans.SEEDS)
    trial = plans.checked_integer("trial", trial, plans.TRIALS)
    if isinstance(stream, str):
        stream = plans.stream_of(stream)
    stream = plans.checked_integer("stream", stream, plans.STREAMS)
    word_bits = 8 * memory.element_size()
    if bit_mask is None:
        bit_mask = (1 << word_bits) - 1
    bit_mask = plans.checked_integer("bit_mask", bit_mask, 1 << word_bits)
    if bit_mask == 0:
        raise ValueError("bit_mask exposes no bit, got 0")
    return memory.detach(), seed, trial, stream, bit_mask


def _as_tensor(tensor: Tensor | NDArray[np.generic]) -> Tensor:
    if isinstance(tensor, Tensor):
        return tensor
    if not isinstance(tensor, np.ndarray):
        raise TypeError(f"tensor is a torch.Tensor or a numpy.ndarray, got {type(tensor).__name__}")
    if not (tensor.flags.writeable and tensor.flags.c_contiguous):
        raise ValueError(
            "tensor is a writable, C-contiguous array, got one that is "
            + ("read-only" if not tensor.flags.writeable else "not contiguous")
        )
    if not tensor.dtype.isnative or tensor.dtype.kind not in "fiu" or tensor.itemsize > 8:
        raise TypeError(f"tensor has words of 8 to 64 bits, got an array of {tensor.dtype}")
    return torch.from_numpy(tensor.view(f"i{tensor.itemsize}"))


def _flip(tensor: Tensor, ber: float, seed: int, trial: int, stream: int, bit_mask: int) -> int:
    if tensor.numel() == 0:
        return 0
    plan = plans.FlipPlan()
    plan.add(tensor, stream, bit_mask % (1 << 64), None)
    # Before the flips: whatever interrupts them, autograd knows that the tensor may have changed.
    torch.autograd.graph.increment_version(tensor)
    return plan.flip_unlogged(ber, seed, trial)


def _flip_shape(
    tensor: Tensor, ber: float, seed: int, trial: int, stream: int, bit_mask: int
) -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()  # known when the bits have flipped


_library.impl("flip_bits_", _flip, "CPU")
_library.impl("flip_bits_", _flip, "CUDA")
torch.library.register_fake("proact::flip_bits_", _flip_shape, lib=_library)
