"""Does a GPU give what the CPU gives? These run where there is one, by `make test-cuda`."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from gpu import DTYPES, GPU

import proact
from proact import campaign, data, models
from proact.campaign.built_in_metrics import METRICS
from proact.campaign.clean_results import clean_results
from proact.campaign.measurement import Measurement
from proact.campaign.trial_runner import TrialRunner
from proact.data import Data
from proact.encodings import encoding_named
from proact.errors import ProactError
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    Replay,
    StuckAt,
    Where,
    encode,
    inject,
    target_memory,
    verify,
)
from proact.ops import _hyrelu_reference as reference
from proact.ops import flip_bits_, flip_exactly_, hyrelu, hyrelu_
from proact.ops.number_formats import FixedPointWord
from proact.ops.plan import FlipPlan
from proact.results.policy import Policy

pytestmark = GPU


def test_there_is_a_gpu_and_a_build_for_it() -> None:
    assert torch.cuda.is_available()
    assert proact.build_info()["cuda"] is not None


@pytest.mark.parametrize("mode", ["soft", "zero", "saturate"])
@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 40, 5), (1, 40, 1), (5,)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hyrelu_equals_the_formula(dtype: torch.dtype, shape: tuple[int, ...], mode: str) -> None:
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(70, 3, 40, 5, device="cuda").to(dtype).to(memory_format=order)
        t = (torch.rand(shape, device="cuda") + 0.3).to(dtype)
        grad = torch.randn_like(x)
        x.requires_grad_()
        t.requires_grad_()
        y = hyrelu(x, t, mode)
        torch.testing.assert_close(y, reference.forward(x, t, mode, 20.0))
        mine = torch.autograd.grad(y, (x, t), grad)
        expected = reference.backward(grad, x.detach(), t.detach(), mode, 20.0)
        torch.testing.assert_close(mine[0], expected[0])
        loose = {"rtol": 0.02, "atol": 0.5} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-3}
        torch.testing.assert_close(mine[1], expected[1], **loose)
        again = torch.autograd.grad(hyrelu(x, t, mode), (x, t), grad)
        assert torch.equal(again[1], mine[1])
        with torch.no_grad():
            assert torch.equal(hyrelu_(x.clone(), t, mode), y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hyrelu_of_memory_that_vectors_cannot_load(dtype: torch.dtype) -> None:
    x = torch.randn(4 * 1001 + 1, device="cuda").to(dtype)[1:].view(4, 1001).requires_grad_()
    t = (torch.rand(1001, device="cuda") + 0.3).to(dtype)
    y = hyrelu(x, t, "soft")
    torch.testing.assert_close(y, reference.forward(x, t, "soft", 20.0))
    grad = torch.randn_like(y)
    (mine,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(mine, reference.backward(grad, x.detach(), t, "soft", 20.0)[0])


@pytest.mark.parametrize("ber", [0.0, 1e-5, 1e-3, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("mask", [None, 0x91, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_flips_equal_those_of_the_cpu(dtype: torch.dtype, mask: int | None, ber: float) -> None:
    host = torch.arange(30_001).to(dtype)
    device = host.cuda()
    given = {"seed": 1, "trial": 2, "bit_mask": mask}
    assert flip_bits_(host, ber, **given) == flip_bits_(device, ber, **given)
    assert torch.equal(device.cpu().view(torch.uint8), host.view(torch.uint8))
    flip_exactly_(host, 50, **given)
    flip_exactly_(device, 50, **given)
    assert torch.equal(device.cpu().view(torch.uint8), host.view(torch.uint8))


def test_a_logged_plan_equals_the_cpus_and_is_undone() -> None:
    host = [torch.randn(20_000), torch.linspace(-3, 3, 700)]
    device = [tensor.cuda() for tensor in host]
    clean = [tensor.clone() for tensor in device]
    logs = []
    for tensors in (host, device):
        plan = FlipPlan()
        plan.add(tensors[0], 1, 0xFFFFFFFF, None)
        plan.add(tensors[1], 2, 0xFFFFFFFF, FixedPointWord(32, 16))
        logs.append(plan.flip(1e-3, 5, 6))
    for mine, theirs in zip(logs[1].columns(), logs[0].columns(), strict=True):
        assert np.array_equal(mine, theirs)
    device[0].fill_(7.0)
    logs[1].restore()
    flipped = torch.as_tensor(logs[0].columns().element[logs[0].columns().tensor == 0].astype("i8"))
    assert torch.equal(device[0][flipped.cuda()], clean[0][flipped.cuda()])
    assert torch.equal(device[1], clean[1])


def test_a_network_on_the_gpu_is_faulted_and_restored() -> None:
    network = torch.nn.Linear(100, 100).cuda()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with inject(network, BitFlip(1e-3), seed=1) as record:
        assert record.flips > 0
        assert not torch.equal(network.weight, before["weight"])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("fault", [BitFlip(1e-3), ExactFlips(40)], ids=str)
@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_flips_are_undone_after_the_stream_that_met_them(fault: Fault, encoding: str) -> None:
    """The stream of the flips is kept busy; undone on another one without waiting for it, the
    memory would be restored first and flipped afterwards."""
    network = torch.nn.Linear(100, 100).cuda()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    injection = inject(network, fault, encoding, seed=1)
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        record = injection.__enter__()
        torch.cuda._sleep(200_000_000)
        faulty = network.weight.detach().clone()
    injection.__exit__(None, None, None)
    restored = [parameter.detach().clone() for parameter in network.parameters()]
    torch.cuda.synchronize()
    assert record.flips > 0
    assert not torch.equal(faulty, before[0])
    for was, now in zip(before, restored, strict=True):
        assert torch.equal(was, now)


@pytest.mark.parametrize(
    "fault",
    [
        BitFlip(1e-3),
        ExactFlips(40),
        StuckAt(1, 1e-3),
        Burst(3, 1e-3),
        Replay((("weight", 7, 3), ("weight", 7, 2), ("bias", 0, 1))),  # type: ignore[arg-type]
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "encoding",
    ["float32", "q15.16", "int8", "bfloat16", "float8_e4m3", "mxfp4", "nvfp4", "float32+bch2"],
)
def test_every_kind_flips_what_it_flips_on_the_cpu(encoding: str, fault: Fault) -> None:
    torch.manual_seed(0)
    host = torch.nn.Linear(100, 100)
    device = torch.nn.Linear(100, 100).cuda()
    device.load_state_dict(host.state_dict())
    clean = [parameter.clone() for parameter in device.parameters()]
    with inject(host, fault, encoding, seed=1) as a, inject(device, fault, encoding, seed=1) as b:
        assert a.flips == b.flips > 0
        for mine, theirs in zip(device.parameters(), host.parameters(), strict=True):
            assert torch.equal(mine.cpu().view(torch.int32), theirs.view(torch.int32))
    assert all(torch.equal(a, b) for a, b in zip(clean, device.parameters(), strict=True))


def test_a_model_on_two_gpus_is_faulted_and_restored() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    host = torch.nn.Sequential(torch.nn.Linear(50, 40), torch.nn.Linear(40, 30))
    device = torch.nn.Sequential(*(copy.deepcopy(m).cuda(i) for i, m in enumerate(host)))
    clean = [parameter.detach().clone() for parameter in device.parameters()]
    for fault in (BitFlip(1e-2), ExactFlips(30)):
        with inject(host, fault, seed=1), inject(device, fault, seed=1):
            for mine, theirs in zip(device.parameters(), host.parameters(), strict=True):
                assert torch.equal(mine.cpu().view(torch.int32), theirs.view(torch.int32))
        assert all(torch.equal(a, b) for a, b in zip(clean, device.parameters(), strict=True))


def same_words(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have the same bytes: faulty outputs can hold NaN."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_a_captured_graph_computes_with_the_faults() -> None:
    """A CUDA graph reads the addresses of the parameters, whose memory is faulted in place."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64).cuda().eval()
    x = torch.randn(8, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = model(x)
    graph.replay()
    clean = y.clone()
    with inject(model, BitFlip(1e-2), seed=1):
        graph.replay()
        faulty = y.clone()
        with torch.no_grad():
            assert same_words(faulty, model(x))
    graph.replay()
    assert not same_words(faulty, clean)
    assert torch.equal(y, clean)


def test_autocast_sees_the_faults_and_not_a_cast_from_before() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64).cuda().eval()
    x = torch.randn(8, 64, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        clean = model(x)
        with inject(model, BitFlip(1e-2), seed=1):
            faulty = model(x)
            expected = torch.nn.functional.linear(x, model.weight.clone(), model.bias.clone())
        assert same_words(faulty, expected)
        assert not same_words(faulty, clean)
        assert torch.equal(model(x), clean)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_flip_as_on_the_cpu(dtype: torch.dtype) -> None:
    host = torch.nn.Sequential(torch.nn.ReLU())
    device = torch.nn.Sequential(torch.nn.ReLU())
    x = torch.linspace(-2, 2, 40_000).view(4, -1).to(dtype)
    for encoding in ("native", "int8", "q7.8")[: 3 if dtype.itemsize > 2 else 1]:
        fault = ActivationFlip(1e-3, encoding=encoding)
        with inject(host, fault, seed=1) as a, inject(device, fault, seed=1) as b:
            mine, theirs = device(x.cuda()), host(x)
        assert a.flips == b.flips > 0
        assert torch.equal(mine.cpu().view(torch.uint8), theirs.view(torch.uint8))


@pytest.fixture(scope="module")
def digits_model() -> tuple[Data, torch.nn.Module]:
    digits = data.load("digits")
    return digits, models.trained("small-cnn", digits, seed=0)


WEIGHTS = Where(kind="weight")  # an int8 network keeps its biases as they are, in float64 here
FAULTS = [
    BitFlip(1e-4, where=WEIGHTS),
    BitFlip(1e-3, where=WEIGHTS),
    ExactFlips(3, where=WEIGHTS),
    StuckAt(1, 1e-4, where=WEIGHTS),
]


@pytest.mark.parametrize("encoding", ["float32", "int8", "float32+secded"])
def test_a_campaign_gives_the_rows_of_the_cpu(
    digits_model: tuple[Data, torch.nn.Module], double_digits: Data, encoding: str
) -> None:
    # In float64, where faulty weights of 1e38 do not overflow. In float32, the convolutions of a
    # GPU (TF32, Winograd) lose the digits that such a weight leaves to other numbers.
    model = copy.deepcopy(digits_model[1]).double()
    options = {"encoding": encoding, "trials": 40, "images_per_trial": "all", "strata": False}
    on_cpu = campaign.run({"m": model}, double_digits, FAULTS, **options)
    on_gpu = campaign.run({"m": copy.deepcopy(model).cuda()}, double_digits, FAULTS, **options)
    for mine, theirs in zip(on_gpu.cells, on_cpu.cells, strict=True):
        assert mine.trials == theirs.trials
        # An answer changes only where two classes are as likely up to rounding.
        assert abs(mine.value.estimate - theirs.value.estimate) < 2 / len(double_digits.test)


def test_a_trial_waits_for_the_gpu_once(digits_model: tuple[Data, torch.nn.Module]) -> None:
    digits, model = digits_model
    encoding = encoding_named("float32")
    encoded = encode(copy.deepcopy(model).cuda(), encoding).eval()
    policy = Policy(images=64, batch=64, channels_last=False)
    measurement = Measurement(digits.test.to(torch.device("cuda")), METRICS["top-1"])
    clean = clean_results(measurement, encoded, policy)
    runner = TrialRunner(encoded, encoding, measurement, clean, policy, seed=0)
    for trial in range(3):
        runner.run(BitFlip(1e-3), trial)
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # which warns of itself, once
            runner.run(BitFlip(1e-3), 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in noted if "synchronizing CUDA operation" in str(each.message)]
    assert len(waits) <= 1, [f"{each.filename}:{each.lineno}" for each in waits]


@pytest.mark.parametrize("encoding", ["float32", "int8-tensor", "q15.16"])
def test_parameters_are_restored_when_the_memory_of_the_gpu_is_used_up(encoding: str) -> None:
    """The forward pass leaves no memory for undoing, and the error keeps what the pass took."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1500, 1500), torch.nn.Linear(1500, 10)).cuda()
    clean = [parameter.detach().clone() for parameter in model.parameters()]
    taken: list[torch.Tensor] = []

    def greedy(*_: object) -> None:
        size = 1 << 34
        while True:
            try:
                taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                if size <= 1 << 22:
                    raise
                size //= 2

    model[1].register_forward_pre_hook(greedy)
    x = torch.randn(4, 1500, device="cuda")
    try:
        with pytest.raises(torch.OutOfMemoryError), inject(model, BitFlip(1e-3), encoding, seed=1):
            model(x)
    finally:
        taken.clear()
    for mine, before in zip(model.parameters(), clean, strict=True):
        assert same_words(mine, before)


def test_flips_around_freed_memory_are_undone() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(60, 50), torch.nn.Linear(50, 40)).cuda()
    clean = model[1].weight.detach().clone()
    with pytest.raises(ProactError, match="0.weight"), inject(model, BitFlip(1e-2), seed=1):
        model[0].weight.untyped_storage().resize_(0)
    assert same_words(model[1].weight, clean)


@pytest.mark.parametrize("encoding", ["int8", "mxfp4", "nvfp4", "int4-group32-zero"])
def test_kernels_flip_words_and_scales(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("numpy made the flips")

    torch.manual_seed(0)
    host = torch.nn.Linear(64, 64)
    device = copy.deepcopy(host).cuda()
    monkeypatch.setattr(target_memory, "PlacedFlips", refused)
    for fault in (BitFlip(1e-2), BitFlip(0.1, where=Where(kind="scale")), ExactFlips(9)):
        with inject(host, fault, encoding, seed=1) as a, inject(device, fault, encoding, seed=1):
            assert a.flips > 0
            assert same_words(device.weight.cpu(), host.weight)


@pytest.mark.parametrize("encoding", ["float32", "int8", "mxfp4", "float32+bch2"])
def test_the_sampler_of_a_model_on_a_gpu_is_verified(encoding: str) -> None:
    torch.manual_seed(0)
    verification = verify(torch.nn.Linear(64, 64).cuda(), encoding, ber=1e-2, trials=50)
    assert verification.passed, verification
