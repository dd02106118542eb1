"""The candidates of `plan`: formats and codes whose stored weights fit a memory budget."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
import torch
from torch import nn

from proact.encodings import Encoding
from proact.encodings.coded_word import CodedWord
from proact.encodings.codes import CODE_NAMES
from proact.nn.tensor_inventory import StoredTensor, stored_tensors

_FORMATS = ("float32", "q15.16", "float16", "bfloat16", "int8", "int4")
_LARGEST_WORD = 16  # bits of the fixed point that is chosen from the model's range
_TIMED_WORDS, _TIMED_RUNS = 1 << 15, 5


def default_encodings(model: nn.Module) -> Iterator[str]:
    """The names of the encodings that a plan compares by default.

    Each format, and the fixed point of 16 bits with as few integer bits as the model's numbers
    need, without a code and with each code.
    """
    fixed = _fixed_point_for(model)
    formats = _FORMATS if fixed is None else (*_FORMATS[:4], fixed, *_FORMATS[4:])
    for name in formats:
        yield name
        for code in CODE_NAMES:
            yield f"{name}+{code}"


def bits_per_weight(model: nn.Module, encoding: Encoding) -> float:
    """The stored bits of the weights, check bits included, divided by their number.

    Raises:
        ValueError, TypeError: the encoding cannot store a tensor.
    """
    weights = weights_of(model)
    if not weights:
        raise ValueError(
            f"{type(model).__name__} has no parameters or buffers that faults can hit; packed int8 "
            "weights cannot be read"
        )
    bits = sum(encoding.word(each).stored_bits(each.tensor.numel()) for each in weights)
    return bits / sum(each.tensor.numel() for each in weights)


def weights_of(model: nn.Module) -> Sequence[StoredTensor]:
    """The parameters with two dimensions or more; all stored tensors if there are none."""
    stored = stored_tensors(model)
    return [s for s in stored if not s.is_buffer and s.tensor.dim() >= 2] or stored


def decode_ns(model: nn.Module, encoding: Encoding) -> float:
    """Nanoseconds per word to decode the largest weight with the reference decoder; 0 without a
    code."""
    largest = max(weights_of(model), key=lambda stored: stored.tensor.numel())
    word = encoding.word(largest)
    if not isinstance(word, CodedWord):
        return 0.0
    code = word.fitted.code
    generator = np.random.default_rng(0)
    shape = (_TIMED_WORDS // code.words, code.words)
    stored, check = code.encode(generator.integers(0, 1 << code.word_bits, shape, np.uint64))
    seconds = []
    for _ in range(_TIMED_RUNS + 1):
        start = time.perf_counter()
        code.decode(stored, check)
        seconds.append(time.perf_counter() - start)
    return 1e9 * median(seconds[1:]) / stored.size


def _fixed_point_for(model: nn.Module) -> str | None:
    """The fixed point of 16 bits with the fewest integer bits; None if a number is too large."""
    largest = 0.0
    for stored in stored_tensors(model):
        if stored.tensor.is_floating_point():
            finite = stored.tensor[torch.isfinite(stored.tensor)]
            largest = max(largest, float(finite.abs().max()) if finite.numel() else 0.0)
    integer = max(math.frexp(largest)[1], 0)
    return f"q{integer}.{_LARGEST_WORD - 1 - integer}" if integer < _LARGEST_WORD else None
