"""Fixtures that tests of several packages share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proact import _native, data, models
from proact.campaign import autotune
from proact.data import Data, Split
from proact.encodings import UniformEncoding
from proact.faults import Fault, Injector
from proact.ops import cuda_stream

#: Makes a block, see `on_host`.
OnHost = Callable[[], AbstractContextManager[None]]

# Tiny networks gain nothing from threads, and lose much where other programs want the cores.
torch.set_num_threads(1)


def slow(*values: Any) -> list[Any]:
    """Parameters that only `make test-all` tries; a tuple is the values of several."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which tests of the page were left out: a skipped browser must not look like a pass."""
    reports = terminalreporter.stats.get("skipped", [])
    left_out = [report for report in reports if report.nodeid.startswith("tests/browser/")]
    if left_out:
        reason = left_out[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_line(
            f"{len(left_out)} tests of the report page were not run: {reason}", yellow=True
        )


@pytest.fixture(scope="session")
def module_with_kernels() -> ModuleType:
    """The native module with the CUDA kernels' source compiled for the host, by `make native`."""
    found = sorted((Path(__file__).parent.parent / "build/tests").glob("_proact*.so"))
    if not found:
        pytest.skip("needs the native module with kernels that run on the host: run make native")
    loader = ExtensionFileLoader("_proact", str(found[0]))
    spec = spec_from_loader("_proact", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def kernels_on_host(module_with_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Makes proact take all memory for a GPU's, on which the kernels then run on the host."""
    monkeypatch.setattr(_native, "module", module_with_kernels)
    monkeypatch.setattr(cuda_stream, "is_on_gpu", lambda tensor: True)
    return module_with_kernels


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> OnHost:
    """With `kernels_on_host`: in a block, proact works on memory as it does without a GPU."""

    @contextmanager
    def block() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(cuda_stream, "is_on_gpu", lambda tensor: tensor.is_cuda)
            yield

    return block


@pytest.fixture(scope="session")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(scope="session")
def trained_cnn(digits: Data) -> nn.Module:
    """Shared: a test that changes it takes a copy."""
    return models.trained("small-cnn", digits, seed=0)


@pytest.fixture(scope="session")
def double_digits(digits: Data) -> Data:
    """The digits in float64.

    Trainings that do the same arithmetic in another order are compared in float64: an optimiser
    magnifies rounding, and what is left of 1e-16 is far below every bound on every machine.
    """
    splits = (
        Split(split.images.double(), split.labels)
        for split in (digits.train, digits.validation, digits.test)
    )
    return Data("double digits", *splits, digits.num_classes)


@pytest.fixture(scope="session")
def double_cnn(trained_cnn: nn.Module) -> nn.Module:
    """`trained_cnn` in float64, for `double_digits`. Shared."""
    return copy.deepcopy(trained_cnn).double()


@pytest.fixture
def patterns_met(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[int, int]]]:
    """The (seed, trial) of each pattern that an `Injector` makes joins the last of these sets."""
    met: list[set[tuple[int, int]]] = []
    trial = Injector.trial

    def noted(self: Injector, fault: Fault, seed: int = 0, number: int = 0, **rest: Any) -> Any:
        met[-1].add((seed, number))
        return trial(self, fault, seed, number, **rest)

    monkeypatch.setattr(Injector, "trial", noted)
    return met


@pytest.fixture(scope="session", autouse=True)
def _policy_without_a_clock() -> Iterator[None]:
    """Campaigns take the plain layout and batch size, whatever is faster on this machine today.

    A campaign measures both and may choose others for its store. Two campaigns with two stores
    could then differ in the last digits of their rows.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autotune, "_WORTH_IT", 0.0)
        yield


@pytest.fixture
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the native module, and without."""
    if request.param == "python":
        monkeypatch.setattr(_native, "module", None)
    elif _native.module is None:
        pytest.skip("there is no native module")


class SignedMagnitude(UniformEncoding):
    """Sixteenths with a sign of their own: words that native code does not know."""

    name = "sm8"
    bits = 8
    fields = {"sign": 0x80, "integer": 0x7F}  # noqa: RUF012

    def words(self, values: NDArray[Any], elements: NDArray[Any]) -> NDArray[np.uint64]:
        steps = np.clip(np.rint(np.abs(np.nan_to_num(values)) * 16), 0, 127).astype(np.uint64)
        return steps | np.where(np.signbit(values), 0x80, 0).astype(np.uint64)

    def values(self, words: NDArray[np.uint64], elements: NDArray[Any]) -> NDArray[np.float64]:
        steps = (words & np.uint64(0x7F)).astype(np.float64) / 16
        return np.where(words & np.uint64(0x80), -steps, steps)


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    """Every stored byte of a model, to compare with later."""
    return {
        name: tensor.detach().clone().reshape(-1).view(torch.uint8)
        for name, tensor in model.state_dict().items()
    }


def same_bits(before: dict[str, Tensor], model: nn.Module) -> bool:
    now = bits_of(model)
    return before.keys() == now.keys() and all(torch.equal(before[k], now[k]) for k in before)
