"""Do commands end with the documented exit status, and in one sentence, whatever goes wrong?"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from proact import faults
from proact.cli import main

OWN = Path(__file__).parents[2] / "docs" / "own_network.py"
WINES = ["--model", f"{OWN}:network", "--data", f"{OWN}:data"]
PROFILE = ["profile", "--model", f"{OWN}:network", "--shape", "13"]
HELP = [sys.executable, "-m", "proact", "--help"]
#: The data have 13 numbers per sample.
RAISING = """
import sys
from torch import nn

class Ends(nn.Sequential):
    def forward(self, x):
        sys.exit(0)

def ends():
    return Ends(nn.Linear(13, 3), nn.ReLU())

def ends_at_once():
    sys.exit(0)

def recurs():
    return recurs()

class Own(BaseException):
    def __str__(self):
        raise ValueError

def raises_own():
    raise Own
"""


def sentence_of(capsys: pytest.CaptureFixture[str]) -> str:
    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    return str(line)


@pytest.mark.parametrize(
    "name",
    [
        "torch:zeros",
        "json:loads",
        "builtins:input",
        "sys:exit",
        "proact.models:create",
    ],
)
@pytest.mark.parametrize("option", ["--model", "--data"])
def test_a_callable_that_needs_arguments_is_refused(
    name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if option == "--model" else ["--model", "small-cnn"]
    assert main(["profile", *model, option, name]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {name}")
    assert "expected an object or a function without arguments" in errors or "failed:" in errors


@pytest.mark.parametrize("name", ["os:getcwd", "math:pi", "torch:nn", "os:environ"])
def test_other_objects_of_libraries_are_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--model", name]) == 2
    assert f"{name}: expected a torch.nn.Module or a function" in sentence_of(capsys)
    assert main(["profile", "--model", "small-cnn", "--data", name]) == 2
    assert "data: " in sentence_of(capsys)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--forward", "expected a function of (model, batch), got a function of ()"),
        ("--collate", "expected a function of (items), got a function of ()"),
        ("--metric", "a function of (outputs, targets, golden outputs), got a function of ()"),
    ],
)
def test_a_function_of_other_arguments_is_refused(
    option: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["campaign", *WINES, option, "os:getcwd", *out]) == 2
    assert expected in sentence_of(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--metric", "--forward", "--output"])
@pytest.mark.parametrize("name", ["builtins:int", "builtins:next", "operator:index", "sys:exit"])
def test_a_function_in_c_that_fails_is_named(
    option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--variant", "relu", "--trials", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(["campaign", *WINES, *quick, option, name]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {name}: expected ")


def test_code_of_a_frozen_module_that_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--variant", "relu", "--trials", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(["campaign", *WINES, *quick, "--metric", "os:execlp"]) == 2
    errors = capsys.readouterr().err
    assert "failed:\n" in errors
    assert "in execlp" in errors


def test_a_data_set_of_a_library_that_fails_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    name = "torch.utils.data:TensorDataset"  # without tensors, it has no length
    assert main(["profile", "--model", "small-cnn", "--data", name]) == 2
    assert "IndexError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("ends", "SystemExit"),
        ("ends_at_once", "SystemExit"),
        ("recurs", "RecursionError"),
        ("raises_own", "Own"),
    ],
)
def test_any_exception_of_the_users_code_is_the_users(
    name: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    assert main(["profile", "--model", f"{tmp_path}/raising.py:{name}", "--shape", "13"]) == 2
    errors = capsys.readouterr().err
    assert "raising.py" in errors
    assert word in errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("[enforce fail at alloc.cpp] DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
        ),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory"),
        (RuntimeError("can't start new thread"), "no further process or thread"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "no further process or thread"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.csv"), "too many files are open"),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory"),
    ],
)
def test_a_shortage_is_no_internal_error(
    error: Exception,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise error

    def fails_later(*arguments: Any, **options: Any) -> None:
        try:
            raise error
        except Exception as cause:
            raise KeyError("a consequence") from cause

    for verify in (fails, fails_later):
        monkeypatch.setattr(faults, "verify", verify)
        assert main(["verify"]) == 2
        assert words in sentence_of(capsys)


def test_a_model_larger_than_memory_is_not_called_a_misfit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for classes in (2**45, 2**62):
        assert main(["profile", "--model", "small-cnn", "--classes", str(classes)]) == 2
        assert "not enough memory" in sentence_of(capsys)


def test_an_internal_error_without_a_folder_for_its_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        {}["a key"]

    def no_folder(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(faults, "verify", fails)
    monkeypatch.setattr("proact.cli.errors.tempfile.NamedTemporaryFile", no_folder)
    assert main(["verify"]) == 1
    errors = capsys.readouterr().err
    assert "internal error of proact (KeyError: 'a key')" in errors
    assert "Traceback" in errors


class _Failing(io.StringIO):
    """A stream whose writes fail."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 141), (errno.ENOSPC, 2)])
@pytest.mark.parametrize("arguments", [PROFILE, [*PROFILE, "--json"], ["--version"], ["--help"]])
def test_results_that_cannot_be_written(
    number: int,
    status: int,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", _Failing(number))
    assert main(arguments) == status
    errors = capsys.readouterr().err
    if status == 141:
        assert errors == ""
    else:
        assert (
            errors == f"error: the results cannot be written to standard output: "
            f"{os.strerror(number)}\n"
        )


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_messages_that_cannot_be_written_change_nothing(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", _Failing(number))
    assert main(["campain"]) == 2
    quick = [*WINES, "--method", "ranger", "--out", str(tmp_path / "x.safetensors")]
    assert main(["protect", *quick]) == 0
    assert "thresholds: " in capsys.readouterr().out


def _close(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.parametrize(("closed", "status"), [((1,), 0), ((2,), 0), ((1, 2), 0), ((0, 1, 2), 0)])
def test_closed_streams(closed: tuple[int, ...], status: int) -> None:
    done = subprocess.run(HELP, capture_output=True, check=False, preexec_fn=_close(*closed))
    assert done.returncode == status
    assert done.stderr == b""
    assert (b"campaign" in done.stdout) == (1 not in closed)


def test_the_reader_of_the_output_ends() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(HELP, stdout=writing, stderr=subprocess.PIPE, check=False)
    both = subprocess.run(HELP, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    assert both.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_the_output(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            HELP, stdout=full, stderr=subprocess.PIPE, check=False, env=environment
        )
        both = subprocess.run(HELP, stdout=full, stderr=full, check=False, env=environment)
    assert done.returncode == 2
    assert both.returncode == 2
    (line,) = done.stderr.splitlines()
    assert b"cannot be written to standard output" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COLUMNS", "0"),
        ("COLUMNS", "1"),
        ("COLUMNS", "abc"),
        ("COLUMNS", "²"),
        ("COLUMNS", "9" * 5000),
        ("LINES", "0"),
        ("LINES", "²"),
    ],
)
def test_a_size_in_which_no_table_fits_is_not_used(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(PROFILE) == 0
    usual = capsys.readouterr().out
    monkeypatch.setenv(name, value)
    assert main(PROFILE) == 0
    assert capsys.readouterr().out == usual
    assert "granularity" in usual
    assert os.environ[name] == value


#: The limits begin when all modules are loaded, so that the test does not depend on their size.
LIMITED = """
import os, resource, sys
from pathlib import Path
from proact.cli import main
assert main(sys.argv[2:]) == 0
if sys.argv[1] == "memory":
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (32 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.exit(main(["profile", "--model", "small-cnn", "--shape", "3x4000x4000"]))
while True:  # a free number below the limit would still be used
    try:
        highest = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        break
    if highest > 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems differ")
@pytest.mark.parametrize(
    ("resource_name", "words"),
    [
        ("memory", "not enough memory"),
        pytest.param("files", "open files", marks=pytest.mark.slow),
    ],
)
def test_a_limit_of_the_system_ends_in_one_sentence(
    resource_name: str, words: str, tmp_path: Path
) -> None:
    protect = ["protect", *WINES, "--method", "ranger", "--out", str(tmp_path / "x.safetensors")]
    command = PROFILE if resource_name == "memory" else protect
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, resource_name, *command],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line


def test_images_with_texts_in_a_folder_whose_name_is_not_utf_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    texts = PngInfo()
    texts.add_text("Comment", "text " * 20)
    for label in ("a", "b"):
        try:
            (folder / label).mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes names in UTF-8 alone")
        for number in range(12):
            image = Image.new("RGB", (8, 8), (20 * number, 0, 0))
            image.save(folder / label / f"{number}.png", pnginfo=texts)
    command = ["campaign", "--data", "imagefolder", "--data-folder", str(folder)]
    command += ["--image-size", "8", "--epochs", "1", "--variant", "relu", "--ber", "1e-3"]
    command += ["--trials", "2", "--images-per-trial", "2", "--workers", "1"]
    for _ in range(2):  # a rerun knows the experiment of the store
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        assert "holds an experiment that differs" not in capsys.readouterr().err
