"""Does a campaign measure models whose forward passes write, cache or keep memory, or refuse them?

The oracle injects the same faults into a fresh copy of the model for each trial.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proact import campaign
from proact.faults import BitFlip, encode, inject
from proact.protect import protect

TRIALS = 30
X = torch.randn(40, 8, generator=torch.Generator().manual_seed(5))


def labelled(model: nn.Module, inputs: Tensor = X) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return inputs, copy.deepcopy(model).eval()(inputs).argmax(1)


def measured(model: nn.Module, fault: BitFlip, inputs: Tensor = X, **options: Any) -> Any:
    options = {"trials": TRIALS, "images_per_trial": "all", "executor": 1, **options}
    return campaign.run({"m": model}, labelled(model, inputs), [fault], **options)


def expected(model: nn.Module, fault: BitFlip, inputs: Tensor = X) -> list[int]:
    """The numbers of right predictions in the trials."""
    inputs, labels = labelled(model, inputs)
    right = []
    for trial in range(TRIALS):
        fresh = encode(model, "float32").eval()
        with inject(fresh, fault, trial=trial), torch.no_grad():
            output = fresh(inputs)
            finite = torch.isfinite(output).all(1)
            right.append(int((finite & (output.argmax(1) == labels)).sum()))
    return right


def rows(result: Any, fault: BitFlip) -> list[int]:
    return [row.correct for row in result.rows("m", fault)]


class Latches(nn.Module):
    """Stays in a safe state after an output that is too large."""

    def __init__(self, latch: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 4)
        self.latch, self.safe, self.kept = latch, False, [False]
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        is_large = bool((~(output.abs() < 100.0)).any())
        if self.latch == "attribute":
            self.safe |= is_large
        elif self.latch == "list":
            self.kept[0] |= is_large
        else:
            self.seen.clamp_(min=float(is_large))
        return output * 0.0 if self.safe or self.kept[0] or self.seen > 0 else output


@pytest.mark.parametrize("latch", ["attribute", "list", "buffer"])
def test_state_that_only_faults_write_is_put_back(latch: str) -> None:
    model, fault = Latches(latch), BitFlip(1e-2, where="layer.*")
    result = measured(model, fault)
    assert rows(result, fault) == expected(model, fault)
    assert result.cells[0].clean == 1.0
    assert "the values are put back" in " ".join(result.findings)


class Accumulates(nn.Module):
    """Its output is its own state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.total = nn.Linear(8, 4), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.total.shape != (len(x), 4):
            self.total = torch.zeros(len(x), 4)
        return self.total.zero_().add_(self.layer(x))


@pytest.mark.parametrize("before", [40, 7])
def test_an_output_that_is_state_is_judged_as_it_was(before: int) -> None:
    model, fault = Accumulates(), BitFlip(1e-2)
    with torch.no_grad():
        model(X[:before])
    assert rows(measured(model, fault), fault) == expected(model, fault)


def embedding(max_norm: float | None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(16, 8, max_norm=max_norm), nn.Flatten(), nn.Linear(24, 4))


TOKENS = torch.randint(0, 16, (40, 3), generator=torch.Generator().manual_seed(5))


def test_embeddings_that_write_to_their_weight_are_refused() -> None:
    model = embedding(1.0)
    named = r"'0' scales rows of its weight down to max_norm=1"
    with pytest.raises(ValueError, match=named), inject(model, BitFlip(1e-3)):
        pass
    with pytest.raises(ValueError, match=named):
        measured(model, BitFlip(1e-3), TOKENS)
    # The forward pass writes to the weight wherever faults are.
    with pytest.raises(ValueError, match=r"'0' \(Embedding\) writes to the parameter 0"):
        measured(model, BitFlip(1e-3, where="2.*"), TOKENS)
    samples = labelled(model, TOKENS)
    for method in ("ecc", "weight-range"):
        with pytest.raises(ValueError, match=rf"{method} needs .* max_norm=1 "):
            protect(model, method, samples)
    assert measured(embedding(None), BitFlip(1e-3), TOKENS).cells[0].trials == TRIALS


def test_a_forward_that_writes_to_a_parameter_is_refused() -> None:
    class Clamps(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(-1.0, 1.0)
            return super().forward(x)

    with pytest.raises(ValueError, match=r"'0' \(Clamps\) writes to the parameter 0\.weight"):
        measured(nn.Sequential(Clamps(8, 4)), BitFlip(1e-3))


class Cached(nn.Linear):
    """Computes with a copy of its weight that its first forward pass makes."""

    copied: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.copied is None:
            self.copied = self.weight.detach().clamp(-1.0, 1.0)
        return F.linear(x, self.copied, self.bias)


def test_a_cached_copy_of_a_parameter_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Cached(8, 4))
    fault = BitFlip(1e-2)
    assert rows(measured(model, fault), fault) == expected(model, fault), "the cache is empty"
    with torch.no_grad():
        model(X)
    with pytest.raises(ValueError, match=r"reads 0\.copied, .* and not 0\.weight"):
        measured(model, fault)


def test_memory_that_is_not_registered_is_named() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = [nn.Linear(8, 8) for _ in range(2)]  # not an nn.ModuleList
            self.table = torch.randn(8)
            self.count = torch.zeros(3, dtype=torch.int64)
            self.unused = torch.randn(8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            scale = torch.tensor([2.0, 3.0]).sum() + self.count.sum()
            for block in self.blocks:
                x = block(x + self.table) * scale
            output: Tensor = self.head(x)
            return output

    (finding,) = measured(Hidden(), BitFlip(1e-3)).findings
    assert "reads " in finding
    assert {"table", "blocks"} == set(finding.split("reads ")[1].split(" outside")[0].split(", "))


def test_a_model_is_rounded_after_it_has_changed_its_mode() -> None:
    """As adapters whose weights are merged in eval mode."""

    class Merges(nn.Linear):
        def train(self, mode: bool = True) -> Merges:
            if self.training and not mode:
                self.weight.data += 0.01
            super().train(mode)
            return self

    torch.manual_seed(0)
    model, fault = nn.Sequential(Merges(8, 4)), BitFlip(1e-2)
    before = model[0].weight.clone()
    in_train_mode = measured(model, fault, encoding="int4")
    assert model.training
    assert torch.equal(model[0].weight, before)
    in_eval_mode = measured(copy.deepcopy(model).eval(), fault, encoding="int4")
    assert rows(in_train_mode, fault) == rows(in_eval_mode, fault)


@pytest.mark.parametrize("method", ["ecc", "weight-range"])
def test_a_guard_that_the_forward_pass_avoids_is_refused(method: str) -> None:
    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Linear(8, 4)

        def features(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x)
            return output

        forward = features

    inputs, labels = labelled(Clip())
    guarded = protect(Clip(), method, (inputs, labels))
    with pytest.raises(ValueError, match=rf"does not call the whole model .* guard \({method}\)"):
        measured(guarded, BitFlip(1e-3), forward=lambda model, batch: model.features(batch))
    assert measured(guarded, BitFlip(1e-3)).cells[0].trials == TRIALS
