"""Does resilience-aware ProAct choose by accuracy under faults, on validation images alone?"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from proact import campaign, models, protect
from proact.data import Data
from proact.faults import BitFlip
from proact.nn import HyReLU

METHOD = "resilience-aware-proact"
FAST: dict[str, Any] = {
    "epochs": 1,
    "decays": (1.0,),
    "quantiles": (1.0, 0.95),
    "patterns": 10,
    "images_per_pattern": 40,
    "ber": 1e-4,
}


def chosen(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.threshold.detach() for n, m in model.named_modules() if isinstance(m, HyReLU)}


def test_the_best_candidate_within_the_tolerance_is_kept(
    trained_cnn: nn.Module, digits: Data
) -> None:
    lines: list[str] = []
    hardened = protect.protect(
        trained_cnn, METHOD, digits, granularity="channel", progress=lines.append, **FAST
    )
    quantiles = {
        f"quantile {q:g}": chosen(
            protect.protect(trained_cnn, "ranger", digits, granularity="channel", quantile=q)
        )
        for q in FAST["quantiles"]
    }
    for name, threshold in chosen(hardened).items():
        tried = {}
        for line in lines:
            found = re.match(rf"{name}: (.*): .*, ([01]\.\d+) under faults", line)
            if found:
                tried[found[1]] = float(found[2])
        assert tried
        best = max(tried, key=lambda what: tried[what])  # the first among equals
        if best in quantiles:
            assert torch.equal(threshold, quantiles[best][name])
        else:
            assert all(not torch.equal(threshold, each[name]) for each in quantiles.values())
    least = models.accuracy(trained_cnn, digits.validation) - 0.015
    assert models.accuracy(hardened, digits.validation) >= least


def test_where_every_candidate_costs_too_much_the_start_stays(
    trained_cnn: nn.Module, digits: Data
) -> None:
    options = {**FAST, "quantiles": (0.3,), "decays": (50.0,), "learning_rate": 0.5}
    lines: list[str] = []
    hardened = protect.protect(
        trained_cnn, METHOD, digits, tolerance=0.012, progress=lines.append, **options
    )
    assert all("loses too much" in line for line in lines)
    start = chosen(protect.protect(trained_cnn, "ranger", digits, granularity="hybrid"))
    assert all(torch.equal(t, start[name]) for name, t in chosen(hardened).items())


def test_the_test_split_is_never_looked_at(trained_cnn: nn.Module, digits: Data) -> None:
    class Forbidden:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the test split's {name} was read")

    blind = Data("blind", digits.train, digits.validation, Forbidden(), 10)  # type: ignore[arg-type]
    protect.protect(trained_cnn, METHOD, blind, **FAST)
    protect.protect(trained_cnn, "ft-clipact", blind, patterns=2)
    protect.protect(trained_cnn, "fitact", blind, epochs=1)


@pytest.mark.long
def test_a_campaign_of_the_same_seed_meets_other_faults(
    trained_cnn: nn.Module, digits: Data, patterns_met: list[set[tuple[int, int]]]
) -> None:
    """What is chosen on some faults must not be judged on them."""
    met = patterns_met
    for seed in (0, 1):
        met.append(set())
        hardened = protect.protect(trained_cnn, METHOD, digits, seed=seed, **FAST)
        met.append(set())
        protect.protect(trained_cnn, "ft-clipact", digits, seed=seed, patterns=10)
        met.append(set())
        campaign.run({"h": hardened}, digits, [BitFlip(1e-4)], trials=10, seed=seed)
    searches, campaigns = met[0] | met[1] | met[3] | met[4], met[2] | met[5]
    assert all(len(keys) == 10 for keys in (met[0], met[1], met[3], met[4]))
    assert {(seed, trial) for seed in (0, 1) for trial in range(10)} <= campaigns
    assert searches.isdisjoint(campaigns)
    assert met[0].isdisjoint(met[3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantiles": (1.5,)}, "share of the images"),
        ({"quantiles": 0.5}, "quantiles is a tuple"),
        ({"ber": 2.0}, "BER|ber|rate"),
        ({"encoding": "q99"}, "q99"),
        ({"patterns": 0}, "patterns"),
        ({"images_per_pattern": 0}, "images_per_pattern"),
    ],
)
def test_bad_options_are_named(
    trained_cnn: nn.Module, digits: Data, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        protect.protect(trained_cnn, METHOD, digits, **options)
