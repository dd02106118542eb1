"""`flip_bits_` and `flip_exactly_`: flip bits of one tensor or array in place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.limits import SEEDS, STREAMS, TRIALS
from proact.ops import plan as plans
from proact.ops.plain_memory import checked_memory
from proact.ops.seeds import stream_of

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

    The number of flips is binomial, and the flipped bits are distinct. They depend only on (seed,
    trial, stream, shape, ber, bit_mask), so that a second call with the same arguments flips the
    same bits back. The cost grows with the number of flips.

    Args:
        tensor: a contiguous CPU or CUDA tensor of any dtype with 8, 16, 32 or 64 bits that does not
            require grad, or a writable C-contiguous numpy array; of any shape. On a GPU the flips
            are queued on torch's current stream.
        ber: bit error rate, a probability per exposed bit, in [0, 1], ends included.
        seed: identifies the experiment; in [0, 2^63).
        trial: identifies one fault pattern of the experiment; in [0, 2^32).
        stream: names the tensor: an integer in [0, 2^48), or a string that is hashed to one. Two
            tensors with one stream get the same flips in a trial.
        bit_mask: the exposed bits of a word as a mask; bit 0 is the lowest. None exposes all.

    Returns:
        The number of bits flipped.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, or memory that is
            read-only, not contiguous or on another device. The tensor is then unchanged.
        ProactError: a GPU that this build of proact cannot use.
    """
    memory, seed, trial, stream, bit_mask = _checked(tensor, seed, trial, stream, bit_mask)
    ber = plans.checked_ber(ber)
    # Integers of torch operators are signed: masks from 2^63 on are passed as negative numbers.
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
    """Flips exactly ``flips`` distinct exposed bits in place; every such set is equally likely.

    The bits depend only on (seed, trial, stream, shape, flips, bit_mask), so that a second call
    with the same arguments flips them back. Cost and memory grow with ``flips`` and are several
    times those of `flip_bits_`. torch.compile does not compile this function.

    Args:
        tensor: as for `flip_bits_`.
        flips: number of flips, from 0 to the number of exposed bits, both included.
        seed, trial, stream, bit_mask: as for `flip_bits_`.

    Raises:
        TypeError, ValueError: as `flip_bits_`, and for more flips than exposed bits. The tensor is
            then unchanged.
        ProactError: a GPU that this build of proact cannot use.
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
    checked_memory("tensor", memory)
    if memory.is_complex() or memory.dtype == torch.bool or memory.is_quantized:
        raise TypeError(f"tensor must have words of 8 to 64 bits, got {memory.dtype}")
    if memory.requires_grad and torch.is_grad_enabled():
        raise ValueError("tensor must not require grad: pass tensor.detach()")
    seed = plans.checked_integer("seed", seed, SEEDS)
    trial = plans.checked_integer("trial", trial, TRIALS)
    if isinstance(stream, str):
        stream = stream_of(stream)
    stream = plans.checked_integer("stream", stream, STREAMS)
    word_bits = 8 * memory.element_size()
    if bit_mask is None:
        bit_mask = (1 << word_bits) - 1
    bit_mask = plans.checked_integer("bit_mask", bit_mask, 1 << word_bits)
    if bit_mask == 0:
        raise ValueError("bit_mask must expose at least one bit, got 0")
    return memory.detach(), seed, trial, stream, bit_mask


def _as_tensor(tensor: Tensor | NDArray[np.generic]) -> Tensor:
    if isinstance(tensor, Tensor):
        return tensor
    if not isinstance(tensor, np.ndarray):
        raise TypeError(
            f"tensor must be a torch.Tensor or a numpy.ndarray, got {type(tensor).__name__}"
        )
    if not (tensor.flags.writeable and tensor.flags.c_contiguous):
        raise ValueError(
            "tensor must be a writable, C-contiguous array, got one that is "
            + ("read-only" if not tensor.flags.writeable else "not contiguous")
        )
    if not tensor.dtype.isnative or tensor.dtype.kind not in "fiu" or tensor.itemsize > 8:
        raise TypeError(f"tensor must have words of 8 to 64 bits, got an array of {tensor.dtype}")
    return torch.from_numpy(tensor.view(f"i{tensor.itemsize}"))


def _flip(tensor: Tensor, ber: float, seed: int, trial: int, stream: int, bit_mask: int) -> int:
    if tensor.numel() == 0:
        return 0
    plan = plans.FlipPlan()
    plan.add(tensor, stream, bit_mask % (1 << 64), None)
    # Before the flips: even if they are interrupted, autograd knows that the tensor may differ.
    torch.autograd.graph.increment_version(tensor)
    return plan.flip_unlogged(ber, seed, trial)


def _flip_shape(
    tensor: Tensor, ber: float, seed: int, trial: int, stream: int, bit_mask: int
) -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()  # known once the bits have been flipped


_library.impl("flip_bits_", _flip, "CPU")
_library.impl("flip_bits_", _flip, "CUDA")
torch.library.register_fake("proact::flip_bits_", _flip_shape, lib=_library)
