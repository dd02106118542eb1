"""Does the search find flips that hurt, on the model as it is deployed?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import slow
from proact import campaign
from proact.campaign import SearchOptions, worst_case
from proact.campaign.bit_search import BitSearch
from proact.data import Data, Split
from proact.faults import (
    ActivationFlip,
    BitFlip,
    ExactFlips,
    FaultSite,
    FaultSpace,
    Replay,
    encode,
    fault_from_dict,
    inject,
)
from proact.protect import protect
from proact.results import Result, read

#: The fewest flips that a code does not correct.
CODES = {"float32+secded32": 2, "float32+bch2": 3, "float32+bch3": 4, "float32+tmr": 2}


@pytest.fixture
def tiny() -> tuple[nn.Module, Split]:
    """A model with few bits, whose flips can all be tried, and samples that it answers right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    inputs = torch.randn(64, 4)
    return model, Split(inputs, model(inputs).argmax(1))


def every_flip(model: nn.Module, search: BitSearch, encoding: str) -> list[float]:
    """The harm of each single flip."""
    return [
        search.harm((FaultSite(exposed.name, element, bit),))
        for exposed in FaultSpace(encode(model, encoding), encoding)
        for element in range(exposed.elements)
        for bit in exposed.bit_numbers
    ]


def accuracy(model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        output = model(split.inputs)
    return float(((output.argmax(1) == split.labels) & output.isfinite().all(1)).double().mean())


@pytest.mark.long
@pytest.mark.parametrize("method", [None, "weight-range"])
@pytest.mark.parametrize("encoding", [*slow("float32"), "float16", "q3.4"])
def test_the_first_flip_is_one_of_the_worst(
    tiny: tuple[nn.Module, Split], encoding: str, method: str | None
) -> None:
    model, split = tiny
    if encoding == "float16":
        model, split = model.half(), Split(split.inputs.half(), split.labels)
    if method is not None:
        model = protect(model, method)
    search = BitSearch(model, split, encoding)
    every = every_flip(model, search, encoding)
    (step,) = search.steps(1)
    assert step.harm == search.harm(step.flips)
    assert sum(harm > step.harm for harm in every) <= 0.01 * len(every)


def test_harmless_looking_flips_are_found_one_after_the_other(
    tiny: tuple[nn.Module, Split],
) -> None:
    model, split = tiny
    # No flip of these bits destroys the model, so that the search goes on.
    search = BitSearch(model, split, "q3.4", bits=(2, 3))
    steps = list(search.steps(6))
    assert [len(step.flips) for step in steps] == [1, 2, 3, 4, 5, 6]
    harms = [step.harm for step in steps]
    assert harms == sorted(harms)
    drawn = torch.Generator().manual_seed(0)
    space = [
        FaultSite(exposed.name, element, bit)
        for exposed in FaultSpace(encode(model, "q3.4"), "q3.4")
        for element in range(exposed.elements)
        for bit in (2, 3)
    ]
    for _ in range(50):
        order = torch.randperm(len(space), generator=drawn)[:6].tolist()
        assert search.harm(tuple(space[number] for number in order)) < harms[-1]


@pytest.mark.long
def test_flips_add_up_on_the_given_model(trained_cnn: nn.Module, digits: Data) -> None:
    before = {name: tensor.clone() for name, tensor in trained_cnn.state_dict().items()}
    lines: list[str] = []
    where = "*.weight"
    found = worst_case(trained_cnn, digits, 16, "int8", where=where, progress=lines.append)
    assert 1 <= len(found.faults) <= 16
    assert len(lines) == len(found.faults)
    assert {site.tensor.rpartition(".")[2] for site in found.faults} == {"weight"}
    assert found == worst_case(trained_cnn, digits, 16, "int8", where=where)
    assert all(torch.equal(before[n], t) for n, t in trained_cnn.state_dict().items())
    with inject(trained_cnn, found, "int8"):
        worst = accuracy(trained_cnn, digits.test)
    with inject(trained_cnn, ExactFlips(16, where=where), "int8"):
        random = accuracy(trained_cnn, digits.test)
    assert worst < random - 0.1


@pytest.mark.parametrize("encoding", CODES)
def test_flips_that_a_code_corrects_are_not_taken(
    tiny: tuple[nn.Module, Split], encoding: str
) -> None:
    model, split = tiny
    least = CODES[encoding]
    assert not worst_case(model, split, least - 1, encoding).faults
    found = worst_case(model, split, least + 1, encoding)
    assert len(found.faults) >= least
    with inject(model, found, encoding):
        assert accuracy(model, split) < 0.5


def test_two_flips_of_three_copies_hurt_like_one_flip_of_one(
    tiny: tuple[nn.Module, Split],
) -> None:
    model, split = tiny
    (one,) = BitSearch(model, split, "float32").steps(1)
    (two,) = BitSearch(model, split, "float32+tmr").steps(2)
    assert two.harm >= one.harm - 1e-6


@pytest.mark.parametrize("is_nested", [False, True])
def test_guards_are_attacked_as_they_are_deployed(
    tiny: tuple[nn.Module, Split], is_nested: bool
) -> None:
    def deployed(guarded: nn.Module) -> nn.Module:
        return nn.Sequential(guarded, nn.Identity()).eval() if is_nested else guarded

    model, split = tiny
    coded = deployed(protect(model, "ecc", code="bch2"))
    assert not worst_case(coded, split, 2).faults
    assert worst_case(coded, split, 4).faults
    assert worst_case(deployed(protect(model, "weight-range")), split, 1).faults
    rarely = protect(model, "ecc", code="bch2", every=2)
    with pytest.raises(ValueError, match="ecc with every=2"):
        worst_case(rarely, split, 2)


def test_predictions_stand_for_missing_targets(tiny: tuple[nn.Module, Split]) -> None:
    model, split = tiny
    assert worst_case(model, split.inputs, 2) == worst_case(model, split, 2)


class Picky(nn.Module):
    """Raises an error where a weight is large."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if not bool(self.line.weight.abs().amax() < 1e3):
            raise RuntimeError("out of range")
        output: Tensor = self.line(x)
        return output


def test_an_error_that_flips_cause_counts_as_the_worst() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(16, 3)
    search = BitSearch(Picky(3, 2), Split(inputs, torch.zeros(16, dtype=torch.int64)), bits=(30,))
    assert search.harm((FaultSite("line.weight", 0, 30),)) == 1.0


class Counting(nn.Module):
    """Writes to a buffer that its output depends on."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 3)
        self.register_buffer("passes", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes.add_(1.0)
        output: Tensor = self.line(x) * self.passes
        return output


def test_state_that_a_model_writes_is_put_back(tiny: tuple[nn.Module, Split]) -> None:
    _, split = tiny
    model = Counting()
    assert worst_case(model, split, 1) == worst_case(model, split, 1)
    assert model.passes == 1.0


def test_losses_of_tokens_and_of_the_user(tiny: tuple[nn.Module, Split]) -> None:
    torch.manual_seed(0)
    tagger = nn.Sequential(nn.Embedding(11, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    tokens = torch.randint(0, 11, (20, 6))
    tags = tagger(tokens).argmax(2)
    assert worst_case(tagger, (tokens, tags), 1).faults
    assert worst_case(tagger, (tokens, tags.int()), 1).faults
    with pytest.raises(ValueError, match=r"expected targets, .* got outputs \(20, 6, 5\)"):
        worst_case(tagger, tokens, 1)
    with pytest.raises(
        ValueError, match=r"got logits \(20, 6, 5\) and a tensor of shape \(20, 6\)"
    ):
        worst_case(tagger, (tokens, tags + 5), 1)
    model, split = tiny

    def squared(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).square().mean(1)

    values = model(split.inputs).detach()
    with pytest.raises(ValueError, match=r"got logits \(64, 3\) and a tensor of shape \(64, 3\)"):
        worst_case(model, (split.inputs, values), 1)
    assert worst_case(model, (split.inputs, values), 1, loss=squared).faults
    with pytest.raises(ValueError, match=r"one value for each sample, \(samples,\), got \(\)"):
        worst_case(model, split, 1, loss=F.cross_entropy)
    with pytest.raises(ValueError, match="losses of at least 0, got -"):
        worst_case(model, split, 1, loss=lambda logits, _: -logits.abs().sum(1))


def test_what_cannot_be_searched_is_refused(tiny: tuple[nn.Module, Split]) -> None:
    model, split = tiny

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(x)
            return output

    with pytest.raises(ValueError, match="no gradient of the loss reaches the parameters of Froz"):
        worst_case(Frozen(), split, 1)
    with torch.no_grad():
        assert worst_case(model, split, 1).faults
    with torch.inference_mode(), pytest.raises(ValueError, match=r"inside torch.inference_mode"):
        worst_case(model, split, 1)
    with pytest.raises(ValueError, match="flips is at least 1, got 0"):
        worst_case(model, split, 0)
    with pytest.raises(ValueError, match="candidates is at least 1, got 0"):
        SearchOptions(candidates=0)
    with pytest.raises(ValueError, match="worst_flips"):
        campaign.per_layer(model, split, worst_flips=2, trials=10)


def test_a_campaign_keeps_and_shows_worst_cases(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    variants = {"relu": trained_cnn, "range": protect(trained_cnn, "weight-range")}
    path = tmp_path / "rows.sqlite"

    def run() -> Result:
        return campaign.run(
            variants,
            digits,
            [BitFlip(1e-5, where="*.weight", bits="integer")],
            encoding="q15.16",
            trials=4,
            worst_flips=3,
            executor=1,
            store=path,
        )

    result = run()
    (kept,) = read(path)
    assert result.worst_cases == kept.worst_cases
    assert run().worst_cases == kept.worst_cases
    for name, worst in result.worst_cases.items():
        assert worst.searched == 3
        flips, value = list(worst.values.items())[-1]
        fault = fault_from_dict(worst.fault)
        assert isinstance(fault, Replay)
        assert len(fault.faults) == flips <= 3
        assert all(s.tensor.endswith(".weight") and 16 <= s.bit <= 30 for s in fault.faults)
        stored = encode(variants[name], "q15.16").eval()
        with inject(stored, fault, "q15.16"):
            # Batches of another size may tip one image.
            assert accuracy(stored, digits.test) == pytest.approx(value, abs=1.5 / 359)
        random = result.cell(name, worst.random)
        assert value < random.value.estimate
    page = result.report(tmp_path / "report").read_text()
    assert "Worst case" in page
    assert "3 random flips" in page


def run_tiny(model: nn.Module, data: Data, path: Path, **options: Any) -> Result:
    options = {"trials": 2, "worst_flips": 2, "executor": 1, "images_per_trial": "all", **options}
    return campaign.run({"model": model}, data, [BitFlip(1e-3)], store=path, **options)


def test_what_is_found_depends_on_the_samples(
    tiny: tuple[nn.Module, Split], tmp_path: Path
) -> None:
    model, split = tiny
    others = Split(split.inputs[:20] * 3.0, 2 - split.labels[:20])
    found = [
        run_tiny(model, Data("tiny", split, part, split, 3), tmp_path / "rows.sqlite").worst_cases
        for part in (split, others)
    ]
    fresh = run_tiny(model, Data("tiny", split, others, split, 3), tmp_path / "other.sqlite")
    assert found[1] == fresh.worst_cases
    assert found[0] != found[1]


def test_errors_strata_and_activations_beside_worst_cases(
    tiny: tuple[nn.Module, Split], tmp_path: Path
) -> None:
    model, split = tiny
    data = Data("tiny", split, split, split, 3)
    picky = Picky(4, 3)
    result = run_tiny(picky, data, tmp_path / "1.sqlite", on_error="exclude")
    assert min(result.worst_cases["model"].values.values()) == 0.0
    run_tiny(model, data, tmp_path / "2.sqlite", strata=True, margin=0.2)
    with pytest.raises(ValueError, match="worst_flips needs a fault in stored parameters"):
        campaign.run({"model": model}, data, [ActivationFlip(1e-3)], worst_flips=2, trials=2)
    again = campaign.run(
        {"model": model}, data, [ExactFlips(2), BitFlip(1e-3)], worst_flips=2, trials=2
    )
    assert [cell.fault for cell in again.cells] == ["ExactFlips(2)", "BitFlip(0.001)"]
