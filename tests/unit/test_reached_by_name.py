"""Do identities cover the functions that a user's function calls, and nothing of libraries?"""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact import campaign
from proact.campaign import Metric
from proact.data import Data
from proact.faults import BitFlip
from proact.models.code_digest import behaviour_of, content_of
from proact.models.reached_by_name import reached_by_name


def margin(output: Tensor) -> Tensor:
    return output.amax(1)


def doubled(output: Tensor) -> Tensor:
    return 2.0 * output.amax(1)


def share(output: Tensor, targets: Tensor, clean: Tensor) -> Tensor:
    return torch.sigmoid(outer(output))


def outer(output: Tensor) -> Tensor:
    return margin(output) if len(output) else outer(output)


@torch.no_grad()
def decorated(output: Tensor) -> Tensor:
    return margin(output)


@functools.lru_cache
def cached(number: int) -> int:
    return number


def of_decorated(output: Tensor) -> Tensor:
    return decorated(output) * cached(3)


class Decoder:
    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, output: Tensor) -> Tensor:
        return self.run(output)

    def run(self, output: Tensor) -> Tensor:
        return margin(output) * self.limit


DECODER = Decoder(1.0)


def of_an_object(output: Tensor) -> Tensor:
    return DECODER.run(output)


def of_a_closure(decoder: Decoder) -> Callable[[Tensor], Tensor]:
    def function(output: Tensor) -> Tensor:
        return decoder.run(output)

    return function


def of_a_class(output: Tensor) -> Tensor:
    return Decoder(2.0)(output)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(x))

    def head(self, x: Tensor) -> Tensor:
        return margin(self.layer(x))

    def unused(self) -> None:
        cached(1)


def names(function: Any, owner: type | None = None) -> list[str]:
    return [each.__qualname__ for each in reached_by_name(function, owner).functions]


def test_functions_are_found_by_name_at_any_distance() -> None:
    assert names(share) == ["outer", "margin"]
    assert names(of_decorated) == ["cached", "decorated", "margin"]
    assert names(of_a_class) == ["Decoder.__init__", "Decoder.__call__", "Decoder.run", "margin"]
    for function in (of_an_object, of_a_closure(DECODER)):
        assert names(function) == ["Decoder.__call__", "Decoder.run", "margin"]
    assert names(Net.forward, Net) == ["Net.head", "margin"]


def test_libraries_are_left_out() -> None:
    assert names(nn.Linear.forward, nn.Linear) == []
    assert names(nn.MultiheadAttention.forward, nn.MultiheadAttention) == []
    assert names(campaign.run) == []


class Layer(nn.Module):
    def encode(self, x: Tensor) -> Tensor:
        return margin(x)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Layer())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0].encode(x)  # type: ignore[operator, no-any-return]


class Derived(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2.0


class Outer:
    class Inner:
        run = staticmethod(margin)


class Lazy:
    @functools.cached_property
    def first(self) -> Tensor:
        return margin(torch.ones(1, 1))

    def last(self, power: int, x: Tensor) -> Tensor:
        return margin(x) ** power

    squared = functools.partialmethod(last, 2)


LAZY = Lazy()
TWICE = functools.partial(doubled)
RUN = DECODER.run


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: -TWICE(x), ["doubled"]),
        (lambda x: -RUN(x), ["Decoder.run", "margin"]),
        (lambda x: LAZY.first, ["Lazy.first", "margin"]),
        (lambda x: -LAZY.squared(x), ["Lazy.last", "margin"]),
        (lambda x: -Outer.Inner.run(x), ["margin"]),
    ],
)
def test_functions_that_objects_hold_are_found(function: Any, expected: list[str]) -> None:
    assert names(function) == expected


@pytest.mark.parametrize("kind", [Base, Derived])
def test_a_model_covers_methods_of_its_layers_and_of_the_classes_that_it_extends(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = behaviour_of(kind())
    monkeypatch.setitem(globals(), "margin", doubled)
    assert behaviour_of(kind()) != before


def test_a_digest_covers_the_arguments_of_a_partial_and_functions_of_torch_jit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def function(output: Tensor) -> Any:
        return TWICE(output)

    scripted = [torch.jit.script(nn.functional.relu6), torch.jit.script(nn.functional.softsign)]
    values = [functools.partial(round, ndigits=n) for n in (1, 2)] + scripted
    found = set()
    for value in values:
        monkeypatch.setitem(globals(), "TWICE", value)
        found.add(content_of(function))
    assert len(found) == 4


def test_decorated_functions_that_call_each_other_are_described_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decorate(function: Callable[[int], int]) -> Callable[[int], int]:
        def decorated(x: int) -> int:
            return function(x)

        return decorated

    code = "".join(
        f"@decorate\ndef f{n}(x):\n    return {' + '.join(f'f{m}(x)' for m in range(8))}\n"
        for n in range(8)
    )
    module: dict[str, Any] = {"decorate": decorate}
    exec(code, module)
    read: list[Any] = []

    def source(function: Any) -> str:
        read.append(function)
        return ""

    monkeypatch.setattr(inspect, "getsource", source)
    content_of(module["f0"])
    assert len(read) == len(set(map(id, read))) == 16


def test_a_digest_does_not_change_when_called_functions_keep_results() -> None:
    def keeping(function: Callable[[int], int]) -> Callable[[int], int]:
        known: dict[int, int] = {}

        def kept(number: int, _seen: list[int] = []) -> int:  # noqa: B006
            _seen.append(number)
            if number not in known:
                known[number] = function(number)
            return known[number]

        return kept

    power = keeping(lambda number: 2**number)

    def metric(output: Tensor) -> Tensor:
        return output * power(3)

    before = content_of(metric)
    metric(torch.ones(1))
    assert content_of(metric) == before


def test_objects_that_claim_to_wrap_something_end_no_search() -> None:
    class Endless:
        __wrapped__ = property(lambda self: self)

    class Unbound:
        @property
        def __wrapped__(self) -> Any:
            raise RuntimeError("no object is bound")

    endless, unbound = Endless(), Unbound()
    assert names(lambda: (endless, unbound)) == []


@pytest.mark.parametrize("function", [share, of_decorated, of_a_class, Decoder(1.0)])
def test_a_digest_follows_what_is_called(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(function)
    monkeypatch.setitem(globals(), "margin", doubled)
    assert content_of(function) != before
    monkeypatch.undo()
    assert content_of(function) == before


def test_the_behaviour_of_a_model_covers_methods_that_its_forward_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = behaviour_of(Net())
    monkeypatch.setattr(Net, "unused", lambda self: None)
    assert behaviour_of(Net()) == before
    monkeypatch.setattr(Net, "head", lambda self, x: doubled(self.layer(x)))
    assert behaviour_of(Net()) != before


def test_functions_of_an_own_module_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(factor: int) -> ModuleType:
        code = f"def scale(x):\n    return inner(x)\ndef inner(x):\n    return {factor} * x\n"
        file = tmp_path / f"helpers_{factor}.py"
        file.write_text(code)
        package, module = ModuleType("package"), ModuleType("package.helpers")
        exec(compile(code, file, "exec"), vars(module))
        vars(package)["helpers"] = module
        return package

    def metric(output: Tensor) -> Any:
        return package.helpers.scale(output)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setitem(globals(), "package", loaded(1))
    assert names(metric) == ["scale", "inner"]
    before = content_of(metric)
    monkeypatch.setitem(globals(), "package", loaded(2))
    assert content_of(metric) != before


class Mode(Enum):
    SUM = 1
    MEAN = 2


class Settings:
    scale = 1.0
    mode = Mode.SUM

    def __init__(self) -> None:
        self.shift = 0.5


class Scaled(nn.Module):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)

    def scaled(self, x: Tensor) -> Tensor:
        return self.scale * x


SETTINGS = Settings()
OPTIONS = SimpleNamespace(scale=1.0)
OWN = ModuleType("own")
OWN.__file__ = "own.py"
OWN.scale = 1.0  # type: ignore[attr-defined]


def of_a_module(output: Tensor) -> Tensor:
    return OWN.scale * output  # type: ignore[attr-defined,no-any-return]


def of_class_constants(output: Tensor) -> Tensor:
    return Settings.scale * output if Settings.mode is Mode.SUM else output


def of_an_attribute(output: Tensor) -> Tensor:
    return output + SETTINGS.shift


def of_options(output: Tensor) -> Tensor:
    return OPTIONS.scale * output


@pytest.mark.parametrize(
    ("holder", "name", "value", "readers"),
    [
        (OWN, "scale", 2.0, {of_a_module}),
        (Settings, "scale", 2.0, {of_class_constants}),
        (Settings, "mode", Mode.MEAN, {of_class_constants}),
        (SETTINGS, "shift", 2.0, {of_an_attribute}),
        (OPTIONS, "scale", 2.0, {of_options}),
    ],
)
def test_a_digest_follows_constants_of_modules_classes_and_objects(
    holder: Any, name: str, value: Any, readers: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = of_a_module, of_class_constants, of_an_attribute, of_options
    before = {function: content_of(function) for function in functions}
    monkeypatch.setattr(holder, name, value)
    changed = {function for function in functions if content_of(function) != before[function]}
    assert changed == readers


def test_the_behaviour_of_a_model_covers_constants_of_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = behaviour_of(Scaled())
    monkeypatch.setattr(Scaled, "scale", 2.0)
    assert behaviour_of(Scaled()) != before


def test_constants_of_libraries_are_left_out() -> None:
    def function(output: Tensor) -> Any:
        return output * torch.pi, sys.maxsize, nn.Linear.in_features, F.relu

    assert reached_by_name(function).values == []
    assert reached_by_name(nn.GRU.forward, nn.GRU).values == []


def test_a_changed_helper_of_a_metric_starts_other_rows(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = BitFlip(1e-3)

    def values(store: Path | None) -> list[float]:
        found = campaign.run(
            {"m": trained_cnn}, digits, [fault], trials=4, images_per_trial=16, store=store,
            metric=Metric("share", share),
        )  # fmt: skip
        return [row.value for row in found.rows("m", fault)]

    store = tmp_path / "rows.sqlite"
    before = values(store)
    monkeypatch.setitem(globals(), "margin", doubled)
    after = values(store)
    assert after == values(None) != before


def test_a_digest_does_not_depend_on_the_process() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        "import test_reached_by_name as t; "
        "print([t.content_of(f) for f in (t.share, t.of_decorated, t.of_a_class)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
