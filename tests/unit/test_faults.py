"""Do injections hit what they say, and does every byte come back?"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from conftest import bits_of, same_bits
from proact import ProactError
from proact.encodings import encoding_named
from proact.encodings.fixed_point import FixedPoint
from proact.faults import BitFlip, FaultSpace, Injector, encode, inject
from proact.nn import HyReLU
from proact.ops import _flip_reference as reference
from proact.ops.number_formats import FixedPointWord

ENCODINGS = ["float32", "q15.16", "q3.4"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ber", [0.0, 0.02, 0.3, 1.0])
def test_every_byte_comes_back(mlp: nn.Module, encoding: str, ber: float) -> None:
    before = bits_of(mlp)
    with inject(mlp, BitFlip(ber), encoding, seed=1) as record:
        total = FaultSpace(mlp, encoding).bits
        assert record.ber == record.flips / total
        assert (record.flips == total) == (ber == 1.0)
        assert (record.flips == 0) == (ber == 0.0)
        if record.flips:
            assert not same_bits(before, mlp)
    assert same_bits(before, mlp)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_every_byte_comes_back_after_an_exception(
    mlp: nn.Module, encoding: str, error: type[BaseException]
) -> None:
    before = bits_of(mlp)
    with pytest.raises(error), inject(mlp, BitFlip(0.1), encoding):
        raise error
    assert same_bits(before, mlp)


def test_an_interrupt_while_the_bits_flip_restores() -> None:
    """The signal is handled when the native call returns, before the block begins."""
    model = nn.Linear(1500, 1500)
    before = bits_of(model)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            for trial in range(1000):
                with inject(model, BitFlip(0.05), trial=trial):
                    pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert same_bits(before, model)


def test_a_generator_closed_early_restores(mlp: nn.Module) -> None:
    def trials() -> Iterator[int]:
        with inject(mlp, BitFlip(0.1)) as record:
            yield record.flips

    before = bits_of(mlp)
    running = trials()
    next(running)
    assert not same_bits(before, mlp)
    running.close()
    assert same_bits(before, mlp)


def test_nested_injections_restore(mlp: nn.Module) -> None:
    before = bits_of(mlp)
    with inject(mlp, BitFlip(0.2), "q15.16", seed=1):
        middle = bits_of(mlp)
        with inject(mlp, BitFlip(0.2), "float32", seed=2):
            assert not same_bits(middle, mlp)
        assert same_bits(middle, mlp)
    assert same_bits(before, mlp)


def test_a_faulted_word_that_was_repaired_inside_is_restored(mlp: nn.Module) -> None:
    before = bits_of(mlp)
    with inject(mlp, BitFlip(1.0)), torch.no_grad():
        for parameter in mlp.parameters():
            parameter.zero_()
    assert same_bits(before, mlp)


def test_moving_parameters_inside_is_an_error(mlp: nn.Module) -> None:
    with pytest.raises(ProactError, match=r"0\.weight was moved"), inject(mlp, BitFlip(0.1)):
        mlp.double()


def test_moving_parameters_is_named_beside_the_body_s_own_error(mlp: nn.Module) -> None:
    def move_and_fail() -> None:
        mlp.double()
        raise RuntimeError("mine")

    with pytest.raises(ProactError, match="was moved") as raised, inject(mlp, BitFlip(0.1)):
        move_and_fail()
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_two_protections_meet_the_same_faults(mlp: nn.Module) -> None:
    """Names decide, not what else there is."""
    protected = copy.deepcopy(mlp)
    protected[1] = HyReLU(torch.ones(8))
    assert isinstance(protected, nn.Sequential)
    with (
        inject(mlp, BitFlip(0.05), seed=3, trial=4),
        inject(protected, BitFlip(0.05), seed=3, trial=4),
    ):
        for index in (0, 2, 4):
            for name in ("weight", "bias"):
                a, b = getattr(mlp[index], name), getattr(protected[index], name)  # type: ignore[index]
                assert torch.equal(a.view(torch.int32), b.view(torch.int32))
        assert not torch.equal(protected[1].threshold, torch.ones(8))


def test_record_names_what_was_hit(mlp: nn.Module) -> None:
    before = {name: p.detach().clone() for name, p in mlp.named_parameters()}
    with inject(mlp, BitFlip(0.02), seed=5) as record:
        faults = record.faults()
        after = {name: p.detach().clone() for name, p in mlp.named_parameters()}
    assert len(faults) == record.flips > 0
    rebuilt = {name: p.view(torch.int32).clone() for name, p in before.items()}
    for name, element, bit, _, _ in faults:
        rebuilt[str(name)].view(-1)[int(element)] ^= (
            np.uint32(1 << int(bit)).astype(np.int32).item()
        )
    for name, words in rebuilt.items():
        assert torch.equal(words, after[name].view(torch.int32))
    once = [
        f
        for f in faults
        if sum((g["tensor"], g["element"]) == (f["tensor"], f["element"]) for g in faults) == 1
    ]
    for name, element, _, old, new in once:
        assert np.float32(old) == before[str(name)].view(-1)[int(element)].item()
        expected = after[str(name)].view(-1)[int(element)].item()
        assert np.float32(new) == expected or (np.isnan(new) and np.isnan(expected))


def test_record_chains_two_flips_of_one_fixed_point_word() -> None:
    model = nn.Linear(4, 4)
    with inject(model, BitFlip(0.5), "q15.16", seed=2) as record:
        faults, now = record.faults(), model.weight.detach().flatten().clone()
    last = {int(f["element"]): f for f in faults if f["tensor"] == "weight"}
    assert len(last) < sum(faults["tensor"] == "weight")
    for element, fault in last.items():
        assert np.float32(fault["after"]) == now[element].item()


def test_single_flips_of_a_known_value() -> None:
    """0.05 in q15.16, DESIGN 2.2: bit 31 gives -32767.95, 30 16384.05, 20 16.05, 16 1.05."""
    for bit, expected in ((31, -32767.95), (30, 16384.05), (20, 16.05), (16, 1.05)):
        model = nn.Linear(1, 1, bias=False).double()
        with torch.no_grad():
            model.weight.fill_(0.05)
        with inject(model, BitFlip(1.0, bits=1 << bit), "q15.16") as record:
            assert record.flips == 1
            assert abs(model.weight.item() - expected) <= 2**-17


@pytest.mark.parametrize("bits", ["sign", "exponent", "mantissa", 0b1000])
def test_only_exposed_bits_flip(mlp: nn.Module, bits: str | int) -> None:
    mask = FaultSpace(mlp, bits=bits)[0].mask
    before = mlp[0].weight.detach().clone()  # type: ignore[index]
    with inject(mlp, BitFlip(1.0, bits=bits, where="0.*")):
        changed = mlp[0].weight.detach().view(torch.int32) ^ before.view(torch.int32)  # type: ignore[index]
        assert ((changed & 0xFFFFFFFF) == mask).all()


def test_where_exposes_the_named_tensors_only(mlp: nn.Module) -> None:
    space = FaultSpace(mlp, where="*.bias")
    assert [tensor.name for tensor in space] == ["0.bias", "2.bias", "4.bias"]
    before = bits_of(mlp)
    with inject(mlp, BitFlip(1.0, where="2.bias")):
        after = bits_of(mlp)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["2.bias"]


def test_the_space_holds_statistics_and_thresholds_but_no_counters() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), HyReLU(1.0))
    names = [tensor.name for tensor in FaultSpace(model)]
    assert names == [
        "0.weight", "0.bias", "1.weight", "1.bias", "2.threshold",
        "1.running_mean", "1.running_var",
    ]  # fmt: skip


def test_tied_parameters_are_hit_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [tensor.name for tensor in FaultSpace(model)] == ["0.weight", "0.bias", "1.bias"]


def test_partly_shared_memory_is_refused() -> None:
    model = nn.Module()
    whole = torch.zeros(8)
    model.register_buffer("a", whole[:6])
    model.register_buffer("b", whole[4:])
    with pytest.raises(ValueError, match="a and b share a part"):
        FaultSpace(model)


@pytest.mark.parametrize("name", ["q15.16", "q7.8", "q0.7", "q3.0", "q1.30"])
def test_rounding_equals_the_integer_oracle(name: str) -> None:
    encoding = encoding_named(name)
    assert isinstance(encoding, FixedPoint)
    form = encoding.form
    assert isinstance(form, FixedPointWord)
    oracle = reference.Fixed(*form)
    step = 2.0**-form.fraction_bits
    values = [0.0, -0.0, 0.05, -0.05, 1e-30, -1e-30, 1e30, -1e30, float("inf"), float("-inf")]
    values += [0.5 * step, 1.5 * step, -0.5 * step, -1.5 * step, 2.5 * step]
    values += torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    rounded = encoding.rounded(torch.tensor(values, dtype=torch.float64))
    for value, got in zip(values, rounded.tolist(), strict=True):
        assert got == oracle.decode(oracle.encode(value)), value
    assert not torch.signbit(rounded[rounded == 0]).any()
    nowhere = np.empty(0, np.uint64)
    words = encoding.words(np.array(values), nowhere)
    assert [int(w) for w in words] == [oracle.encode(v) for v in values]
    assert encoding.values(words, nowhere).tolist() == rounded.tolist()


def test_every_word_of_a_small_format_round_trips() -> None:
    encoding, nowhere = encoding_named("q7.8"), np.empty(0, np.uint64)
    assert isinstance(encoding, FixedPoint)
    words = np.arange(1 << 16, dtype=np.uint64)
    values = encoding.values(words, nowhere)
    assert len(np.unique(values)) == 1 << 16
    assert (values.min(), values.max()) == (-128.0, 128 - 2**-8)
    assert np.array_equal(encoding.words(values, nowhere), words)
    assert np.array_equal(encoding.rounded(torch.from_numpy(values)).numpy(), values)


def test_encode_rounds_a_copy(mlp: nn.Module) -> None:
    before = bits_of(mlp)
    encoded = encode(mlp, "q3.4")
    assert same_bits(before, mlp)
    for parameter in encoded.parameters():
        assert torch.equal(parameter * 16, (parameter * 16).round())
    Injector(encoded, "q3.4")
    with pytest.raises(ValueError, match="not rounded to q3.4"):
        Injector(mlp, "q3.4")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_native_floats(dtype: torch.dtype) -> None:
    model = nn.Linear(5, 5).to(dtype)
    before = bits_of(model)
    name = str(dtype).removeprefix("torch.")
    with inject(model, BitFlip(0.1, bits="exponent"), name) as record:
        faults = record.faults()
        now = model.weight.detach().flatten().double()
        last = {int(f["element"]): f["after"] for f in faults if f["tensor"] == "weight"}
        np.testing.assert_array_equal(list(last.values()), now[list(last)].numpy())
    assert same_bits(before, model)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ({"ber": 1.5}, ValueError, r"\[0, 1\]"),
        ({"ber": float("nan")}, ValueError, "nan"),
        ({"ber": None}, TypeError, "None"),
        ({"ber": 0.1, "bits": 1.5}, TypeError, "bits"),
        ({"ber": 0.1, "where": 3}, TypeError, "where"),
    ],
)
def test_bad_faults_are_named(fault: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        BitFlip(**fault)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"encoding": "int9"}, ValueError, "'int9'"),
        ({"encoding": ["q15.16"]}, ValueError, "got"),
        ({"encoding": "q40.2"}, ValueError, "q40.2 has 43"),
        ({"encoding": "float64"}, TypeError, "0.weight is torch.float32"),
        ({"fault": BitFlip(0.1, bits="fraction")}, ValueError, "sign, exponent, mantissa"),
        ({"fault": BitFlip(0.1, bits=0)}, ValueError, "mask"),
        ({"fault": BitFlip(0.1, bits=1 << 32)}, ValueError, "mask"),
        ({"fault": BitFlip(0.1, where="conv*")}, ValueError, "'conv.*matches no stored tensor"),
        ({"fault": 0.1}, TypeError, "float"),
        ({"seed": -1}, ValueError, "seed"),
        ({"trial": 1 << 32}, ValueError, "trial"),
    ],
)
def test_bad_injections_are_named_and_change_nothing(
    mlp: nn.Module, options: dict[str, object], error: type[Exception], words: str
) -> None:
    before = bits_of(mlp)
    arguments = {"fault": BitFlip(0.1), **options}
    with pytest.raises(error, match=words), inject(mlp, **arguments):  # type: ignore[arg-type]
        pass
    assert same_bits(before, mlp)


def test_models_that_cannot_be_faulted() -> None:
    with pytest.raises(ValueError, match="model has no parameters"):
        FaultSpace(nn.ReLU())
    transposed = nn.Linear(3, 4)
    transposed.weight = nn.Parameter(torch.zeros(3, 4).t())
    with pytest.raises(ValueError, match="weight must be contiguous"):
        FaultSpace(transposed)
    with pytest.raises(ValueError, match="meta"):
        FaultSpace(nn.Linear(2, 2, device="meta"))
    with FakeTensorMode():
        fake = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="fake tensor"):
        FaultSpace(fake)
    with pytest.raises(TypeError, match="got str"):
        FaultSpace("model")  # type: ignore[arg-type]
    broken = nn.Linear(2, 2)
    with torch.no_grad():
        broken.bias[0] = float("nan")
    with pytest.raises(ValueError, match="bias holds NaN"):
        encode(broken, "q15.16")
