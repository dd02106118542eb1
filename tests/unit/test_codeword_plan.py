"""Which flips are left when codewords with few flips are dropped? Compared with brute force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proact.ops import native_info
from proact.ops._codeword_reference import CodedWords
from proact.ops._flip_reference import flipped_bits
from proact.ops.codeword_plan import CodewordFlips, CodewordPlan
from proact.ops.plan import FlipPlaces, FlipPlan

RATES = st.one_of(
    st.sampled_from([0.0, 1e-9, 0.3, 0.5, 0.6, 1.0]),
    st.floats(-4.0, 0.0).map(lambda exponent: 10.0**exponent),
)
Row = tuple[int, int, int]


def plan_of(tensors: list[CodedWords]) -> CodewordPlan:
    plan = CodewordPlan()
    for elements, stream, mask, *coded in tensors:
        keys = CodedWords._fields[3:]
        plan.add(elements, stream, mask, **dict(zip(keys, coded, strict=True)))
    return plan


def rows(drawn: CodewordFlips) -> tuple[list[Row], int, int]:
    tensor, element, bit = drawn.places
    assert (tensor.dtype, element.dtype, bit.dtype) == (np.uint32, np.uint64, np.uint8)
    listed = list(zip(tensor.tolist(), element.tolist(), bit.tolist(), strict=True))
    assert type(drawn.flips) is type(drawn.dropped) is int
    return listed, drawn.flips, drawn.dropped


def expected_rows(
    tensors: list[CodedWords], ber: float, seed: int, trial: int
) -> tuple[list[Row], int, int]:
    """The same by sorting the flips of the plain sampler into codewords."""
    left: list[Row] = []
    flips = dropped = 0
    for index, coded in enumerate(tensors):
        hit: dict[int, list[Row]] = defaultdict(list)
        if coded.mask:
            sampler = (coded.elements, coded.mask, ber, seed, trial, coded.stream)
            for element, bit in flipped_bits(*sampler):
                hit[element // coded.words].append((index, element, bit))
        if coded.check_mask:
            codewords = (coded.elements + coded.words - 1) // coded.words
            sampler = (codewords, coded.check_mask, ber, seed, trial, coded.check_stream)
            for number, bit in flipped_bits(*sampler):
                hit[number].append((index, number * coded.words, coded.word_bits + bit))
        for number in sorted(hit):
            flips += len(hit[number])
            if number * coded.words >= coded.singles or len(hit[number]) > coded.corrects:
                left += sorted(hit[number])
            else:
                dropped += 1
    return left, flips, dropped


@st.composite
def coded_tensors(draw: st.DrawFn) -> list[CodedWords]:
    made = []
    for index in range(draw(st.integers(1, 3))):
        words = 1 << draw(st.integers(0, 6))
        elements = draw(st.one_of(st.integers(0, 3 * words), st.integers(0, 700)))
        singles = draw(st.sampled_from([elements, elements // words * words, 0]))
        word_bits = draw(st.sampled_from([1, 4, 8, 16, 32, 39, 64]))
        full = (1 << word_bits) - 1
        made.append(
            CodedWords(
                elements,
                stream=2 * index,
                mask=draw(st.one_of(st.sampled_from([0, full]), st.integers(0, full))),
                word_bits=word_bits,
                words=words,
                corrects=draw(st.integers(0, 4)),
                check_stream=2 * index + 1,
                check_mask=draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0x15, (1 << 64) - 1])),
                singles=singles,
            )
        )
    return made


@settings(max_examples=300, deadline=None)
@given(coded_tensors(), RATES, st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))
def test_any_plan_equals_brute_force(
    tensors: list[CodedWords], ber: float, seed: int, trial: int
) -> None:
    plan = plan_of(tensors)
    expected = expected_rows(tensors, ber, seed, trial)
    assert rows(plan.draw(ber, seed, trial)) == expected
    *places, flips, dropped = plan._reference.draw(ber, seed, trial)
    assert rows(CodewordFlips(FlipPlaces(*places), flips, dropped)) == expected


@pytest.mark.parametrize("ber", [1e-6, 1e-4, 1e-2, 0.3, 0.6])
@pytest.mark.parametrize("corrects", [0, 1, 2])
def test_threads_and_instruction_sets_change_nothing(ber: float, corrects: int) -> None:
    share = 1 if ber < 0.01 else 20
    sizes = [400_003 // share, 5, 90_000 // share, 60_013 // share]
    codes = [(32, 1, 0), (32, 1, 0x7F), (8, 8, 0xFF), (16, 4, 0)]
    tensors = [
        CodedWords(
            elements, 2 * i, (1 << bits) - 1, bits, words, corrects, 2 * i + 1, check, elements
        )
        for i, (elements, (bits, words, check)) in enumerate(zip(sizes, codes, strict=True))
    ]
    tensors[3] = tensors[3]._replace(singles=tensors[3].elements // 4 * 4)
    plan = plan_of(tensors)
    drawn = plan._reference.draw(ber, 3, 4)
    for isa in ["", *native_info()["isas"]]:
        for threads in (1, 2, 5):
            found = plan.draw(ber, 3, 4, threads, isa)
            for column, other in zip(found.places, drawn[:3], strict=True):
                np.testing.assert_array_equal(column, other)
            assert (found.flips, found.dropped) == drawn[3:]


def test_an_unknown_instruction_set_is_refused() -> None:
    if not native_info()["native"]:
        pytest.skip("needs the native module")
    with pytest.raises(ValueError, match="mmx"):
        CodewordPlan().draw(0.1, 1, 2, isa="mmx")


def test_without_a_code_every_flip_of_the_plain_format_survives() -> None:
    plan, plain = CodewordPlan(), FlipPlan()
    for stream, elements in enumerate((5000, 1, 700)):
        plan.add(elements, stream, 0xFF00FF, word_bits=24)
        plain.add_unread(elements, stream, 0xFF00FF)
    places = plain.flip(0.01, 3, 4).columns().places
    drawn = plan.draw(0.01, 3, 4)
    order = np.lexsort((places.bit, places.element, places.tensor))
    for column, other in zip(drawn.places, places.take(order), strict=True):
        np.testing.assert_array_equal(column, other)
    assert (drawn.flips, drawn.dropped) == (len(places.bit), 0)
    assert plan.exposed_bits == plain.exposed_bits == 5701 * 16


def test_an_empty_plan_and_empty_tensors_have_no_flips() -> None:
    plan = CodewordPlan()
    assert rows(plan.draw(0.5, 1, 2)) == ([], 0, 0)
    plan.add(0, 1, 1, word_bits=8)
    plan.add(100, 1, 0, word_bits=8)
    assert plan.exposed_bits == 0
    assert rows(plan.draw(1.0, 1, 2)) == ([], 0, 0)


def test_exposed_bits_count_the_check_word_of_a_last_codeword_that_is_not_full() -> None:
    plan = CodewordPlan()
    plan.add(17, 1, 0x7E, word_bits=8, words=8, check_stream=2, check_mask=0xFF)
    assert plan.exposed_bits == 17 * 6 + 3 * 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": 256}, "mask must expose only bits of a word of 8 bits, got 0x100"),
        ({"word_bits": 0, "mask": 0}, "word_bits must be 1 or more, got 0"),
        ({"word_bits": 192}, r"word_bits lies in \[0, 192\), got 192"),
        ({"words": 3}, "words must be a power of two, got 3"),
        ({"words": 0}, "words must be a power of two, got 0"),
        ({"words": 128}, r"words lies in \[0, 65\), got 128"),
        ({"words": 4, "singles": 6}, "singles must be a multiple of the 4 words .* got 6"),
        ({"elements": 2**32 + 1}, "elements lies in"),
        ({"stream": 2**48}, "stream lies in"),
        ({"check_stream": -1}, "check_stream lies in"),
        ({"check_mask": 2**64}, "check_mask lies in"),
        ({"corrects": -1}, "corrects lies in"),
    ],
)
def test_bad_tensors_are_refused(changed: Mapping[str, int], message: str) -> None:
    plan = CodewordPlan()
    with pytest.raises(ValueError, match=message):
        plan.add(**{"elements": 10, "stream": 1, "mask": 255, "word_bits": 8, **changed})
    assert plan.exposed_bits == 0
    assert rows(plan.draw(0.5, 1, 2)) == ([], 0, 0)


def test_bad_draws_are_refused() -> None:
    plan = CodewordPlan()
    plan.add(10, 1, 255, word_bits=8)
    with pytest.raises(ValueError, match="bit error rate"):
        plan.draw(1.5, 1, 2)
    with pytest.raises(ValueError, match="trial"):
        plan.draw(0.5, 1, 2**32)
    with pytest.raises(ValueError, match="threads"):
        plan.draw(0.5, 1, 2, threads=0)
