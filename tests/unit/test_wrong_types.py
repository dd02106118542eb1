"""Is an argument of a wrong type named in one sentence by every function that takes a model?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proact import ProactError, campaign, faults, models, protect
from proact import nn as guards
from proact.data import Data, as_data
from proact.encodings import Coded
from proact.faults import ActivationFlip, BitFlip, Replay
from proact.results import hours_until

FAULT = BitFlip(1e-3)
IMAGES = torch.zeros(4, 1, 8, 8)

MODEL_TAKERS: dict[str, Callable[[Any, Data], object]] = {
    "campaign.criticality": campaign.criticality,
    "campaign.per_bit": lambda model, data: campaign.per_bit(model, data, trials=40),
    "campaign.per_layer": lambda model, data: campaign.per_layer(model, data, trials=40),
    "campaign.worst_case": lambda model, data: campaign.worst_case(model, data, 1),
    "faults.FaultSpace": lambda model, data: faults.FaultSpace(model),
    "faults.Injector": lambda model, data: faults.Injector(model),
    "faults.encode": lambda model, data: faults.encode(model, "int8"),
    "faults.encoding_report": lambda model, data: faults.encoding_report(model, "int8"),
    "faults.inject": lambda model, data: faults.inject(model, FAULT).__enter__(),
    "faults.observe_activations": lambda model, data: faults.observe_activations(model, IMAGES),
    "faults.verify": lambda model, data: faults.verify(model, "float32"),
    "models.recipe_for": lambda model, data: models.recipe_for(data, model),
    "models.train": models.train,
    "nn.find_sites": lambda model, data: guards.find_sites(model, IMAGES),
    "nn.add_weight_range": lambda model, data: guards.add_weight_range(model, ["weight"]),
    "nn.error_correction_of": lambda model, data: guards.error_correction_of(model),
    "nn.remove_weight_range": lambda model, data: guards.remove_weight_range(model),
    "nn.scrub": lambda model, data: guards.scrub(model),
    "nn.weight_range_of": lambda model, data: guards.weight_range_of(model),
    "nn.without_weight_range": lambda model, data: guards.without_weight_range(model),
    "protect.cost": protect.cost,
    "protect.latency_ratio": lambda model, data: protect.latency_ratio(model, model, IMAGES),
    "protect.plan": lambda model, data: protect.plan(model, data, ber=1e-4, bits=1e6),
    "protect.profile": lambda model, data: protect.profile(model, data.train),
    "protect.protect": lambda model, data: protect.protect(model, "ranger", data),
    "protect.protection_of": lambda model, data: protect.protection_of(model),
}


@pytest.mark.parametrize("name", MODEL_TAKERS)
def test_a_model_is_a_torch_module(name: str, digits: Data) -> None:
    with pytest.raises(TypeError, match=r"^model: expected a torch\.nn\.Module, got str$"):
        MODEL_TAKERS[name]("cnn", digits)


def test_variants_are_models_by_name(trained_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(TypeError, match="mapping of names to models, such as .* got Sequential"):
        campaign.run(trained_cnn, digits, [FAULT])  # type: ignore[arg-type]


@pytest.mark.parametrize("sweep", [campaign.per_bit, campaign.per_layer])
@pytest.mark.parametrize("fault", ["BitFlip", ActivationFlip(1e-3), Replay((), {}, "float32")])
def test_sweeps_take_faults_in_stored_parameters(
    sweep: Callable[..., object], fault: object, trained_cnn: nn.Module, digits: Data
) -> None:
    with pytest.raises(TypeError, match="take a fault in stored parameters, such as BitFlip"):
        sweep(trained_cnn, digits, fault, trials=40)


def test_data_of_trainings_is_loaded(trained_cnn: nn.Module, digits: Data) -> None:
    for call in (
        lambda: models.train(trained_cnn, "digits"),  # type: ignore[arg-type]
        lambda: models.trained("small-cnn", "digits"),  # type: ignore[arg-type]
        lambda: models.recipe_for("digits", trained_cnn),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"^data: expected a proact\.data\.Data, .* got str$"):
            call()
    with pytest.raises(TypeError, match=r"^recipe: expected a proact\.models\.Recipe, got 'fast'"):
        models.train(trained_cnn, digits, "fast")  # type: ignore[arg-type]


def test_accuracy_takes_a_function_that_runs_the_model(
    trained_cnn: nn.Module, digits: Data
) -> None:
    plain = models.accuracy(trained_cnn, digits.test)
    assert models.accuracy(trained_cnn, digits, lambda model, batch: model(batch)) == plain


def test_a_threshold_is_a_number_or_a_tensor() -> None:
    with pytest.raises(TypeError, match="^threshold: expected a number or a tensor, got None$"):
        guards.HyReLU(None)  # type: ignore[arg-type]


def test_files_of_a_training_may_be_texts(digits: Data, tmp_path: Path) -> None:
    recipe = models.Recipe(epochs=1, batch=256)
    made = models.trained("small-cnn", digits, cache=str(tmp_path), recipe=recipe)
    (kept,) = tmp_path.glob("*.safetensors")
    again = models.trained("small-cnn", digits, cache=tmp_path, recipe=recipe)
    for mine, other in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert kept.name.startswith("small-cnn-digits-")


WRONG_NUMBERS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "logits of batches of 0": (
        lambda model: models.logits(model, IMAGES, 0),
        "^batch is at least 1, got 0$",
    ),
    "logits of batches of -1": (
        lambda model: models.logits(model, IMAGES, -1),
        r"^batch lies in \[0, ",
    ),
    "profile of batches of 0": (
        lambda model: protect.profile(model, IMAGES, batch=0),
        "^batch is at least 1, got 0$",
    ),
    "no quantile": (
        lambda model: protect.profile_quantiles(model, IMAGES, "layer", ()),
        "^quantiles: expected at least one, got none$",
    ),
    "everything held out": (
        lambda model: as_data((IMAGES, torch.zeros(4, dtype=torch.int64)), 1.0),
        r"^validation_share: expected a number in \(0, 1\), got 1\.0$",
    ),
    "no site": (
        lambda model: protect.threshold_counts([]),
        "^sites: expected at least one, got none$",
    ),
    "no pass": (
        lambda model: protect.latency_ratio(model, model, IMAGES, repeats=0),
        "^repeats is at least 1, got 0$",
    ),
    "no ceiling": (
        lambda model: guards.HyReLU(1.0, ceiling=float("nan")),
        "^ceiling: expected a number, or inf for none, got nan$",
    ),
}


@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_numbers_without_a_meaning_are_refused(name: str, trained_cnn: nn.Module) -> None:
    call, message = WRONG_NUMBERS[name]
    with pytest.raises(ValueError, match=message):
        call(trained_cnn)


WRONG_KINDS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "skip": (
        lambda model: guards.find_sites(model, IMAGES, skip=3),  # type: ignore[arg-type]
        "^skip: expected a tuple of module names or patterns, .* got 3$",
    ),
    "ceiling": (
        lambda model: guards.HyReLU(1.0, ceiling="6"),  # type: ignore[arg-type]
        "^ceiling: expected a number, got '6'$",
    ),
    "format": (
        lambda model: Coded(None, "bch2"),  # type: ignore[arg-type]
        "^numbers: expected a format or its name, got None$",
    ),
    "code": (
        lambda model: Coded("float32", 3),  # type: ignore[arg-type]
        "^code: expected a Code or its name, got 3$",
    ),
    "flips of a list": (
        lambda model: faults.Injector(model).number_of_flips(Replay(()), 0, 0),  # type: ignore[arg-type]
        "^fault: expected a random fault in stored tensors, such as .* got Replay$",
    ),
    "hours": (
        lambda model: hours_until("1e-6", 500),  # type: ignore[arg-type]
        "^ber: expected a number, got '1e-6'$",
    ),
}


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_arguments_of_another_type_are_named(name: str, trained_cnn: nn.Module) -> None:
    call, message = WRONG_KINDS[name]
    with pytest.raises(TypeError, match=message):
        call(trained_cnn)


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "faults.json"
    with pytest.raises(ProactError, match=r"missing/faults\.json cannot be written: No such file"):
        Replay(()).save(path)
