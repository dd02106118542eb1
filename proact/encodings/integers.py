"""Integer encodings: float weights stored as scaled integers, and tensors of integers."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Encoding,
    Floats,
    MemoryWord,
    Word,
    Words,
    check_dtype,
    signed_values,
)
from proact.encodings.floats import MemoryFloat, memory_float
from proact.encodings.scaled_words import IntegerElement, ScaledWord
from proact.encodings.scales import PowerOfTwo, scale_part
from proact.encodings.small_floats import memory_float8
from proact.nn.tensor_inventory import INTEGERS, StoredTensor, activation
from proact.ops.number_formats import ScaleLayout

#: The dtypes of weights that formats with scales can store.
QUANTISED = (torch.float32, torch.float64)
_FLOAT_DIGITS = 24  # of a float32's significand
_FLOAT_EXPONENT = 128  # float32 values are below 2^128
#: The smallest scale, which a channel of zeros has; the same as in torch's observers.
_SMALLEST_SCALE = 2.0**-23


class ScaledInteger(Encoding):
    """``int8`` (to ``int2``): weights as signed integers with a symmetric range.

    There is one scale for each output channel (each index of the first axis, so each expert of
    stacked ones) or, as ``int8-tensor``, for each tensor. Parameters of the kind weight with two or
    more dimensions are quantised, whatever their name; so are positional embeddings. All others
    (biases, normalisation, thresholds, tensors of integers) keep their own bits. Scales are stored
    as float32 and are in the fault space, as tensors of the kind ``scale``. A scale is the largest
    magnitude of the channel divided by 2^(bits-1) - 1, rounded up to so few digits that the value
    of each word is a float32. Encoding a model a second time therefore changes nothing, and flips
    are exact.
    """

    revision = 3  # 2: with scales in the fault space; 3: with matrices of any name

    def __init__(self, bits: int = 8, per_channel: bool = True) -> None:
        self.bits, self.per_channel = bits, per_channel
        self.name = f"int{bits}" if per_channel else f"int{bits}-tensor"

    def word(self, stored: StoredTensor) -> Word:
        return self.word_up_to(2 ** (self.bits - 1) - 1, stored)

    def word_up_to(self, top: int, stored: StoredTensor) -> Word:
        """The stored form whose scales map the largest magnitude of a channel to the word ``top``.

        Codes that take low bits of the words need a ``top`` that they can represent.
        """
        tensor = stored.tensor
        if not is_quantised(stored):
            return native_word(stored)
        check_quantised(self.name, stored)
        if not self.per_channel:
            return self._word_of(tensor.abs().amax().reshape(1), tensor, tensor.numel(), top)
        # Transposed convolutions have the output channel (of each group) second.
        axis = 1 if "_ConvTransposeNd" in stored.layer_types else 0
        others = [dim for dim in range(tensor.dim()) if dim != axis]
        inner = math.prod(tensor.shape[axis + 1 :])
        return self._word_of(tensor.abs().amax(others), tensor, inner, top)

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        """One scale, from the observed magnitude or else the largest finite one of the tensor."""
        check_dtype(self.name, QUANTISED, activation(name, tensor))
        if largest is None:
            top = torch.nan_to_num(tensor, 0.0, 0.0, 0.0).abs().amax().reshape(1)
        else:
            top = torch.tensor([largest])
        return self._word_of(top, tensor, tensor.numel(), 2 ** (self.bits - 1) - 1)

    def _word_of(self, largest: Tensor, tensor: Tensor, inner: int, top: int) -> ScaledWord:
        """The word of a tensor whose element e has the scale ``e // inner % len(largest)``."""
        # The lowest word, -2^(bits-1), must be a float32 too; larger magnitudes saturate.
        digits = _FLOAT_DIGITS - (self.bits - 1)
        largest_scale = (2.0 - 2.0 ** (1 - digits)) * 2.0 ** (_FLOAT_EXPONENT - self.bits)
        scale = largest.double().cpu() / top
        scale.clamp_(_SMALLEST_SCALE, largest_scale)
        mantissa, exponent = torch.frexp(scale)
        few = torch.ldexp(torch.ceil(mantissa * 2.0**digits) / 2.0**digits, exponent)
        layout = ScaleLayout(len(few) * inner, inner, 0)
        part = scale_part("scale", few.numpy(), MemoryFloat("float32"), torch.float32, layout)
        parts = [part.on(tensor.device)]
        return ScaledWord(self.name, IntegerElement(self.bits), parts, tensor.numel())


def is_quantised(stored: StoredTensor) -> bool:
    """Whether formats with scales store a tensor in their words: weights of two or more axes."""
    tensor = stored.tensor
    is_weight = stored.kind == "weight" and not stored.is_buffer and tensor.dim() >= 2
    return is_weight and tensor.is_floating_point()


def check_quantised(encoding: str, stored: StoredTensor) -> None:
    """TypeError or ValueError if a format with scales cannot store a weight."""
    check_dtype(encoding, QUANTISED, stored)
    if not torch.isfinite(stored.tensor).all():
        raise ValueError(
            f"{stored.name} holds NaN or infinity, which the encoding {encoding} cannot store: "
            f"store it in another form, as in {{{stored.name!r}: 'native', '*': {encoding!r}}}"
        )


class MemoryInteger(MemoryWord):
    """Integers that memory holds as they are stored."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = str(dtype).removeprefix("torch.")
        self.bits = 8 * dtype.itemsize
        self._is_signed = dtype.is_signed
        sign = 1 << (self.bits - 1)
        fields = (
            {"sign": sign, "integer": sign - 1} if dtype.is_signed else {"integer": 2 * sign - 1}
        )
        self.fields = MappingProxyType(fields)

    def words(self, values: Floats, elements: Elements) -> Words:
        stored: Words = values.astype(np.int64).astype(np.uint64) & np.uint64(self.all_bits)
        return stored

    def values(self, words: Words, elements: Elements) -> Floats:
        if not self._is_signed:
            return words.astype(np.float64)
        return signed_values(words, self.bits)


class Native(Encoding):
    """``native``: each tensor is stored in its own dtype, floats and integers.

    Use it for models of mixed precision and for models that are quantised already.
    """

    name = "native"

    def word(self, stored: StoredTensor) -> Word:
        return native_word(stored)


def native_word(stored: StoredTensor) -> Word:
    """The word of the tensor's own dtype; TypeError for a dtype that cannot be faulted."""
    dtype = stored.tensor.dtype
    if dtype in INTEGERS:
        return MemoryInteger(dtype)
    word = memory_float(dtype) or memory_float8(dtype)
    if word is not None:
        return word
    if dtype == getattr(torch, "float8_e8m0fnu", None):  # torch 2.7 and later
        return PowerOfTwo()
    raise TypeError(
        "faults hit floats of 16 to 64 bits, float8_e4m3fn, float8_e5m2, float8_e8m0fnu, and "
        f"integers of 8 to 32 bits, and {stored.name} is {dtype}: exclude the tensor with where="
        + (", or let the model store torch.view_as_real of it" if dtype.is_complex else "")
    )
