"""Block formats: elements of few bits whose blocks share a scale, such as mxfp4 and nvfp4."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from proact.encodings.base import Encoding, Floats, Word, check_dtype
from proact.encodings.floats import MemoryFloat
from proact.encodings.integers import QUANTISED, check_quantised, is_quantised, native_word
from proact.encodings.scaled_words import IntegerElement, ScaledWord
from proact.encodings.scales import PowerOfTwo, ScalePart, Unsigned, scale_part
from proact.encodings.small_floats import FloatFormat, MemoryFloat8
from proact.nn.tensor_inventory import StoredTensor, activation
from proact.ops.number_formats import ScaleLayout
from proact.text import short_repr

#: The longest block.
_LONGEST_BLOCK = 1 << 20
_MX_BLOCK, _NVFP4_BLOCK = 32, 16
#: The exponents of e8m0.
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -127, 127
#: Limits of the scale of a whole tensor, so that each value is exact in float32.
_SMALLEST_TENSOR_SCALE, _LARGEST_TENSOR_SCALE = 2.0**-100, 2.0**115
_FLOAT_DIGITS = 24  # of a float32's significand


class BlockFormat(Encoding):
    """A format in which a block of adjacent elements shares a scale.

    Parameters of the kind weight with two or more axes are stored in blocks. All others (biases,
    normalisation, thresholds, tensors of integers) keep their own bits. A row is what belongs to
    one index of the first axis: the weights of one output of a linear layer or a convolution, and
    of one input of a transposed convolution. Its elements are divided into blocks in the order of
    memory. If the last block of a row is not full, elements of value 0 fill it up. They count as
    stored bits and are not exposed, because their flips have no effect.

    Scales and zero points are stored bits and are in the fault space, as tensors of the kind
    ``scale``. A scale follows from the largest magnitude of its block (from the smallest and
    largest value, if there are zero points). Rounding a tensor a second time changes nothing: where
    the rounded block would lead to another scale, the next lower one is taken.

    Args:
        name: of the encoding.
        element: the form of the elements.
        block: the number of elements of a block, 1 or more.

    Raises:
        ValueError: a block of another length.
    """

    revision = 2  # with matrices of any name

    def __init__(self, name: str, element: IntegerElement | FloatFormat, block: int) -> None:
        self.name, self.element, self.block = name, element, block
        if not 1 <= block <= _LONGEST_BLOCK:
            raise ValueError(
                f"a block has 1 to {_LONGEST_BLOCK} elements, got {block} in the encoding {name}"
            )

    def word(self, stored: StoredTensor) -> Word:
        if not is_quantised(stored):
            return native_word(stored)
        check_quantised(self.name, stored)
        return self._word_of(stored.tensor, None)

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        """Scales from the activation itself, whose rows are its samples; NaN and infinity are left
        out. ``largest`` determines the scale of the whole tensor, if the format has one."""
        check_dtype(self.name, QUANTISED, activation(name, tensor))
        return self._word_of(torch.nan_to_num(tensor, 0.0, 0.0, 0.0), largest)

    def _word_of(self, tensor: Tensor, largest: float | None) -> ScaledWord:
        rows = tensor.shape[0] if tensor.dim() >= 2 else 1
        row = tensor.numel() // rows
        blocks = -(-row // self.block)
        layout = ScaleLayout(row, self.block, blocks)
        flat = F.pad(tensor.detach().reshape(rows, row), (0, blocks * self.block - row))
        low, high = flat.view(rows * blocks, self.block).aminmax(dim=1)
        lows, highs = low.double().cpu().numpy(), high.double().cpu().numpy()
        parts, unit = self._parts(lows, highs, layout, largest)
        parts = [part.on(tensor.device) for part in parts]
        return ScaledWord(self.name, self.element, parts, tensor.numel(), unit, is_block=True)

    @abstractmethod
    def _parts(
        self, low: Floats, high: Floats, layout: ScaleLayout, largest: float | None
    ) -> tuple[Sequence[ScalePart], float]:
        """The scales of blocks with the given smallest and largest values, (n,), and a fixed factor
        of all scales."""


class PowerOfTwoBlocks(BlockFormat):
    """Blocks with an ``e8m0`` scale, a power of two: MX formats and block floating point.

    The exponent of the scale is that of the largest magnitude minus that of the largest power of
    two among the elements. Elements beyond the largest one saturate (OCP Microscaling Formats (MX)
    Specification 1.0, section 6.3). The integer k of an element of b bits stands for
    k / 2^(b - 2), as in ``mxint8``, and -2^(b - 1) occurs by faults only.
    """

    def _parts(
        self, low: Floats, high: Floats, layout: ScaleLayout, largest: float | None
    ) -> tuple[Sequence[ScalePart], float]:
        magnitude = np.maximum(np.abs(low), np.abs(high))
        unit = 1.0
        if isinstance(self.element, IntegerElement):
            unit = 2.0 ** -(self.element.bits - 2)
        top = math.frexp(self.element.largest * unit)[1]
        _, above = np.frexp(magnitude)
        exponents = np.where(magnitude > 0.0, above - top, _LOWEST_EXPONENT)
        scales = np.ldexp(1.0, np.clip(exponents, _LOWEST_EXPONENT, _HIGHEST_EXPONENT))
        return [scale_part("scale", scales, PowerOfTwo(), torch.uint8, layout)], unit


class Nvfp4(BlockFormat):
    """``nvfp4``: e2m1 elements, an e4m3 scale for each block of 16, a float32 scale for the tensor.

    The largest magnitude of a tensor has the largest element and the largest scale of a block. The
    sign bit of a block's scale is stored and read: if it flips, the block changes its sign.
    NVIDIA, "Introducing NVFP4 for Efficient and Accurate Low-Precision Inference", 2025.
    """

    def __init__(self) -> None:
        self._float, self._scale = FloatFormat(2, 1), FloatFormat(4, 3)
        super().__init__("nvfp4", self._float, _NVFP4_BLOCK)

    def _parts(
        self, low: Floats, high: Floats, layout: ScaleLayout, largest: float | None
    ) -> tuple[Sequence[ScalePart], float]:
        magnitude = np.maximum(np.abs(low), np.abs(high))
        top = self.element.largest
        largest = float(magnitude.max()) if largest is None else largest
        used = self._scale.mantissa_bits + 1 + self._float.mantissa_bits + 1
        whole = _few_digits(largest / (top * self._scale.largest), _FLOAT_DIGITS - used)
        whole = min(max(whole, _SMALLEST_TENSOR_SCALE), _LARGEST_TENSOR_SCALE)
        scales = _fixed_scales(
            self._scale,
            magnitude / (top * whole),
            lambda s: self._largest_after(magnitude / whole, s) / top,
        )
        per_tensor = ScaleLayout(layout.row * len(low), layout.row * len(low), 1)
        return [
            scale_part("scale", scales, MemoryFloat8(self._scale), torch.float8_e4m3fn, layout),
            scale_part(
                "tensor_scale",
                np.array([whole]),
                MemoryFloat("float32"),
                torch.float32,
                per_tensor,
            ),
        ], 1.0

    def _largest_after(self, magnitude: Floats, scales: Floats) -> Floats:
        """The largest magnitude of each block after rounding with the given scales."""
        nowhere = np.zeros(len(magnitude), np.uint64)
        words = self.element.words(magnitude / scales, nowhere)
        rounded: Floats = self.element.values(words, nowhere) * scales
        return rounded


class GroupedIntegers(BlockFormat):
    """``int4-group32`` and the like: integers with a float16 scale for each group of a row.

    This is how weights of language models are usually stored (GPTQ, arXiv 2210.17323; AWQ, arXiv
    2306.00978). Symmetric integers have a sign: the scale is the largest magnitude over the largest
    integer. With zero points, as in ``int4-group128-zero``, integers have no sign: the scale is the
    range of the group, 0 included, over 2^bits - 1, and the zero point is the integer that means 0.
    """

    def __init__(self, bits: int, group: int, has_zero_points: bool) -> None:
        name = f"int{bits}-group{group}" + ("-zero" if has_zero_points else "")
        super().__init__(name, IntegerElement(bits, not has_zero_points), group)
        self._scale, self._has_zero_points = FloatFormat(5, 10), has_zero_points

    def _parts(
        self, low: Floats, high: Floats, layout: ScaleLayout, largest: float | None
    ) -> tuple[Sequence[ScalePart], float]:
        top = self.element.largest
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if not self._has_zero_points:
            high = np.maximum(-low, high)
            low = np.zeros_like(high)

        def steps(scales: Floats) -> tuple[Floats, Floats]:
            """The zero point of each group, and the range of its rounded values in steps."""
            zeros = np.clip(np.rint(-low / scales), 0.0, top)
            return zeros, np.clip(np.rint(high / scales) + zeros, 0.0, top)

        scales = _fixed_scales(self._scale, (high - low) / top, lambda s: steps(s)[1] * s / top)
        half = MemoryFloat("float16")
        parts = [scale_part("scale", scales, half, torch.float16, layout)]
        if self._has_zero_points:
            zeros = steps(scales)[0]
            word = Unsigned(self.element.bits)
            parts.append(scale_part("zero_point", zeros, word, torch.uint8, layout))
        return parts, 1.0


def _fixed_scales(stored: FloatFormat, wanted: Floats, after: Callable[[Floats], Floats]) -> Floats:
    """Stored scales that the rounded blocks lead to again.

    These are the ones nearest to ``wanted``, at least the smallest positive one. A scale that the
    rounded block would not lead to is replaced by the next lower one until all are fixed.

    Args:
        stored: the format of the scales.
        wanted: the exact scale of each block, (n,).
        after: the exact scales of the blocks after rounding with given scales.
    """
    nowhere = np.zeros(len(wanted), np.uint64)

    def nearest(exact: Floats) -> NDArray[np.uint64]:
        return np.clip(stored.words(exact, nowhere), 1, stored.largest_word).astype(np.uint64)

    words = nearest(wanted)
    while True:
        moves = nearest(after(stored.values(words, nowhere))) != words
        moves &= words > 1
        if not moves.any():
            return stored.values(words, nowhere)
        words[moves] -= np.uint64(1)


def _few_digits(value: float, digits: int) -> float:
    """The value rounded up to a number of binary digits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, digits)), exponent - digits)


#: Names of MX formats with their elements (OCP Microscaling Formats (MX) Specification 1.0).
_MX = {
    "mxfp8_e4m3": (4, 3),
    "mxfp8_e5m2": (5, 2),
    "mxfp6_e3m2": (3, 2),
    "mxfp6_e2m3": (2, 3),
    "mxfp4": (2, 1),
}
#: Short names of the more usual of two formats.
_SHORT = {"mxfp8": "mxfp8_e4m3", "mxfp6": "mxfp6_e3m2"}


def block_format_named(name: str) -> BlockFormat | None:
    """The block format of a name; None if it is not one.

    Raises:
        ValueError: a number of bits or a length of blocks out of range.
    """
    name = _SHORT.get(name, name)
    if name in _MX:
        return PowerOfTwoBlocks(name, FloatFormat(*_MX[name]), _MX_BLOCK)
    if name == "mxint8":
        return PowerOfTwoBlocks(name, IntegerElement(8), _MX_BLOCK)
    if name == "nvfp4":
        return Nvfp4()
    if match := re.fullmatch(r"int([2-8])-group(\d{1,9})(-zero)?", name):
        return GroupedIntegers(int(match[1]), int(match[2]), match[3] is not None)
    if match := re.fullmatch(r"bfp(\d{1,3})-block(\d{1,9})", name):
        bits = int(match[1])
        if not 2 <= bits <= 16:
            raise ValueError(
                f"an element of block floating point has 2 to 16 bits, got {short_repr(name)}"
            )
        return PowerOfTwoBlocks(
            f"bfp{bits}-block{int(match[2])}", IntegerElement(bits), int(match[2])
        )
    return None
