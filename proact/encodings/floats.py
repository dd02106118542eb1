"""Floating-point encodings: the dtype of memory, or a narrower format to which it is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Encoding,
    Floats,
    MemoryWord,
    Word,
    Words,
    as_floats,
    as_memory,
    check_dtype,
    integers_of,
    signed_memory,
    unsigned_memory,
)
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.number_formats import NarrowFloatWord


@dataclass(frozen=True)
class _FloatFormat:
    dtype: torch.dtype
    exponent_bits: int
    mantissa_bits: int
    #: The wider dtype whose values can be rounded to this format; None if there is none.
    narrowed_from: torch.dtype | None


FLOATS = {
    "float16": _FloatFormat(torch.float16, 5, 10, torch.float32),
    "bfloat16": _FloatFormat(torch.bfloat16, 8, 7, torch.float32),
    "float32": _FloatFormat(torch.float32, 8, 23, torch.float64),
    "float64": _FloatFormat(torch.float64, 11, 52, None),
}


class FloatLayout(Word):
    """Words of a sign, an exponent and a mantissa, in which NaN has a payload as in IEEE 754.

    Args:
        name: of the word.
        exponent, mantissa: the numbers of their bits.
    """

    def __init__(self, name: str, exponent: int, mantissa: int) -> None:
        self.name, self.exponent_bits, self.mantissa_bits = name, exponent, mantissa
        self.bits = 1 + exponent + mantissa
        fields = {
            "sign": 1 << (exponent + mantissa),
            "exponent": ((1 << exponent) - 1) << mantissa,
            "mantissa": (1 << mantissa) - 1,
        }
        self.fields = MappingProxyType({field: mask for field, mask in fields.items() if mask})

    def with_nan_of(self, words: Words, memory: Words, wide: FloatLayout) -> Words:
        """The words, where those of NaN keep the upper bits of the payloads in memory.

        Args:
            words: of the numbers in memory.
            memory: words of a wider float.
            wide: its layout.
        """
        nan = wide._is_nan(memory)
        dropped = np.uint64(wide.mantissa_bits - self.mantissa_bits)
        payload = (memory[nan] & np.uint64(wide.fields["mantissa"])) >> dropped
        quiet = np.uint64(1 << (self.mantissa_bits - 1))
        words[nan] = self._nan(wide._is_negative(memory[nan]), np.where(payload, payload, quiet))
        return words

    def with_nan_in(self, memory: Words, words: Words, wide: FloatLayout) -> Words:
        """The inverse: memory, where NaN has the payloads of these words."""
        nan = self._is_nan(words)
        dropped = np.uint64(wide.mantissa_bits - self.mantissa_bits)
        payload = (words[nan] & np.uint64(self.fields["mantissa"])) << dropped
        memory[nan] = wide._nan(self._is_negative(words[nan]), payload)
        return memory

    def _is_negative(self, words: Words) -> NDArray[np.bool_]:
        return np.asarray(words & np.uint64(self.fields["sign"]), np.bool_)

    def _is_nan(self, words: Words) -> NDArray[np.bool_]:
        magnitude = words & ~np.uint64(self.fields["sign"])
        return np.asarray(magnitude > np.uint64(self.fields["exponent"]))

    def _nan(self, negative: NDArray[np.bool_], payload: Words) -> Words:
        sign = negative.astype(np.uint64) * np.uint64(self.fields["sign"])
        return np.asarray(sign | np.uint64(self.fields["exponent"]) | payload, np.uint64)


class FloatWord(FloatLayout):
    """IEEE 754 words; bfloat16 is the upper half of a float32."""

    def __init__(self, name: str) -> None:
        self._format = FLOATS[name]
        super().__init__(name, self._format.exponent_bits, self._format.mantissa_bits)

    def words(self, values: Floats, elements: Elements) -> Words:
        return as_memory(values, self._format.dtype)

    def values(self, words: Words, elements: Elements) -> Floats:
        return as_floats(words, self._format.dtype)


class MemoryFloat(MemoryWord, FloatWord):
    """Floats that memory holds as they are stored: nothing is rounded, and NaN keeps its bits."""


class NarrowFloat(FloatWord):
    """Floats that memory holds in a wider dtype.

    Values are rounded to nearest, ties to even, and overflow to infinity. NaN keeps the upper bits
    of its payload, so that each word is restored from its value.
    """

    is_native = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.form = NarrowFloatWord(name)
        wide = self._format.narrowed_from
        self._wide = MemoryFloat(next(name for name, fmt in FLOATS.items() if fmt.dtype == wide))

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        words = super().words_in(memory, dtype, elements)
        return self.with_nan_of(words, memory, self._wide)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        memory = super().memory_of(words, dtype, elements)
        return self.with_nan_in(memory, words, self._wide)

    def rounded(self, tensor: Tensor) -> Tensor:
        result = tensor.to(self._format.dtype).to(tensor.dtype)
        nan = torch.isnan(tensor)
        if nan.any():  # torch would change the payload
            nowhere = np.empty(0, np.uint64)
            memory = unsigned_memory(integers_of(tensor[nan].cpu()).numpy())
            kept = self.memory_of(
                self.words_in(memory, tensor.dtype, nowhere), tensor.dtype, nowhere
            )
            signed = torch.from_numpy(signed_memory(kept, tensor.element_size()))
            integers_of(result)[nan] = signed.to(tensor.device)
        return result

    def saturates(self, tensor: Tensor) -> Tensor:
        return torch.isinf(self.rounded(tensor)) & torch.isfinite(tensor)


class Float(Encoding):
    """``float16``, ``bfloat16``, ``float32`` or ``float64``.

    Tensors of that dtype are faulted in their own bits. A float32 model can be stored as float16 or
    bfloat16, and a float64 model as float32: parameters are rounded to the format, computations
    keep the dtype of the model, and faults hit the bits of the format.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def word(self, stored: StoredTensor) -> Word:
        fmt, dtype = FLOATS[self.name], stored.tensor.dtype
        if dtype == fmt.narrowed_from:
            return NarrowFloat(self.name)
        taken = [fmt.dtype] if fmt.narrowed_from is None else [fmt.dtype, fmt.narrowed_from]
        check_dtype(self.name, taken, stored)
        return MemoryFloat(self.name)


@cache
def memory_float(dtype: torch.dtype) -> MemoryFloat | None:
    """The word of a floating-point dtype; None for other dtypes."""
    for name, fmt in FLOATS.items():
        if dtype == fmt.dtype:
            return MemoryFloat(name)
    return None
