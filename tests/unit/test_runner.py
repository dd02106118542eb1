"""Is what takes long kept, found again, and refused where it is something else?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from proact import protect
from proact.config.experiment import Experiment
from proact.config.progress import Stage, on_standard_error
from proact.config.protecting import protect_into
from proact.config.reading import read_options
from proact.config.runner import Outcome, run
from proact.errors import ProactError

OWN = Path(__file__).parents[2] / "docs" / "own_network.py"
WINES = {"model": f"{OWN}:network", "data": f"{OWN}:data", "ber": [1e-2], "trials": 5}
PROACT = "proact:epochs=1,decays=(1.0,0.1),tolerance=1.0"


def ran(folder: Path, **keys: Any) -> Outcome:
    return run(read_options(Experiment, {**WINES, **keys}), folder, on_standard_error())


def test_thresholds_are_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = ["relu", f"{PROACT}+weight-range"]
    first = ran(tmp_path, variants=variants)

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the thresholds were there")

    monkeypatch.setattr(protect, "protect", never)
    again = ran(tmp_path, variants=variants)
    assert again.result.cells == first.result.cells
    # Other options are other thresholds.
    with pytest.raises(AssertionError, match="were there"):
        ran(tmp_path, variants=["relu", f"{PROACT},slope=10.0+weight-range"])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    ran(tmp_path, variants=["ranger"])
    (kept,) = (tmp_path / "models").glob("ranger-*.safetensors")
    kept.write_bytes(b"something else")
    with pytest.raises(ProactError, match=rf"{kept.name} does not hold .* delete it"):
        ran(tmp_path, variants=["ranger"])


def test_ecc_in_an_encoding_of_other_words_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"variants.ecc: ecc keeps check bits.*encoding native"):
        ran(tmp_path, variants=["relu", "ecc"], model="small-cnn", data="digits")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert ran(tmp_path, variants=["relu", "ecc"], encoding="native").result.cells


def test_an_interrupted_method_goes_on_behind_its_finished_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = read_options(Experiment, {**WINES, "variants": ["relu", PROACT]})
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    lines: list[str] = []
    monkeypatch.setattr(Stage, "line", lambda self, text: lines.append(text))
    protect_into(whole, experiment, on_standard_error())

    def stop_late(self: Stage, text: str) -> None:
        if text == lines[-1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "line", stop_late)
    with pytest.raises(KeyboardInterrupt):
        protect_into(stopped, experiment, on_standard_error())
    assert not stopped.exists()
    (unfinished,) = tmp_path.glob("*stopped.unfinished.safetensors")
    told: list[str] = []
    monkeypatch.setattr(Stage, "line", lambda self, text: told.append(text))
    protect_into(stopped, experiment, on_standard_error())
    assert len(told) < len(lines), "a site was done already"
    assert not unfinished.exists()
    expected = load_file(whole)
    assert all(torch.equal(expected[name], value) for name, value in load_file(stopped).items())


def test_gains_are_over_the_first_or_the_named_variant(tmp_path: Path) -> None:
    outcome = ran(tmp_path, variants=["ranger", "relu", "ranger:mode=zero"])
    assert [gain.variant for gain in outcome.gains()] == ["relu", "ranger:mode=zero"]
    assert [gain.variant for gain in outcome.gains("relu")] == ["ranger", "ranger:mode=zero"]
    forth, back = outcome.gains()[0].gain, outcome.gains("relu")[0].gain
    assert forth.estimate == pytest.approx(-back.estimate)


def test_sweeps_have_a_margin_or_trials_of_their_own(tmp_path: Path) -> None:
    outcome = ran(tmp_path, variants=["relu"], sweeps=["layer", "bit"], sweep_trials=96)
    layers, bits = outcome.sweeps["relu", "layer"], outcome.sweeps["relu", "bit"]
    assert [stratum.name for stratum in layers.strata] == ["hidden.0", "hidden.1", "output"]
    assert sum(stratum.trials for stratum in layers.strata) <= 96
    assert sum(stratum.trials for stratum in bits.strata) <= 96
    assert len(bits.strata) == 32


def test_sweeps_run_beside_a_search_and_differences(tmp_path: Path) -> None:
    """Sweeps refuse these options, which are meant for the campaign."""
    outcome = ran(
        tmp_path, variants=["relu"], trials=20, margin=0.4, difference_margin=0.4, strata="on",
        encoding="float32", worst_flips=1, sweeps=["layer"], sweep_trials=30,
    )  # fmt: skip
    assert set(outcome.result.worst_cases) == {"relu"}
    assert len(outcome.sweeps["relu", "layer"].strata) == 3


def test_the_report_names_the_model_and_the_data(tmp_path: Path) -> None:
    outcome = ran(tmp_path, variants=["relu"])
    title = f"Accuracy of {outcome.experiment.model} on {outcome.experiment.data} under faults"
    page = outcome.result.report(tmp_path / "report")
    assert title in page.read_text("utf-8")


def test_the_file_of_another_experiment_is_kept_with_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, variants=["relu"], images_per_trial="auto")
    file = tmp_path / "experiment.yaml"
    first = file.read_text("utf-8")
    capfd.readouterr()
    ran(tmp_path, variants=["relu"], images_per_trial="auto")
    assert "experiment-1" not in capfd.readouterr().err, "the same one"
    ran(tmp_path, variants=["relu"], trials=6, ber=[1e-3])
    assert (
        f"{tmp_path} holds an experiment that differs in trials, images_per_trial, ber: its "
        "experiment.yaml is now experiment-1.yaml, and its trials stay in rows.sqlite (proact "
        "report --run)"
    ) in capfd.readouterr().err
    assert (tmp_path / "experiment-1.yaml").read_text("utf-8") == first
    file.write_text("- no experiment\n")
    ran(tmp_path, variants=["relu"])
    assert f"{tmp_path} holds a file that is no experiment of this version: " in (
        capfd.readouterr().err
    )
    assert (tmp_path / "experiment-2.yaml").read_text("utf-8") == "- no experiment\n"


def test_a_key_that_a_file_leaves_out_has_its_default(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, variants=["relu"], images_per_trial=8)
    file = tmp_path / "experiment.yaml"
    lines = file.read_text().splitlines(keepends=True)
    short = "".join(line for line in lines if not line.startswith("seed:"))
    file.write_text(short)
    ran(tmp_path, variants=["relu"], images_per_trial=8, seed=9)
    assert "differs in seed: its experiment.yaml is now experiment-1" in capfd.readouterr().err
    assert (tmp_path / "experiment-1.yaml").read_text() == short


def test_two_experiments_in_turn_leave_two_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for images in (8, "auto", 8, "auto", 8):
        ran(tmp_path, variants=["relu"], images_per_trial=images)
    assert capfd.readouterr().err.count("differs in images_per_trial") == 4
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == [
        *("experiment-1.yaml", "experiment-2.yaml", "experiment.yaml"),
    ]
