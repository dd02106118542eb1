"""Are fault kinds values: frozen, hashable, compared, printed, written to JSON and read back?"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from proact.faults import (
    ActivationFlip,
    BitFlip,
    BitFlipStratum,
    Burst,
    ExactFlips,
    Fault,
    Replay,
    StuckAt,
    Where,
    fault_from_dict,
    fault_from_json,
)

#: Any two of these differ in meaning.
EXAMPLES: list[Fault] = [
    BitFlip(1e-5),
    BitFlip(1e-5, bits="sign"),
    BitFlip(1e-5, bits=0b1000),
    BitFlip(1e-5, bits=(8,)),
    BitFlip(1e-5, bits=(31, "mantissa")),
    BitFlip(1e-5, where="0.*"),
    BitFlip(1e-5, where=("0.*", "1.*")),
    BitFlip(1e-5, where=Where(layer=nn.Conv2d, kind=("weight", "bias"), exclude="0.*")),
    BitFlip({"*.weight": 1e-3, Where(kind="bias"): 1e-4}),
    BitFlip({Where(kind="bias"): 1e-4, "*.weight": 1e-3}),
    BitFlipStratum(1e-5, (30,), ("0.weight",)),
    BitFlipStratum(1e-5, (30,), ("0.weight", "0.bias")),
    BitFlipStratum(1e-5, (30,), ("0.weight",), in_field=(1, None)),
    BitFlipStratum(1e-5, (30,), ("0.weight",), in_field=(0, 0), elsewhere=(1, None)),
    BitFlipStratum(1e-5, (30,), ("0.weight",), in_others=(1, 2)),
    ExactFlips(0),
    ExactFlips(7),
    ExactFlips(7, bits="exponent"),
    StuckAt(0, 1e-5),
    StuckAt(1, 1e-5),
    StuckAt(1, {"*.weight": 1e-3}),
    Burst(1, 1e-5),
    Burst(4, 1e-5),
    Burst(4, 1e-5, within="tensor"),
    Burst(4, 1e-5, within="tensor", interleaving=8),
    Burst(4, 1e-5, where="0.*"),
    Replay([("0.weight", 3, 31)]),
    Replay([("0.weight", 3, 30)]),
    Replay([("0.weight", 3, 31)], {"0.weight": (2, 2)}),
    Replay([("0.weight", 3, 31)], encoding="float32"),
    ActivationFlip(1e-5),
    ActivationFlip(1e-5, at="input"),
    ActivationFlip(1e-5, where=Where(layer="ReLU"), encoding="q7.8", bits="integer"),
    ActivationFlip(1e-5, encoding="int8", largest={"0": 1.5, "1": 2.0}),
]

patterns = st.text(max_size=8)
several = st.one_of(patterns, st.lists(patterns, min_size=1, max_size=3))
known_kinds = st.sampled_from(["weight", "bias", "normalisation", "statistics", "buffer"])


def one_where(exclude: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some_kinds = st.one_of(known_kinds, st.lists(known_kinds, min_size=1, max_size=3))
    return st.builds(
        Where, several, st.none() | several, st.none() | some_kinds, st.none() | exclude
    )


tensors = st.one_of(patterns, one_where(patterns), one_where(one_where(patterns)))
wheres = st.one_of(tensors, st.lists(tensors, min_size=1, max_size=3).map(tuple))
masks = st.one_of(
    st.none(),
    st.sampled_from(["sign", "exponent", "fraction"]),
    st.integers(1, 2**64 - 1),
    st.lists(st.one_of(st.integers(0, 63), st.sampled_from(["sign", "integer"])), max_size=4),
)
one_rate = st.floats(0.0, 1.0)
rates = st.one_of(one_rate, st.dictionaries(wheres, one_rate, min_size=1, max_size=3))
common = {"bits": masks, "where": wheres}
names = st.text(min_size=1, max_size=8)
sites = st.lists(
    st.tuples(names, st.integers(0, 2**32 - 1), st.integers(0, 63)), max_size=6, unique=True
)
shapes = st.dictionaries(names, st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=3)
faults = st.one_of(
    st.builds(BitFlip, rates, **common),
    st.builds(ExactFlips, st.integers(0, 2**48 - 1), **common),
    st.builds(StuckAt, st.integers(0, 1), rates, **common),
    st.builds(
        Burst,
        st.integers(1, 2**32 - 1),
        rates,
        within=st.sampled_from(["word", "tensor"]),
        **common,
    ),
    st.builds(Replay, sites, shapes, st.none() | names),
    st.builds(
        ActivationFlip,
        one_rate,
        at=st.sampled_from(["input", "output"]),
        encoding=st.sampled_from(["native", "int8", "q7.8", "float16"]),
        largest=st.none() | st.dictionaries(names, st.floats(2**-10, 2**10), max_size=3),
        **common,
    ),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(faults)
def test_any_fault_survives_json(fault: Fault) -> None:
    text = fault.to_json()
    again = fault_from_json(text)
    assert again == fault
    assert type(again) is type(fault)
    assert hash(again) == hash(fault)
    assert str(again) == str(fault)
    assert again.to_json() == text
    assert "\n" not in text
    assert fault_from_dict(json.loads(text)) == fault
    assert fault_from_dict(fault.to_dict()) == fault


@pytest.mark.parametrize("fault", EXAMPLES, ids=str)
def test_faults_are_frozen_values(fault: Fault) -> None:
    for field in fields(fault):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(fault, field.name, getattr(fault, field.name))
    for twin in (copy.deepcopy(fault), pickle.loads(pickle.dumps(fault))):
        assert twin == fault
        assert {twin: 1}[fault] == 1
    assert fault_from_json(fault.to_json()) == fault


def test_different_faults_differ_in_every_form() -> None:
    assert len(set(EXAMPLES)) == len(EXAMPLES)
    assert len({fault.to_json() for fault in EXAMPLES}) == len(EXAMPLES)
    assert len({str(fault) for fault in EXAMPLES}) == len(EXAMPLES)
    assert len({repr(fault) for fault in EXAMPLES}) == len(EXAMPLES)
    for fault in EXAMPLES:
        kind = type(fault).__name__
        assert str(fault).startswith(f"{kind}(")
        assert repr(fault).startswith(f"{kind}(")
        assert "\n" not in str(fault)


def test_a_fault_is_compared_by_meaning_not_by_the_types_of_its_arguments() -> None:
    assert BitFlip(1) == BitFlip(1.0) == BitFlip(np.float64(1.0))
    assert BitFlip(0.5, bits=[31, "sign"]) == BitFlip(0.5, bits=(np.int64(31), "sign"))
    assert BitFlip(0.5, bits=range(3)) == BitFlip(0.5, bits=(0, 1, 2))
    assert BitFlip(0.5, where=["a", "b"]) == BitFlip(0.5, where=("a", "b"))
    assert BitFlip({"a": 0.5}) == BitFlip((("a", 0.5),))
    assert ExactFlips(np.int32(3)) == ExactFlips(3)
    assert ExactFlips(3) != 3
    assert BitFlip(0.5) != StuckAt(1, 0.5)
    assert Where(layer=nn.Conv2d) == Where(layer="Conv2d")
    assert Where(layer=[nn.Conv2d, "Linear"]) == Where(layer=("Conv2d", nn.Linear))
    one, two = ("b", 0, 1), ("a", 5, 2)
    assert Replay([one, two]) == Replay([two, list(one)])
    assert hash(Replay([one, two])) == hash(Replay((two, one)))
    assert ActivationFlip(0.5, largest={"b": 1, "a": 2}) == ActivationFlip(
        0.5, largest={"a": 2.0, "b": 1.0}
    )


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (BitFlip(1e-5), "BitFlip(1e-05)"),
        (BitFlip(0.5, bits=12, where=("a", "b")), "BitFlip(0.5, bits=0xc, where=a|b)"),
        (BitFlip({"a": 0.5, Where(kind="bias"): 0}), "BitFlip({a: 0.5, Where(kind=bias): 0})"),
        (ExactFlips(3, bits=(31, "sign")), "ExactFlips(3, bits=31|sign)"),
        (StuckAt(1, 0.001), "StuckAt(1, 0.001)"),
        (Burst(4, 0.25, within="tensor"), "Burst(4, 0.25, within=tensor)"),
        (
            Burst(4, 0.25, within="tensor", interleaving=8),
            "Burst(4, 0.25, within=tensor, interleaving=8)",
        ),
        (ActivationFlip(0.5, at="input"), "ActivationFlip(0.5, at=input)"),
    ],
)
def test_faults_print_what_differs_from_the_defaults(fault: Fault, text: str) -> None:
    assert str(fault) == text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BitFlip(-1e-9), r"bit error rate .*-1e-09"),
        (lambda: BitFlip(float("nan")), "bit error rate .*nan"),
        (lambda: BitFlip("0.1"), "bit error rate .*'0.1'"),
        (lambda: BitFlip(True), "bit error rate .*True"),
        (lambda: BitFlip({}), "bit error rates .*none"),
        (lambda: BitFlip({"a": 2.0}), "bit error rate .*2.0"),
        (lambda: BitFlip({3: 0.1}), "where .*3"),
        (lambda: BitFlip([("a", 0.1)]), "bit error rate .*'a'"),
        (lambda: BitFlip(("a", 0.1)), "bit error rate.*'a'"),
        (lambda: BitFlip((("a", 0.1, 3),)), "bit error rate.*'a'"),
        (lambda: BitFlip(0.1, bits=1.5), "bits .*1.5"),
        (lambda: BitFlip(0.1, bits=True), "bits .*True"),
        (lambda: BitFlip(0.1, bits=(1.5,)), "bits .*1.5"),
        (lambda: BitFlip(0.1, bits=(True,)), "bits .*True"),
        (lambda: BitFlip(0.1, where=None), "where .*None"),
        (lambda: BitFlip(0.1, where=()), "where"),
        (lambda: BitFlip(0.1, where=(("a",), "b")), "where"),
        (lambda: ExactFlips(-1), "n lies in .*-1"),
        (lambda: ExactFlips(1.0), "n is an integer, got 1.0"),
        (lambda: ExactFlips(True), "n is an integer, got True"),
        (lambda: StuckAt(2, 0.1), "stuck-at value .*2"),
        (lambda: StuckAt(True, 0.1), "stuck-at value .*True"),
        (lambda: StuckAt(0.1, 1), "stuck-at value .*0.1"),
        (lambda: StuckAt(1, 1.5), "bit error rate .*1.5"),
        (lambda: Burst(2, 0.1, interleaving=4), "interleaving of 4 words needs within='tensor'"),
        (
            lambda: Burst(2, 0.1, within="tensor", interleaving=0),
            "interleaving .* 1 or more, got 0",
        ),
        (lambda: Burst(2, 0.1, within="tensor", interleaving=-1), "interleaving .*-1"),
        (lambda: Burst(2, 0.1, within="tensor", interleaving=2.0), "interleaving .*2.0"),
        (lambda: Burst(0, 0.1), "burst's length must be 1 or more, got 0"),
        (lambda: Burst(-2, 0.1), "burst's length .*-2"),
        (lambda: Burst(2.0, 0.1), "burst's length .*2.0"),
        (lambda: Burst(2, 0.1, within="row"), "'word' or 'tensor', got 'row'"),
        (lambda: Burst(2, 0.1, within=None), "'word' or 'tensor', got None"),
        (lambda: Replay("a"), "faults must be .*'a'"),
        (
            lambda: Replay([("a", 1)]),
            r"fault must be a triple \(tensor, element, bit\), got \('a', 1\)",
        ),
        (lambda: Replay([(1, 1, 1)]), "tensor of a fault must be a string, got 1"),
        (lambda: Replay([("a", -1, 1)]), "element lies in .*-1"),
        (lambda: Replay([("a", 1.0, 1)]), "element is an integer, got 1.0"),
        (lambda: Replay([("a", 1, 256)]), r"bit lies in \[0, 256\), got 256"),
        (lambda: Replay([("a", 1, True)]), "bit is an integer, got True"),
        (lambda: Replay([("a", 1, 2), ("b", 1, 2), ("a", 1, 2)]), "bit 2 of element 1 of a is"),
        (lambda: Replay(np.zeros(3)), "fields tensor, element and bit"),
        (lambda: Replay([("a", 1, 1)], {"a": 3}), "shape"),
        (lambda: ActivationFlip(1.5), "bit error rate .*1.5"),
        (lambda: ActivationFlip(0.1, at="middle"), "'output' or 'input', got 'middle'"),
        (lambda: ActivationFlip(0.1, encoding="int9"), "'int9'"),
        (lambda: ActivationFlip(0.1, encoding=None), "None"),
        (lambda: ActivationFlip(0.1, bits=1.5), "bits .*1.5"),
        (lambda: ActivationFlip(0.1, largest=3), "largest"),
        (lambda: ActivationFlip(0.1, largest={"a": "x"}), "largest"),
        (lambda: ActivationFlip(0.1, largest={"a": -1.0}), "largest.*-1.0"),
        (lambda: ActivationFlip(0.1, largest={"a": float("nan")}), "largest.*nan"),
        (lambda: ActivationFlip(0.1, largest={"a": float("inf")}), "largest.*inf"),
    ],
)
def test_bad_arguments_are_named_in_one_sentence(make: Callable[[], Fault], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one JSON object"),
        ("{", "one JSON object"),
        ("[]", "mapping, got list"),
        ("3", "mapping, got int"),
        ("{}", "kind of a fault must be one of .*BitFlip.*got None"),
        ('{"kind": "Flip", "ber": 0.1}', "kind of a fault must be one of .*BitFlip.*got 'Flip'"),
        ('{"kind": "StoredFault"}', "kind of a fault must be one of .*BitFlip.*got 'StoredFault'"),
        ('{"kind": ["BitFlip"], "ber": 0.1}', "kind of a fault must be one of"),
        ('{"kind": "BitFlip"}', "^BitFlip needs the field ber, got none$"),
        ('{"kind": "StuckAt", "ber": 0.1}', "^StuckAt needs the field value, got ber$"),
        ('{"kind": "BitFlip", "ber": 0.1, "rate": 1}', "'rate'"),
        ('{"kind": "BitFlip", "ber": NaN}', "bit error rate .*nan"),
        ('{"kind": "BitFlip", "ber": null}', "bit error rate .*None"),
        ('{"kind": "BitFlip", "ber": [1, 2]}', "bit error rate"),
        ('{"kind": "BitFlip", "ber": 0.1, "bits": [true]}', "bits .*True"),
        ('{"kind": "BitFlip", "ber": 0.1, "where": {"nam": "a"}}', "nam"),
        (
            '{"kind": "BitFlip", "ber": 0.1, "where": {"kind": "wait"}}',
            "kind is one of .*'wait'",
        ),
        ('{"kind": "ExactFlips", "n": 1.0}', "n is an integer, got 1.0"),
        ('{"kind": "Replay"}', "faults"),
        ('{"kind": "Replay", "faults": 3}', "faults must be .*3"),
        ('{"kind": "Replay", "faults": [["a", 1]]}', "tensor, element, bit"),
        ('{"kind": "Replay", "faults": {"a": {"element": [1]}}}', "bit"),
        ('{"kind": "Replay", "faults": {"a": {"element": [1, 2], "bit": [1]}}}', "element"),
        ('{"kind": "Replay", "faults": [], "shapes": [3]}', "shapes"),
        ('{"kind": "Replay", "faults": [], "rate": 1}', "'rate'"),
    ],
)
def test_bad_json_is_named(text: str, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        fault_from_json(text)
