"""Do campaigns agree with an independent loop on models that are no image classifiers?

The loop draws its own bits with numpy, flips them in a copy of the weights, and judges the outputs
by hand. Both sides estimate one mean from independent patterns: their difference, in standard
errors, stays below 3 (for these fixed seeds).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proact import campaign
from proact.faults import BitFlip, Where

TRIALS = 400
_WORDS = {2: np.uint16, 4: np.uint32}


class Classifier(nn.Module):
    """Token ids and a mask enter by name; the logits are an attribute of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = (
            nn.Embedding(50, 16),
            nn.Linear(16, 32),
            nn.Linear(32, 4),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.hidden(self.embed(input_ids)).relu() * attention_mask[..., None]
        return SimpleNamespace(
            logits=self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))
        )


class Tagger(nn.Module):
    """A label for each token, from a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(16, 5)
        self.recurrent = nn.LSTM(8, 16, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(ids))
        logits: Tensor = self.head(states)
        return logits


def flipped_words(weights: Tensor, ber: float, draw: np.random.Generator) -> Tensor:
    """Flip each bit of a float tensor with probability ``ber``."""
    words = weights.detach().clone().view(torch.uint8).numpy().view(_WORDS[weights.element_size()])
    bits = 8 * weights.element_size()
    for bit in range(bits):
        words ^= (draw.random(words.shape) < ber).astype(words.dtype) << words.dtype.type(bit)
    return torch.from_numpy(words.view(np.uint8)).view(weights.dtype)


def flipped_integers(weights: Tensor, ber: float, draw: np.random.Generator) -> Tensor:
    """Quantise a matrix to int8 with a scale per row, flip its bits, and restore floats."""
    scale = weights.abs().amax(1, keepdim=True).double() / 127
    words = (weights / scale).round().numpy().astype(np.int8).view(np.uint8)
    for bit in range(8):
        words ^= (draw.random(words.shape) < ber).astype(np.uint8) << np.uint8(bit)
    return (torch.from_numpy(words.view(np.int8)) * scale).float()


def by_hand(
    model: nn.Module,
    judge: Callable[[nn.Module], float],
    flipped: Callable[[Tensor, float, np.random.Generator], Tensor],
    ber: float,
) -> NDArray[Any]:
    """The value of each of `TRIALS` fault patterns in the weights of ``model``."""
    draw, values = np.random.default_rng(1), []
    for _ in range(TRIALS):
        faulty = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in faulty.named_parameters():
                if "weight" in name:
                    parameter.copy_(flipped(parameter.float(), ber, draw))
            values.append(judge(faulty))
    return np.array(values)


def in_bfloat16(weights: Tensor, ber: float, draw: np.random.Generator) -> Tensor:
    return flipped_words(weights.bfloat16(), ber, draw).float()


def classification() -> tuple[nn.Module, Any, Callable[[nn.Module], float]]:
    ids = torch.randint(0, 50, (120, 7))
    mask = torch.rand(120, 7).round().index_fill(1, torch.tensor([0]), 1.0)
    model, batch = Classifier().eval(), {"input_ids": ids, "attention_mask": mask}
    labels = model(**batch).logits.argmax(1)

    def judge(model: nn.Module) -> float:
        logits = model(**batch).logits
        right = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
        return float(right.double().mean())

    return model, (batch, labels), judge


def tagging() -> tuple[nn.Module, Any, Callable[[nn.Module], float]]:
    ids = torch.randint(0, 30, (60, 9))
    model = Tagger().eval()
    with torch.no_grad():
        labels = model(ids).argmax(2)
    labels[:, -2:] = -100

    def judge(model: nn.Module) -> float:
        logits = model(ids)[:, :-2]
        right = (logits.argmax(2) == labels[:, :-2]) & torch.isfinite(logits).all(2)
        return float(right.double().mean())

    return model, (ids, labels), judge


@pytest.mark.parametrize(
    ("task", "metric", "encoding", "flipped", "ber"),
    [
        (classification, "top-1", "float32", flipped_words, 1e-3),
        (classification, "top-1", "int8", flipped_integers, 1e-2),
        (tagging, "token-accuracy", "bfloat16", in_bfloat16, 1e-3),
        (tagging, "token-accuracy", "float32", flipped_words, 1e-3),
    ],
)
def test_campaigns_agree_with_a_loop_by_hand(
    task: Callable[[], tuple[nn.Module, Any, Callable[[nn.Module], float]]],
    metric: str,
    encoding: str,
    flipped: Callable[[Tensor, float, np.random.Generator], Tensor],
    ber: float,
) -> None:
    torch.manual_seed(0)
    model, data, judge = task()
    expected = by_hand(model, judge, flipped, ber)
    fault = BitFlip(ber, where=Where(name="*weight*", exclude=Where(kind="scale")))
    result = campaign.run(
        {"m": model}, data, [fault], encoding=encoding, metric=metric, trials=TRIALS,
        images_per_trial="all", executor=1,
    )  # fmt: skip
    found = np.array([row.value for row in result.rows("m", fault)])
    assert 0.3 < expected.mean() < 0.95, "a rate at which something is lost, and something kept"
    error = math.sqrt((found.var(ddof=1) + expected.var(ddof=1)) / TRIALS)
    assert abs(found.mean() - expected.mean()) < 3.0 * error
