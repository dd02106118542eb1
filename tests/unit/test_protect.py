"""Do the methods follow their papers, and leave everything else alone?"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact import models, protect
from proact.data import Data
from proact.nn import HyReLU, Site
from proact.nn.prefix_cache import PrefixCache
from proact.protect import ranger
from proact.protect.activation_profile import profile_quantiles
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.protect.tolerance import Verdict

FAST = {"epochs": 1, "decays": (1.0, 0.1)}


def thresholds(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.threshold.detach() for n, m in model.named_modules() if isinstance(m, HyReLU)}


@pytest.fixture(scope="module")
def proact_cnn(trained_cnn: nn.Module, digits: Data) -> nn.Module:
    """Whatever its first decay costs, it is accepted: every threshold has moved."""
    return protect.protect(trained_cnn, "proact", digits, tolerance=1.0, **FAST)


def test_profile_is_the_exact_maximum_for_any_batch(
    double_cnn: nn.Module, double_digits: Data
) -> None:
    """A batch decides in which order a CPU adds up: nothing but the last digits of float64."""
    images = double_digits.train.images[:300]
    whole = protect.profile(double_cnn, images, batch=300)
    parts = protect.profile(double_cnn, images, batch=7)
    first = double_cnn.get_submodule("conv1")(images).relu().amax(0)
    assert [site.name for site in whole] == ["relu1", "relu2", "relu3", "relu4"]
    for site in whole:
        torch.testing.assert_close(whole[site], parts[site], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole[next(iter(whole))], first, rtol=1e-9, atol=1e-12)


def test_granularities_reduce_the_profile_once(trained_cnn: nn.Module, digits: Data) -> None:
    def reduced(granularity: str) -> dict[Site, Tensor]:
        (found,) = profile_quantiles(trained_cnn, digits.train.images[:300], granularity, (1.0,))
        return found

    shapes = {g: [tuple(t.shape) for t in reduced(g).values()] for g in protect.GRANULARITIES}
    assert shapes == {
        "layer": [(), (), (), ()],
        "channel": [(8, 1, 1), (16, 1, 1), (16, 1, 1), (64,)],
        "neuron": [(8, 8, 8), (16, 4, 4), (16, 4, 4), (64,)],
        "hybrid": [(), (), (), (64,)],
    }
    layers = reduced("layer")
    for site, neuron in reduced("neuron").items():
        assert torch.equal(neuron.amax(), layers[site])
        assert len(neuron.unique()) > 1


@pytest.mark.parametrize("granularity", protect.GRANULARITIES)
def test_ranger_changes_nothing_on_the_profiled_images(
    trained_cnn: nn.Module, digits: Data, granularity: str
) -> None:
    """In the batches of the profile, in which the largest activations are those to the bit."""
    images = digits.train.images
    clean = models.logits(trained_cnn, images, batch=256)
    for mode in ("saturate", "zero"):
        ranged = protect.protect(trained_cnn, "ranger", digits, granularity=granularity, mode=mode)
        assert torch.equal(models.logits(ranged, images, batch=256), clean)


def test_proact_moves_thresholds_only(
    trained_cnn: nn.Module, proact_cnn: nn.Module, digits: Data
) -> None:
    start = thresholds(protect.protect(trained_cnn, "ranger", digits, granularity="hybrid"))
    trained = thresholds(proact_cnn)
    assert {name: t.shape for name, t in trained.items()} == {n: t.shape for n, t in start.items()}
    assert all(not torch.equal(trained[name], start[name]) for name in trained)
    assert len(trained["relu4"].unique()) > 32, "neuron-wise thresholds must differ"
    for name, parameter in trained_cnn.named_parameters():
        assert torch.equal(parameter, proact_cnn.get_parameter(name))
    assert all(m.mode == "zero" for m in proact_cnn.modules() if isinstance(m, HyReLU))


def test_the_given_model_is_untouched(trained_cnn: nn.Module, digits: Data) -> None:
    trained_cnn.train()
    before, gradients = bits_of(trained_cnn), [p.requires_grad for p in trained_cnn.parameters()]
    for method, options in (("ranger", {}), ("proact", FAST)):
        hardened = protect.protect(trained_cnn, method, digits, **options)
        assert not hardened.training
    assert same_bits(before, trained_cnn)
    assert trained_cnn.training
    assert gradients == [p.requires_grad for p in trained_cnn.parameters()]
    assert all(p.grad is None for p in trained_cnn.parameters())
    trained_cnn.eval()


def test_proact_goes_from_the_last_site_to_the_first_and_keeps_the_tolerance(
    trained_cnn: nn.Module, digits: Data
) -> None:
    lines: list[str] = []
    soft = protect.protect(
        trained_cnn, "proact", digits, tolerance=0.02, mode="soft", progress=lines.append, **FAST
    )
    order = list(dict.fromkeys(line.split(":")[0] for line in lines))
    assert order == ["relu4", "relu3", "relu2", "relu1"]
    start = thresholds(protect.protect(trained_cnn, "ranger", digits, granularity="hybrid"))
    for name in order:
        *before, last = (line for line in lines if line.startswith(name))
        assert all("loses too much" in line for line in before)
        moved = not torch.equal(thresholds(soft)[name], start[name])
        assert moved == ("accepted" in last)
    floor = models.accuracy(trained_cnn, digits.validation) - 0.02
    assert models.accuracy(soft, digits.validation) >= floor


def test_the_deployed_form_keeps_the_tolerance_where_the_soft_one_is_blind(
    trained_cnn: nn.Module, digits: Data
) -> None:
    """Small activations make the soft clip nearly linear: its threshold could shrink unpunished."""
    small = copy.deepcopy(trained_cnn)
    with torch.no_grad():
        for parameter in small.get_submodule("conv1").parameters():
            parameter.mul_(0.02)
        small.get_submodule("conv2").get_parameter("weight").div_(0.02)
    hardened = protect.protect(small, "proact", digits, tolerance=0.015)
    floor = models.accuracy(small, digits.validation) - 0.015
    assert models.accuracy(hardened, digits.validation) >= floor


def test_clips_that_are_skipped_keep_their_mode_while_others_are_trained(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    saturating = protect.protect(trained_cnn, "ranger", digits, quantile=0.9)
    judged: list[str] = []

    def judge(trainer: ThresholdTrainer, forward: PrefixCache) -> Verdict:
        hook = trainer.model.get_submodule("relu4").register_forward_hook(
            lambda clip, _, __: judged.append(clip.mode)  # type: ignore[arg-type]
        )
        verdict = original(trainer, forward)
        hook.remove()
        return verdict

    original = ThresholdTrainer.judge
    monkeypatch.setattr(ThresholdTrainer, "judge", judge)
    hardened = protect.protect(saturating, "fitact", digits, skip=("relu4",), epochs=2)
    assert set(judged) == {"saturate"}
    modes = {n: m.mode for n, m in hardened.named_modules() if isinstance(m, HyReLU)}
    assert modes == {"relu1": "zero", "relu2": "zero", "relu3": "zero", "relu4": "saturate"}


def test_weights_stay_trainable_where_they_were(trained_cnn: nn.Module, digits: Data) -> None:
    model = copy.deepcopy(trained_cnn)
    model.get_submodule("conv1").requires_grad_(False)
    for method, options in (("ranger", {}), ("proact", FAST)):
        hardened = protect.protect(model, method, digits, **options)
        for name, parameter in model.named_parameters():
            assert hardened.get_parameter(name).requires_grad == parameter.requires_grad
        assert not any(t.requires_grad for t in thresholds(hardened).values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_network_is_refused(trained_cnn: nn.Module, digits: Data, value: float) -> None:
    model = copy.deepcopy(trained_cnn)
    with torch.no_grad():
        model.get_submodule("conv2").get_parameter("bias")[0] = value
    with pytest.raises(ValueError, match="'relu2' are not finite"):
        protect.protect(model, "ranger", digits)


def test_where_no_decay_is_good_enough_the_profile_stays(
    trained_cnn: nn.Module, digits: Data
) -> None:
    start = thresholds(protect.protect(trained_cnn, "ranger", digits, granularity="hybrid"))
    hopeless = protect.protect(
        trained_cnn, "proact", digits, epochs=1, decays=(50.0,), learning_rate=0.5
    )
    # The two profiles may sum in another order.
    torch.testing.assert_close(thresholds(hopeless), start, rtol=1e-5, atol=0.0)


def test_batch_norm_and_dropout_stay_in_eval_mode(digits: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.9),
        nn.Linear(16, 10),
    )
    model.train()
    small = Data("few", digits.train.take(torch.arange(200)), digits.validation, digits.test, 10)
    hardened = protect.protect(model, "proact", small, tolerance=1.0, **FAST)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[2], name), getattr(hardened.get_submodule("2"), name))
    again = protect.protect(model, "proact", small, tolerance=1.0, **FAST)
    assert torch.equal(thresholds(hardened)["3"], thresholds(again)["3"])


@pytest.mark.parametrize("method", ["proact", "fitact", "ranger"])
def test_the_mode_of_the_given_model_changes_no_threshold(digits: Data, method: str) -> None:
    """A forward in training mode would move the running statistics, and the profile with them."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
    )
    model = nn.Sequential(*layers, nn.Linear(36, 10))
    options: dict[str, dict[str, Any]] = {
        "proact": {**FAST, "samples": 128, "tolerance": 1.0},
        "fitact": {"epochs": 1, "samples": 128, "tolerance": 1.0},
    }
    found = []
    for mode in (True, False):
        state = torch.get_rng_state()
        given = copy.deepcopy(model).train(mode)
        found.append(protect.protect(given, method, digits, **options.get(method, {})))
        assert torch.equal(torch.get_rng_state(), state)
    (one,), (other,) = (thresholds(each).values() for each in found)
    assert torch.equal(one, other)


def test_the_test_split_is_never_looked_at(trained_cnn: nn.Module, digits: Data) -> None:
    class Forbidden:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the test split's {name} was read")

    blind = Data("blind", digits.train, digits.validation, Forbidden(), 10)  # type: ignore[arg-type]
    for method, options in (("ranger", {}), ("proact", FAST)):
        protect.protect(trained_cnn, method, blind, **options)


def test_a_pair_of_tensors_is_split_for_validation(mlp: nn.Module) -> None:
    images, labels = torch.randn(100, 6), torch.arange(100) % 3
    hardened = protect.protect(mlp, "proact", (images, labels), tolerance=1.0, **FAST)
    assert len(thresholds(hardened)) == 2


@pytest.mark.parametrize(
    ("method", "copies"),
    [
        # One working copy and one that is returned.
        ("ranger", 2),
        ("fitact", 2),
        ("proact", 2),
        # Candidates are compared under faults in a copy that is stored in the encoding.
        ("ft-clipact", 3),
        ("resilience-aware-proact", 3),
        ("weight-range", 1),
    ],
)
@pytest.mark.parametrize("is_functional", [False, True])
@pytest.mark.parametrize("is_guarded", [False, True])
def test_the_weights_are_copied_no_more_often_than_needed(
    method: str, copies: int, is_functional: bool, is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Functional(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self[1](self[0](x).relu())
            return out

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(6, 5), nn.Linear(5, 3)]
    model = Functional(*layers) if is_functional else nn.Sequential(layers[0], nn.ReLU(), layers[1])
    data = (torch.randn(50, 6), torch.arange(50) % 3)
    if is_guarded:
        model = protect.protect(model, "weight-range", data)  # type: ignore[assignment]
    few = {"patterns": 1, "images_per_pattern": 5}
    options: dict[str, dict[str, Any]] = {
        "fitact": {"epochs": 1, "tolerance": 1.0},
        "proact": {**FAST, "tolerance": 1.0},
        "ft-clipact": few,
        "resilience-aware-proact": {"epochs": 1, "tolerance": 1.0, **few},
    }
    copied: list[torch.Size] = []
    copy_parameter = nn.Parameter.__deepcopy__

    def counted(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        copied.append(self.shape)
        return copy_parameter(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", counted)
    protect.protect(model, method, data, **options.get(method, {}))
    assert copied.count(torch.Size((5, 6))) == copied.count(torch.Size((3, 5))) == copies


def test_ranger_does_not_load_the_trainer() -> None:
    """It trains nothing."""
    source = Path(ranger.__file__).read_text()
    assert "threshold_trainer" not in source
    assert "graph_cut" not in source


def test_cost_counts_what_is_stored(
    trained_cnn: nn.Module, proact_cnn: nn.Module, digits: Data
) -> None:
    cost = protect.cost(proact_cnn, digits.test, "q15.16", soft=True)
    assert (cost.thresholds, cost.bytes) == (67, 268)
    assert cost.percent == pytest.approx(100 * 67 / 8378)
    assert cost.clean_soft is not None
    plain = protect.cost(trained_cnn, digits.test)
    assert (plain.thresholds, plain.bytes, plain.clean_soft) == (0, 0, None)
    assert plain.clean == models.accuracy(trained_cnn, digits.test)


@pytest.mark.parametrize(
    ("method", "options", "error", "words"),
    [
        ("rangr", {}, ValueError, "'rangr'"),
        ("ranger", {"decay": 1.0}, TypeError, "granularity, mode; got 'decay'"),
        ("ranger", {"granularity": "pixel"}, ValueError, "'pixel'"),
        ("ranger", {"mode": "hard"}, ValueError, "'hard'"),
        ("proact", {"mode": "hard"}, ValueError, "'hard'"),
        ("proact", {"tolerance": -0.1}, ValueError, "tolerance"),
        ("proact", {"tolerance": float("nan")}, ValueError, "tolerance"),
        ("proact", {"decays": ()}, ValueError, "decays"),
        ("proact", {"decays": 0.1}, ValueError, "decays is a tuple"),
        ("proact", {"decays": (-1.0,)}, ValueError, "at least 0"),
        ("proact", {"seed": "x"}, TypeError, "seed"),
        ("proact", {"epochs": 1.5}, TypeError, "epochs"),
        ("proact", {"epochs": 0}, ValueError, "epochs"),
        ("proact", {"learning_rate": 0.0}, ValueError, "learning_rate"),
        ("proact", {"slope": -1.0}, ValueError, "slope"),
    ],
)
def test_bad_options_are_named(
    mlp: nn.Module, method: str, options: dict[str, object], error: type[Exception], words: str
) -> None:
    data = (torch.randn(20, 6), torch.arange(20) % 2)
    with pytest.raises(error, match=words):
        protect.protect(mlp, method, data, **options)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.ReLU()), "no parameters"),
        (nn.Sequential(nn.Linear(6, 3)), "no ReLU"),
        ("a network", "expected a torch.nn.Module, got str"),
    ],
)
def test_models_that_cannot_be_protected(model: nn.Module, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        protect.protect(model, "ranger", (torch.randn(20, 6), torch.arange(20) % 2))


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.randn(3, 6), torch.zeros(4, dtype=torch.int64), "3 samples and 4 targets"),
        (torch.randn(0, 6), torch.zeros(0, dtype=torch.int64), "at least one sample"),
        (torch.full((3, 6), float("nan")), torch.zeros(3, dtype=torch.int64), "NaN"),
        (torch.randn(8, 6), torch.tensor([0, 1, -1, 0, 1, 2, 0, 1]), "at least 0"),
        (torch.randn(8, 6), torch.zeros(8), r"tensor of shape \(2,\) torch.float32"),
        (
            torch.zeros(8, 6, dtype=torch.uint8),
            torch.zeros(8, dtype=torch.int64),
            r"does not take inputs of shape \(samples, 6\) torch.uint8, tried for 2 images",
        ),
    ],
)
def test_bad_data_is_named(
    mlp: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        protect.protect(mlp, "proact", (inputs, targets))
