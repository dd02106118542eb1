"""Does the search find flips that hurt, on the model as it is deployed?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proact import campaign
from proact.campaign import SearchOptions, worst_case
from proact.campaign.bit_search import BitSearch
from proact.data import Data, Split
from proact.faults import (
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

CODES = {"float32+secded32": 2, "float32+bch2": 3, "float32+tmr": 2}


@pytest.fixture
def tiny() -> tuple[nn.Module, Split]:
    """A model with few bits, whose flips can all be tried, and samples that it answers right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    inputs = torch.randn(64, 4)
    return model, Split(inputs, model(inputs).argmax(1))


def accuracy(model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        output = model(split.inputs)
    return float(((output.argmax(1) == split.labels) & output.isfinite().all(1)).double().mean())


@pytest.mark.parametrize("encoding", ["float32", "int8", "q3.4"])
def test_the_first_flip_is_one_of_the_worst(tiny: tuple[nn.Module, Split], encoding: str) -> None:
    model, split = tiny
    search = BitSearch(model, split, encoding)
    every = [
        search.harm((FaultSite(exposed.name, element, bit),))
        for exposed in FaultSpace(encode(model, encoding), encoding)
        for element in range(exposed.elements)
        for bit in exposed.bit_numbers
    ]
    (step,) = search.steps(1)
    assert step.harm == search.harm(step.flips)
    assert sum(harm > step.harm for harm in every) <= 0.01 * len(every)


def test_flips_add_up_on_the_given_model(trained_cnn: nn.Module, digits: Data) -> None:
    before = {name: tensor.clone() for name, tensor in trained_cnn.state_dict().items()}
    lines: list[str] = []
    where = "*.weight"
    found = worst_case(trained_cnn, digits, 6, "int8", where=where, progress=lines.append)
    assert 1 <= len(found.faults) <= 6
    assert len(lines) == len(found.faults)
    assert {site.tensor.rpartition(".")[2] for site in found.faults} == {"weight"}
    assert found == worst_case(trained_cnn, digits, 6, "int8", where=where)
    assert all(torch.equal(before[n], t) for n, t in trained_cnn.state_dict().items())
    with inject(trained_cnn, found, "int8"):
        worst = accuracy(trained_cnn, digits.test)
    with inject(trained_cnn, ExactFlips(6, where=where), "int8"):
        random = accuracy(trained_cnn, digits.test)
    assert worst < random - 0.1


@pytest.mark.parametrize("encoding", CODES)
def test_flips_that_a_code_corrects_are_not_taken(
    tiny: tuple[nn.Module, Split], encoding: str
) -> None:
    model, split = tiny
    least = CODES[encoding]
    assert not worst_case(model, split, least - 1, encoding).faults
    found = worst_case(model, split, 4, encoding)
    assert len(found.faults) >= least
    with inject(model, found, encoding):
        assert accuracy(model, split) < 0.5


def test_guards_are_attacked_as_they_are_deployed(tiny: tuple[nn.Module, Split]) -> None:
    model, split = tiny
    guarded = protect(model, "ecc", code="bch2")
    assert not worst_case(guarded, split, 2).faults
    ranged = protect(model, "weight-range")
    (site,) = worst_case(ranged, split, 1).faults
    # Without the guard, a flip of the highest exponent bit of a weight would be the worst.
    assert site.tensor.startswith("weight_range.")


def test_predictions_stand_for_missing_targets(tiny: tuple[nn.Module, Split]) -> None:
    model, split = tiny
    assert worst_case(model, split.inputs, 2) == worst_case(model, split, 2)


def test_an_error_that_flips_cause_counts_as_the_worst() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            if not bool(self.line.weight.abs().amax() < 1e3):
                raise RuntimeError("out of range")
            output: Tensor = self.line(x)
            return output

    torch.manual_seed(0)
    inputs = torch.randn(16, 3)
    search = BitSearch(Picky(), Split(inputs, torch.zeros(16, dtype=torch.int64)), bits=(30,))
    assert search.harm((FaultSite("line.weight", 0, 30),)) == 1.0


def test_losses_of_tokens_and_of_the_user(tiny: tuple[nn.Module, Split]) -> None:
    class Tagger(nn.Sequential):
        pass

    torch.manual_seed(0)
    tagger = Tagger(nn.Embedding(11, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    tokens = torch.randint(0, 11, (20, 6))
    assert worst_case(tagger, (tokens, tagger(tokens).argmax(2)), 1).faults
    model, split = tiny

    def squared(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).square().mean(1)

    values = model(split.inputs).detach()
    with pytest.raises(ValueError, match=r"got logits \(64, 3\) and a tensor of shape \(64, 3\)"):
        worst_case(model, (split.inputs, values), 1)
    assert worst_case(model, (split.inputs, values), 1, loss=squared).faults
    with pytest.raises(ValueError, match=r"one value for each sample, \(samples,\), got \(\)"):
        worst_case(model, split, 1, loss=F.cross_entropy)


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
            assert accuracy(stored, digits.test) == pytest.approx(value)
        random = result.cell(name, worst.random)
        assert value < random.value.estimate
    page = result.report(tmp_path / "report").read_text()
    assert "Worst case" in page
    assert "3 random flips" in page
