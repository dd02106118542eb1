"""Is None, or a value of another type, refused in every option that does not accept it?"""

from __future__ import annotations

from typing import Any

import pytest

from proact.campaign.options import CampaignOptions, RunOptions
from proact.config.experiment import Experiment
from proact.config.setup_options import SetupOptions
from proact.options import Options, default_of, options_of
from proact.protect.plan_options import PlanOptions

MODELS = (CampaignOptions, Experiment, PlanOptions, RunOptions, SetupOptions)


def declared(default: type[Any]) -> list[tuple[type[Options], str]]:
    """Every option model and name whose default is of this type."""
    return [
        (model, name)
        for model in MODELS
        for name in options_of(model)
        if isinstance(default_of(model, name), default)
    ]


@pytest.mark.parametrize(("model", "name"), declared(object))
def test_none_is_refused_unless_it_is_the_default_or_declared(
    model: type[Options], name: str
) -> None:
    if default_of(model, name) is None or options_of(model)[name].accepts_none:
        assert getattr(model(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=f"^{name}: expected a value, got None$"):
            model(**{name: None})


def test_images_per_trial_alone_accepts_none_beside_its_default() -> None:
    accepting = {
        name
        for model in MODELS
        for name in options_of(model)
        if options_of(model)[name].accepts_none
    }
    assert accepting == {"images_per_trial"}


@pytest.mark.parametrize(("model", "name"), declared(bool))
@pytest.mark.parametrize("value", [1, "no"])
def test_a_switch_takes_true_or_false(model: type[Options], name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected True or False, got {value!r}"):
        model(**{name: value})
