"""Encodings: the bits in which a parameter is stored, and which faults therefore hit."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proact.ops.plan import FixedPointWord


class Encoding(ABC):
    """How a stored word stands for a parameter's value."""

    name: str
    word_bits: int
    #: Names of bit fields and their masks, bit 0 the lowest.
    fields: Mapping[str, int]
    #: How the native sampler reads the memory; None where memory holds the stored words themselves.
    fixed: FixedPointWord | None = None

    @abstractmethod
    def check(self, name: str, tensor: Tensor) -> None:
        """TypeError or ValueError where ``tensor`` cannot be stored in this encoding."""

    @abstractmethod
    def rounded(self, tensor: Tensor) -> Tensor:
        """The values after storing and reading back; ``tensor`` itself where nothing changes."""

    @abstractmethod
    def words(self, memory: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        """The stored words of memory words; inverse of `memory` up to its rounding."""

    @abstractmethod
    def values(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        """The values that stored words stand for."""

    @property
    def all_bits(self) -> int:
        return (1 << self.word_bits) - 1

    def mask(self, bits: str | int | None) -> int:
        """The exposed bits as a mask; ``bits`` is a field's name, a mask, or None for all."""
        if bits is None:
            return self.all_bits
        if isinstance(bits, str):
            if bits not in self.fields:
                raise ValueError(
                    f"{self.name} has the bit fields {', '.join(self.fields)}; got {bits!r}"
                )
            return self.fields[bits]
        if not 0 < bits <= self.all_bits:
            raise ValueError(
                f"a bit mask for {self.name} lies in [1, {self.all_bits:#x}], got {bits:#x}"
            )
        return bits


@dataclass(frozen=True)
class _FloatFormat:
    dtype: torch.dtype
    exponent_bits: int
    mantissa_bits: int


_FLOATS = {
    "float16": _FloatFormat(torch.float16, 5, 10),
    "bfloat16": _FloatFormat(torch.bfloat16, 8, 7),
    "float32": _FloatFormat(torch.float32, 8, 23),
    "float64": _FloatFormat(torch.float64, 11, 52),
}


class NativeFloat(Encoding):
    """The bits of the floating-point number itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._format = _FLOATS[name]
        exponent, mantissa = self._format.exponent_bits, self._format.mantissa_bits
        self.word_bits = 1 + exponent + mantissa
        self.fields = MappingProxyType(
            {
                "sign": 1 << (exponent + mantissa),
                "exponent": ((1 << exponent) - 1) << mantissa,
                "mantissa": (1 << mantissa) - 1,
            }
        )

    def check(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != self._format.dtype:
            raise TypeError(
                f"the encoding {self.name} takes {self._format.dtype} parameters, and {name} is "
                f"{tensor.dtype}"
            )

    def rounded(self, tensor: Tensor) -> Tensor:
        return tensor

    def words(self, memory: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        return memory.astype(np.uint64)

    def values(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        signed = torch.from_numpy(
            words.astype(f"u{self.word_bits // 8}").view(f"i{self.word_bits // 8}")
        )
        return signed.view(self._format.dtype).double().numpy()


class FixedPoint(Encoding):
    """qM.N: 1 sign, M integer and N fraction bits, two's complement, saturating, ties to even."""

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        self.name = f"q{integer_bits}.{fraction_bits}"
        self.word_bits = 1 + integer_bits + fraction_bits
        if not 2 <= self.word_bits <= 32:
            raise ValueError(
                f"a fixed-point word has 2 to 32 bits, and {self.name} has {self.word_bits}"
            )
        self.fixed = FixedPointWord(self.word_bits, fraction_bits)
        fields = {
            "sign": 1 << (self.word_bits - 1),
            "integer": ((1 << integer_bits) - 1) << fraction_bits,
            "fraction": (1 << fraction_bits) - 1,
        }
        self.fields = MappingProxyType({name: mask for name, mask in fields.items() if mask})
        self._limit = 2.0 ** (self.word_bits - 1)
        self._scale = 2.0**fraction_bits

    def check(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"the encoding {self.name} takes float32 or float64 parameters, and {name} is "
                f"{tensor.dtype}"
            )
        if torch.isnan(tensor).any():
            raise ValueError(f"{name} holds NaN, which the encoding {self.name} cannot store")

    def rounded(self, tensor: Tensor) -> Tensor:
        # Powers of two scale exactly, so the only rounding is to the grid (and, for words of more
        # digits than a float32 has, back to the float).
        grid = torch.round(tensor.double() * self._scale).clamp_(-self._limit, self._limit - 1)
        # Adding 0 turns -0.0, which two's complement lacks, into 0.0.
        return (grid.div_(self._scale) + 0.0).to(tensor.dtype)

    def words(self, memory: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        values = memory.view(f"f{memory.itemsize}").astype(np.float64)
        grid = np.clip(np.rint(values * self._scale), -self._limit, self._limit - 1)
        stored: NDArray[np.uint64] = grid.astype(np.int64).astype(np.uint64)
        stored &= np.uint64(self.all_bits)
        return stored

    def values(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        sign = np.int64(1 << (self.word_bits - 1))
        grid: NDArray[np.float64] = ((words.astype(np.int64) ^ sign) - sign) / self._scale
        return grid


def encoding_named(name: str | Encoding) -> Encoding:
    """The encoding that a name such as ``"float32"`` or ``"q15.16"`` stands for.

    Raises:
        ValueError: an unknown name, or a fixed-point word of more than 32 bits.
    """
    if isinstance(name, Encoding):
        return name
    if isinstance(name, str):
        if name in _FLOATS:
            return NativeFloat(name)
        if match := re.fullmatch(r"q(\d{1,9})\.(\d{1,9})", name):
            return FixedPoint(int(match[1]), int(match[2]))
    raise ValueError(
        f"an encoding is one of {', '.join(_FLOATS)} or fixed point such as q15.16; got {name!r}"
    )


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every stored number of a network by qualified name: parameters, then floating-point buffers.

    Integer buffers are counters and indices (batch norm's ``num_batches_tracked``), not parameters.
    """
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer


def encode(model: nn.Module, encoding: str | Encoding) -> nn.Module:
    """A copy of ``model`` whose parameters went through the encoding; ``model`` is untouched.

    Accuracy without faults means that of this copy.

    Raises:
        TypeError, ValueError: an unknown encoding, or a parameter that it cannot store.
    """
    encoding = encoding_named(encoding)
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in stored_tensors(result):
            encoding.check(name, tensor)
            tensor.copy_(encoding.rounded(tensor))
    return result
