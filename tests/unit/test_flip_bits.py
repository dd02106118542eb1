"""Does `flip_bits_` flip the bits that the plain-Python sampler says, and nothing else?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from proact import _native
from proact.ops import _flip_reference as reference
from proact.ops import flip_bits_
from proact.ops.number_formats import FixedPointWord
from proact.ops.plan import FlipPlan
from proact.ops.seeds import stream_of

DATA = Path(__file__).parents[1] / "data"
RATES = [0.0, 1e-4, 0.01, 0.3, 0.5, 0.500001, 0.7, 0.999, 1.0]


def test_philox_gives_the_published_answers() -> None:
    lines = (DATA / "philox4x32_10.txt").read_text().splitlines()
    cases = [[int(word, 16) for word in line.split()] for line in lines if line[0] != "#"]
    assert len(cases) == 3
    for case in cases:
        counter, key, output = tuple(case[:4]), tuple(case[4:6]), tuple(case[6:])
        assert reference.philox4x32_10(counter, key) == output


@pytest.mark.parametrize(
    ("n", "p"), [(32, 1e-3), (1 << 20, 3e-5), (64, 0.5), (1024, 0.03), (128, 0.0), (1 << 24, 1e-30)]
)
def test_both_samplers_build_the_same_binomial_table(n: int, p: float) -> None:
    assert _native.module is not None
    assert tuple(_native.module.binomial_survival(n, p)) == reference.binomial_survival(n, p)


@pytest.mark.parametrize("ber", RATES)
@pytest.mark.parametrize("mask", [None, 0b0101_1010, 0b1])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.bfloat16, torch.float32, torch.float64]
)
def test_flips_equal_the_reference_to_the_bit(
    dtype: torch.dtype, mask: int | None, ber: float
) -> None:
    tensor = torch.arange(1111).to(dtype)
    expected = tensor.clone()
    plan = reference.ReferenceFaultPlan()
    width = tensor.element_size()
    plan.add(
        expected.data_ptr(),
        expected.numel(),
        width,
        stream_of("layer.weight"),
        (1 << 8 * width) - 1 if mask is None else mask,
    )
    flips = plan.flip_unlogged(ber, 3, 9)

    realised = flip_bits_(tensor, ber, seed=3, trial=9, stream="layer.weight", bit_mask=mask)

    assert realised == flips
    assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("ber", [1e-3, 0.2, 0.8])
@pytest.mark.parametrize("word", [FixedPointWord(32, 16), FixedPointWord(12, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_point_flips_equal_the_reference(
    dtype: torch.dtype, word: FixedPointWord, ber: float
) -> None:
    native = torch.linspace(-9, 9, 700, dtype=dtype)
    expected = native.clone()
    original = native.clone()
    mask = (1 << word.word_bits) - 1
    oracle = reference.ReferenceFaultPlan()
    oracle.add(expected.data_ptr(), 700, native.element_size(), 5, mask, word.native)
    plan = FlipPlan()
    plan.add(native, 5, mask, word)

    expected_log, log = reference.ReferenceFlipLog(), plan.flip(ber, 1, 2)
    oracle.flip_into(expected_log, ber, 1, 2)

    assert torch.equal(native, expected)
    for mine, theirs in zip(log.columns(), expected_log.columns(), strict=True):
        assert np.array_equal(mine, theirs)
    log.restore()
    assert torch.equal(native, original)


def test_known_flips_keep_the_meaning_of_a_seed() -> None:
    """Recorded with sampler version 1: a change here changes every stored campaign."""
    tensor = torch.zeros(4096, dtype=torch.int32)
    assert flip_bits_(tensor, 1e-4, seed=2026, trial=7, stream="conv1.weight") == 16
    rows = [(int(i), int(tensor[i]) & 0xFFFFFFFF) for i in torch.nonzero(tensor).squeeze(1)]
    expected = (DATA / "flips_v1.txt").read_text().splitlines()[1:]
    assert rows == [(int(a), int(b, 16)) for a, b in (line.split() for line in expected)]


def test_ber_zero_and_one_are_exact() -> None:
    tensor = torch.randn(999)
    before = tensor.clone().view(torch.int32)
    assert flip_bits_(tensor, 0.0, seed=1) == 0
    assert torch.equal(tensor.view(torch.int32), before)
    assert flip_bits_(tensor, 1.0, seed=1) == 999 * 32
    assert torch.equal(tensor.view(torch.int32), ~before)


def test_the_same_call_flips_back() -> None:
    tensor = torch.randn(5000)
    before = tensor.clone()
    first = flip_bits_(tensor, 0.01, seed=4, trial=2, stream=8)
    assert not torch.equal(tensor.view(torch.int32), before.view(torch.int32))
    assert flip_bits_(tensor, 0.01, seed=4, trial=2, stream=8) == first
    assert torch.equal(tensor.view(torch.int32), before.view(torch.int32))


def test_seed_trial_and_stream_each_give_other_flips() -> None:
    def flipped(**names: int) -> bytes:
        tensor = torch.zeros(2000, dtype=torch.int32)
        flip_bits_(tensor, 0.01, **names)
        return tensor.numpy().tobytes()

    patterns = [
        flipped(seed=0, trial=0, stream=0),
        flipped(seed=1, trial=0, stream=0),
        flipped(seed=1 << 40, trial=0, stream=0),
        flipped(seed=0, trial=1, stream=0),
        flipped(seed=0, trial=0, stream=1),
        flipped(seed=0, trial=0, stream=1 << 40),
    ]
    assert len(set(patterns)) == len(patterns)


def test_numpy_arrays_get_the_flips_of_tensors() -> None:
    array = np.zeros((50, 40), dtype=np.uint32)
    tensor = torch.zeros(50, 40, dtype=torch.int32)
    assert flip_bits_(array, 0.01, seed=5) == flip_bits_(tensor, 0.01, seed=5) > 0
    assert np.array_equal(array.view(np.int32), tensor.numpy())


def test_flips_raise_the_version_counter() -> None:
    tensor = torch.zeros(100)
    version = tensor._version
    flip_bits_(tensor, 0.5)
    assert tensor._version > version


def test_empty_tensor_has_no_flips() -> None:
    assert flip_bits_(torch.zeros(0, 3), 0.5) == 0


def test_opcheck() -> None:
    torch.library.opcheck(
        torch.ops.proact.flip_bits_.default,
        (torch.zeros(64), 0.0, 1, 2, 3, 0xFF),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ber": -0.1}, ValueError, "bit error rate"),
        ({"ber": 1.1}, ValueError, "1.1"),
        ({"ber": float("nan")}, ValueError, "nan"),
        ({"ber": "high"}, TypeError, "'high'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1 << 63}, ValueError, "seed"),
        ({"seed": 0.5}, TypeError, "seed"),
        ({"trial": 1 << 32}, ValueError, "trial"),
        ({"stream": 1 << 48}, ValueError, "stream"),
        ({"bit_mask": 1 << 32}, ValueError, "bit_mask"),
        ({"bit_mask": 0}, ValueError, "at least one bit"),
        ({"tensor": torch.zeros(4, 4).t()[1:]}, ValueError, "contiguous"),
        ({"tensor": torch.zeros(4, requires_grad=True)}, ValueError, "grad"),
        ({"tensor": torch.zeros(4, dtype=torch.complex128)}, TypeError, "complex128"),
        ({"tensor": torch.zeros(4, dtype=torch.bool)}, TypeError, "bool"),
        ({"tensor": torch.zeros(4, device="meta")}, ValueError, "meta"),
        ({"tensor": torch.eye(3).to_sparse()}, ValueError, "sparse"),
        ({"tensor": [1.0, 2.0]}, TypeError, "list"),
        ({"tensor": np.zeros((4, 4))[:, 1]}, ValueError, "contiguous"),
        ({"tensor": np.array(["a"])}, TypeError, "<U1"),
        ({"tensor": np.zeros(3, ">f4")}, TypeError, ">f4"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    tensor = torch.ones(64)
    with pytest.raises(error, match=words):
        flip_bits_(**{"tensor": tensor, "ber": 0.5, **arguments})  # type: ignore[arg-type]
    assert torch.equal(tensor, torch.ones(64))


def test_read_only_array_is_refused() -> None:
    array = np.zeros(8, np.float32)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        flip_bits_(array, 0.5)
