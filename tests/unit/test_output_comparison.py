"""Are outputs the same exactly where rounding explains their difference?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from proact.campaign.output_comparison import equal_up_to, same_answers

NAN, INFINITE = float("nan"), float("inf")
X = torch.tensor([1.0, -2.0, 4.0])


@pytest.mark.parametrize(
    ("a", "b", "are_equal"),
    [
        (X, X + 0.0399, True),  # a hundredth of the largest value, 4
        (X, X + 0.0401, False),
        (X, X[:2], False),
        (X, X.double(), False),
        (X[:0], X[:0], True),
        (torch.tensor([NAN, 1.0]), torch.tensor([INFINITE, 1.0]), True),  # neither is finite
        (torch.tensor([NAN, 1.0]), torch.tensor([1.0, 1.0]), False),
        (torch.tensor([INFINITE, 1.0]), torch.tensor([INFINITE, 1.02]), False),
        (torch.arange(41), torch.arange(41).index_fill(0, torch.tensor([3, 4]), 0), True),
        (torch.arange(41), torch.arange(41).index_fill(0, torch.tensor([3, 4, 5]), 0), False),
    ],
)
def test_tensors_up_to_a_hundredth(a: torch.Tensor, b: torch.Tensor, are_equal: bool) -> None:
    assert equal_up_to(0.01, a, b) is are_equal


BATCH = torch.arange(12.0).view(4, 3)


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        (BATCH, BATCH[[3, 1]], True),
        (BATCH, BATCH[[1, 3]], False),
        ({"a": BATCH, "b": torch.tensor(1.0)}, {"a": BATCH[[3, 1]], "b": torch.tensor(2.0)}, True),
        (torch.tensor(1.0), torch.tensor(1.0), None),
        (BATCH, {"a": BATCH[[3, 1]], "b": BATCH}, False),
        ([{"box": row} for row in BATCH], [{"box": BATCH[3]}, {"box": BATCH[1]}], True),
        ([{"box": row} for row in BATCH], [{"box": BATCH[3]}, {"box": BATCH[2]}], False),
        ([{"box": row} for row in BATCH], [{"box": BATCH[3]}, {}], False),
        ([{"box": row} for row in BATCH], [{"box": BATCH[3]}], None),
    ],
)
def test_samples_3_and_1_of_a_batch_of_4(whole: Any, part: Any, expected: bool | None) -> None:
    assert same_answers(whole, part, (3, 1), 4, 1e-6) is expected
