"""Does a GPU give what the CPU gives? These run where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import proact
from proact.encodings.codes import words_code
from proact.faults import BitFlip, Burst, ExactFlips, Fault, Replay, StuckAt, inject
from proact.ops import _hyrelu_reference as reference
from proact.ops import flip_bits_, hyrelu, hyrelu_, restrict_range_
from proact.ops.in_place_code import encode_words_
from proact.ops.number_formats import FixedPointWord
from proact.ops.plan import FlipPlan
from proact.ops.range_plan import RangePlan
from proact.ops.scrub_plan import ScrubPlan
from proact.ops.sweep_log import SweepLog
from proact.protect import protect

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or proact.build_info()["cuda"] is None,
        reason="needs a GPU, torch for CUDA and proact built with CUDA",
    ),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


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


@pytest.mark.parametrize("ber", [0.0, 1e-5, 1e-3, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_flips_equal_those_of_the_cpu(dtype: torch.dtype, ber: float) -> None:
    host = torch.arange(30_001).to(dtype)
    device = host.cuda()
    assert flip_bits_(host, ber, seed=1, trial=2) == flip_bits_(device, ber, seed=1, trial=2)
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
        Replay((("weight", 7, 6), ("weight", 7, 5), ("bias", 0, 3))),  # type: ignore[arg-type]
    ],
    ids=str,
)
@pytest.mark.parametrize("encoding", ["float32", "q15.16", "int8", "bfloat16"])
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


@pytest.mark.parametrize("action", ["zero", "saturate"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_range_sweep_equals_the_cpus(dtype: torch.dtype, action: str) -> None:
    host = [(torch.randn(30, 7, 11) * 2).to(dtype), torch.full((200_001,), 9.0, dtype=dtype)[1:]]
    host[0][::3, 2] = float("nan")
    low = [torch.linspace(-2, 1, 30).view(30, 1, 1), torch.tensor(0.1)]
    high = [bound + 1 for bound in low]
    device = [tensor.cuda() for tensor in host]
    on_gpu = [bound.cuda() for bound in low], [bound.cuda() for bound in high]
    found = restrict_range_(device, *on_gpu, action)
    assert torch.equal(found, restrict_range_(host, low, high, action))
    for mine, theirs in zip(device, host, strict=True):
        assert torch.equal(mine.cpu().view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.parametrize("name", ["secded", "bch3", "parity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_scrub_equals_the_cpus_and_is_undone(dtype: torch.dtype, name: str) -> None:
    code, bounds = words_code(name, dtype.itemsize), (torch.tensor(0.25), torch.tensor(1.0))
    host = torch.rand(300, 101).to(dtype)
    device = host.cuda()
    encode_words_(host, code)
    encode_words_(device, code)
    assert torch.equal(device.cpu(), host)
    flip_bits_(host, 1e-2, seed=1, trial=2)
    flip_bits_(device, 1e-2, seed=1, trial=2)
    before = device.clone()
    expected = ScrubPlan([host], [code], [bounds]).scrub()
    plan = ScrubPlan([device], [code], [(bounds[0].cuda(), bounds[1].cuda())])
    log = SweepLog(plan)
    assert plan.scrub(log) == expected
    assert torch.equal(device.cpu().view(torch.uint8), host.view(torch.uint8))
    log.restore()
    assert torch.equal(device.view(torch.uint8), before.view(torch.uint8))


def test_a_sweep_is_undone_after_the_stream_that_met_it() -> None:
    tensor = torch.full((100_000,), 5.0, device="cuda")
    one = torch.ones((), device="cuda")
    plan = RangePlan([tensor], [-one], [one])
    log, side = SweepLog(plan), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert plan.sweep_into(log, "saturate") == [100_000]
        torch.cuda._sleep(200_000_000)
        swept = tensor.clone()
    log.restore()
    restored = tensor.clone()
    torch.cuda.synchronize()
    assert (swept == 1).all()
    assert (restored == 5).all()


@pytest.mark.parametrize("method", ["weight-range", "ecc"])
def test_a_guarded_network_computes_what_it_computes_on_the_cpu(method: str) -> None:
    torch.manual_seed(0)
    host = protect(torch.nn.Sequential(torch.nn.Linear(100, 100)).eval(), method, None)
    device = protect(torch.nn.Sequential(torch.nn.Linear(100, 100)).cuda().eval(), method, None)
    device.load_state_dict(host.state_dict())
    clean = [tensor.clone() for tensor in device.state_dict().values()]
    x = torch.ones(1, 100)
    fault = BitFlip(1e-3)
    with inject(host, fault, "native", seed=1), inject(device, fault, "native", seed=1):
        torch.testing.assert_close(device(x.cuda()).cpu(), host(x))
    assert all(map(torch.equal, device.state_dict().values(), clean))
