"""Does every encoding store what its format says? Floats, fixed point, and what all have in common.

Integers are in test_int8.py, a user's own encoding in test_own_encoding.py.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from encoding_oracle import (
    FORMATS,
    SMALL,
    FloatFormat,
    Grid,
    Stored,
    Value,
    around,
    encoded,
    faulted,
    floats_of,
    holding,
    memory_word,
    q,
    tensor_of,
    weight_of,
    words_of,
    wrong_numbers,
)
from torch import nn

from conftest import bits_of, same_bits
from proact.faults import (
    BitFlip,
    FaultSpace,
    Injector,
    StuckAt,
    encode,
    encoding_report,
    inject,
)
from proact.report.fault_tables import encoding_table

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


def around_grid(integer: int, fraction: int) -> list[Value]:
    """Values that fixed point rounds, holds or saturates."""
    step, limit = Fraction(1, 1 << fraction), Fraction(1 << integer)
    inside: list[Value] = [
        0, step, step / 2, step * 3 / 2, step * 5 / 2, step * Fraction(49, 100), limit / 3,
        Fraction(1, 10**40),
    ]  # fmt: skip
    edge: list[Value] = [limit, limit - step, limit - step / 2, limit - step * Fraction(51, 100)]
    outside: list[Value] = [limit + step / 2, limit + step, 2 * limit, Fraction(10) ** 30]
    positive: list[Value] = [0.05, 0.0, math.inf, *inside, *edge, *outside]
    return [*positive, *(-value for value in positive)]


#: Encoding, memory, meaning of the stored word, values.
CASES: list[tuple[str, torch.dtype, Stored, list[Value]]] = [
    ("float16", SINGLE, FORMATS[HALF], around(FORMATS[HALF])),
    ("bfloat16", SINGLE, FORMATS[BRAIN], around(FORMATS[BRAIN])),
    ("float32", DOUBLE, FORMATS[SINGLE], around(FORMATS[SINGLE])),
    *(
        (name, memory, stored, around(stored))
        for name, stored in SMALL.items()
        for memory in (SINGLE, DOUBLE)
    ),
    *(
        (f"q{m}.{n}", memory, q(m, n), around_grid(m, n))
        for m, n in ((15, 16), (7, 8), (0, 7), (31, 0), (3, 0))
        for memory in (SINGLE, DOUBLE)
    ),
]
cases = pytest.mark.parametrize(
    ("name", "memory", "stored", "values"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)


def is_out_of_range(stored: Stored, value: float, memory: torch.dtype) -> bool:
    """Whether storing saturates; not where the last word reads as ``value`` all the same."""
    if isinstance(stored, FloatFormat) and stored.has_inf:
        return math.isfinite(value) and math.isinf(stored.value(stored.word(value)))
    if isinstance(stored, FloatFormat):
        if not math.isfinite(value):
            return math.isinf(value)
        # The next larger word, if the format went on: without a mantissa, it means twice as much.
        largest, before = (Fraction(stored.value(stored.largest - i)) for i in (0, 1))
        half = (largest - before if stored.mantissa else largest) / 2
        is_odd = stored.largest % 2 == 1
        beyond = abs(Fraction(value)) - largest
        return beyond > half or (beyond == half and is_odd)
    assert isinstance(stored, Grid)
    limit = 1 << (stored.bits - 1)
    is_inside = math.isfinite(value) and -limit <= round(Fraction(value) / stored.step) < limit
    return not is_inside and memory_word(stored, value, memory) != FORMATS[memory].word(value)


@cases
def test_storing_equals_the_oracle(
    name: str, memory: torch.dtype, stored: Stored, values: list[Value]
) -> None:
    tensor = floats_of(values, memory)
    model = holding(tensor)
    expected = [memory_word(stored, value, memory) for value in tensor.tolist()]
    lost = sum(is_out_of_range(stored, value, memory) for value in tensor.tolist())
    assert lost
    with pytest.warns(UserWarning, match=f"^{lost} of {len(values)} numbers are .* of {name} and"):
        once = encode(model, name)
    assert words_of(weight_of(model)) == words_of(tensor)
    assert not wrong_numbers(words_of(weight_of(once)), expected, memory)
    twice = encoded(once, name)
    assert words_of(weight_of(twice)) == words_of(weight_of(once))
    numbers = [number for number in map(float, values) if not math.isnan(number)]
    word, nowhere = FaultSpace(once, name)[0].word, np.zeros(len(numbers), np.uint64)
    got = word.words(np.array(numbers), nowhere)
    assert got.tolist() == [stored.word(number) for number in numbers]


@cases
@pytest.mark.usefixtures("engine")
def test_every_single_flip_equals_the_oracle(
    name: str, memory: torch.dtype, stored: Stored, values: list[Value]
) -> None:
    tensor = floats_of(values, memory)
    model = holding(tensor)
    for bit in range(stored.bits):
        flipped = faulted(model, BitFlip(1.0, bits=1 << bit), name)
        expected = [memory_word(stored, value, memory, 1 << bit) for value in tensor.tolist()]
        assert not wrong_numbers(words_of(flipped), expected, memory), bit
        assert words_of(weight_of(model)) == words_of(tensor)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.usefixtures("engine")
def test_flips_of_floats_in_their_own_memory(dtype: torch.dtype) -> None:
    """NaN with every payload bit, too: nothing is converted."""
    form = FORMATS[dtype]
    words = [form.word(value) for value in around(form)]
    words += [form.infinity | 1, form.infinity | form.infinity // 3 | 5, (1 << form.bits) - 1]
    model = holding(tensor_of(words, dtype))
    name = str(dtype).removeprefix("torch.")
    for encoding in (name, "native"):
        assert words_of(weight_of(encode(model, encoding))) == words
        for bit in range(form.bits):
            flipped = words_of(faulted(model, BitFlip(1.0, bits=(bit,)), encoding))
            assert flipped == [word ^ 1 << bit for word in words]
        assert words_of(weight_of(model)) == words


@pytest.mark.parametrize("memory", [SINGLE, DOUBLE], ids=str)
@pytest.mark.usefixtures("engine")
def test_the_flips_of_0_05_in_q15_16(memory: torch.dtype) -> None:
    """DESIGN 2.2. A float32 has 24 digits: 16384.05 is known to 2^-10 and half a step."""
    model = holding(torch.tensor([0.05], dtype=memory))
    exact = {31: -32767.95, 30: 16384.05, 20: 16.05, 16: 1.05}
    for bit, expected in exact.items():
        own = Fraction(2) ** (math.frexp(expected)[1] - 25) if memory == SINGLE else Fraction(0)
        with inject(model, BitFlip(1.0, bits=1 << bit), "q15.16") as record:
            assert record.flips == 1
            got = Fraction(weight_of(model).item())
            (fault,) = record.faults()
        assert abs(got - Fraction(expected)) <= Fraction(1, 1 << 17) + own
        assert (fault["element"], fault["bit"]) == (0, bit)
        # The record tells the stored word's value, which memory may have rounded.
        assert (fault["before"], fault["after"]) == tuple(
            float(q(15, 16).value(q(15, 16).word(0.05) ^ flips)) for flips in (0, 1 << bit)
        )


@pytest.mark.parametrize("name", ["q15.16", "q7.8", "q0.7", "q31.0"])
def test_fixed_point_has_no_nan(name: str) -> None:
    model = holding(torch.tensor([1.0, math.nan]))
    before = bits_of(model)
    for action in (
        lambda: encode(model, name),
        lambda: FaultSpace(model, name),
        lambda: faulted(model, BitFlip(0.1), name),
    ):
        with pytest.raises(ValueError, match=f"weight holds NaN.*{name}"):
            action()
    assert same_bits(before, model)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_a_stored_nan_is_known_to_be_stored(name: str) -> None:
    """What `encode` gave is in the encoding, as a copy too."""
    memory = DOUBLE if name == "float32" else SINGLE
    stored = copy.deepcopy(encode(holding(floats_of([1.0, math.nan], memory)), name))
    bits = FORMATS[getattr(torch, name)].bits
    assert Injector(stored, name).exposed_bits(BitFlip(0.1)) == 2 * bits


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.usefixtures("engine")
def test_every_bit_stuck_at_a_value_is_that_value(name: str, value: int) -> None:
    """Whatever stood there: NaN with any sign and payload has as many bits as other words."""
    stored, memory = FORMATS[getattr(torch, name)], DOUBLE if name == "float32" else SINGLE
    form = FORMATS[memory]
    sign, quiet = 1 << (form.bits - 1), 1 << (form.mantissa - 1)
    payloads = [1, quiet, quiet | 1, quiet // 2, quiet | quiet // 2, 2 * quiet - 1]
    words = [form.word(number) for number in around(stored)]
    words += [s | form.infinity | payload for payload in payloads for s in (0, sign)]
    model = holding(tensor_of(words, memory))
    # All ones are a NaN.
    expected = [form.word(math.nan if value else 0.0)] * len(words)
    for before in ([], [BitFlip(1.0)], [BitFlip(0.4)]):
        stuck = faulted(model, [*before, StuckAt(value, 1.0)], name)
        assert not wrong_numbers(words_of(stuck), expected, memory), before


@pytest.mark.parametrize(
    ("name", "memory"),
    [("float16", SINGLE), ("bfloat16", SINGLE), ("float32", DOUBLE), ("q7.8", SINGLE)],
)
@pytest.mark.usefixtures("engine")
def test_two_flips_of_every_bit_are_none(name: str, memory: torch.dtype) -> None:
    """Two faults, one after the other: the words between them are NaN, infinite, denormal, ..."""
    values = around_grid(7, 8) if name == "q7.8" else around(FORMATS[getattr(torch, name)])
    start = encoded(holding(floats_of(values, memory)), name)
    with inject(start, [BitFlip(1.0), BitFlip(1.0)], name) as record:
        assert record.replay().faults == ()
        twice = words_of(weight_of(start))
    assert not wrong_numbers(twice, words_of(weight_of(start)), memory)


class Scores(nn.Module):
    """A linear classifier of two features without a bias."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, len(rows), bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(rows))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(images.flatten(1))
        return scores


IMAGES = torch.tensor([[4.0, 1.0], [1.0, 4.0], [2.0, 1.0], [1.0, 3.0]]).view(4, 1, 1, 2)
LABELS = torch.tensor([0, 1, 0, 1])


def accuracy(model: nn.Module) -> float:
    return float((model(IMAGES).argmax(1) == LABELS).float().mean())


def test_a_report_tells_errors_saturation_and_accuracy() -> None:
    """q0.1 has -1, -1/2, 0 and 1/2: the rows become (1/2, 1/2) and (0, 1/2), and 0 always wins."""
    model = Scores([[3.0, 0.3], [0.1, 4.0]])
    before = bits_of(model)
    report = encoding_report(model, "q0.1", accuracy)
    assert same_bits(before, model)
    assert (report.encoding, report.accuracy_before, report.accuracy_after) == ("q0.1", 1.0, 0.5)
    (loss,) = report.tensors
    assert (loss.tensor, loss.word, loss.elements) == ("linear.weight", "q0.1", 4)
    assert loss.saturated == report.saturated == 2
    assert loss.largest_error == report.largest_error == 3.5
    assert str(report) == (
        "q0.1: largest rounding error 3.5 (linear.weight), 2 of 4 numbers saturated, "
        "2 bits a parameter, "
        "accuracy 100.00 % before and 50.00 % after"
    )
    assert encoding_table(report).row_count == 1
    words = (
        r"^2 of 4 numbers .* of q0.1 and were saturated; "
        r"the largest error is 3.5, in linear.weight$"
    )
    with pytest.warns(UserWarning, match=words) as caught:
        stored = encode(model, "q0.1")
    assert caught[0].filename == __file__
    assert encoding_report(stored, "q0.1", accuracy).accuracy_before == 0.5
    assert same_bits(before, model)


def test_a_report_without_data_has_one_row_a_tensor() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 1.25, 1.3], [0.0, -2.0, 9.0]]))
    report = encoding_report(model, "q3.2")
    assert (report.accuracy_before, report.accuracy_after) == (None, None)
    assert "accuracy" not in str(report)
    found = {loss.tensor: loss for loss in report.tensors}
    assert set(found) == {name for name, tensor in model.state_dict().items() if tensor.dim()}
    assert found["0.weight"].largest_error == 9.0 - 7.75
    assert (found["0.weight"].saturated, found["1.running_var"].largest_error) == (1, 0.0)
    assert encoding_report(model, "native").largest_error == 0.0


@pytest.mark.parametrize(("name", "value"), [("float16", 1e6), ("q3.4", math.inf)])
def test_a_number_that_becomes_infinite_or_was_is_infinitely_off(name: str, value: float) -> None:
    model = holding(torch.tensor([1.0, value]))
    report = encoding_report(model, name)
    assert (report.largest_error, report.saturated) == (math.inf, 1)
    with pytest.warns(UserWarning, match="largest error is inf, in weight$"):
        encode(model, name)
