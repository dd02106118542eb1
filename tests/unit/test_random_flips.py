"""Do the random flips beside a worst case hit what the campaign's faults can hit?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proact.campaign.worst_cases import random_flips
from proact.faults import BitFlip, ExactFlips, Fault, FaultSite, Replay, StuckAt, Where

BIASES = Where(kind="bias")
LISTED = Replay((FaultSite("c", 0, 31),), {"c": (4,)}, "float32")


@pytest.mark.parametrize(
    ("faults", "random"),
    [
        ([BitFlip({"fc.*": 1e-4})], ExactFlips(3, where=("fc.*",))),
        (
            [BitFlip({"a": 1e-4, BIASES: 1e-5})],
            ExactFlips(3, where=("a", BIASES)),
        ),
        (
            [BitFlip(1e-4, where="a"), StuckAt(1, 1e-4, where=("a", "b"))],
            ExactFlips(3, where=("a", "b")),
        ),
        ([LISTED], ExactFlips(3, where=("c",))),
        ([LISTED, BitFlip(1e-4, where="a")], ExactFlips(3, where=("a",))),
        ([BitFlip(1e-4, bits="sign"), BitFlip(1e-4)], ExactFlips(3)),
        (
            [BitFlip(1e-4, bits="sign", where="a"), BitFlip(1e-5, bits="sign")],
            ExactFlips(3, bits="sign"),
        ),
    ],
)
def test_random_flips_hit_what_the_faults_can_hit(
    faults: Sequence[Fault], random: ExactFlips
) -> None:
    assert random_flips(3, faults) == random


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([BitFlip(1e-4, bits=31), BitFlip(1e-4, bits="sign")], "flip the same bits, got BitFlip"),
        ([BitFlip({"a": 0.1, "*": 0.0})], "rates by tensor if all are above 0 .* got BitFlip"),
        ([BitFlip({"a": 0.1}, where="b")], "and where is '\\*', got BitFlip"),
    ],
)
def test_faults_without_a_common_set_of_bits_are_refused(
    faults: Sequence[Fault], message: str
) -> None:
    with pytest.raises(ValueError, match=f"worst_flips .*{message}"):
        random_flips(3, faults)
