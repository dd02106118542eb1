"""Do records count what the formulas of residual errors say? Seeds and bounds are fixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from proact.encodings import residual_rates
from proact.faults import BitFlip, FaultSpace, Injector, encode

SIGMAS = 5.0
WORDS = 16_384
TRIALS = 6
ENCODINGS = [
    "float32+secded", "float32+bch2", "float32+bch3", "float32+secded32", "float32+secded64",
    "float32+tmr", "float32+parity", "float32+mset", "float32+cep",
    "float16+secded", "float16+bch2", "bfloat16+bch3", "q7.8+bch2", "q3.4+secded", "q3.4+bch2",
    "q15.16+bch2", "int8+secded", "int8+secded64", "int8+parity", "q3.4+secded32",
]  # fmt: skip


def weights() -> nn.Module:
    """No number is 0, so that every replaced one is seen."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(128, WORDS // 128, bias=False)
    values = 0.5 + torch.rand(model.weight.shape, generator=generator) / 2
    signs = torch.rand(values.shape, generator=generator) < 0.5
    with torch.no_grad():
        model.weight.copy_(torch.where(signs, values, -values))
    return model


@pytest.mark.parametrize("ber", [0.003, 0.03])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_records_count_as_the_formulas_say(encoding: str, ber: float) -> None:
    model = encode(weights(), encoding)
    clean = model.weight.detach().clone()
    (exposed,) = FaultSpace(model, encoding)
    words = exposed.word.fitted.code.words  # type: ignore[attr-defined]
    codewords = TRIALS * WORDS // words
    counts = dict.fromkeys(("corrected", "detected", "miscorrected"), 0)
    lost = 0
    injector = Injector(model, encoding)
    for trial in range(TRIALS):
        with injector.trial(BitFlip(ber), 17, trial) as record:
            for outcome in counts:
                counts[outcome] += getattr(record, outcome)
            lost += int((model.weight != clean).sum())
    rates = residual_rates(encoding, ber)
    for outcome, seen in counts.items():
        chance = getattr(rates, outcome)
        sigma = math.sqrt(codewords * chance * (1 - chance))
        assert abs(seen - codewords * chance) <= SIGMAS * sigma + 1, outcome
    if not encoding.endswith("cep"):  # which clears chunks that may be 0 already
        chance = rates.lost_parameters
        # The words of a codeword are lost together.
        sigma = math.sqrt(codewords * words**2 * chance * (1 - chance))
        assert abs(lost - codewords * words * chance) <= SIGMAS * sigma + words


def test_the_bounds_are_tight_enough_to_tell_codes_apart() -> None:
    rates = [residual_rates(encoding, 0.03) for encoding in ENCODINGS[:4]]
    codewords = TRIALS * WORDS
    detected = [codewords * rate.detected for rate in rates]
    assert all(
        abs(a - b) > 2 * SIGMAS * math.sqrt(max(a, b))
        for i, a in enumerate(detected)
        for b in detected[:i]
    )
