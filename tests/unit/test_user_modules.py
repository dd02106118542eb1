"""Can a file of the user's have any name, and do its classes reach every worker?"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
import torch

from conftest import slow
from proact import campaign
from proact.config.user_code import load_attribute
from proact.faults import BitFlip

MODEL = """
import torch
from torch import nn

SCALE = 2.0

def scaled(x):
    return SCALE * x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        return scaled(self.linear(x))

def network():
    return Net()
"""


@pytest.fixture(autouse=True)
def _imports_are_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_") or name == "a_model_of_mine":
            cloudpickle.unregister_pickle_by_value(sys.modules.pop(name))


def in_file(folder: Path, name: str, source: str = MODEL) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(source)
    return file


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["code.py", *slow("json.py", "test.py"), "net.v2.py", *slow("a_model_of_mine.py")]
)
@pytest.mark.parametrize("is_local", [True, *slow(False)], ids=["processes", "executor"])
def test_a_model_class_reaches_spawned_workers(name: str, is_local: bool, tmp_path: Path) -> None:
    file = in_file(tmp_path / "code", name)
    model = load_attribute(f"{file}:network")
    file.unlink()  # a remote worker does not have it
    data = torch.randn(30, 12), torch.arange(30) % 3

    def rows(executor: ProcessPoolExecutor | int) -> list[tuple[float, ...]]:
        result = campaign.run(
            {"m": model}, data, [BitFlip(1e-2)], trials=8, images_per_trial=30, executor=executor
        )
        mine = result.rows("m", BitFlip(1e-2))
        return [tuple(row._replace(seconds=0.0)) for row in mine]

    if is_local:
        assert rows(2) == rows(1)
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert rows(pool) == rows(1)


@pytest.mark.parametrize(
    "name", ["net.v2.py", "json.v2.py", ".hidden.py", "my-net.py", "2nd.py", "two words.py"]
)
def test_a_stem_that_is_no_identifier(name: str, tmp_path: Path) -> None:
    # Were the dot a package's, this one would be imported on the way.
    in_file(tmp_path / "net", "__init__.py", "raise RuntimeError('imported by mistake')")
    file = in_file(tmp_path, name, "value = 3")
    sys.path.insert(0, str(tmp_path))
    assert load_attribute(f"{file}:value") == 3


def test_files_of_one_stem_are_different_modules(tmp_path: Path) -> None:
    files = [in_file(tmp_path / part, "json.py", f"value = '{part}'") for part in "abc"]
    assert [load_attribute(f"{file}:value") for file in files] == ["a", "b", "c"]
    modules = [sys.modules[name] for name in sys.modules if name.startswith("own_json")]
    assert sorted(module.value for module in modules) == ["a", "b", "c"]
    import json

    assert json.loads("1") == 1
