"""Native and plain scrubbing against the codes that define it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

import proact
from proact import _native
from proact.encodings.codes import (
    CODE_NAMES,
    IN_PLACE_CODE_NAMES,
    Code,
    FittedCode,
    code_named,
    words_code,
)
from proact.errors import ProactError
from proact.ops.in_place_code import TensorCode, encode_words_
from proact.ops.scrub_plan import Scrubbed, ScrubPlan
from proact.ops.sweep_log import SweepLog

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
ISAS = proact.build_info()["isas"] or [""]


def _fits(name: str, word_bytes: int) -> bool:
    try:
        code_named(name, 8 * word_bytes)
    except ValueError:
        return False
    return True


CASES = [
    (name, word_bytes)
    for name in IN_PLACE_CODE_NAMES
    for word_bytes in INTEGERS
    if _fits(name, word_bytes)
]
SIZES = (1, 2, 3, 7, 8, 9, 63, 256, 1031, 5003)


@pytest.fixture(params=["native", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(_native, "module", None)
    elif _native.module is None:
        pytest.skip("no native module")
    return str(request.param)


def _words(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().view(f"u{tensor.element_size()}").astype(np.uint64)


def _random(size: int, word_bytes: int, offset: int = 0, seed: int = 0) -> Tensor:
    """A tensor that begins ``offset`` words after the beginning of its memory."""
    generator = np.random.default_rng(seed)
    raw = bytearray(generator.bytes((size + offset) * word_bytes))
    memory = torch.frombuffer(raw, dtype=torch.uint8).view(INTEGERS[word_bytes])
    return memory[offset:]


def _by_part(fitted: FittedCode, words: np.ndarray) -> list[tuple[Code, slice]]:
    full = len(words) - len(words) % fitted.code.words
    parts = [(fitted.code, slice(0, full))]
    if full < len(words):
        assert fitted.rest is not None
        parts.append((fitted.rest, slice(full, len(words))))
    return parts


def _encoded(fitted: FittedCode, words: np.ndarray) -> np.ndarray:
    result = words.copy()
    for code, part in _by_part(fitted, words):
        result[part] = code.encode(words[part].reshape(-1, code.words))[0].reshape(-1)
    return result


def _decoded(fitted: FittedCode, words: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The words after scrubbing with replacements of 0, and the counts, by definition."""
    result = words.copy()
    corrected = detected = 0
    for code, part in _by_part(fitted, words):
        rows = words[part].reshape(-1, code.words)
        decoded = code.decode(rows, np.zeros(len(rows), np.uint64))
        new = decoded.words.copy()
        if not code.masks_detected:
            new[decoded.detected] = code.encode(np.zeros((1, code.words), np.uint64))[0]
        is_wrong = (code.encode(rows)[0] != rows).any(axis=1)
        detected += int(decoded.detected.sum())
        corrected += int((is_wrong & ~decoded.detected).sum())
        result[part] = new.reshape(-1)
    return result, corrected, detected


def _flip(tensor: Tensor, ber: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    memory = tensor.numpy().view(np.uint8)
    flips = generator.random((memory.size, 8)) < ber
    memory ^= np.packbits(flips, axis=1).reshape(-1)


@pytest.mark.parametrize(("name", "word_bytes"), CASES)
def test_encoding_follows_the_code(name: str, word_bytes: int, form: str) -> None:
    fitted, coded = code_named(name, 8 * word_bytes), words_code(name, word_bytes)
    for size in SIZES:
        for offset in (0, 1, 3):
            tensor = _random(size, word_bytes, offset, size)
            expected = _encoded(fitted, _words(tensor))
            encode_words_(tensor, coded, threads=2)
            np.testing.assert_array_equal(_words(tensor), expected)


@pytest.mark.parametrize(("name", "word_bytes"), CASES)
def test_scrubbing_follows_the_code(name: str, word_bytes: int, form: str) -> None:
    fitted, coded = code_named(name, 8 * word_bytes), words_code(name, word_bytes)
    found = Scrubbed(0, 0)
    for size in SIZES:
        for number, isa in enumerate(ISAS if form == "native" else ["", "", ""]):
            tensor = _random(size, word_bytes, number + size % 4, size)
            encode_words_(tensor, coded)
            plan = ScrubPlan([tensor], [coded], [None])
            clean = tensor.clone()
            assert plan.scrub(isa=isa).read() == [(0, 0)]
            assert torch.equal(tensor, clean)
            _flip(tensor, (0.002, 0.01, 0.05)[number % 3], size)
            before = tensor.clone()
            words, corrected, detected = _decoded(fitted, _words(tensor))
            log = SweepLog(plan)
            counts = plan.scrub(log, isa=isa).read()
            assert counts == [(corrected, detected)]
            np.testing.assert_array_equal(_words(tensor), words)
            assert plan.scrub(isa=isa).read() == [(0, 0)]
            log.restore()
            assert torch.equal(tensor, before)
            found = Scrubbed(found.corrected + corrected, found.detected + detected)
    assert (found.detected > 0) == (name != "mset")
    assert (found.corrected > 0) == (name not in ("parity", "cep"))


def test_threads_change_nothing() -> None:
    coded = words_code("bch2", 4)
    results = []
    for threads in (1, 2, 5):
        tensor = _random(400_003, 4)
        encode_words_(tensor, coded)
        _flip(tensor, 1e-3, 1)
        small = tensor[:9].clone()
        plan = ScrubPlan([tensor, small], [coded, coded], [None, None])
        results.append((plan.scrub(threads=threads).read(), tensor.tolist()))
    assert results[0] == results[1] == results[2]
    assert results[0][0][0].corrected > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["secded", "bch3"])
def test_replacements_are_nearest_to_zero_in_the_bounds(
    name: str, dtype: torch.dtype, form: str
) -> None:
    tensor = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype) + 1
    coded = words_code(name, tensor.element_size())
    low = torch.tensor([-1.0, 0.5, -4, 2, 0, float("nan")]).view(6, 1, 1)
    high = torch.tensor([1.0, 2.0, -0.25, 1, 3, 1]).view(6, 1, 1)
    nearest = torch.tensor([0.0, 0.5, -0.25, 0, 0, 0]).view(6, 1, 1).expand(6, 5, 3)
    expected = nearest.to(dtype).contiguous()
    encode_words_(expected, coded)
    encode_words_(tensor, coded)
    errors = {"secded": 2, "bch3": 4}[name]
    flipped = tensor.view(INTEGERS[tensor.element_size()]).view(-1)
    # All of the errors of a codeword in one word of it: bits at the top of the payload.
    step = coded.code.words
    mask = sum(1 << (8 * tensor.element_size() - 2 - bit) for bit in range(errors))
    full = len(flipped) - len(flipped) % step
    flipped[:full:step] ^= mask
    plan = ScrubPlan([tensor], [coded], [(low, high)], ["w"])
    rest = len(flipped) - full
    assert plan.scrub().read() == [(0, full // step)]
    got = tensor.view(-1)[:full].view(torch.uint8)
    # The codeword that crosses channels has the check bits of its own words.
    whole = expected.view(-1)[:full].view(torch.uint8)
    assert torch.equal(got, whole)
    assert rest < step


def test_channels_last_memory_and_strided_memory(form: str) -> None:
    for name, tensor in (
        ("bch2", torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)),
        ("bch2", torch.rand(4, 6)[:, ::2]),
        ("secded", torch.rand(5, 4).to(torch.bfloat16).t()),
        ("bch2", torch.rand(5, 4).to(torch.bfloat16).t()),
        ("bch2", torch.rand(())),
    ):
        coded = words_code(name, tensor.element_size())
        whole = tensor.contiguous().clone()
        encode_words_(whole, coded)
        tensor.copy_(whole)
        plan = ScrubPlan([tensor], [coded], [None])
        assert plan.scrub().read() == [(0, 0)]
        integers = tensor.view(INTEGERS[tensor.element_size()])
        before = integers.clone()
        integers[(-1,) * tensor.dim()] ^= 1 << 12
        hit = integers.clone()
        log = SweepLog(plan)
        assert plan.scrub(log).read() == [(1, 0)]
        assert torch.equal(integers, before)
        log.restore()
        assert torch.equal(integers, hit)


def test_codes_are_small_when_pickled_and_shared_when_copied() -> None:
    coded = words_code("bch3", 2)
    data = pickle.dumps(coded)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.code is coded.code
    assert again.rest is coded.rest


@pytest.mark.parametrize("name", [n for n in CODE_NAMES if n not in IN_PLACE_CODE_NAMES])
def test_codes_with_memory_of_their_own_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the code {name} has check bits outside the words"):
        words_code(name, 4)


def test_unfit_arguments_are_refused() -> None:
    coded = words_code("bch2", 2)
    tensor = torch.zeros(6, dtype=torch.int16)
    with pytest.raises(ValueError, match="a code is one of secded, .*did you mean 'bch3'"):
        words_code("bch4", 4)
    with pytest.raises(TypeError, match=r"w has words of 4 bytes \(torch.float32\)"):
        ScrubPlan([torch.zeros(4)], [coded], [None], ["w"])
    with pytest.raises(ValueError, match="needs a code for the 2 words that are left of 6"):
        ScrubPlan([tensor], [TensorCode(coded.code)], [None])
    with pytest.raises(ValueError, match="each tensor must have a code"):
        ScrubPlan([tensor], [coded], [])
    with pytest.raises(ValueError, match="must not share memory"):
        ScrubPlan([tensor, tensor[2:]], [coded, coded], [None, None])
    with pytest.raises(ValueError, match="elements of w must not share memory"):
        ScrubPlan([tensor[:1].expand(4)], [coded], [None], ["w"])
    halves = tensor.view(torch.bfloat16)
    with pytest.raises(ValueError, match="bounds must be one number"):
        ScrubPlan([halves], [coded], [(torch.zeros(2), torch.ones(2))], ["w"])
    with pytest.raises(TypeError, match="a tensor to encode must have plain memory"):
        encode_words_(torch.zeros(4, dtype=torch.int16, device="meta"), coded)
    with pytest.raises(ValueError, match="a tensor to encode must be contiguous"):
        encode_words_(tensor[::2], coded)
    freed = torch.zeros(64, dtype=torch.int16)
    plan = ScrubPlan([freed], [coded], [None], ["w"])
    freed.untyped_storage().resize_(0)
    with pytest.raises(ProactError, match="w"):
        plan.scrub()
