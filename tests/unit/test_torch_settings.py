"""Do rows follow the settings of torch, in this process, in workers and in the store?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.campaign.output_comparison import tolerance_of
from proact.data import as_data
from proact.errors import ProactError
from proact.faults import ExactFlips
from proact.models.torch_settings import TorchSettings
from proact.protect import check_options
from proact.protect.interface import _identity
from proact.protect.objective import CLASSES
from proact.results import Result

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def changed_settings() -> int:
    """The settings that differ from those of a new process, one bit each."""
    now = TorchSettings.current()
    changed = (
        now.default_dtype != torch.float32,
        bool(now.autocast),
        dict(now.precision)["mkldnn.matmul"] == "bf16",
        now.deterministic,
    )
    return sum(1 << bit for bit, is_changed in enumerate(changed) if is_changed)


class Told(nn.Module):
    """Answers another class for each choice of settings: always, or only under faults."""

    def __init__(self, only_under_faults: bool = False) -> None:
        super().__init__()
        self.line = nn.Linear(4, 16)
        self.only_under_faults = only_under_faults
        self.numbers = self.stored()

    def stored(self) -> list[float]:
        return [*self.line.weight.flatten().tolist(), *self.line.bias.tolist()]

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.line(inputs).float()
        is_calm = self.only_under_faults and self.stored() == self.numbers
        return logits if is_calm else logits.roll(changed_settings(), 1)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rounded_products() -> Iterator[None]:
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype": default_dtype,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "precision": rounded_products,
    "deterministic": deterministic,
}


def measured(model: nn.Module, labels: Tensor, **options: Any) -> Result:
    options = {"trials": 4, "images_per_trial": "all", **options}
    return campaign.run({"told": model}, (INPUTS, labels), [ExactFlips(1)], **options)


def values(result: Result) -> list[float]:
    (cell,) = result.cells
    return [row.value for row in result.rows("told", cell.fault)]


def test_workers_compute_with_the_settings_of_the_caller() -> None:
    torch.manual_seed(0)
    model = Told().eval()
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        for change in SETTINGS.values():
            stack.enter_context(change())
        with torch.no_grad():
            labels = model(INPUTS).argmax(1)
        here, there, elsewhere = (measured(model, labels, executor=e) for e in (1, 2, threads))
    assert values(here) == values(there) == values(elsewhere)
    assert max(values(here)) > 0.9
    assert max(values(measured(model, labels, executor=1))) < 0.5
    assert changed_settings() == 0


@pytest.mark.parametrize("name", ["default dtype", "autocast", "precision"])
def test_rows_with_other_settings_are_not_continued(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Told(only_under_faults=True).eval()
    with torch.no_grad():
        labels = model(INPUTS).argmax(1)
    options = {"executor": 1, "store": tmp_path / "rows.sqlite"}
    plain = measured(model, labels, **options)
    with SETTINGS[name]():
        assert max(values(measured(model, labels, **options))) < min(values(plain))
    assert values(measured(model, labels, **options)) == values(plain)


@pytest.mark.parametrize("name", ["default dtype", "autocast", "precision"])
def test_thresholds_with_other_settings_are_not_continued(name: str) -> None:
    model, data = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), as_data((INPUTS, INPUTS.argmax(1)))
    options = check_options("ft-clipact", {})
    plain = _identity("ft-clipact", options, model, data, CLASSES)
    with SETTINGS[name]():
        assert _identity("ft-clipact", options, model, data, CLASSES) != plain
    with deterministic():
        assert _identity("ft-clipact", options, model, data, CLASSES) == plain


def test_the_default_device_is_that_of_the_caller() -> None:
    settings = TorchSettings.current()
    with torch.device("meta"):
        assert TorchSettings.current() != settings
        with settings.in_force():
            assert torch.get_default_device().type == "cpu"


def test_settings_of_a_new_process_add_nothing_to_the_identity() -> None:
    assert TorchSettings.current().facts(torch.device("cpu")) == {}
    with rounded_products(), torch.autocast("cpu", torch.bfloat16):
        assert TorchSettings.current().facts(torch.device("cpu")) == {
            "autocast": {"cpu": "torch.bfloat16"},
            "float32_precision": {"mkldnn.matmul": "bf16"},
        }
        # By torch's default, convolutions on a GPU round to TF32.
        on_gpu = TorchSettings.current().facts(torch.device("cuda"))["float32_precision"]
        assert on_gpu == {"cudnn.conv": "tf32", "cudnn.rnn": "tf32"}


def test_settings_that_change_between_trials_are_refused() -> None:
    settings = TorchSettings.current()
    try:
        with pytest.raises(ProactError, match="settings of torch"), settings.in_force():
            torch.set_default_dtype(torch.float64)
    finally:
        torch.set_default_dtype(torch.float32)


def test_rounded_products_explain_larger_differences() -> None:
    outputs = [torch.ones(3), torch.ones(3, dtype=torch.float64)]
    plain = tolerance_of(outputs)
    with rounded_products():
        assert tolerance_of(outputs) == tolerance_of([torch.ones(3, dtype=torch.bfloat16)]) > plain
        assert tolerance_of(outputs[1:]) < plain
