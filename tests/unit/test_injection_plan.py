"""What is prepared once: is it taken again only while the network is the same, and does it leak?"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from conftest import bits_of, same_bits
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    Injector,
    StuckAt,
    encode,
    inject,
)
from proact.faults.fault import Fault
from proact.faults.injection_plan import cached_plan

FAULT = BitFlip(0.05)


def x_of() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))


def same_rows(a: NDArray[np.void], b: NDArray[np.void]) -> bool:
    """NaN beside NaN is the same."""
    return all(np.array_equal(a[f], b[f], equal_nan=f != "tensor") for f in a.dtype.names or ())


def step(model: nn.Module, optimiser: Callable[..., torch.optim.Optimizer], **how: Any) -> None:
    loss = model(x_of()).square().mean()
    loss.backward()
    optimiser(model.parameters(), lr=0.3, **how).step()


@torch.no_grad()
def scale(model: Any) -> None:
    model[0].weight.mul_(3.0)


def share(model: Any) -> None:
    model[3].weight = model[0].weight


CHANGES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda m: None,
    "load": lambda m: m.load_state_dict(net(1).state_dict()),
    "assign": lambda m: m.load_state_dict(net(1).state_dict(), assign=True),
    "in place": scale,
    "SGD": lambda m: step(m, torch.optim.SGD, foreach=False),
    "Adam": lambda m: step(m, torch.optim.Adam, foreach=True),
    "fused SGD": lambda m: step(m, torch.optim.SGD, fused=True),
    "fused Adam": lambda m: step(m, torch.optim.Adam, fused=True),
    "data in place": lambda m: m[0].weight.data.mul_(3.0),
    "data": lambda m: setattr(m[0].weight, "data", 3 * torch.ones(6, 6)),
    "data sliced": lambda m: setattr(m[0].weight, "data", m[0].weight.data[:4]),
    "data reshaped": lambda m: setattr(m[0].weight, "data", m[0].weight.data.view(4, 9)),
    "replaced": lambda m: setattr(m[0], "weight", nn.Parameter(5 * torch.ones(6, 6))),
    "double": lambda m: m.double(),
    "parametrised": lambda m: parametrizations.weight_norm(m[0]),
    "parameter more": lambda m: m.register_parameter("own", nn.Parameter(torch.ones(3, 3))),
    "parameter less": lambda m: setattr(m[0], "bias", None),
    "buffer more": lambda m: m.register_buffer("own", torch.ones(3)),
    "tied": share,
    "requires no grad": lambda m: m.requires_grad_(False),
}


@pytest.mark.parametrize("encoding", ["int8", "q7.8", "float32"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_prepared_anew(change: str, encoding: str) -> None:
    """Against a copy, which nothing is known of. int8 takes its scales from the values."""
    if change == "data in place" and encoding == "int8":
        pytest.skip("what is written past torch's version counters is not noticed: see inject")
    model = encode(net(), encoding)
    for trial in range(3):
        with inject(model, FAULT, encoding, trial=trial):
            pass
    assert cached_plan(model, encoding_of(encoding)) is not None
    old = dict(model.named_parameters())
    CHANGES[change](model)
    twin, before = copy.deepcopy(model), bits_of(model)
    memory = {p.data_ptr() for p in model.parameters()}
    gone = {k: p for k, p in old.items() if p.data_ptr() not in memory}
    kept = {k: p.detach().clone() for k, p in gone.items()}
    for trial in range(2):
        with inject(twin, FAULT, encoding, seed=1, trial=trial) as wanted:
            expected, rows = bits_of(twin), wanted.faults()
        with inject(model, FAULT, encoding, seed=1, trial=trial) as record:
            assert same_bits(expected, model)
            assert record.exposed_bits == wanted.exposed_bits
            assert same_rows(record.faults(), rows)
            assert all(torch.equal(gone[k], kept[k]) for k in gone)
        assert same_bits(before, model)


def encoding_of(name: str) -> Any:
    return Injector(encode(net(), name), name).encoding


def test_memory_that_turned_and_cannot_be_hit_is_refused() -> None:
    model = net()
    with inject(model, FAULT):
        pass
    model[0].weight.data = model[0].weight.data.t()
    with pytest.raises(ValueError, match=r"0\.weight must be contiguous"), inject(model, FAULT):
        pass


@pytest.mark.parametrize("encoding", ["int8", "float16"])
def test_a_network_of_another_dtype_is_refused_or_hit_in_its_own_words(encoding: str) -> None:
    model = encode(net(), encoding)
    with inject(model, FAULT, encoding):
        pass
    before = bits_of(model.half())
    if encoding == "int8":
        with pytest.raises(TypeError, match="is torch.float16"), inject(model, FAULT, encoding):
            pass
    else:
        with inject(model, BitFlip(1.0, bits="sign"), encoding) as record:
            assert record.exposed_bits == sum(p.numel() for p in model.parameters())
    assert same_bits(before, model)


@pytest.mark.parametrize("change", ["load", "in place", "SGD", "fused SGD"])
def test_an_injector_notices_that_its_network_is_not_rounded_any_more(change: str) -> None:
    model = encode(net(), "int8")
    injector = Injector(model, "int8")
    with injector.trial(FAULT):
        pass
    CHANGES[change](model)
    before = bits_of(model)
    with pytest.raises(ValueError, match="not rounded to int8"), injector.trial(FAULT):
        pass
    assert same_bits(before, model)
    model.load_state_dict(encode(model, "int8").state_dict())
    twin = copy.deepcopy(model)
    with injector.trial(FAULT, seed=1), inject(twin, FAULT, "int8", seed=1):
        assert same_bits(bits_of(twin), model)


def test_a_tie_by_memory_alone_is_noticed_by_either_name() -> None:
    """Two parameters over one memory count their changes apart."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = nn.Parameter(model[0].weight.data)
    model = encode(model, "int8")
    model[1].weight = nn.Parameter(model[0].weight.data)
    with inject(model, FAULT, "int8"):
        pass
    with torch.no_grad():
        model[1].weight.mul_(3.0).add_(1.0)
    before, twin = bits_of(model), copy.deepcopy(model)
    twin[1].weight = twin[0].weight
    with inject(model, FAULT, "int8"), inject(twin, FAULT, "int8"):
        assert same_bits(bits_of(twin), model)
    assert same_bits(before, model)


def test_layers_that_moved_have_the_faults_of_their_new_names() -> None:
    model = nn.Module()
    model.a, model.b = nn.Module(), nn.Module()
    model.b.c = nn.Linear(6, 6)
    with inject(model, FAULT):
        pass
    model.a.c = model.b.c
    del model.b.c
    twin = copy.deepcopy(model)
    with inject(model, FAULT) as record, inject(twin, FAULT):
        assert same_bits(bits_of(twin), model)
        assert set(record.faults()["tensor"]) == {"a.c.weight", "a.c.bias"}


def test_a_layer_that_moved_below_its_neighbour_has_the_faults_of_its_new_name() -> None:
    """A walk over the modules meets the same names in the same order before and after."""
    model = nn.Module()
    model.a, model.b = nn.Module(), nn.Linear(6, 6)
    with inject(model, FAULT):
        pass
    model.a.b = model.b
    del model.b
    with inject(model, FAULT) as record:
        assert set(record.faults()["tensor"]) == {"a.b.weight", "a.b.bias"}


@pytest.mark.parametrize("encoding", ["float32", "q15.16", "int8", "float16"])
@pytest.mark.parametrize("fault", [FAULT, Burst(2, 0.05), ExactFlips(20), StuckAt(1, 0.05)])
def test_many_trials_of_an_encoded_network(fault: Fault, encoding: str) -> None:
    """`inject` on it, `Injector`, and `inject` on the network that it was made from."""
    model = net()
    encoded = encode(model, encoding)
    injector, before, clean = Injector(encoded, encoding), bits_of(model), bits_of(encoded)
    for trial in range(6):
        with injector.trial(fault, seed=2, trial=trial) as record:
            expected, rows = bits_of(encoded), record.faults()
        for subject, own in ((encoded, clean), (model, before), (copy.deepcopy(encoded), clean)):
            with inject(subject, fault, encoding, seed=2, trial=trial) as record:
                assert same_bits(expected, subject)
                assert same_rows(record.faults(), rows)
            assert same_bits(own, subject)


@pytest.mark.parametrize("encoding", ["float32", "q15.16", "int8", "float16"])
@pytest.mark.parametrize("fault", [BitFlip(0.02), Burst(2, 0.01), ExactFlips(3000)], ids=str)
def test_threads_change_nothing(fault: Fault, encoding: str) -> None:
    torch.manual_seed(0)
    model, seen = encode(nn.Sequential(nn.Linear(500, 400), nn.Linear(400, 9)), encoding), []
    before = bits_of(model)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with inject(model, fault, encoding, seed=3) as record:
                seen.append((bits_of(model), record.flips))
            assert same_bits(before, model)
    finally:
        torch.set_num_threads(1)
    (one, flips), (two, others) = seen
    assert flips == others > 1000
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_copies_and_pickles_of_an_injected_model(encoding: str) -> None:
    model = net()
    with inject(model, FAULT, encoding, seed=1) as record:
        inside, file = bits_of(model), io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twins = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(file, weights_only=False),
        ]
        assert record.flips > 0
    for twin in [*twins, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]:
        is_faulty = any(twin is each for each in twins)
        assert same_bits(inside, twin) == is_faulty
        own = bits_of(twin)
        with inject(twin, BitFlip(0.05, bits=range(7)), encoding), inject(model, FAULT, encoding):
            assert not same_bits(own, twin)
        assert same_bits(own, twin)


def test_networks_are_collected_after_injections() -> None:
    def use() -> list[weakref.ref[Any]]:
        model = net()
        encoded, faults = encode(model, "int8"), [FAULT, Burst(2, 0.1), ActivationFlip(0.1)]
        for fault in faults:
            for encoding in ("float32", "int8", "q7.8"):
                with inject(model, fault, encoding), inject(model, fault, "q15.16"):
                    model(x_of())
        with pytest.raises(RuntimeError, match="mine"), inject(model, faults):
            raise RuntimeError("mine")
        with Injector(encoded, "int8").trial(faults, log_activations=True) as record:
            encoded(x_of())
        record.faults()
        kept.append(record)  # a record keeps no network alive
        return [weakref.ref(m) for m in (model, model[0], encoded, encoded[0])]

    kept: list[object] = []
    references = use()
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
