"""Does a protection that was interrupted go on where it was, and end in the same thresholds?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from proact import ProactError, models, protect
from proact.data import Data
from proact.nn import HyReLU
from proact.protect.objective import Loss

METHODS: dict[str, dict[str, Any]] = {
    "proact": {"epochs": 1, "decays": (1.0, 0.1)},
    "ft-clipact": {"patterns": 3, "images_per_pattern": 20, "encoding": "q15.16"},
    "resilience-aware-proact": {
        "epochs": 1,
        "decays": (1.0,),
        "quantiles": (1.0, 0.9),
        "patterns": 3,
        "images_per_pattern": 20,
    },
}


class PlugPulledError(Exception):
    """Whatever ends a run."""


def thresholds(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.threshold.detach() for n, m in model.named_modules() if isinstance(m, HyReLU)}


def stop_at_site(number: int) -> Callable[[str], None]:
    def progress(line: str) -> None:
        if f"site {number} of 4" in line:
            raise PlugPulledError

    return progress


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("site", [1, 2, 4])
def test_it_ends_in_the_same_thresholds(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, method: str, site: int
) -> None:
    options, resume = METHODS[method], tmp_path / "unfinished"
    whole = thresholds(protect.protect(trained_cnn, method, digits, **options))
    with pytest.raises(PlugPulledError):
        protect.protect(
            trained_cnn, method, digits, resume=resume, progress=stop_at_site(site), **options
        )
    assert resume.exists()
    told: list[str] = []
    resumed = protect.protect(
        trained_cnn, method, digits, resume=resume, progress=told.append, **options
    )
    assert not resume.exists()
    assert f"site {site} of 4" in told[0]  # what was done is not done again
    found = thresholds(resumed)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_another_run_s_file_is_refused(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    resume, options = tmp_path / "unfinished", METHODS["proact"]
    with pytest.raises(PlugPulledError):
        protect.protect(
            trained_cnn, "proact", digits, resume=resume, progress=stop_at_site(2), **options
        )
    kept = resume.read_bytes()
    for change in ({"seed": 1}, {"epochs": 2}, {"granularity": "channel"}):
        with pytest.raises(ProactError, match="belongs to another protection"):
            protect.protect(trained_cnn, "proact", digits, resume=resume, **{**options, **change})
    other = models.create("small-cnn", 10, 1)
    with pytest.raises(ProactError, match="belongs to another protection"):
        protect.protect(other, "proact", digits, resume=resume, **options)
    assert resume.read_bytes() == kept
    resume.write_text("nonsense")
    with pytest.raises(ProactError, match="no unfinished protection"):
        protect.protect(trained_cnn, "proact", digits, resume=resume, **options)


def test_a_network_with_other_thresholds_is_another_one(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    resume, options = tmp_path / "unfinished", METHODS["proact"]
    loose, tight = (
        protect.protect(trained_cnn, "ranger", digits, quantile=quantile) for quantile in (1.0, 0.9)
    )
    with pytest.raises(PlugPulledError):
        protect.protect(loose, "proact", digits, resume=resume, progress=stop_at_site(2), **options)
    with pytest.raises(ProactError, match="belongs to another protection"):
        protect.protect(tight, "proact", digits, resume=resume, **options)


def test_what_changes_training_and_no_weight_is_another_run(digits: Data, tmp_path: Path) -> None:
    """Losses and networks whose difference no byte code and no tensor shows."""
    torch.manual_seed(0)

    def network(slope: float) -> nn.Module:
        layers = (nn.Linear(64, 16), nn.ReLU(), nn.LeakyReLU(slope), nn.Linear(16, 10), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *layers)

    def run(model: nn.Module, loss: Loss, **more: Any) -> nn.Module:
        options = {"epochs": 1, "decays": (1.0,), "samples": 64, "tolerance": 0.1}
        return protect.protect(model, "proact", digits, loss=loss, **options, **more)

    def weighted(weight: float) -> Loss:
        return lambda logits, targets: weight * F.cross_entropy(logits, targets)

    def stop(line: str) -> None:
        if "site 2 of 2" in line:
            raise PlugPulledError

    model, other, resume = network(0.1), network(0.5), tmp_path / "unfinished"
    other.load_state_dict(model.state_dict())
    losses: list[tuple[Loss, Loss]] = [
        (weighted(1.0), weighted(2.0)),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    ]
    for given, another in losses:
        with pytest.raises(PlugPulledError):
            run(model, given, resume=resume, progress=stop)
        for changed, loss in ((model, another), (other, given)):
            with pytest.raises(ProactError, match="belongs to another protection"):
                run(changed, loss, resume=resume)
        run(model, given, resume=resume)


def test_a_file_that_cannot_be_written_is_found_before_anything_is_trained(
    trained_cnn: nn.Module, digits: Data
) -> None:
    told: list[str] = []
    with pytest.raises(ProactError, match="/proc/nowhere/file cannot be written"):
        protect.protect(
            trained_cnn, "proact", digits, resume="/proc/nowhere/file", progress=told.append
        )
    assert told == []


def test_methods_of_one_pass_have_nothing_to_resume(trained_cnn: nn.Module, digits: Data) -> None:
    for method in ("ranger", "fitact", "weight-range"):
        with pytest.raises(ValueError, match="ft-clipact, proact, resilience-aware-proact"):
            protect.protect(trained_cnn, method, digits, resume="somewhere")


def test_the_time_left_is_told_after_the_first_site(trained_cnn: nn.Module, digits: Data) -> None:
    lines: list[str] = []
    protect.protect(trained_cnn, "proact", digits, progress=lines.append, **METHODS["proact"])
    assert "(site 1 of 4)" in lines[0]
    assert "(site 4 of 4, about " in lines[-1]
    assert lines[-1].endswith(" left)")
