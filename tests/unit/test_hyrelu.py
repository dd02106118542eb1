"""Is the HyReLU operator the formula of DESIGN 2.1, and a good citizen of torch?"""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import proact
from proact import _native
from proact.nn import HyReLU
from proact.ops import _hyrelu_reference as reference
from proact.ops import hyrelu, hyrelu_
from proact.ops._hyrelu_native import instruction_set

MODES = ["soft", "zero", "saturate"]
INF, NAN = math.inf, math.nan
THRESHOLD_SHAPES = [(), (1,), (3, 1, 1), (3, 4, 5), (5,), (4, 1), (1, 4, 5)]


def threshold_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype) + 0.3


def inputs(dtype: torch.dtype, samples: int = 7) -> Tensor:
    return torch.randn(samples, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", THRESHOLD_SHAPES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
def test_forward_and_backward_equal_autograd_of_the_formula(
    dtype: torch.dtype, shape: tuple[int, ...], mode: str
) -> None:
    x, t = inputs(dtype).requires_grad_(), threshold_of(shape, dtype).requires_grad_()
    x_ref, t_ref = x.detach().clone().requires_grad_(), t.detach().clone().requires_grad_()
    y, y_ref = hyrelu(x, t, mode), reference.forward(x_ref, t_ref, mode, 20.0)
    torch.testing.assert_close(y, y_ref)
    grad = torch.randn_like(y)
    y.backward(grad)
    y_ref.backward(grad)
    torch.testing.assert_close(x.grad, x_ref.grad)
    # A half's gradient is summed in float32 here and rounded at every step by autograd.
    loose = {"rtol": 0.02, "atol": 0.3} if dtype in (torch.float16, torch.bfloat16) else {}
    expected = torch.zeros_like(t) if t_ref.grad is None else t_ref.grad
    torch.testing.assert_close(t.grad, expected, **loose)


def test_soft_is_half_at_the_threshold() -> None:
    assert hyrelu(torch.tensor([3.0]), torch.tensor(3.0), "soft").item() == 1.5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("x", "threshold", "expected"),
    [
        (NAN, 1.0, (0, 0, 0)),
        (INF, 1.0, (0, 0, 1)),
        (-INF, 1.0, (0, 0, 0)),
        (2.0, NAN, (0, 0, 0)),
        (2.0, -1.0, (0, 0, 0)),
        (2.0, -INF, (0, 0, 0)),
        (2.0, INF, (2, 2, 2)),
        (INF, INF, (0, 0, 0)),
        (NAN, INF, (0, 0, 0)),
        (NAN, NAN, (0, 0, 0)),
        (-0.0, 1.0, (0, 0, 0)),
        (60000.0, 1.0, (0, 0, 1)),
        (-2.0, -1.0, (0, 0, 0)),
        (2.0, 0.0, (0, 0, 0)),
    ],
)
def test_non_finite_values_never_pass(
    x: float, threshold: float, expected: tuple[float, ...], dtype: torch.dtype, mode: str
) -> None:
    for size in (1, 300):  # a scalar tail, and whole vectors
        y = hyrelu(torch.full((size,), x, dtype=dtype), torch.tensor(threshold, dtype=dtype), mode)
        wanted = torch.full((size,), float(expected[MODES.index(mode)]), dtype=dtype)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
        assert not torch.signbit(y).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [NAN, INF, -INF, 3e38])
@pytest.mark.parametrize("threshold", [1.0, NAN, INF, -1.0])
def test_gradients_stay_finite(value: float, threshold: float, mode: str) -> None:
    x = torch.full((200,), value, requires_grad=True)
    t = torch.tensor(threshold, requires_grad=True)
    hyrelu(x, t, mode).sum().backward()
    assert x.grad is not None
    assert t.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(t.grad).all()


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 4),
    sample=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    broadcast=st.lists(st.booleans(), min_size=3, max_size=3),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 999),
    layout=st.sampled_from(["contiguous", "transposed", "sliced", "offset"]),
)
def test_any_shape_and_stride(
    samples: int, sample: list[int], broadcast: list[bool], mode: str, seed: int, layout: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(samples, *sample, generator=generator)
    if layout == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "sliced":
        x = torch.stack([x, x], -1)[..., 1]
    elif layout == "offset":
        x = torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)
    shape = [1 if b else size for b, size in zip(broadcast, sample, strict=False)]
    t = torch.rand(shape, generator=generator)
    expected = reference.forward(x, t, mode, 20.0)

    y = hyrelu(x, t, mode)
    torch.testing.assert_close(y, expected)
    assert y.stride() == torch.empty_like(x).stride()

    in_place = x.clone(memory_format=torch.preserve_format)
    assert hyrelu_(in_place, t, mode) is in_place
    torch.testing.assert_close(in_place, expected)


def test_channels_last_keeps_its_strides() -> None:
    x = inputs(torch.float32).to(memory_format=torch.channels_last)
    for shape in THRESHOLD_SHAPES:
        t = threshold_of(shape, torch.float32)
        y = hyrelu(x, t, "soft")
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, reference.forward(x, t, "soft", 20.0))


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 4, 5)])
def test_gradcheck_first_and_second_order(shape: tuple[int, ...]) -> None:
    x = inputs(torch.float64, samples=2).requires_grad_()
    t = threshold_of(shape, torch.float64).requires_grad_()

    def soft(x: Tensor, t: Tensor) -> Tensor:
        return hyrelu(x, t, "soft", 5.0)

    assert torch.autograd.gradcheck(soft, (x, t))
    assert torch.autograd.gradgradcheck(soft, (x, t))


@pytest.mark.parametrize("mode", ["zero", "saturate"])
def test_gradcheck_of_the_hard_modes(mode: str) -> None:
    # Away from the corners, where no derivative exists.
    x = torch.tensor([[-2.0, 0.5, 0.9, 3.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, t: hyrelu(x, t, mode), (x, t))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 4, 5)])
def test_opcheck(shape: tuple[int, ...], mode: str) -> None:
    x, t = inputs(torch.float32).requires_grad_(), threshold_of(shape, torch.float32)
    t.requires_grad_()
    ops = torch.ops.proact
    torch.library.opcheck(ops.hyrelu.default, (x, t, mode, 20.0))
    torch.library.opcheck(ops.hyrelu_.default, (x.detach().clone(), t.detach(), mode, 20.0))
    torch.library.opcheck(
        ops.hyrelu_backward.default, (x.detach(), x.detach(), t.detach(), mode, 20.0)
    )


@pytest.mark.parametrize(("threshold", "slope"), [(2e7, 20.0), (1000.0, 1e6)])
def test_an_element_does_not_depend_on_its_neighbours(threshold: float, slope: float) -> None:
    """Where t - margin rounds to t, the shortcut for what lies far below must not be taken."""
    x = torch.full((128,), threshold, requires_grad=True)
    t = torch.tensor(threshold, requires_grad=True)
    y = hyrelu(x, t, "soft", slope)
    assert torch.equal(y, torch.full((128,), threshold / 2))
    y.sum().backward()
    expected = reference.backward(torch.ones(128), x.detach(), t.detach(), "soft", slope)
    torch.testing.assert_close((x.grad, t.grad), expected)


@pytest.mark.parametrize("mode", MODES)
def test_function_transforms_and_forward_derivatives(mode: str) -> None:
    x, t = torch.tensor([0.5, 1.0, 3.0]), torch.tensor(1.2)

    def total(x: Tensor, t: Tensor) -> Tensor:
        return hyrelu(x, t, mode).sum()

    by_func = torch.func.grad(total, argnums=(0, 1))(x, t)
    expected = reference.backward(torch.ones(3), x, t, mode, 20.0)
    torch.testing.assert_close(by_func, expected)
    tangents = (torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.5))
    _, directional = torch.func.jvp(total, (x, t), tangents)
    torch.testing.assert_close(
        directional, (expected[0] * tangents[0]).sum() + expected[1] * tangents[1]
    )
    rows = torch.func.vmap(lambda row: hyrelu(row[None], t, mode)[0])(x[:, None])
    torch.testing.assert_close(rows[:, 0], hyrelu(x, t, mode))


@pytest.mark.parametrize("mode", MODES)
def test_the_compiled_form_gives_the_same_gradients(mode: str) -> None:
    def gradients(function: object, *values: Tensor) -> tuple[Tensor, ...]:
        x, t = (value.clone().requires_grad_() for value in values)
        y = function(x, t, mode)  # type: ignore[operator]
        y.backward(torch.full_like(y, 4.0))
        assert x.grad is not None
        return x.grad, torch.zeros_like(t) if t.grad is None else t.grad

    compiled = torch.compile(hyrelu, backend="aot_eager", fullgraph=True)
    x = torch.tensor([3e38, INF, NAN, -1.0, 0.5, 1.99, 2.01, 30.0])
    for threshold in (2.0, 0.0, INF, NAN, -1.0):
        t = torch.tensor(threshold)
        torch.testing.assert_close(gradients(compiled, x, t), gradients(hyrelu, x, t))


def test_the_in_place_form_compiles() -> None:
    x, t = inputs(torch.float32), torch.tensor(0.7)
    compiled = torch.compile(hyrelu_, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.clone(), t, "zero"), hyrelu_(x.clone(), t, "zero"))


def test_exported_graph_gives_the_same() -> None:
    module, x = HyReLU(torch.rand(3, 1, 1), "soft"), inputs(torch.float32)
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), module(x))


def test_empty_batch() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    t = torch.ones(3, requires_grad=True)
    y = hyrelu(x, t, "soft")
    assert y.shape == (0, 3)
    y.sum().backward()
    assert torch.equal(t.grad if t.grad is not None else torch.ones(3), torch.zeros(3))


def test_in_place_raises_the_version_counter() -> None:
    for x in (torch.randn(4, 8), torch.randn(8, 4).t()):
        version = x._version
        hyrelu_(x, torch.tensor(1.0))
        assert x._version > version


@pytest.mark.parametrize(
    ("x", "threshold", "options", "error", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(4), {}, ValueError, r"\(3,\), got shape \(4,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {}, ValueError, "broadcast against one sample"),
        (torch.zeros(2, 1), torch.zeros(3), {}, ValueError, "must broadcast"),
        (torch.tensor(1.0), torch.tensor(1.0), {}, ValueError, "must broadcast"),
        (torch.zeros(2, dtype=torch.int64), torch.tensor(1.0), {}, TypeError, "int64"),
        (torch.zeros(2), torch.tensor(1), {}, TypeError, "int64"),
        (torch.zeros(2), torch.tensor(1.0, dtype=torch.float64), {}, TypeError, "float64"),
        (torch.zeros(2), 1.0, {}, TypeError, "float"),
        (torch.zeros(2), torch.tensor(1.0), {"mode": "hard"}, ValueError, "'hard'"),
        (torch.zeros(2), torch.tensor(1.0), {"slope": 0.0}, ValueError, "slope"),
        (torch.zeros(2), torch.tensor(1.0), {"slope": NAN}, ValueError, "slope"),
        (torch.zeros(2, device="meta"), torch.tensor(1.0), {}, ValueError, "meta"),
    ],
)
def test_bad_input_is_named(
    x: Tensor, threshold: Tensor, options: dict[str, object], error: type[Exception], words: str
) -> None:
    for function in (hyrelu, hyrelu_):
        with pytest.raises(error, match=words):
            function(x, threshold, **options)  # type: ignore[arg-type]


def test_in_place_refuses_what_it_would_spoil() -> None:
    with pytest.raises(ValueError, match="autograd"):
        hyrelu_(torch.zeros(2, requires_grad=True), torch.tensor(1.0))
    for overlapping in (
        torch.zeros(1).expand(3),
        torch.zeros(9).as_strided((3, 3), (1, 1)),
    ):
        with pytest.raises(ValueError, match="must not share memory in hyrelu_, got"):
            hyrelu_(overlapping, torch.tensor(1.0))
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="x and threshold must not share memory"):
        hyrelu_(x, x[0])
    assert torch.equal(x, torch.ones(3, 4))
    storage = torch.arange(8.0)
    hyrelu_(storage[:6], storage[7], "saturate")  # one storage, apart


def test_module_survives_copies_pickles_and_state_dicts() -> None:
    module = HyReLU(torch.tensor([1.0, 2.0]), "soft", slope=7.0)
    assert not module.threshold.requires_grad
    x = torch.randn(5, 2)
    buffer = io.BytesIO(pickle.dumps(module))
    for other in (copy.deepcopy(module), pickle.load(buffer)):
        assert (other.mode, other.slope) == ("soft", 7.0)
        assert torch.equal(other(x), module(x))
    fresh = HyReLU(torch.zeros(2), "soft", slope=7.0)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))


def test_module_keeps_its_own_threshold() -> None:
    given = torch.tensor(1.0)
    module = HyReLU(given)
    given.fill_(5.0)
    assert module.threshold.item() == 1.0
    assert HyReLU(3).threshold.dtype == torch.get_default_dtype()


@pytest.mark.skipif(_native.module is None, reason="needs the native module")
@pytest.mark.parametrize("mode", MODES)
def test_every_instruction_set_of_the_machine_computes_the_formula(mode: str) -> None:
    x, threshold = inputs(torch.float32, 9000), threshold_of((), torch.float32)
    # Positive, so that sums over the elements do not cancel.
    grad = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
    expected = reference.forward(x, threshold, mode, 20.0)
    expected_grad, expected_total = reference.backward(grad, x, threshold, mode, 20.0)
    for isa in proact.build_info()["isas"]:
        with instruction_set(isa):
            y = hyrelu(x, threshold, mode, 20.0)
            grad_x, total = torch.ops.proact.hyrelu_backward(grad, x, threshold, mode, 20.0)
        assert torch.allclose(y, expected, atol=1e-6)
        assert torch.allclose(grad_x, expected_grad, rtol=1e-4, atol=1e-5)
        assert torch.allclose(total, expected_total, rtol=1e-3)
    with (
        pytest.raises(ValueError, match="expected an available instruction set"),
        instruction_set("sse"),
    ):
        hyrelu(x, threshold, mode, 20.0)
