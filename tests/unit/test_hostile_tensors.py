"""Does every operator that takes addresses refuse tensors without them, by name and before a byte
is written, or give the result of the formula? A wrong answer could end the process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map

from proact import ProactError, ops
from proact.encodings.codes import words_code
from proact.faults import BitFlip, ExactFlips, inject
from proact.ops import _hyrelu_reference as reference
from proact.ops._range_reference import restricted
from proact.ops.in_place_code import encode_words_
from proact.ops.number_formats import ScaledIntegerWord, ScaleLayout
from proact.ops.plan import FlipPlan
from proact.ops.range_plan import RangePlan
from proact.ops.scrub_plan import ScrubPlan

LOW, HIGH = torch.tensor(-1.0), torch.tensor(1.0)
ONE = torch.tensor(1.0)


def base() -> Tensor:
    return torch.linspace(-2, 2, 12).reshape(3, 4).clone()


class Wrapper(torch.Tensor):
    """A tensor whose operators compute with an inner one."""

    kept: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        return made

    def __init__(self, inner: Tensor) -> None:
        self.kept = inner

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, f: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return f(*tree_map(opened, args), **tree_map(opened, kwargs or {}))


class Plain(torch.Tensor):
    """A subclass with memory of its own."""


def opened(value: Any) -> Any:
    if isinstance(value, Wrapper):
        return value.kept
    return value.a if isinstance(value, TwoTensor) else value


def resized(size: int) -> Tensor:
    tensor = base()
    tensor.untyped_storage().resize_(size)
    return tensor


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(3, 4)


def functional() -> Tensor:
    with FunctionalTensorMode():
        found: Tensor = FunctionalTensor.to_functional(base())
        return found


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place: Path = tmp_path_factory.mktemp("group") / "file"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def distributed() -> Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    found: Tensor = distribute_tensor(base(), init_device_mesh("cpu", (1,)), [Shard(0)])
    return found


#: How each kind of tensor is made, and the words that its errors have.
HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "wrapper": (lambda: Wrapper(base()), "Wrapper without memory"),
    "two tensors": (lambda: TwoTensor(base(), base()), "TwoTensor without memory"),
    "masked": (lambda: masked_tensor(base(), base() > 0), r"MaskedTensor: pass get_data\(\)"),
    "distributed": (distributed, r"DTensor, .*: pass to_local\(\)"),
    "zeros": (
        lambda: torch._efficientzerotensor((3, 4)),
        r"zeros that have no memory: .*clone\(\)",
    ),
    "freed": (lambda: resized(0), "storage was freed or has shrunk: pass"),
    "shrunk": (lambda: resized(8), "storage was freed or has shrunk: pass"),
    "nested": (lambda: torch.nested.nested_tensor([base(), base()]), "nested tensor .*: pass its"),
    "jagged": (
        lambda: torch.nested.nested_tensor([base(), base()], layout=torch.jagged),
        "nested tensor of layout torch.jagged",
    ),
    "negated": (lambda: torch._neg_view(base()), r"lazily negated .*: call resolve_neg\(\)"),
    "imaginary part": (
        lambda: torch.complex(base(), base()).conj().imag,
        r"lazily negated .*: call resolve_neg\(\)",
    ),
    "conjugated": (
        lambda: torch.complex(base(), base()).conj(),
        r"call .*resolve_conj\(\)|torch.complex64",
    ),
    "meta": (lambda: base().to("meta"), "on meta.*: load it|on one device, got .*meta"),
    "fake": (fake, "fake tensor: pass one with memory"),
    "functional": (functional, "functionalisation: call this outside of it"),
    "functional of torch": (lambda: torch._to_functional_tensor(base()), "functionalisation"),
    "coo": (lambda: base().to_sparse(), r"layout torch.sparse_coo .*to_dense\(\)"),
    "csr": (lambda: base().to_sparse_csr(), r"layout torch.sparse_csr .*to_dense\(\)"),
    "oneDNN": (lambda: base().to_mkldnn(), r"layout torch._mkldnn .*to_dense\(\)"),
    "quantised": (
        lambda: torch.quantize_per_tensor(base(), 0.1, 0, torch.qint8),
        "a quantised|torch.qint8",
    ),
    "without shape": (lambda: nn.UninitializedParameter(requires_grad=False), "without a shape"),
}
PLAIN: dict[str, Callable[[], Tensor]] = {
    "plain": base,
    "subclass": lambda: base().as_subclass(Plain),
    "parameter": lambda: nn.Parameter(base(), requires_grad=False),
    "view": lambda: torch.cat([base(), base()])[3:],
    "shared": lambda: base().share_memory_(),
}


def flipped(tensor: Tensor) -> object:
    plan = FlipPlan()
    plan.add(tensor, 0, 0xFF, None)
    return plan.flip(0.3, 0, 0)


def with_scales(scales: Tensor) -> object:
    plan = FlipPlan()
    plan.add(base(), 0, 0xFF, ScaledIntegerWord(8, scales, ScaleLayout(12, 12, 0)))
    return plan.flip(0.3, 0, 0)


def injected(fault: Any) -> Callable[[Tensor], object]:
    def call(tensor: Tensor) -> object:
        model = nn.Module()
        model.register_buffer("own", tensor)
        with inject(model, fault) as record:
            return record.flips

    return call


CODE = words_code("bch2", 4)
#: Calls that write to their tensor, or give its address to native code for good.
WRITING: dict[str, Callable[[Tensor], object]] = {
    "flip_bits_": lambda t: ops.flip_bits_(t, 0.3),
    "flip_exactly_": lambda t: ops.flip_exactly_(t, 5),
    "flip plan": flipped,
    "range plan": lambda t: RangePlan([t], [LOW], [HIGH]),
    "range plan's bound": lambda t: RangePlan([base()], [t], [t]),
    "scrub plan": lambda t: ScrubPlan([t], [CODE], [None]),
    "scrub plan's bound": lambda t: ScrubPlan([base()], [CODE], [(t, t)]),
    "check bits": lambda t: encode_words_(t, CODE),
}
#: Calls that torch dispatches, with the formula.
DISPATCHED: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "hyrelu": (
        lambda t: ops.hyrelu(t, ONE, "zero"),
        lambda t: reference.forward(t, ONE, "zero", 20.0),
    ),
    "hyrelu's threshold": (
        lambda t: ops.hyrelu(torch.ones(2, 3, 4), t, "zero"),
        lambda t: reference.forward(torch.ones(2, 3, 4), t, "zero", 20.0),
    ),
    "hyrelu_": (
        lambda t: ops.hyrelu_(t, ONE, "zero"),
        lambda t: reference.forward(t, ONE, "zero", 20.0),
    ),
    "hyrelu_'s threshold": (
        lambda t: ops.hyrelu_(torch.ones(2, 3, 4), t, "zero"),
        lambda t: reference.forward(torch.ones(2, 3, 4), t, "zero", 20.0),
    ),
    "restrict_range_": (
        lambda t: (ops.restrict_range_([t], [LOW], [HIGH]), t)[1],
        lambda t: torch.where(*restricted(t, LOW, HIGH, "zero"), t),
    ),
}
ERRORS = (TypeError, ValueError, ProactError)


def result_of(call: Callable[[Any], Any], tensor: Any) -> tuple[Any, str | None]:
    """The result of a call, or the text of its error."""
    try:
        return call(tensor), None
    except ERRORS as error:
        return None, str(error)


def one_sentence(error: pytest.ExceptionInfo[Any]) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("kind", HOSTILE)
def test_writers_refuse_tensors_without_memory(kind: str, call: str) -> None:
    make, words = HOSTILE[kind]
    with pytest.raises(ERRORS, match=words) as error:
        WRITING[call](make())
    one_sentence(error)


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", DISPATCHED)
@pytest.mark.parametrize("kind", HOSTILE)
def test_dispatched_operators_refuse_them_or_follow_the_formula(kind: str, call: str) -> None:
    make, words = HOSTILE[kind]
    of, formula = DISPATCHED[call]
    found, error = result_of(of, make())
    if error is not None:
        assert re.search(words, error), error
        assert "\n" not in error
        return
    if kind == "functional of torch":
        found = torch._from_functional_tensor(found)
    values = {"zeros": torch.zeros(3, 4), "negated": -base(), "imaginary part": -base()}
    torch.testing.assert_close(opened(found), formula(values.get(kind, base())))


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_refused_tensor_leaves_those_beside_it_unchanged(kind: str) -> None:
    if kind in ("wrapper", "two tensors"):
        return  # whose own operators compute with all tensors
    tensors = [base(), HOSTILE[kind][0]()]
    with pytest.raises(ERRORS, match=HOSTILE[kind][1]):
        ops.restrict_range_(tensors, [LOW] * 2, [HIGH] * 2)
    assert torch.equal(tensors[0], base())


@pytest.mark.parametrize("kind", PLAIN)
def test_tensors_with_memory_are_taken(kind: str) -> None:
    make = PLAIN[kind]
    for name, call in WRITING.items():
        if "bound" not in name:  # which has another shape
            call(make())
    for of, formula in DISPATCHED.values():
        assert torch.equal(of(make()).as_subclass(Tensor), formula(base()))


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fault", [BitFlip(0.3), ExactFlips(5)], ids=str)
@pytest.mark.parametrize(
    "kind", [k for k in HOSTILE if k not in ("distributed", "jagged", "two tensors", "conjugated")]
)
def test_injection_refuses_them(kind: str, fault: Any) -> None:
    """Those left out have inner tensors that are faulted, or are no part of the fault space."""
    make, words = HOSTILE[kind]
    with pytest.raises(ERRORS, match=f"own.*({words}|has no shape yet)") as error:
        injected(fault)(make())
    one_sentence(error)


@pytest.mark.parametrize("kind", ["freed", "shrunk", "negated", "meta", "wrapper", "nested"])
def test_scales_have_memory(kind: str) -> None:
    with pytest.raises(TypeError, match=f"scales must have plain memory, got .*{HOSTILE[kind][1]}"):
        with_scales(HOSTILE[kind][0]())


OPERATOR = torch.ops.proact
KERNELS: dict[str, Callable[[Tensor], object]] = {
    "flip_bits_": lambda t: OPERATOR.flip_bits_(t, 0.3, 0, 0, 0, 255),
    "hyrelu": lambda t: OPERATOR.hyrelu(t, ONE, "zero", 20.0),
    "hyrelu's threshold": lambda t: OPERATOR.hyrelu(torch.ones(2, 3, 4), t, "zero", 20.0),
    "hyrelu_": lambda t: OPERATOR.hyrelu_(t, ONE, "zero", 20.0),
    "backward": lambda t: OPERATOR.hyrelu_backward(t, base(), ONE, "soft", 20.0),
    "backward's x": lambda t: OPERATOR.hyrelu_backward(base(), t, ONE, "soft", 20.0),
    "restrict_range_": lambda t: OPERATOR.restrict_range_([t], [LOW], [HIGH], "zero"),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["freed", "shrunk"])
def test_kernels_called_without_their_functions_check_too(kind: str, kernel: str) -> None:
    with pytest.raises(ERRORS, match=HOSTILE[kind][1]):
        KERNELS[kernel](HOSTILE[kind][0]())


def test_kernels_refuse_tensors_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="threshold must broadcast"):
        OPERATOR.hyrelu(base(), torch.ones(5), "zero", 20.0)
    with pytest.raises(ValueError, match="grad must have the shape of x"):
        OPERATOR.hyrelu_backward(torch.ones(3), base(), ONE, "soft", 20.0)
    with pytest.raises(ValueError, match="on one device, got meta and cpu and cpu"):
        OPERATOR.hyrelu_backward(base().to("meta"), base(), ONE, "soft", 20.0)
    with pytest.raises(ValueError, match="tensor must be contiguous"):
        OPERATOR.flip_bits_(torch.ones(1, 4).expand(3, 4), 0.3, 0, 0, 0, 255)


def test_shapes_of_fake_and_meta_tensors() -> None:
    x, threshold = base().to("meta"), torch.ones(4, device="meta")
    assert ops.hyrelu(x, threshold).shape == (3, 4)
    assert ops.hyrelu_(x, threshold) is x
    grads = OPERATOR.hyrelu_backward(x, x, threshold, "soft", 20.0)
    assert [(grad.shape, grad.device.type) for grad in grads] == [((3, 4), "meta"), ((4,), "meta")]
    bounds = [torch.zeros((), device="meta")]
    with pytest.raises(TypeError, match="tensor 0 must have plain memory, got a tensor on meta"):
        ops.restrict_range_([x], bounds, bounds)
    assert OPERATOR.restrict_range_([x], bounds, bounds, "zero").tolist() == [0]
    with FakeTensorMode():
        assert ops.hyrelu(torch.ones(3, 4), torch.ones(4)).shape == (3, 4)
        counts = ops.restrict_range_(
            [torch.ones(3)] * 2, [torch.ones(())] * 2, [torch.ones(())] * 2
        )
        assert counts.shape == (2,)
        assert counts.dtype == torch.int64


@pytest.mark.parametrize("transform", ["vmap", "grad"])
@pytest.mark.parametrize("call", ["flip_bits_", "flip_exactly_", "range plan", "restrict_range_"])
def test_writers_are_refused_inside_a_transform(transform: str, call: str) -> None:
    def inside(tensor: Tensor) -> Tensor:
        with torch.no_grad():
            (DISPATCHED[call][0] if call in DISPATCHED else WRITING[call])(tensor)
        return tensor.sum()

    with pytest.raises(ERRORS, match="a tensor inside a torch.func transform: call this outside"):
        torch.vmap(inside)(base()) if transform == "vmap" else torch.func.grad(inside)(base())
