"""Does a protection that was interrupted go on where it was, and end in the same thresholds?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proact import ProactError, models, protect
from proact.data import Data
from proact.nn import HyReLU

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
