"""Does ecc give each tensor the code that was chosen for it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from guard_models import guard_of, network, run

from conftest import bits_of, same_bits
from proact import protect
from proact.faults import Where


@pytest.mark.parametrize("code", ["secded", "bch2", "parity"])
def test_the_numbers_of_guards_have_the_strongest_code_if_the_code_corrects(code: str) -> None:
    protected = protect.protect(protect.protect(network(), "weight-range"), "ecc", code=code)
    clean = bits_of(protected)
    for name in ("weight_range.high", "error_correction.replacements"):
        protected.get_buffer(name).view(torch.int32)[1] ^= 0b111 << 20
    run(protected)
    assert same_bits(clean, protected) == (code != "parity")


def test_a_mapping_keeps_the_code_of_the_guards_numbers() -> None:
    guarded = protect.protect(network(), "weight-range")
    whole = protect.protect(guarded, "ecc", code={"*": "bch2"})
    assert same_bits(bits_of(protect.protect(guarded, "ecc", code="bch2")), whole)
    bounds = {Where(kind="bound"): "bch2", "*": "bch2"}
    assert not same_bits(bits_of(protect.protect(guarded, "ecc", code=bounds)), whole)


def test_selectors_that_match_nothing_are_named() -> None:
    with pytest.warns(UserWarning, match=r"the code bch3 for '9\.\*' applies to no stored tensor"):
        protect.protect(network(), "ecc", code={"9.*": "bch3", "*": "bch2"})
    # Weight-range may be added later.
    protect.protect(network(), "ecc", code={"weight_range.*": "secded", "*": "bch2"})


def test_codes_are_chosen_by_selector(tmp_path: Path) -> None:
    model = network()
    kinds = {Where(kind="normalisation"): "bch3", "4.*": "secded", "*": "bch2"}
    pairs = [[{"kind": "normalisation"}, "bch3"], ["4.*", "secded"], ["*", "bch2"]]
    protected = protect.protect(model, "ecc", code=kinds)
    assert guard_of(protected).code == json.dumps(pairs)
    assert same_bits(bits_of(protected), protect.protect(model, "ecc", code=pairs))
    for name, corrected in (("1.weight", 3), ("4.weight", 1), ("0.weight", 2)):
        clean = bits_of(protected)
        word = protected.get_parameter(name).detach().view(torch.int32).flatten()
        word[1] ^= (1 << corrected) - 1 << 20
        run(protected)
        assert guard_of(protected).last_scrub == {name: (1, 0)}
        assert same_bits(clean, protected)
        word[1] ^= (2 << corrected) - 1 << 20
        run(protected)
        assert guard_of(protected).last_scrub == {name: (0, 1)}
    protected = protect.protect(model, "ecc", code=kinds)
    protect.save(protected, tmp_path / "model.safetensors")
    loaded = protect.load(model, tmp_path / "model.safetensors")
    assert same_bits(bits_of(protected), loaded)
    assert protect.protection_of(loaded) == protect.protection_of(protected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({}, "codes by tensor must have at least one selector"),
        ({"*": "tmr"}, "the code tmr has check bits outside the words"),
        ({"0.*": "bch2"}, "no selector of the code matches 1.weight: add one, such as '\\*'"),
        ({"*": "bch2", "0.*": "bch3"}, "no tensor is left for the selectors after"),
        ({"*": "none"}, "a code is one of"),
        ([["*"]], "codes by tensor must be pairs of a selector and its code"),
        ('{"*": ', "codes by tensor must be JSON such as"),
    ],
)
def test_bad_codes_by_selector_are_refused(code: Any, message: str) -> None:
    model = network()
    before = bits_of(model)
    with pytest.raises(ValueError, match=message):
        protect.protect(model, "ecc", code=code)
    assert same_bits(before, model)


@pytest.mark.parametrize("code", ["secded32", "secded64", "tmr"])
def test_codes_with_memory_of_their_own_are_refused(code: str) -> None:
    with pytest.raises(ValueError, match=f"the code {code} has check bits outside the words"):
        protect.protect(network(), "ecc", code=code)
