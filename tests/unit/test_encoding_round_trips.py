"""What every encoding keeps: words from their values, a second rounding, memory after any fault.

And with the native module or without it the same words are flipped.
"""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from encoding_oracle import (
    FORMATS,
    SMALL,
    Stored,
    around,
    encoded,
    floats_of,
    holding,
    q,
    tensor_of,
    weight_of,
    words_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import bits_of, same_bits
from proact import _native, build_info
from proact.encodings import Word
from proact.encodings.small_floats import small_float_named
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    StuckAt,
    encode,
    inject,
)
from proact.ops import _flip_reference as reference
from proact.ops.number_formats import (
    FixedPointWord,
    NarrowFloatWord,
    NumberFormat,
    ScaledFloatWord,
    ScaledIntegerWord,
    ScaleLayout,
)
from proact.ops.plan import FlipLog, FlipPlaces, FlipPlan

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
#: One of each kind of special values, with and without a mantissa or the usual bias.
FEW_SMALL = ("float8_e4m3", "float8_e5m2", "e3m2", "e3m0", "e3m4b-2n")


def words_for(name: str, tensor: torch.Tensor) -> Word:
    return FaultSpace(holding(tensor), name)[0].word


ROUND_TRIPS = [
    *((name, SINGLE) for name in ("float16", "bfloat16", "float32", "q15.16", "q0.7", "q0.1")),
    *((name, DOUBLE) for name in ("float32", "float64", "q15.16", "q31.0", "q0.31", "q3.0")),
    ("float16", HALF), ("bfloat16", BRAIN), ("int8", SINGLE), ("int8-tensor", DOUBLE),
    *((name, memory) for name in SMALL for memory in (SINGLE, DOUBLE)),
    ("int4", SINGLE), ("int2", SINGLE), ("native", torch.int8), ("native", torch.uint8),
    ("native", torch.int16), ("native", torch.uint16), ("native", torch.int32),
    ("native", torch.uint32),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), ROUND_TRIPS, ids=str)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_words_come_back_from_their_values(
    name: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    tensor = torch.tensor([[0.7, 100.0, 3.0], [1e-3, 1.0, 0.0]])
    word = words_for(name, (tensor / (128 if name.startswith("q") else 1)).to(dtype))
    chosen = data.draw(st.lists(st.integers(0, word.all_bits), min_size=1, max_size=40))
    elements = data.draw(st.lists(st.integers(0, 5), min_size=len(chosen), max_size=len(chosen)))
    words, at = np.array(chosen, np.uint64), np.array(elements, np.uint64)
    values = word.values(words, at)
    assert values.dtype == np.float64
    numbers = ~np.isnan(values)
    assert np.array_equal(word.words(values, at)[numbers], words[numbers])
    assert np.isnan(word.values(word.words(values, at), at)[~numbers]).all()
    digits = 24 if dtype == SINGLE else 53
    if word.bits <= digits or word.form is None:
        memory = word.memory_of(words, dtype, at)
        assert np.array_equal(word.words_in(memory, dtype, at)[numbers], words[numbers])


@pytest.mark.parametrize("name", ["q15.16", "q7.8", "q0.31", "int8", "float32"])
def test_words_of_any_double(name: str) -> None:
    """`Word.words` takes float64: the largest ones and infinity neither warn nor wrap."""
    word = words_for(name, torch.ones(1, 3, dtype=DOUBLE) * (127 if name == "int8" else 1))
    values = [1.7e308, -1.7e308, math.inf, -math.inf, 5e-324, -0.0, 2.5, -2.5]
    stored: dict[str, Stored] = {"q15.16": q(15, 16), "q7.8": q(7, 8), "q0.31": q(0, 31)}
    oracle = {**stored, "int8": q(7, 0), "float32": FORMATS[SINGLE]}[name]
    got = word.words(np.array(values), np.zeros(len(values), np.uint64))
    assert got.tolist() == [oracle.word(value) for value in values]


def test_a_double_is_rounded_once_to_float16() -> None:
    word = words_for("float16", torch.ones(1))
    value = 1 + 2**-11 + 2**-40  # as a float32 it is a tie, which goes down
    assert word.words(np.array([value]), np.zeros(1, np.uint64)).tolist() == [0x3C01]


ANY = ["float16", "bfloat16", "float32", "q15.16", "q7.8", "q0.7", "q31.0"]
ANY += ["int8", "int8-tensor", "int4", "int2", *FEW_SMALL]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 1e38)


@pytest.mark.parametrize("name", ANY)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=4))
def test_encoding_twice_is_encoding_once(name: str, rows: list[tuple[float, ...]]) -> None:
    once = encoded(holding(torch.tensor(rows)), name)
    twice = encode(once, name)  # whatever saturated is in range now: no warning
    assert words_of(weight_of(twice)) == words_of(weight_of(once))
    Injector(copy.deepcopy(once), name)


FAULTS: Sequence[Fault | list[Fault]] = [
    BitFlip(1.0), BitFlip(0.3), StuckAt(0, 0.5), StuckAt(1, 1.0), ExactFlips(7), Burst(2, 0.2),
    Burst(5, 0.1, within="tensor"), [BitFlip(0.4), StuckAt(1, 0.3), ExactFlips(3)],
]  # fmt: skip


@pytest.mark.parametrize("name", [*ANY, "native"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, (1 << 32) - 1), min_size=6, max_size=6),
    st.sampled_from(FAULTS),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_any_fault_restores_every_bit(
    name: str, words: list[int], fault: Fault | list[Fault], seed: int, is_native: bool
) -> None:
    """Also of -0.0, denormals, infinity and NaN with a payload, where they can be stored."""
    weight = tensor_of(words, SINGLE)
    if name.startswith(("q", "int")) or (name in SMALL and not SMALL[name].has_nan):
        weight = torch.where(weight.isfinite(), weight, -0.0)
    model = holding(weight.view(2, 3))
    before = bits_of(model)
    with pytest.MonkeyPatch.context() as patch:
        if not is_native:
            patch.setattr(_native, "module", None)
        with inject(model, fault, name, seed=seed) as record:
            assert record.flips == len(record.faults())
            with inject(model, BitFlip(0.5), "native", seed=seed):
                pass
    assert same_bits(before, model)


def scaled_form(element: str, size: int) -> tuple[NumberFormat, int]:
    """A form with few scales, for all rows alike or for the blocks of each row."""
    scales = torch.tensor([2.0**-23, 0.0123291015625, 1e36])
    if element == "uint4":
        blocks = ScaleLayout(33, 16, 3)
        count = 3 * (size // 33 + 1)
        zeros = torch.arange(count, dtype=torch.int32) % 16
        return ScaledIntegerWord(4, scales.repeat(count // 3), blocks, False, zeros), 4
    if element.isdigit():
        return ScaledIntegerWord(int(element), scales, ScaleLayout(21, 7, 0)), int(element)
    found = small_float_named(element)
    assert found is not None
    return ScaledFloatWord(found.form, scales, ScaleLayout(21, 7, 0)), found.bits


def plan_case(form: str, rng: np.random.Generator) -> tuple[torch.Tensor, NumberFormat | None, int]:
    """Memory of any words, the form, and how many bits a stored word has."""
    name, _, dtype = form.partition(" in ")
    memory = {"float32": SINGLE, "float64": DOUBLE}[dtype]
    words = rng.integers(0, 1 << 32, 600, dtype=np.uint64)
    if memory == DOUBLE:
        words = words << np.uint64(32) | rng.integers(0, 1 << 32, 600, dtype=np.uint64)
    numbers = torch.from_numpy(rng.normal(0, 3, 600)).to(memory)
    known = SMALL[name] if name in SMALL else FORMATS[getattr(torch, name, memory)]
    special = floats_of(around(known), memory)
    tensor = torch.cat([tensor_of(words.tolist(), memory), numbers, special])
    if name == "own":
        return tensor, None, 8 * memory.itemsize
    if name.startswith("fixed"):
        bits, fraction = map(int, name.split()[1:])
        return tensor, FixedPointWord(bits, fraction), bits
    if name.startswith("scaled"):
        return tensor, *scaled_form(name.split()[1], tensor.numel())
    if name in SMALL:
        form_of_name = small_float_named(name)
        assert form_of_name is not None
        return tensor, form_of_name.form, form_of_name.bits
    return tensor, NarrowFloatWord(name), FORMATS[getattr(torch, name)].bits


FEW_SCALED = (
    "scaled 8",
    "scaled 2",
    "scaled uint4",
    "scaled e2m1",
    "scaled float8_e5m2",
    "scaled float8_e4m3",
)
FORMS = ["own in float32", "own in float64", "float16 in float32", "bfloat16 in float32"]
FORMS += ["float32 in float64"]
FORMS += [
    f"{form} in {memory}"
    for form in (
        "fixed 32 16",
        "fixed 16 8",
        "fixed 2 1",
        "scaled 8",
        "scaled 2",
        *FEW_SCALED,
        *FEW_SMALL,
    )
    for memory in ("float32", "float64")
]


@pytest.mark.skipif(_native.module is None, reason="there is no native module")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ber", [0.02, 0.4, 1.0])
def test_the_reference_plan_gives_the_native_memory(form: str, ber: float) -> None:
    """To the bit, NaN included, on every instruction set; logs too, and both restore."""
    tensor, stored, bits = plan_case(form, np.random.default_rng(5))
    clean = words_of(tensor)
    oracle, expected = reference.ReferenceFaultPlan(), reference.ReferenceFlipLog()
    copied = tensor.clone()
    native = stored.native if stored is not None else ()
    mask = (1 << bits) - 1
    oracle.add(copied.data_ptr(), copied.numel(), copied.element_size(), 9, mask, native)
    oracle.flip_into(expected, ber, 3, 4)
    for isa in build_info()["isas"]:
        plan = FlipPlan()
        plan.add(tensor, 9, mask, stored)
        log = FlipLog(plan)
        plan.flip_into(log, ber, 3, 4, isa=isa)
        got = list(zip(clean, words_of(tensor), words_of(copied), strict=True))
        assert not [tuple(map(hex, row)) for row in got if row[1] != row[2]]
        for mine, its in zip(log.columns(), expected.columns(), strict=True):
            assert np.array_equal(mine, its)
        log.restore()
        assert words_of(tensor) == clean
    assert len(expected) > 0
    expected.restore()
    assert words_of(copied) == clean


@pytest.mark.skipif(_native.module is None, reason="there is no native module")
@pytest.mark.parametrize("form", FORMS)
def test_the_reference_plan_flips_given_places_as_the_native_one(form: str) -> None:
    tensor, stored, bits = plan_case(form, np.random.default_rng(6))
    rng = np.random.default_rng(7)
    chosen = np.unique(rng.integers(0, tensor.numel() * bits, 3000))
    element, bit = np.divmod(chosen.astype(np.uint64), np.uint64(bits))
    places = FlipPlaces(np.zeros(len(chosen), np.uint32), element, bit.astype(np.uint8))
    memories, logs = [], []
    for module in (_native.module, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_native, "module", module)
            copied, plan = tensor.clone(), FlipPlan()
            plan.add(copied, 9, (1 << bits) - 1, stored)
            log = FlipLog(plan)
            plan.flip_places_into(log, places)
            memories.append(words_of(copied))
            logs.append([column.tolist() for column in log.columns()])
            log.restore()
            assert words_of(copied) == words_of(tensor)
    assert memories[0] == memories[1] != words_of(tensor)
    assert logs[0] == logs[1]


@pytest.mark.skipif(_native.module is None, reason="there is no native module")
@pytest.mark.parametrize("mask", [0xFF, 0b1011, (1 << 64) - 1, 1 << 63])
def test_unread_words_are_drawn_alike(mask: int) -> None:
    rows = []
    for module in (_native.module, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_native, "module", module)
            plan = FlipPlan()
            plan.add_unread(300, 11, mask)
            plan.add_unread(5, 12, mask)
            logs = [plan.flip(0.1, 1, 2), plan.flip_exactly(41, 1, 2)]
            rows.append([[column.tolist() for column in log.columns()] for log in logs])
            for log in logs:
                log.restore()
    assert rows[0] == rows[1]
    assert len(rows[0][1][0]) == 41
    assert not any(rows[0][0][3])


#: Prints a digest of faulted memory in every encoding.
DIGEST = """
import hashlib
import torch
from torch import nn
from proact.faults import BitFlip, Burst, ExactFlips, StuckAt, encode, inject
faults = [BitFlip(0.1), StuckAt(0, 0.2), ExactFlips(9), Burst(2, 0.1)]
for name in (
    "float16", "bfloat16", "float32", "q15.16", "q3.4", "int8", "int8-tensor", "int4",
    "float8_e4m3", "float8_e5m2", "e3m2",
):
    weight = (torch.arange(1, 49, dtype=torch.float32) / 7).view(2, 4, 3, 2) - 2.5
    model = nn.ConvTranspose2d(2, 4, (3, 2), bias=False)
    model.weight = nn.Parameter(weight)
    stored, digest = encode(model, name), hashlib.sha256()
    before = stored.weight.detach().clone()
    for fault in faults:
        for trial in range(3):
            with inject(stored, fault, name, seed=6, trial=trial) as record:
                digest.update(stored.weight.detach().view(torch.int32).numpy().tobytes())
                digest.update(record.faults().tobytes())
        assert torch.equal(stored.weight, before)
    print(name, digest.hexdigest())
"""
WITHOUT = """
import sys, warnings
sys.modules["proact._proact"] = None
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import proact
    assert proact.build_info()["native"] is False
"""


@pytest.mark.long
def test_without_the_native_module_every_encoding_is_faulted_alike() -> None:
    run = [sys.executable, "-W", "error", "-c", WITHOUT + DIGEST]
    output = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    here = io.StringIO()
    with redirect_stdout(here):
        exec(DIGEST, {})
    assert output == here.getvalue()
    assert len(set(output.split())) == 2 * 11
