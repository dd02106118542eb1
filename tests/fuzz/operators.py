"""Random operands of the native operators, which must give the values of the plain references."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from proact.ops import _hyrelu_reference, flip_bits_, hyrelu, restrict_range_
from proact.ops._flip_reference import flipped_bits
from proact.ops._range_reference import restricted

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, 3e38)
_MODES = ("soft", "zero", "saturate")
_SLOPE = 20.0


def check_operators(seed: int) -> None:
    """Call each operator once with random operands.

    Raises:
        AssertionError: a value differs from the reference, or an operand has changed.
    """
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    x = _tensor(draw, numbers)
    _check_hyrelu(draw, numbers, x)
    _check_flips(draw, _tensor(draw, numbers).contiguous())
    _check_range(draw, numbers, _tensor(draw, numbers).contiguous())


def _check_hyrelu(draw: random.Random, numbers: torch.Generator, x: Tensor) -> None:
    neuron = x.shape[1:]
    shape = draw.choice([(), neuron, (*neuron[:1], *(1 for _ in neuron[1:]))])
    threshold = _spoilt(draw, torch.randn(shape, generator=numbers)).to(x.dtype)
    mode = draw.choice(_MODES)
    before = x.clone()
    found = hyrelu(x, threshold, mode, _SLOPE)
    expected = _hyrelu_reference.forward(x, threshold, mode, _SLOPE)
    assert _same(x, before), "the input has changed"
    if mode == "soft":
        torch.testing.assert_close(found, expected, equal_nan=True)
    else:
        assert torch.equal(found, expected), f"{mode} of {x.dtype} {tuple(x.shape)}"


def _check_flips(draw: random.Random, x: Tensor) -> None:
    if not x.numel():
        return
    word = 8 * x.element_size()
    ber, key = draw.choice([0.0, 1e-3, 0.3, 1.0]), draw.getrandbits(63)
    trial, stream = draw.getrandbits(32), draw.getrandbits(48)
    before = _bits(x)
    count = flip_bits_(x, ber, seed=key, trial=trial, stream=stream)
    expected = set(flipped_bits(x.numel(), (1 << word) - 1, ber, key, trial, stream))
    changed = _bits(x) ^ before
    found = {
        (element, bit)
        for element, value in enumerate(changed.tolist())
        for bit in range(word)
        if value >> bit & 1
    }
    assert found == expected
    assert count == len(expected)


def _check_range(draw: random.Random, numbers: torch.Generator, x: Tensor) -> None:
    low, high = torch.randn(2, generator=numbers).sort().values.to(x.dtype)
    action = draw.choice(["zero", "saturate"])
    outside, replacements = restricted(x, low, high, action)
    expected = torch.where(outside, replacements, x)
    (count,) = restrict_range_([x], [low], [high], action).tolist()
    assert _same(x, expected)
    assert count == int(outside.sum())


def _tensor(draw: random.Random, numbers: torch.Generator) -> Tensor:
    """Of up to four dimensions, with special values, in any layout."""
    shape = [draw.choice([0, 1, 2, 3, 5, 17]) for _ in range(draw.randint(1, 4))]
    x = _spoilt(draw, torch.randn(shape, generator=numbers)).to(draw.choice(_DTYPES))
    layout = draw.randrange(4)
    if layout == 1:
        x = x.permute(draw.sample(range(x.dim()), x.dim()))
    elif layout == 2:
        x = x.repeat_interleave(2, dim=-1)[..., ::2]
    elif layout == 3 and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


def _spoilt(draw: random.Random, x: Tensor) -> Tensor:
    if x.numel():
        for _ in range(draw.randrange(4)):
            x.view(-1)[draw.randrange(x.numel())] = draw.choice(_SPECIAL)
    return x


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(-1).view(_INTEGERS[x.element_size()]).clone()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
