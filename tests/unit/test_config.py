"""Is an experiment file read as it is meant, and refused with the path to what is wrong?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from torch import nn
from typer.testing import CliRunner

from proact import campaign, models, protect
from proact.campaign.built_in_metrics import METRICS
from proact.campaign.options import CampaignOptions, RunOptions
from proact.cli.options import given_values, takes_options
from proact.config import config_io
from proact.config.experiment import DEFAULT_BERS, DEFAULT_VARIANTS, Experiment
from proact.config.reading import read_experiment, read_options, write_experiment
from proact.encodings import encoding_named
from proact.encodings.names import ENCODING_NAMES
from proact.errors import ProactError
from proact.faults import BitFlip, ExactFlips
from proact.options import above_0, option, options_of
from proact.protect.registry import METHODS
from proact.results.metric_info import BUILT_IN_METRICS

YAML = """
proact: 1
model: resnet20
data: mine.py:data
variants:
  relu: unprotected
  ranger: {method: ranger, mode: zero}
  both: [{method: proact, granularity: layer, decays: [1, 0.1]}, weight-range]
  short: ranger:granularity=neuron
  saved: {thresholds: thresholds.safetensors}
ber: [1e-6, 1E-5]
faults:
  - {kind: BitFlip, ber: {"conv1.*": 1e-4, "*": 1e-7}}
  - {kind: ExactFlips, n: 3, where: "*.weight", bits: [31, exponent]}
encoding: float32
margin: 2e-2
trials: 1000
images_per_trial: 16
metric: top-5
seed: 7
workers: 2
sweeps: bit
sweep_variants: [ranger]
"""

TOML = """
model = "resnet20"
ber = [1e-6]
sweeps = ["layer", "bit"]

[variants]
relu = "unprotected"
ranger = {method = "ranger", mode = "zero"}
both = [{method = "proact"}, {method = "weight-range"}]
"""


def read(folder: Path, text: str, suffix: str = ".yaml") -> Experiment:
    path = folder / f"experiment{suffix}"
    path.write_text(text)
    return read_experiment(path)


def test_every_form_of_yaml(tmp_path: Path) -> None:
    experiment = read(tmp_path, YAML)
    assert list(experiment.variants) == ["relu", "ranger", "both", "short", "saved"]
    assert experiment.baseline == "relu"
    assert experiment.variants["relu"].is_plain
    (ranger,) = experiment.variants["ranger"].steps
    assert ranger.options["mode"] == "zero"
    assert ranger.options["granularity"] == "layer", "a default, spelled out"
    first, second = experiment.variants["both"].steps
    assert (first.method, second.method) == ("proact", "weight-range")
    assert first.options["decays"] == (1, 0.1)
    assert experiment.variants["short"].steps[0].options["granularity"] == "neuron"
    assert experiment.variants["saved"].thresholds == "thresholds.safetensors"
    assert experiment.all_faults == (
        BitFlip(1e-6),
        BitFlip(1e-5),
        BitFlip({"conv1.*": 1e-4, "*": 1e-7}),
        ExactFlips(3, where="*.weight", bits=(31, "exponent")),
    )
    assert (experiment.margin, experiment.trials, experiment.images_per_trial) == (0.02, 1000, 16)
    assert experiment.swept == [("ranger", "bit")]


def test_toml_says_the_same(tmp_path: Path) -> None:
    experiment = read(tmp_path, TOML, ".toml")
    assert experiment.all_faults == (BitFlip(1e-6),)
    assert [step.method for step in experiment.variants["both"].steps] == ["proact", "weight-range"]
    assert experiment.swept == [("relu", "layer"), ("relu", "bit")]


@pytest.mark.parametrize("text", [YAML, "trials: 3", "margin: 0.05"])
def test_what_is_written_reads_as_the_same(tmp_path: Path, text: str) -> None:
    experiment = read(tmp_path, text)
    written = tmp_path / "written.yaml"
    write_experiment(experiment, written, "a remark\nof two lines")
    assert read_experiment(written).to_plain() == experiment.to_plain()
    assert written.read_text().startswith("# a remark\n# of two lines\n")
    # Every key stands in it, so that a later default changes nothing.
    assert all(f"\n{key}:" in written.read_text() for key in options_of(Experiment))


def test_words_and_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    names = ["no", "1e-6", "0x10", "12:30", "null", "2024-01-01", "ärger", "*"]
    experiment = read_options(Experiment, {"variants": dict.fromkeys(names, "relu")})
    write_experiment(experiment, tmp_path / "written.yaml")
    assert list(read_experiment(tmp_path / "written.yaml").variants) == names
    plain = read(tmp_path, "variants: {no: relu, on: ranger, 12:30: ranger}\nseed: 010\n")
    assert list(plain.variants) == ["no", "on", "12:30"]
    assert plain.seed == 10


def test_without_anything_it_is_the_documented_one() -> None:
    experiment = read_options(Experiment, {})
    assert list(experiment.variants) == list(DEFAULT_VARIANTS)
    assert [fault.expected_ber([1]) for fault in experiment.all_faults] == list(DEFAULT_BERS)
    assert (experiment.margin_or_default, experiment.trials) == (0.01, None)
    assert read_options(Experiment, {"trials": 5}).margin_or_default is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: x", "modle: there is no option 'modle'; did you mean 'model'?"),
        (
            "variants: {ranger: {method: ranger, mod: zero}}",
            "variants.ranger.mod: ranger has no option 'mod'; did you mean 'mode'?",
        ),
        ("variants: {both: [ranger, {method: proct}]}", "variants.both[1].method: a method is one"),
        ("variants: {a: {method: rangr}}", "did you mean 'ranger'?"),
        ("variants: {a: {method: ranger, mode: off}}", "variants.a.mode: mode is 'zero' or"),
        (
            "variants: {a: {thresholds: x, mode: zero}}",
            "variants.a.mode: expected thresholds alone",
        ),
        ("variants: {a: {mode: zero}}", "variants.a: expected a method"),
        ("variants: {1: relu}", "variants: expected a text as the name of a variant, got 1"),
        ("variants: {}", "variants: expected at least one variant"),
        ("variants: [relu, relu]", "variants.relu: expected distinct variants"),
        (
            "variants: {relu: relu, relu: ranger}",
            "line 1: expected distinct keys, got 'relu' twice",
        ),
        ("faults: [{kind: BitFilp, ber: 1e-6}]", "faults[0].kind: expected a kind of fault"),
        ("faults: [{kind: BitFilp, ber: 1e-6}]", "did you mean 'BitFlip'?"),
        (
            "faults: [{kind: BitFlip, bre: 1e-6}]",
            "faults[0].bre: BitFlip has no field 'bre'; did you",
        ),
        ("faults: [{kind: BitFlip}]", "faults[0]: expected the field 'ber' of BitFlip"),
        ("faults: [{kind: BitFlip, ber: 2}]", "faults[0]: a bit error rate lies in [0, 1]"),
        ("faults: {kind: BitFlip}", "faults: expected a list, got {'kind': 'BitFlip'}"),
        ("faults: []", "faults: expected at least one fault"),
        ("ber: []", "ber: expected at least one rate or fault, got none"),
        ("ber: [1e-6, often]", "ber[1]: a bit error rate is a number in [0, 1], got 'often'"),
        ("ber: [1e-6, 1e-6]", "ber[1]: expected different rates, got 1e-06 twice"),
        ("ber: 1e-6\nfaults: [{kind: BitFlip, ber: 1e-6}]", "faults[0]: expected different faults"),
        ("model: resnet21", "model: a model is one of"),
        ("data: digit", "did you mean 'digits'?"),
        ("encoding: flaot32", "did you mean 'float32'?"),
        ("metric: top-2", "metric: a metric is one of"),
        ("margin: 0", "margin: expected a finite number above 0, got 0"),
        ("confidence: 1", "confidence: expected a number in (0, 1), got 1"),
        ("trials: 0", "trials: expected an integer in [1, 2^32), got 0"),
        ("trials: 1.5", "trials: expected an integer, got 1.5"),
        ("trials: true", "trials: expected an integer, got True"),
        ("seed: -1", "seed: expected an integer in [0, 2^63), got -1"),
        ("threads: 0", "threads: expected an integer of at least 1, got 0"),
        ("threads: 1000000", "threads: expected at most "),
        ("workers: 1000000", "workers: expected at most "),
        ("images_per_trial: few", "images_per_trial: expected a number of images"),
        ("sweeps: [bits]", "sweeps: a sweep is one of layer, bit; got 'bits'"),
        ("sweep_variants: [rangr]", "sweep_variants[0]: a variant is one of"),
        (
            "sweep_fault: {kind: ActivationFlip, ber: 1e-6}",
            "sweep_fault: expected a fault in stored parameters",
        ),
        *(
            (f"data: own.py:data\n{key}: {value}", f"{key}: expected a named data set, got own")
            for key, value in (
                ("image_size", 9),
                ("training_images", 9),
                ("test_images", 9),
                ("download", "true"),
            )
        ),
        ("model: own.py:model\nepochs: 9", "epochs: expected a named model, got own.py:model"),
        ("workers: 1\nscheduler: tcp://x:1", "scheduler: expected workers or a scheduler"),
        ("faults: [{kind: BitFlip, ber: 1e-6, where: *.w}]", "needs quotes"),
        ("a: [1", "line 1: expected"),
        ("[1, 2]", "holds no experiment"),
        ("", "holds no experiment"),
        ("proact: one", "proact: expected the version of the file"),
        ("1: 2", "expected a text as a key, got 1"),
        ("model: 3", "model: expected a text, got 3"),
        ("download: yes", "download: expected true or false, got 'yes'"),
        ("faults: [{kind: [1], ber: 3}]", "faults[0].kind: expected a kind of fault"),
        ("variants: {a: {method: [1]}}", "variants.a.method: a method is one of"),
        ("variants: {a: null}", "variants.a: expected unprotected, a mapping"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ValueError, match="experiment.yaml") as raised:
        read(tmp_path, text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_newer_form_is_told_before_its_keys(tmp_path: Path) -> None:
    with pytest.raises(ProactError, match=r"expected a version up to 1, got 2: update proact"):
        read(tmp_path, "proact: 2\nsomething_new: 1")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ProactError, match="there is no file"):
        read_experiment(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"a file \*.yaml, \*.yml or \*.toml"):
        read(tmp_path, "{}", ".json")
    with pytest.raises(ValueError, match="is not valid TOML"):
        read(tmp_path, "a = = 1", ".toml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_experiment(tmp_path / "bytes.yaml")
    with pytest.raises(ProactError, match="cannot be written"):
        write_experiment(Experiment(), tmp_path)


def test_the_command_line_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(YAML)

    def given(**typed: object) -> Experiment:
        return read_experiment(path, *given_values(Experiment, typed))

    experiment = given(ber=["1e-3,1e-2", "0.1"], images_per_trial="all", seed=0, trials=None)
    assert experiment.all_faults == (BitFlip(1e-3), BitFlip(1e-2), BitFlip(0.1))
    assert (experiment.images_per_trial, experiment.seed) == ("all", 0)
    assert (experiment.trials, experiment.metric) == (1000, "top-5"), "the file's"
    assert given(images_per_trial="12").images_per_trial == 12
    experiment = given(faults=['{"kind": "ExactFlips", "n": 2}'])
    assert experiment.all_faults == (ExactFlips(2),)
    with pytest.raises(ValueError, match=r"^--ber: a bit error rate is a number"):
        given(ber=["often"])
    with pytest.raises(ValueError, match=r"^--fault: expected a fault such as"):
        given(faults=["{kind"])
    with pytest.raises(ValueError, match=r"^--variant ranger:mod=zero: ranger has no option 'mod'"):
        given(variants=["ranger:mod=zero"], sweep_variants=["ranger:mod=zero"])


@dataclass(frozen=True, kw_only=True)
class Longer(Experiment):
    """An experiment with one option more: everything below follows from this one field."""

    patience: float = option(
        1.5, "How long to wait (hours).", float, metavar="HOURS", check=above_0
    )


def test_adding_an_option_is_one_edit(tmp_path: Path) -> None:
    """The field alone makes the key of a file with its errors, the command-line option with its
    help, and the keyword argument with its check."""
    path = tmp_path / "experiment.yaml"
    path.write_text("patience: 2")
    assert read_options(Longer, config_io.read(path)).patience == 2
    with pytest.raises(ValueError, match=r"^file: patience: expected a finite number above 0, got"):
        read_options(Longer, {"patience": -1}, "file")
    with pytest.raises(ValueError, match="did you mean 'patience'"):
        read_options(Longer, {"patiense": 1})
    with pytest.raises(ValueError, match="^patience: expected a finite number above 0, got 0"):
        Longer(patience=0)
    assert "patience" in Longer().to_plain()

    seen: dict[str, Any] = {}

    @takes_options(Longer, ["patience"])
    def wait(**given: Any) -> None:
        seen.update(given_values(Longer, given)[0])

    app = typer.Typer(rich_markup_mode=None)
    app.command()(wait)
    text = CliRunner().invoke(app, ["--help"]).output
    assert re.search(r"--patience HOURS\s+How long to wait \(hours\)\. \[default: 1\.5\]", text)
    assert CliRunner().invoke(app, ["--patience", "3"]).exit_code == 0
    assert seen == {"patience": 3.0}


def test_options_of_a_campaign_are_those_of_its_function() -> None:
    """`run` and the sweeps take the fields of one model, and files and commands those that have a
    plain form."""
    in_python = set(options_of(RunOptions))
    assert {name for name, each in options_of(CampaignOptions).items() if each.plain_type} == (
        in_python & set(options_of(Experiment))
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'margins'"):
        campaign.run({}, (), [], margins=1)  # type: ignore[arg-type]


def test_methods_as_texts() -> None:
    texts = ["relu", "proact:decays=(1.0,1e+0),epochs=2+weight-range", "a/saved.safetensors"]
    variants = read_options(Experiment, {"variants": texts}).variants
    assert list(variants) == [*texts[:2], "saved"]
    first, second = variants[texts[1]].steps
    assert (first.options["decays"], first.options["epochs"]) == ((1.0, 1.0), 2)
    assert second.method == "weight-range"
    assert variants["saved"].thresholds == texts[2]


def test_names_in_help_pages_are_those_that_are_known() -> None:
    assert list(METHODS) == protect.methods()
    assert list(BUILT_IN_METRICS) == list(METRICS)
    assert [encoding_named(name).name for name in ENCODING_NAMES] == list(ENCODING_NAMES)
    for name in models.names():
        assert isinstance(models.create(name), nn.Module)
