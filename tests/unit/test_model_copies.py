"""A copy of a model computes with its own parameters, whatever the model refers to."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from proact.faults import BitFlip, inject
from proact.nn.module_copy import copy_model, copy_sharing_parameters

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
FAULT = BitFlip(3e-2)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def by_closure(module: nn.Module) -> nn.Module:
    original = module.forward
    module.forward = lambda *args: original(*args)  # noqa: PLW0108
    return module


def by_wraps(module: nn.Module) -> nn.Module:
    original = module.forward

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    module.forward = timed
    return module


def by_partial(module: nn.Module) -> nn.Module:
    def run(forward: Callable[..., Any], x: Tensor) -> Any:
        return forward(x)

    module.forward = functools.partial(run, module.forward)
    return module


def by_default_argument(module: nn.Module) -> nn.Module:
    module.forward = lambda x, original=module.forward: original(x)
    return module


def by_method(module: nn.Module) -> nn.Module:
    original = module.forward

    def run(self: nn.Module, x: Tensor) -> Any:
        return original(x)

    module.forward = types.MethodType(run, module)
    return module


def by_decorator(module: nn.Module) -> nn.Module:
    module.forward = torch.no_grad()(module.forward)
    return module


def by_object(module: nn.Module) -> nn.Module:
    """As accelerate does: the first forward is an attribute, and a global function calls it."""
    module._old_forward = module.forward
    module.forward = functools.update_wrapper(
        functools.partial(_call_old_forward, module), module._old_forward
    )
    return module


def _call_old_forward(module: Any, *args: Any) -> Any:
    return module._old_forward(*args)


def twice(module: nn.Module) -> nn.Module:
    return by_closure(by_wraps(module))


def layers(module: nn.Module) -> nn.Module:
    for child in module.children():
        by_closure(child)
    return module


def by_hook(module: nn.Sequential) -> nn.Module:
    last = module[2]
    module.register_forward_hook(lambda m, args, output: output + last.weight.sum())
    module.register_forward_pre_hook(lambda m, args: (args[0] * last.bias[0],))
    return module


class Holder:
    def __init__(self, **things: Any) -> None:
        vars(self).update(things)


def by_nested_object(module: nn.Module) -> nn.Module:
    holder = Holder(inner=[Holder(call=module.forward)])

    def run(x: Tensor) -> Any:
        return holder.inner[0].call(x)

    module.forward = run
    return module


_first = plain()
_forward = _first.forward


def _helper(x: Tensor) -> Any:
    return _forward(x)


def _by_global(x: Tensor) -> Any:
    return _helper(x)


def by_global(module: nn.Module) -> nn.Module:
    _first.forward = _by_global
    return _first


WRAPPERS = [
    by_closure,
    by_wraps,
    by_partial,
    by_default_argument,
    by_method,
    by_decorator,
    by_object,
    twice,
    layers,
    by_hook,
    by_nested_object,
    by_global,
    nn.DataParallel,
]


def fault_effect(model: nn.Module, x: Tensor, fault: BitFlip = FAULT) -> tuple[Tensor, Tensor]:
    """The outputs without and with faults."""
    with torch.no_grad():
        clean = model(x).clone()
        with inject(model, fault) as record:
            faulty = model(x).clone()
        assert record.flips > 0
        torch.testing.assert_close(model(x), clean, rtol=0, atol=0)
    return clean, faulty


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("copied_by", [copy_model, copy_sharing_parameters])
def test_faults_in_a_copy_act_as_in_the_original(
    wrap: Callable[[nn.Module], nn.Module], copied_by: Callable[[nn.Module], nn.Module]
) -> None:
    model = wrap(plain())
    copied = copied_by(model)
    expected, faulty = fault_effect(model, X)
    assert not torch.equal(expected, faulty)
    own, own_faulty = fault_effect(copied, X)
    assert torch.equal(own, expected)
    torch.testing.assert_close(own_faulty, faulty, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_a_copy_computes_with_no_memory_of_the_original(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    model = wrap(plain())
    copied = copy_model(model)
    with torch.no_grad():
        expected = copied(X)
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        assert torch.equal(copied(X), expected)
    with torch.no_grad():  # the model of the global function is used again
        for parameter, own in zip(model.parameters(), copied.parameters(), strict=True):
            parameter.copy_(own)


def test_a_copy_of_a_copy_computes_alike() -> None:
    model = layers(by_method(by_global(plain())))
    again = copy_model(copy_model(model))
    fault = BitFlip(0.3, bits=[22, 31])
    assert torch.equal(fault_effect(again, X, fault)[1], fault_effect(model, X, fault)[1])


class Caching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return torch.nn.utils.weight_norm(nn.Linear(8, 6))


def spectral() -> nn.Module:
    return torch.nn.utils.spectral_norm(nn.Linear(8, 6)).eval()


class Recurrent(nn.Module):
    def __init__(self, inner: nn.LSTM) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x.view(len(x), 2, 4))[0]


COMPUTED = {
    "caching": lambda: Caching(8, 6),
    "old weight_norm": old_weight_norm,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 6)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5),
    "spectral_norm": spectral,
    "lstm": lambda: Recurrent(nn.LSTM(4, 6, batch_first=True)),
    "weight-normed lstm": lambda: Recurrent(
        parametrizations.weight_norm(nn.LSTM(4, 6, batch_first=True), "weight_hh_l0")
    ),
}


@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED.keys())
def test_computed_tensors_do_not_stop_a_copy(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    model(X)  # with autograd, so that kept tensors are no leaves
    copied = copy_model(model)
    for name, _ in model.named_parameters():
        fault = BitFlip(0.5, where=name, bits=[22, 31])
        expected, faulty = fault_effect(model, X, fault)
        assert not torch.equal(expected, faulty), name
        own, own_faulty = fault_effect(copied, X, fault)
        assert torch.equal(own, expected)
        assert torch.equal(own_faulty, faulty), name


def test_tensors_that_share_memory_share_it_in_the_copy() -> None:
    model = plain()
    model.view = model[0].weight.detach()[1:]
    model.other = nn.Parameter(model[2].weight.detach().t(), requires_grad=False)
    model.computed = model[0].weight.view(-1)
    copied: Any = copy_model(model)
    with torch.no_grad():
        copied[0].weight.fill_(3.0)
        copied[2].weight[0, 1] = 7.0
    assert copied.view.eq(3.0).all()
    assert copied.computed.eq(3.0).all()
    assert copied.other[1, 0] == 7.0
    assert not model[0].weight.eq(3.0).any()
    shared: Any = copy_sharing_parameters(model)
    assert shared.view.data_ptr() == model.view.data_ptr()
    assert shared[0].weight is model[0].weight


def test_functions_without_the_model_are_shared_and_their_state_is_not() -> None:
    model = plain()
    calls = 0
    seen: list[int] = []

    def count(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1
        seen.append(calls)

    model.register_forward_pre_hook(count)
    copied = copy_model(model)
    (hook,) = copied._forward_pre_hooks.values()
    assert hook is count


def test_weak_references_lead_to_the_copy() -> None:
    source = nn.Linear(8, 8)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.refs = [weakref.ref(source)]
            self.ref = weakref.ref(source.bias)

        def forward(self, x: Tensor) -> Any:
            return x @ self.refs[0]().weight.t() + self.ref()

    model = nn.Sequential(source, Tied()).eval()
    copied: Any = copy_model(model)
    assert copied[1].refs[0]() is copied[0]
    assert copied[1].ref() is copied[0].bias
    assert model[1].refs[0]() is source


def test_locks_are_new() -> None:
    model = plain()
    model.lock, model.again = threading.Lock(), threading.RLock()
    with model.lock:
        copied: Any = copy_model(model)
        assert copied.lock.acquire(blocking=False)
    assert type(copied.again) is type(model.again)


UNCOPYABLE = {
    "TextIOWrapper": lambda: open("/dev/null", "w"),  # noqa: SIM115
    "generator": lambda: (i for i in ()),
    "Holder": lambda: Holder(inner=(i for i in ())),
}


@pytest.mark.parametrize("kind", UNCOPYABLE)
def test_what_cannot_be_copied_is_named(kind: str) -> None:
    model = plain()
    thing = UNCOPYABLE[kind]()
    model[2].log = thing
    message = f"the attribute 'log' of '2' is a {kind}, which cannot be copied: remove it"
    with pytest.raises(ValueError, match=message):
        copy_model(model)
    if kind == "TextIOWrapper":
        thing.close()


def test_an_attribute_that_shares_itself_with_the_copy_is_refused() -> None:
    class Registry:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def __deepcopy__(self, memo: Any) -> Registry:
            return self

    model = plain()
    model[1].registry = Registry(model)
    with pytest.raises(ValueError, match="'registry' of '1' still refers to the original model"):
        copy_model(model)


def test_a_weak_proxy_is_refused() -> None:
    model = plain()
    vars(model[1])["parent"] = weakref.proxy(model)
    with pytest.raises(ValueError, match="'parent' of '1' holds a weak proxy"):
        copy_model(model)


def test_a_lazy_layer_is_named() -> None:
    with pytest.raises(ValueError, match=r"1\.weight has no shape yet: run the model on one batch"):
        copy_model(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


@pytest.mark.parametrize("compile_it", ["model", "forward", "layer", "in place"])
def test_compiled_models_are_followed(compile_it: str) -> None:
    model = inner = plain()
    if compile_it == "model":
        model = torch.compile(inner, backend="eager")
        model.register_forward_hook(lambda m, args, output: output + 1)
    elif compile_it == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    elif compile_it == "layer":
        model[2].forward = torch.compile(model[2].forward, backend="eager")
    else:
        model.compile(backend="eager")
    expected = plain()(X).detach() + (compile_it == "model")
    with torch.no_grad():
        torch.testing.assert_close(model(X), expected)
        copied = copy_model(model)
        torch.testing.assert_close(copied(X), expected)
    fault = BitFlip(0.3, bits=[22, 31])
    assert torch.equal(fault_effect(copied, X, fault)[1], fault_effect(model, X, fault)[1])
    torch._dynamo.reset()


def test_torchscript_is_copied(recwarn: pytest.WarningsRecorder) -> None:
    for model in (torch.jit.script(plain()), torch.jit.trace(plain(), X)):
        copied = copy_model(model)
        fault = BitFlip(0.3, bits=[22, 31])
        assert torch.equal(fault_effect(copied, X, fault)[1], fault_effect(model, X, fault)[1])
        with torch.no_grad():
            expected = copied(X)
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
            assert torch.equal(copied(X), expected)
