"""Does the benchmark of the kernels ask what it states, and are its contenders honest?

No time is asserted anywhere: what is fast here may be slow on a shared machine.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proact

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # as Python does for a script that lies there

arguments_of = importlib.import_module("_arguments")
kernels = importlib.import_module("kernels")
cases_of_hyrelu = importlib.import_module("_hyrelu_cases")
flips = importlib.import_module("_flip_kernels")
by_numpy = importlib.import_module("_numpy_flips")
report = importlib.import_module("_kernel_report")
shapes = importlib.import_module("_model_shapes")
timing = importlib.import_module("_timing")

TINY = ["--sizes", "4096", "16384", "--no-compile", "--repeats", "2", "--threads", "2", "--quick"]
TINY += ["--models", "ResNet-20", "--ber", "1e-4", "1e-3"]
DRAWS = [by_numpy.distinct_by_unique, by_numpy.distinct_by_sorting]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("kernels")
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "kernels.py"),
            *TINY,
            "--json",
            str(folder / "rows.json"),
            "--plot",
            str(folder / "ratios.png"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def document(finished: tuple[Path, str]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((finished[0] / "rows.json").read_text())
    return read


@pytest.mark.slow
def test_it_prints_a_row_a_question_and_a_line_a_goal(finished: tuple[Path, str]) -> None:
    _, output = finished
    for row in (
        "zero forward, time over torch.relu",
        "zero forward, faster than eager formula",
        "zero in place, time over torch.relu",
        "soft fwd+bwd, time over torch.relu",
        "16 KiB float32, T tail per layer, 1 thread ",
        "64 KiB float32, T bulk per layer, 2 threads",
        "T 1% per channel",
        "T 1% per neuron",
        "faster than numpy, sorting",
        "faster than numpy, np.unique",
        "time over the floor",
        "ResNet-20, BER 0.001, 1 thread ",
        "ResNet-20, BER 0.0001, 2 threads",
    ):
        assert row in output
    verdicts = {
        line.split(maxsplit=1)[0]: line
        for line in output.splitlines()
        if any(goal.name in line for goal in report.GOALS)
    }
    assert verdicts.keys() <= {"reached", "MISSED", "not"}
    for goal in report.GOALS:
        assert sum(goal.name in line for line in output.splitlines()) == 1


@pytest.mark.slow
def test_json_has_positive_ratios_and_every_goal(document: dict[str, Any]) -> None:
    assert {row["part"] for row in document["rows"]} == {"hyrelu", "flips"}
    for row in document["rows"]:
        for value in (row["ratio"], row["nanoseconds"], *row["quartiles"]):
            assert math.isfinite(value)
            assert value > 0
        assert (row["goal"] is None) == (row["reached"] is None)
        if row["part"] == "hyrelu":
            assert row["share_of_copy"] > 0
    assert [goal["name"] for goal in document["goals"]] == [goal.name for goal in report.GOALS]
    for goal in document["goals"]:
        rows = [row for row in document["rows"] if row["goal"] == goal["name"]]
        assert goal["rows"] == len(rows)
        assert goal["reached"] == (all(row["reached"] for row in rows) if rows else None)
    assert document["settings"]["last_level_cache_bytes"] > 0


def test_goals_are_asked_where_they_are_stated(document: dict[str, Any]) -> None:
    for row in document["rows"]:
        asked = row["goal"] is not None
        if row["part"] == "flips":
            assert not asked, "the goals are stated for the larger models"
        elif row["work"] == "soft fwd+bwd":
            assert asked
            assert ("<= 2x" in row["goal"]) == (
                row["placement"] == "bulk" and row["against"] == "torch.relu"
            )
        else:
            large = row["bytes"] >= 64 << 10
            assert asked == (
                row["work"] == "zero forward" and row["against"] == "torch.relu" and large
            )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_follows_the_flips_and_not_the_model(document: dict[str, Any]) -> None:
    few, many, larger_model = document["peak_memory"]
    assert larger_model["model_bytes"] == 4 * many["model_bytes"]
    assert few["flips"] < many["flips"] / 3
    for case in (few, many, larger_model):
        assert 1 <= case["bytes_per_flip"] <= 64
        assert case["extra_bytes"] == pytest.approx(
            case["flips"] * many["bytes_per_flip"], rel=0.3, abs=4 << 20
        )


def test_the_plot_is_a_picture(finished: tuple[Path, str]) -> None:
    assert (finished[0] / "ratios.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """The benchmark sets the number of threads for itself; other tests want theirs back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("torch_threads")
def test_one_half_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, plot = tmp_path / "rows.json", tmp_path / "ratios.svg"
    only = ["--only", "hyrelu", "--sizes", "256", "--threads", "1", "--repeats", "1"]
    assert kernels.main([*only, "--no-compile", "--json", str(rows), "--plot", str(plot)]) == 0
    assert {row["part"] for row in json.loads(rows.read_text())["rows"]} == {"hyrelu"}
    assert b"<svg" in plot.read_bytes()
    assert "not measured  inject + restore <= 2x" in capsys.readouterr().out


def test_help_explains_the_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--only", "--quick", "--sizes", "--ber", "--threads", "--json", "--plot"):
        assert flag in text
    for unit in ("(elements)", "probabilities per stored bit", "(count)", "(seconds)"):
        assert unit in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sizes", "1000"], "multiples of 256"),
        (["--sizes", "0"], "multiples of 256"),
        (["--sizes", "many"], "many"),
        (["--ber", "0"], "(0, 0.1]"),
        (["--ber", "nan"], "nan"),
        (["--ber", "0.5"], "0.5"),
        (["--models", "AlexNet"], "AlexNet"),
        (["--only", "speed"], "speed"),
        (["--repeats", "0"], "--repeats"),
        (["--threads", "-1"], "--threads"),
        (["--budget", "0"], "--budget"),
        (["--seed", "-1"], "--seed"),
        (["--plot", "ratios.txt"], "--plot"),
        (["--json", "missing/rows.json"], "missing/rows.json cannot be written"),
        (["--plot", "missing/ratios.png"], "missing/ratios.png cannot be written"),
        (["--plot", "missing/ratios.txt"], "ends in one of"),
        (["--speed", "11"], "--speed"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = kernels.main(arguments)
    except SystemExit as left:  # argparse's own
        code = left.code
    shown = capsys.readouterr()
    assert code == 2
    assert words in shown.err
    assert shown.err.strip().splitlines()[-1].count("error:") == 1
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_looking_whether_a_file_can_be_written_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    arguments_of.output_file(str(tmp_path / "old.json"))
    arguments_of.figure_file(str(tmp_path / "new.png"))
    assert (tmp_path / "old.json").read_text() == "{}"
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize(
    ("network", "parameters"),
    [("ResNet-20", 269_722), ("VGG-16", 14_728_266), ("ResNet-50", 25_557_032)],
)
def test_parameter_counts_are_the_published_ones(network: str, parameters: int) -> None:
    assert sum(math.prod(shape) for shape in shapes.MODELS[network]().values()) == parameters


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("population", "count"), [(64, 60), (1000, 1), (1 << 33, 2000)])
def test_positions_are_distinct_rising_and_complete(draw: Any, population: int, count: int) -> None:
    positions = draw(np.random.default_rng(0), population, count)
    assert positions.size == count
    assert (np.diff(positions.astype(np.int64)) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < population


@pytest.mark.parametrize("draw", DRAWS)
def test_every_position_is_drawn_alike_often(draw: Any) -> None:
    """Replacing what came twice must not favour anything."""
    random, population, count, rounds = np.random.default_rng(1), 40, 20, 4000
    hits = np.zeros(population)
    for _ in range(rounds):
        hits[draw(random, population, count)] += 1
    share = count / population
    sigma = math.sqrt(rounds * share * (1 - share))
    assert np.abs(hits - rounds * share).max() < 5 * sigma


@pytest.mark.parametrize("script", ["inject", "inject_at_once"])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("ber", [1e-4, 1e-2])
def test_the_numpy_script_flips_at_the_rate_and_restores(
    draw: Any, ber: float, script: str
) -> None:
    random = np.random.default_rng(2)
    arrays = [random.integers(0, 1 << 32, n, dtype=np.uint32) for n in (5, 70_000, 200_000)]
    before = [array.copy() for array in arrays]
    flipped = getattr(by_numpy, script)(arrays, ber, random, draw)
    bits = 32 * sum(array.size for array in arrays)
    # Distinct bits, each flipped once: the changed bits are as many as the drawn ones.
    changed = sum(
        int(np.unpackbits((array ^ old).view(np.uint8)).sum())
        for array, old in zip(arrays, before, strict=True)
    )
    drawn = sum(int(np.unpackbits(mask.view(np.uint8)).sum()) for _, _, mask in flipped)
    assert changed == drawn
    assert abs(changed - ber * bits) < 5 * math.sqrt(bits * ber * (1 - ber))
    for _, word, _ in flipped:
        assert np.unique(word).size == word.size
    by_numpy.restore(flipped)
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("ber", [1e-4, 1e-2])
def test_the_floor_flips_the_bits_of_the_plan(ber: float) -> None:
    memory = flips.ParameterMemory(shapes.resnet20(), seed=3)
    clean = memory.words.copy()
    log = memory.plan().flip(ber, 3, 7)
    faulty = memory.words.copy()
    assert len(log) > 0
    xor_list = flips.XorList(memory, log)
    log.restore()
    np.testing.assert_array_equal(memory.words, clean)
    xor_list.flip()
    np.testing.assert_array_equal(memory.words, faulty)
    xor_list.flip()
    np.testing.assert_array_equal(memory.words, clean)
    xor_list.flip_and_flip_back()
    np.testing.assert_array_equal(memory.words, clean)


def test_the_injected_model_is_the_memory_of_the_other_contenders() -> None:
    memory = flips.ParameterMemory(shapes.resnet20(), seed=3)
    before = memory.words.copy()
    model = memory.model()
    assert {name for name, _ in model.named_parameters()} == set(memory.tensors)
    with flips.inject(model, flips.BitFlip(1e-3), seed=3, trial=7):
        faulty = memory.words.copy()
    np.testing.assert_array_equal(memory.words, before)
    memory.plan().flip(1e-3, 3, 7)
    np.testing.assert_array_equal(memory.words, faulty)


def test_parameters_do_not_overlap_and_start_at_cache_lines() -> None:
    memory = flips.ParameterMemory({"a": (3,), "b": (2, 17), "c": ()}, seed=0)
    memory.words[:] = 0
    for array in memory.arrays():
        assert (array.ctypes.data - memory.words.ctypes.data) % 64 == 0
        np.add(array, 1, out=array)
    assert memory.words.max() == 1
    assert memory.words.sum() * 32 == memory.bits == 32 * (3 + 34 + 1)


def test_rounds_interleave_all_contenders() -> None:
    called: list[str] = []

    def contender(name: str) -> Any:
        def call() -> None:
            called.append(name)
            np.empty(1 << 16).fill(0.0)

        return call

    times = timing.interleave({name: contender(name) for name in "abc"}, repeats=4)
    assert all(seconds.size == 4 and (seconds > 0).all() for seconds in times.values())
    turns = "".join(name for i, name in enumerate(called) if i == 0 or called[i - 1] != name)
    # Between two turns of one contender nobody is left out for a whole round.
    assert max(turns.count(name) for name in "abc") <= 4 + 1
    assert min(turns.count(name) for name in "abc") >= 2


def test_ratios_quartiles_and_noise() -> None:
    times = {"ours": np.array([1.0, 1.0, 1.0, 1.1]), "theirs": np.array([3.0, 3.0, 3.0, 6.0])}
    ratio, low, high, noisy = timing.compare(times, "ours", "theirs", faster=True)
    assert ratio == pytest.approx(3.0)
    assert low == pytest.approx(3.0)
    assert 3.0 < high < 6 / 1.1
    assert noisy, "their quartiles lie far apart"
    assert timing.compare(times, "ours", "theirs").value == pytest.approx(1 / 3)
    assert str(timing.Ratio(3.0, 2.5, 4.0, True)) == "~3.00 (2.50 to 4.00)"
    assert not timing.is_noisy(times["ours"])


@pytest.mark.parametrize(("at_most", "reached", "worst"), [(True, 2.0, 4.0), (False, 4.0, 1.0)])
def test_a_goal_knows_its_worst_row(at_most: bool, reached: float, worst: float) -> None:
    goal = timing.Goal("as fast as stated", 3.0, at_most)
    rows = [
        timing.Row("what", f"at {x}", "flip", 1.0, timing.Ratio(x, x, x, False), goal)
        for x in (1.0, 2.0, 4.0)
    ]
    assert goal.reached(reached)
    assert goal.reached(3.0)
    assert not goal.reached(worst)
    assert goal.worst(rows).ratio.value == worst
    assert report.verdict(goal, rows).startswith("MISSED")
    assert report.verdict(goal, [row for row in rows if row.reached]).startswith("reached")
    assert report.verdict(goal, []).startswith("not measured")


def test_sizes_reach_from_the_first_cache_far_beyond_the_last() -> None:
    sizes = [case.bytes for case in cases_of_hyrelu.default(threads=2, quick=False)]
    assert min(sizes) <= 16 << 10
    assert max(sizes) >= max(64 << 20, 2 * min(cases_of_hyrelu.last_level_cache_bytes(), 1 << 28))
    assert cases_of_hyrelu.size_text(16 << 10) == "16 KiB"
    assert cases_of_hyrelu.size_text(3 << 19) == "1.5 MiB"


def test_every_instruction_set_is_compared_with_the_chosen_one() -> None:
    kernels_of_hyrelu = importlib.import_module("_hyrelu_kernels")
    wanted = [case for case in cases_of_hyrelu.default(1, quick=True) if case.has_isas]
    assert {case.work for case in wanted} >= {"zero forward", "soft fwd+bwd"}
    case = replace(wanted[-1], compiled=False, eager=False)
    (rows,) = kernels_of_hyrelu.measure([case], 2, 0, 1.0)
    info = proact.build_info()
    others = set(info["isas"]) - {"baseline", info["isa"]}
    against = {row.labels["against"]: row for row in rows}
    assert against.keys() == {"torch.relu", *(f"proact on {isa}" for isa in others)}
    for isa in others:
        assert against[f"proact on {isa}"].goal == kernels_of_hyrelu.ISA


def test_what_flips_on_a_gpu_is_compared_with_flips_and_restores(kernels_on_host: object) -> None:
    """The kernels run on the host, so that the contenders can be compared with each other."""
    gpu_flips = importlib.import_module("_gpu_flips")
    memory = flips.ParameterMemory(shapes.MODELS["ResNet-20"](), 0)
    model = memory.model()
    clean = [parameter.detach().clone() for parameter in model.parameters()]
    xor = gpu_flips.XorOnDevice(memory, model, 1e-4, 7)
    xor.flip()
    listed = [parameter.detach().clone() for parameter in model.parameters()]
    xor.flip()
    with proact.faults.inject(model, proact.faults.BitFlip(1e-4), seed=7):
        for mine, theirs in zip(model.parameters(), listed, strict=True):
            assert torch.equal(mine.view(torch.int32), theirs.view(torch.int32))
    assert all(map(torch.equal, model.parameters(), clean))
    case = flips.Case("ResNet-20", 1e-4, 1)
    (rows,) = gpu_flips.measure([case], 2, 0, 10.0, device="cpu")
    assert [row.labels["against"] for row in rows] == [
        gpu_flips.BY_COPIES,
        gpu_flips.XOR_LIST,
        "microseconds",
    ]


def test_bandwidth_on_a_gpu_is_compared_with_a_copy() -> None:
    hyrelu = importlib.import_module("_hyrelu_kernels")
    case = cases_of_hyrelu.Case("soft fwd+bwd", 1 << 24, torch.float32, 1)
    times = {hyrelu.OURS: np.full(5, 3.0), hyrelu.COPY: np.full(5, 1.0)}
    (row,) = hyrelu._bandwidth_rows(case, times, "cuda")
    assert row.ratio.value == pytest.approx(5 / 2 / 3)  # five passes over the tensor, for two
    assert row.goal == hyrelu.BANDWIDTH
    assert not row.reached


def test_a_missing_gpu_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(proact.ProactError, match="--device cuda needs a GPU"):
        arguments_of.require_device("cuda")
