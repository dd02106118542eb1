"""Several faults in one injection, and several bit error rates in one fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    Injector,
    Record,
    StuckAt,
    Where,
    inject,
)
from proact.faults.injection import seed_of

Site = tuple[str, int, int]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Linear(7, 5))


def sites_of(record: Record) -> list[Site]:
    rows = record.faults()
    return list(
        zip(rows["tensor"].tolist(), rows["element"].tolist(), rows["bit"].tolist(), strict=True)
    )


def hit(model: nn.Module, fault: Fault | Sequence[Fault], **pattern: int) -> list[Site]:
    with inject(model, fault, **pattern) as record:
        sites = sites_of(record)
        assert len(sites) == record.flips
    return sites


def words_now(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).view(torch.int32) for p in model.parameters()])


@pytest.mark.parametrize(
    ("faults", "expected", "flips"),
    [
        ([BitFlip(1.0), BitFlip(1.0)], lambda old: old, lambda bits, ones: 2 * bits),
        ([StuckAt(1, 1.0), StuckAt(1, 1.0)], lambda old: old | -1, lambda bits, ones: bits - ones),
        ([StuckAt(1, 1.0), StuckAt(0, 1.0)], lambda old: old & 0, lambda b, o: b - o + b),
        ([BitFlip(1.0), StuckAt(1, 1.0)], lambda old: old | -1, lambda bits, ones: bits + ones),
        ([StuckAt(1, 1.0), BitFlip(1.0)], lambda old: old & 0, lambda b, o: b - o + b),
        ([BitFlip(1.0), Burst(3, 1.0)], lambda old: old, lambda bits, ones: 2 * bits),
        ([BitFlip(1.0, bits="sign"), BitFlip(1.0, bits=0x7FFFFFFF)], lambda o: ~o, lambda b, o: b),
    ],
)
def test_faults_happen_one_after_the_other(
    mlp: nn.Module,
    faults: list[Fault],
    expected: Callable[[Tensor], Tensor],
    flips: Callable[[int, int], int],
) -> None:
    before, old = bits_of(mlp), words_now(mlp)
    bits = 32 * len(old)
    ones = sum((int(word) & 0xFFFFFFFF).bit_count() for word in old)
    with inject(mlp, faults) as record:
        assert torch.equal(words_now(mlp), expected(old))
        assert record.flips == len(record.faults()) == flips(bits, ones)
        replay = record.replay()
    assert same_bits(before, mlp)
    with inject(mlp, [replay, BitFlip(0.0)]) as record:
        assert torch.equal(words_now(mlp), expected(old))
    assert same_bits(before, mlp)


def test_a_bit_hit_twice_has_two_rows_and_its_first_value_at_last(mlp: nn.Module) -> None:
    fault = BitFlip(1.0, where="4.bias", bits="sign")
    values = mlp.get_parameter("4.bias").tolist()
    with inject(mlp, [fault, fault]) as record:
        rows = record.faults()
    assert rows["before"].tolist() == [*values, *(-v for v in values)]
    assert rows["after"].tolist() == [*(-v for v in values), *values]


def test_faults_in_different_places_do_not_meet(model: nn.Module) -> None:
    parts = [
        BitFlip(0.2, where="*.weight"),
        ExactFlips(3, where=Where(kind="bias")),
        StuckAt(1, 0.5, where="1.running*"),
    ]
    for order in (parts, parts[::-1]):
        alone = [
            site
            for position, fault in enumerate(order)
            for site in hit(model, fault, seed=seed_of(2, position))
        ]
        assert hit(model, order, seed=2) == alone


def test_two_faults_of_one_kind_are_independent(mlp: nn.Module) -> None:
    """Of n bits that each fault flips with probability p, n p^2 are flipped by both."""
    shared = bits = 0
    for trial in range(200):
        with inject(mlp, [BitFlip(0.1), BitFlip(0.1)], trial=trial) as record:
            first, second = (
                set(zip(c.tensor.tolist(), c.element.tolist(), c.bit.tolist(), strict=True))
                for c in (part.columns for part in record.parts())
            )
            shared += len(first & second)
            bits += record.exposed_bits // 2
            assert len(record.replay().faults) == len(first ^ second)
    mean = bits * 0.01
    assert abs(shared - mean) < 5 * (mean * 0.99) ** 0.5


def test_one_fault_of_several_that_does_not_fit_changes_nothing(model: nn.Module) -> None:
    before = bits_of(model)
    for bad, words in (
        (BitFlip(0.1, where="9.*"), "9"),
        (ExactFlips(10**6), "n must be at most"),
        (Burst(33, 0.1), "33 bits does not fit into a word of 0.weight"),
        (BitFlip({"*": 0.1, "9.*": 0.1}), "'9"),
    ):
        for faults in ([BitFlip(1.0), bad], [bad, BitFlip(1.0)]):
            with pytest.raises(ValueError, match=words), inject(model, faults, "q3.12"):
                pass
            assert same_bits(before, model)
    with pytest.raises(ValueError, match="at least one fault"), inject(model, []):
        pass
    with pytest.raises(TypeError, match="got float"), inject(model, [BitFlip(0.1), 0.1]):  # type: ignore[list-item]
        pass
    assert same_bits(before, model)


def test_the_first_selector_that_takes_a_tensor_sets_its_rate(model: nn.Module) -> None:
    rates = {"0.weight": 1.0, "*.weight": 0.0, Where(kind="bias"): 1.0}
    with inject(model, BitFlip(rates)) as record:
        assert record.counts() == {"0.weight": 32 * 54, "0.bias": 32 * 3, "3.bias": 32 * 5}
        # Normalisation and its statistics match none of them, but for 1.weight.
        exposed = 32 * (54 + 3 + 35 + 3 + 5)
        assert record.ber == record.flips / exposed == (54 + 3 + 5) / (54 + 3 + 35 + 3 + 5)
    fault = BitFlip({"0.weight": 0.5, "3.*": 0.25})
    injector = Injector(model)
    assert injector.exposed_bits(fault) == 32 * (54 + 35 + 5)
    assert injector.expected_ber(fault) == (0.5 * 54 + 0.25 * 40) / 94
    everything = BitFlip({"0.weight": 0.0, "*": 1.0})
    assert {name for name, *_ in hit(model, everything)} == {
        "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight", "3.bias",
    }  # fmt: skip


def test_rates_stay_within_where(model: nn.Module) -> None:
    fault = BitFlip({"0.*": 1.0, "*": 0.0}, where="*.weight", bits="sign")
    with inject(model, fault) as record:
        assert record.counts() == {"0.weight": 54}
        assert record.ber == 54 / (54 + 3 + 35)


@pytest.mark.parametrize(
    "kind",
    [BitFlip, lambda ber: StuckAt(1, ber), lambda ber: Burst(3, ber)],
    ids=["BitFlip", "StuckAt", "Burst"],
)
def test_a_tensor_is_hit_as_if_its_rate_were_the_only_one(
    model: nn.Module, kind: Callable[..., Fault]
) -> None:
    mixed = set(hit(model, kind({"0.*": 0.3, "1.*": 0.0, "3.*": 0.1}), seed=4))
    for layer, rate in (("0", 0.3), ("1", 0.0), ("3", 0.1)):
        alone = {s for s in hit(model, kind(rate), seed=4) if s[0].startswith(layer)}
        assert {s for s in mixed if s[0].startswith(layer)} == alone
        assert bool(alone) == (rate > 0)


@pytest.mark.parametrize(
    ("rates", "where", "unused"),
    [
        ({"0.*": 0.1, "9.*": 0.2}, "*", "'9"),
        ({"9.*": 0.2, "*": 0.1}, "*", "'9"),
        ({"*.weight": 0.1, "0.weight": 0.2}, "*", "'0.weight'"),
        ({"0.*": 0.1, "3.*": 0.1}, "3.*", "'0"),
        ({Where(layer=nn.Conv1d): 0.1, "*": 0.1}, "*", "Conv1d"),
    ],
)
def test_a_rate_that_no_tensor_has_is_an_error(
    model: nn.Module, rates: dict[str | Where, float], where: str, unused: str
) -> None:
    before = bits_of(model)
    for fault in (BitFlip(rates, where=where), StuckAt(0, rates, where=where)):
        with pytest.raises(ValueError, match=f"{unused}.*no stored tensor"), inject(model, fault):
            pass
        assert same_bits(before, model)
