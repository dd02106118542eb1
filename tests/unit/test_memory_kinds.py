"""Memory of every kind: which tensors are faulted, which are refused by name, and which are left
alone because no fault selects them? What could end the process runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.utils._pytree import tree_map

from conftest import SignedMagnitude, bits_of, same_bits
from proact import ops
from proact.encodings import Encoding
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    FaultSpace,
    Replay,
    StuckAt,
    Where,
    encode,
    inject,
)
from proact.faults.encode import selector_of
from proact.ops.plain_memory import is_writable
from proact.protect import protect

LINEAR = Where(layer=nn.Linear, kind="weight")
KINDS = [BitFlip(0.1), ExactFlips(9), StuckAt(1, 0.2), Burst(2, 0.1), Replay((("0.weight", 1, 0),))]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def x_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# Tensors outside the fault space.

OUTSIDE: dict[str, Callable[[], Tensor]] = {
    "complex": lambda: nn.Parameter(torch.ones(5, dtype=torch.complex64)),
    "complex buffer": lambda: torch.ones(5, dtype=torch.complex64),
    "integers": lambda: torch.zeros(3, dtype=torch.int32),
    "expanded": lambda: torch.full((1, 6), 0.3).expand(6, 6),
    "overlapping": lambda: torch.linspace(0, 1, 10).as_strided((4, 4), (1, 2)),
    "transposed": lambda: x_of(6, 4).t(),
    "every second": lambda: x_of(12)[::2],
    "not finite": lambda: torch.full((4, 4), -torch.inf).triu(1),
    "coo": lambda: torch.eye(6).to_sparse_coo(),
    "meta": lambda: torch.zeros(3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
}
SELECTED = {  # the sentence that refuses a tensor that a fault does select, in float32
    "complex": "own is torch.complex64|own must|and own is",
    "complex buffer": "and own is torch.complex64",
    "integers": "and own is torch.int32: exclude the tensor with where=",
    "expanded": "own must be contiguous.*strides.*: each element needs memory of its own",
    "overlapping": "own must be contiguous",
    "transposed": r"own must be contiguous.*: proact.faults.encode\(model, ...\) returns a copy",
    "every second": "own must be contiguous",
    "coo": "own must have plain memory.*layout torch.sparse_coo",
    "meta": "own must have plain memory.* on meta",
    "quantised": "own must have plain memory.*quantise a model with torchao or encoding='int8'",
}


def with_own(tensor: Tensor) -> nn.Sequential:
    model = net()
    if isinstance(tensor, nn.Parameter):
        model.register_parameter("own", tensor)
    else:
        model.register_buffer("own", tensor)
    return model


def without_own(model: nn.Module) -> nn.Module:
    """The parameters of a model but for its own tensor, as a model."""
    usual = net()
    for name, parameter in usual.named_parameters():
        parameter.data = model.get_parameter(name).data
    return usual


@pytest.mark.filterwarnings("ignore:TypedStorage|.*quantized tensor creation:UserWarning")
@pytest.mark.filterwarnings("ignore:.*were saturated:UserWarning")
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("encoding", ["float32", "int8", "q7.8", SignedMagnitude()], ids=str)
@pytest.mark.parametrize("kind", OUTSIDE)
def test_tensors_that_no_fault_selects_stop_nothing(kind: str, encoding: str | Encoding) -> None:
    """`inject` and the copy of `encode` take the same faults as a model without them."""
    model, usual = with_own(OUTSIDE[kind]()), net()
    clean = bits_of(usual)
    own = model.get_buffer("own") if kind != "complex" else model.get_parameter("own")
    before = None if own.is_meta else own.detach().clone()
    copied = encode(model, encoding, where=LINEAR)
    twin = encode(usual, encoding)
    for fault in (BitFlip(0.05, where=LINEAR), ExactFlips(20, where=LINEAR)):
        with inject(twin, fault, encoding, seed=3) as wanted:
            expected = bits_of(twin)
        for subject in (model, copied):
            with inject(subject, fault, encoding, seed=3) as record:
                assert record.flips == wanted.flips > 0
                assert same_bits(expected, without_own(subject))
    assert same_bits(clean, without_own(model))
    if before is not None and before.layout == torch.strided and not before.is_quantized:
        assert torch.equal(own.detach(), before)


@pytest.mark.filterwarnings("ignore:TypedStorage|.*quantized tensor creation:UserWarning")
@pytest.mark.parametrize("kind", SELECTED)
def test_tensors_that_a_fault_selects_are_refused_by_name(kind: str) -> None:
    model = with_own(OUTSIDE[kind]())
    for action in (
        lambda: FaultSpace(model),
        lambda: inject(model, BitFlip(0.1)).__enter__(),
        lambda: inject(model, BitFlip(0.1, where=("own", "0.weight"))).__enter__(),
    ):
        with pytest.raises((ValueError, TypeError), match=SELECTED[kind]):
            action()
    if kind not in ("transposed", "every second"):  # which a copy lays out
        with pytest.raises((ValueError, TypeError), match="own"):
            encode(model, "float32")


@pytest.mark.parametrize("turn", ["transposed", "channels last", "sliced"])
@pytest.mark.parametrize("encoding", ["float32", "int8", "q7.8"])
def test_the_copy_of_encode_is_contiguous_and_meets_the_faults_of_a_contiguous_model(
    turn: str, encoding: str
) -> None:
    def build() -> Any:
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))

    model, usual = build(), build()
    if turn == "channels last":
        model = model.to(memory_format=torch.channels_last)
    elif turn == "transposed":
        model[2].weight = nn.Parameter(usual[2].weight.detach().t().contiguous().t())
    else:
        wide = torch.zeros(5, 32)
        wide[:, ::2] = usual[2].weight.detach()
        model[2].weight = nn.Parameter(wide[:, ::2])
    strides = {name: p.stride() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"weight must be contiguous.*encode\(model"):
        FaultSpace(model, encoding)
    copied, twin = encode(model, encoding), encode(usual, encoding)
    assert all(p.is_contiguous() for p in copied.parameters())
    assert {name: p.stride() for name, p in model.named_parameters()} == strides
    with inject(copied, BitFlip(0.05), encoding), inject(twin, BitFlip(0.05), encoding):
        assert same_bits(bits_of(twin), copied)


def test_ties_survive_the_layout_of_a_copy() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[0].weight = nn.Parameter(x_of(6, 6).t())
    model[1].weight = model[0].weight
    copied: Any = encode(model, "float32")
    assert copied[0].weight is copied[1].weight
    assert copied[0].weight.is_contiguous()
    model[1].weight = nn.Parameter(model[0].weight.detach().t())  # one memory in two layouts
    torn: Any = encode(model, "float32", where="*.bias")
    assert torch.equal(torn[0].weight.t(), torn[1].weight)


def test_the_selector_of_faults() -> None:
    replay = Replay((("0.weight", 1, 0), ("a[b]", 0, 0)))
    found = selector_of([BitFlip(0.1, where="a.*"), ExactFlips(1, where=(LINEAR, "b")), replay])
    assert found is not None
    assert set(found) == {"a.*", LINEAR, "b", "0.weight", "a[[]b]"}
    assert selector_of([ActivationFlip(0.1)]) is None
    assert encode(with_own(OUTSIDE["coo"]()), "float32", where=None)


# Wrapper subclasses.


class Words(torch.Tensor):
    """int8 words and scales, as quantisers make them, without a way to find them."""

    words: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, words: Tensor, scale: Tensor) -> Words:
        made: Words = torch.Tensor._make_wrapper_subclass(cls, words.shape, dtype=torch.float32)
        return made

    def __init__(self, words: Tensor, scale: Tensor) -> None:
        self.words, self.scale = words, scale

    @classmethod
    def __torch_dispatch__(
        cls, f: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if f.overloadpacket.__name__ in ("detach", "alias", "clone"):
            name = f.overloadpacket.__name__
            return cls(*(getattr(part, name)() for part in args[0].parts()))
        return f(*tree_map(plain, args), **(kwargs or {}))

    def parts(self) -> tuple[Tensor, Tensor]:
        return self.words, self.scale


def plain(value: Any) -> Any:
    return value.words.float() * value.scale if isinstance(value, Words) else value


class OpenWords(Words):
    """The same with the protocol that torch defines for it."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["words", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> Words:
        return OpenWords(inner["words"], inner["scale"])


def wrapped(kind: type[Words]) -> Any:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    words = torch.randint(-127, 127, (5, 6), dtype=torch.int8)
    layer.weight = nn.Parameter(kind(words, torch.full((5, 1), 0.25)), requires_grad=False)
    return nn.Sequential(layer, nn.Linear(5, 2))


@pytest.mark.parametrize("fault", KINDS, ids=str)
def test_a_wrapper_that_cannot_be_opened_is_refused_by_name(fault: Any) -> None:
    model = wrapped(Words)
    with pytest.raises(ValueError, match="0.weight must have plain.*Words without memory of its"):
        inject(model, fault, "native").__enter__()
    with pytest.raises(ValueError, match="__tensor_flatten__.*exclude it with where="):
        FaultSpace(model, "native")
    with inject(model, BitFlip(0.1, where="1.*"), "native") as record:
        assert record.flips > 0


def test_the_inner_words_of_a_wrapper_are_faulted_under_their_names() -> None:
    model, x = wrapped(OpenWords), x_of(3, 6)
    space = FaultSpace(model, "native")
    assert [exposed.name for exposed in space] == [
        "0.weight.words",
        "0.weight.scale",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    assert space[0].bits == 30 * 8
    assert space[0].stored.kind == "weight"
    assert space[1].stored.kind == "scale"
    assert space[0].stored.layer == "0"
    before, clean = model[0].weight.words.clone(), model(x)
    fault = BitFlip(0.1, where=Where(layer="Linear", kind="weight", name="0.*"))
    with inject(model, fault, "native", seed=1) as record:
        assert set(record.faults()["tensor"]) == {"0.weight.words"}
        assert record.exposed_bits == 30 * 8
        changed = (model[0].weight.words != before).sum()
        assert 0 < changed <= record.flips
        assert not torch.equal(model(x), clean), "the forward computes with the faulty words"
        replay = record.replay()
        faulty = model[0].weight.words.clone()
    assert torch.equal(model[0].weight.words, before)
    with inject(model, replay, "native"):
        assert torch.equal(model[0].weight.words, faulty)
    assert torch.equal(model(x), clean)


@pytest.mark.parametrize("fault", [BitFlip(0.1), ExactFlips(20), StuckAt(1, 0.2), Burst(2, 0.1)])
def test_inner_words_that_are_replaced_get_their_own_faults(fault: Any) -> None:
    model = wrapped(OpenWords)
    with inject(model, fault, "native"):
        pass
    old = model[0].weight.words
    kept = old.clone()
    model[0].weight.words = torch.zeros(5, 6, dtype=torch.int8)
    with inject(model, fault, "native") as record:
        assert record.flips > 0
        assert torch.equal(old, kept)
        assert model[0].weight.words.any()
    assert not model[0].weight.words.any()


def test_wrappers_nest() -> None:
    class Outer(OpenWords):
        def __tensor_flatten__(self) -> tuple[list[str], None]:
            return ["words"], None

    model = wrapped(OpenWords)
    model[0].weight = nn.Parameter(Outer(model[0].weight.data, torch.ones(())), requires_grad=False)
    names = [exposed.name for exposed in FaultSpace(model, "native")]
    assert names[:2] == ["0.weight.words.words", "0.weight.words.scale"]


def test_a_copy_of_a_wrapper_computes_with_its_own_words() -> None:
    model, x = wrapped(OpenWords), x_of(3, 6)
    clean = model(x)
    copied = encode(model, "native")
    with inject(copied, BitFlip(0.2), "native"):
        assert not torch.equal(copied(x), clean)
        assert torch.equal(model(x), clean)
    assert torch.equal(copied(x), clean)


@pytest.mark.parametrize("at", ["input", "output"])
def test_activations_that_are_wrapped_are_refused_by_layer(at: str) -> None:
    class Wrapping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return OpenWords(x.to(torch.int8), torch.ones(()))

    model = nn.Sequential(Wrapping(), nn.Linear(6, 2))
    layer = "0" if at == "output" else "1"
    from proact import ProactError

    with (
        pytest.raises(ProactError, match=f"the {at} of the layer '{layer}' is a OpenWords"),
        inject(model, ActivationFlip(0.1, at=at, where=layer)),
    ):
        model(x_of(2, 6))


# Packed weights.


def quantised(kind: str) -> nn.Module:
    model = nn.Sequential(quantization.QuantStub(), net(), quantization.DeQuantStub()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "dynamic":
            dynamic: nn.Module = quantization.quantize_dynamic(net(), {nn.Linear}, torch.qint8)
            return dynamic
        if kind == "dynamic lstm":
            lstm: nn.Module = quantization.quantize_dynamic(
                nn.Sequential(nn.LSTM(4, 3)), {nn.LSTM}, torch.qint8
            )
            return lstm
        if kind == "scripted":
            return torch.jit.script(quantised("dynamic"))
        model.qconfig = quantization.get_default_qconfig("x86")  # type: ignore[assignment]
        quantization.prepare(model, inplace=True)
        model(x_of(5, 8))
        quantization.convert(model, inplace=True)
    return model


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("static", r"1\.0 \(Linear\)"),
        ("dynamic", r"0 \(Linear\)"),
        ("dynamic lstm", r"0\._all_weight_values\.0 \(PackedParameter\)"),
        ("scripted", r"0"),
    ],
)
def test_packed_weights_are_refused_by_name(kind: str, name: str) -> None:
    model = quantised(kind)
    for action in (
        lambda: FaultSpace(model, "native"),
        lambda: inject(model, BitFlip(0.1), "native").__enter__(),
        lambda: inject(model, BitFlip(0.1, where=Where(kind="weight")), "native").__enter__(),
    ):
        with pytest.raises(ValueError, match=rf"^{name}.* keeps weights in a packed form.*torchao"):
            action()


def test_a_selector_that_names_other_tensors_is_a_choice() -> None:
    model = nn.Sequential(quantised("dynamic"), nn.Linear(4, 3))
    with inject(model, BitFlip(0.3, where="1.*")) as record:
        assert record.exposed_bits == 15 * 32
    with pytest.raises(ValueError, match="packed form"):
        FaultSpace(model, where=("1.*", "0.*"))


def test_extra_state_with_tensors_is_refused_and_settings_are_not() -> None:
    class Extra(nn.Linear):
        state: Any = None

        def get_extra_state(self) -> Any:
            return self.state

        def set_extra_state(self, state: Any) -> None:
            self.state = state

    model = nn.Sequential(Extra(3, 2))
    model[0].state = {"version": 3, "mode": "fast"}
    assert FaultSpace(model).elements == 8
    model[0].state = {"table": torch.ones(4)}
    with pytest.raises(ValueError, match=r"0 \(Extra\) keeps weights in a packed form"):
        FaultSpace(model)


def test_a_lazy_layer_is_refused_by_name() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet: run the model on one batch"):
        FaultSpace(model)


# Memory that cannot be written.

CHILD = """
import sys
import numpy, torch
from torch import nn
sys.path[:0] = sys.argv[1:3]
from test_memory_kinds import READ_ONLY
for name, write in READ_ONLY.items():
    print(name, flush=True)
    write(sys.argv[3])
"""


def mapped(path: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(np.load(path, mmap_mode="r"))


def layer_of(path: str) -> nn.Linear:
    layer = nn.Linear(64, 64)
    layer.weight = nn.Parameter(mapped(path), requires_grad=False)
    return layer


REFUSED = "(weight|tensor).* is in memory that cannot be written"


def _inject_each(path: str) -> None:
    for encoding in ("float32", "q15.16", "int8", "float16", SignedMagnitude()):
        for fault in (*KINDS[:4], Replay((("weight", 1, 0),))):
            layer = layer_of(path)
            for _ in range(2):
                with pytest.raises(ValueError, match=REFUSED):
                    inject(layer, fault, encoding).__enter__()
    layer = layer_of(path)
    with inject(layer, BitFlip(0.1, where="bias")) as record:
        assert record.flips > 0
    with pytest.raises(ValueError, match=REFUSED):  # rounding would write to the weight
        inject(layer, BitFlip(0.1, where="bias"), "q7.8").__enter__()
    assert torch.equal(layer.weight, torch.from_numpy(np.load(path)))


def _encode(path: str) -> None:
    layer = layer_of(path)
    for encoding in ("float32", "q7.8"):
        with inject(encode(layer, encoding), BitFlip(0.1), encoding) as record:
            assert record.flips > 0
    assert torch.equal(layer.weight, torch.from_numpy(np.load(path)))


def _operators(path: str) -> None:
    weight = mapped(path)
    with pytest.raises(ValueError, match=REFUSED):
        ops.flip_bits_(weight, 0.5)
    with pytest.raises(ValueError, match=REFUSED):
        ops.restrict_range_([weight], [torch.tensor(0.0)], [torch.tensor(0.1)])
    with pytest.raises(ValueError, match=REFUSED):
        ops.restrict_range_([weight.t()], [torch.tensor(0.0)], [torch.tensor(0.1)])


def _weight_range(path: str) -> None:
    layer = nn.Sequential(layer_of(path), nn.ReLU(), nn.Linear(64, 2)).eval()
    guarded = protect(layer, "weight-range", (x_of(4, 64), torch.zeros(4, dtype=torch.int64)))
    guarded[0].weight = layer[0].weight  # type: ignore[index, assignment, union-attr]
    with torch.no_grad(), pytest.raises(ValueError, match="cannot be written"):
        guarded(x_of(4, 64))


def _activations(path: str) -> None:
    """A layer hands on memory that cannot be written; the faults hit a copy."""
    weight = mapped(path)
    model = nn.Sequential(nn.ReLU6(), nn.Linear(64, 2))
    with torch.no_grad(), inject(model, ActivationFlip(0.1, at="input", where="0")) as record:
        model(weight)
    assert record.activation_flips > 0


def _without_native(path: str) -> None:
    from proact import _native

    _native.module = None
    assert not is_writable(mapped(path))
    assert is_writable(torch.zeros(5))
    _inject_each(path)


READ_ONLY: dict[str, Callable[[str], None]] = {
    "inject": _inject_each,
    "encode": _encode,
    "operators": _operators,
    "weight-range": _weight_range,
    "activations": _activations,
    "without native": _without_native,  # the last, because no native module is left after it
}


@pytest.mark.long
def test_memory_that_cannot_be_written(tmp_path: Path) -> None:
    """In a process of its own, because a write would end it."""
    file = tmp_path / "weight.npy"
    np.save(file, np.random.default_rng(0).normal(size=(64, 64)).astype("float32"))
    tests = Path(__file__).parents[1]
    folders = [str(tests), str(tests / "unit")]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *folders, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tests.parent)},
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-2000:])
    assert done.stdout.splitlines() == list(READ_ONLY)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.float32, torch.float64])
@pytest.mark.parametrize("first", [0, 1, 3, 7])
def test_asking_whether_memory_can_be_written_changes_nothing(
    dtype: torch.dtype, first: int
) -> None:
    memory = torch.arange(40).to(dtype)
    before = memory.clone()
    assert is_writable(memory[first : first + 3])
    assert torch.equal(memory, before)
