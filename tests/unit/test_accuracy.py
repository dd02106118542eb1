"""Is the accuracy of a model that of a campaign, for every form of data?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from proact import campaign, data, models, protect
from proact.faults import BitFlip


class Gives(nn.Module):
    """Logits of class 0, with NaN or infinity for the last samples."""

    def __init__(self, value: float, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))
        self.value, self.count = value, count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.weight.expand(len(x), 3).clone()
        logits[x[:, 0] >= 20 - self.count] = self.value
        return logits


SAMPLES = torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.int64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_count_as_wrong(value: float) -> None:
    """The first NaN or infinity of an output is its argmax, so it agreed with class 0."""
    model = Gives(value, 5).eval()
    assert models.accuracy(model, SAMPLES) == 0.75
    assert protect.cost(model, SAMPLES).clean == 0.75
    result = campaign.run({"m": model}, SAMPLES, [BitFlip(0.0)], trials=2, images_per_trial="all")
    assert result.clean["m"] == 0.75


def test_accuracy_takes_what_campaigns_take() -> None:
    model, pairs = Gives(0.0, 4).eval(), list(zip(*SAMPLES, strict=True))
    parts = data.from_parts((-1.0 - SAMPLES[0], SAMPLES[1]), SAMPLES)
    loader = torch.utils.data.DataLoader(pairs, batch_size=3)
    for given in (SAMPLES, data.as_split(SAMPLES), parts, pairs, loader):
        assert models.accuracy(model, given) == 1.0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(20, 1), r"expected class labels \(n,\) int64"),
        (torch.full((20,), 3), "labels go up to 3, so the model's output is"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        models.accuracy(Gives(0.0, 0).eval(), (SAMPLES[0], labels))
