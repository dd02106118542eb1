"""Does the method paragraph say what was run, and how it was stored?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from proact import campaign
from proact.data import Data
from proact.faults import BitFlip
from proact.report.analysis import Analysis
from proact.report.description import models_described, storage_described
from proact.report.narrative import how_measured
from proact.results.run_log import MemoryUse


def analysis_of(notes: dict[str, Any], **memories: dict[str, MemoryUse]) -> Analysis:
    """As much of a campaign's analysis as a description needs."""
    variants = [
        SimpleNamespace(name=name, model_class="ResNet", memory=memory)
        for name, memory in memories.items()
    ]
    run = SimpleNamespace(notes=notes, variants=variants)
    return cast(Analysis, SimpleNamespace(run=run, variants=list(memories)))


def test_variants_are_described_with_methods_options_and_papers() -> None:
    variants = {
        "relu": "unprotected",
        "mine": {"method": "proact", "epochs": 2, "skip": [], "path": None, "decays": [1.0, 0.5]},
        "both": [{"method": "ecc", "code": "bch2"}, {"method": "weight-range"}],
        "not run": "unprotected",
    }
    notes = {"experiment": {"model": "resnet20", "data": "fashion-mnist", "variants": variants}}
    assert models_described(analysis_of(notes, relu={}, mine={}, both={})) == (
        "The model was resnet20 on fashion-mnist. The variants were relu (unprotected); "
        "mine (proact, arXiv 2406.06313, epochs=2, decays=1.0 0.5); both (ecc, code=bch2, then "
        "weight-range)."
    )


@pytest.mark.parametrize("notes", [{}, {"experiment": {"variants": {"a": "unprotected"}}}])
def test_without_recipes_the_classes_are_named(notes: dict[str, Any]) -> None:
    expected = "The variants were a (ResNet); b (ResNet)."
    assert models_described(analysis_of(notes, a={}, b={})) == expected


def test_storage_is_described_where_words_differ() -> None:
    plain = {
        "weight": MemoryUse(90, 720, ("int8",)),
        "bias": MemoryUse(10, 320, ("float32",)),
        "statistics": MemoryUse(4, 128, ("float32",)),
    }
    protected = {**plain, "threshold": MemoryUse(2, 64, ("float32", "int8"))}
    assert storage_described(analysis_of({}, a=plain, b=protected)) == (
        "The encoding stores weights as int8; biases and running statistics as float32; thresholds "
        "as float32 or int8."
    )
    alike = {"weight": MemoryUse(90, 2880, ("q15.16",))}
    assert storage_described(analysis_of({}, a=alike)) == ""
    assert storage_described(analysis_of({}, a={"weight": MemoryUse(90, 2880)})) == ""


def test_the_words_of_a_campaign_are_in_its_store(digits: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    result = campaign.run(
        {"mine": model}, digits, [BitFlip(1e-3)], trials=2, images_per_trial=8, executor=1,
        encoding={"*.weight": "int4", "*": "bfloat16"},
    )  # fmt: skip
    analysis = Analysis(result)
    scales = "scales as float32 scale"  # int4 has one for each output channel
    stored = f"The encoding stores weights as int4; {scales}; biases as bfloat16."
    assert storage_described(analysis) == stored
    said = how_measured(analysis, analysis.families[0])
    assert said.startswith("The variants were mine (Sequential). Faults were injected with proact ")
    assert f"with the bit error rate as its probability. {stored} A trial is" in said
