"""Do sweeps over the memory of a GPU give what they give on the CPU? They run only on a GPU."""

from __future__ import annotations

import pytest
import torch
from gpu import DTYPES, GPU

from proact.encodings.codes import words_code
from proact.errors import ProactError
from proact.faults import BitFlip, inject
from proact.nn.guard_hooks import guards_on
from proact.ops import flip_bits_, restrict_range_
from proact.ops.in_place_code import encode_words_
from proact.ops.range_plan import RangePlan
from proact.ops.scrub_plan import ScrubPlan
from proact.ops.sweep_log import SweepLog
from proact.protect import protect

pytestmark = GPU


@pytest.mark.parametrize("action", ["zero", "saturate"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_range_sweep_equals_the_cpus(dtype: torch.dtype, action: str) -> None:
    host = [(torch.randn(30, 7, 11) * 2).to(dtype), torch.full((200_000,), 9.0, dtype=dtype)]
    host[0][::3, 2] = float("nan")
    low = [torch.linspace(-2, 1, 30).view(30, 1, 1), torch.tensor(0.1)]
    high = [bound + 1 for bound in low]
    # The second one begins at an address that is a multiple of its word alone.
    device = [host[0].cuda(), torch.full((200_001,), 9.0, dtype=dtype, device="cuda")[1:]]
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
    expected = ScrubPlan([host], [code], [bounds]).scrub().read()
    plan = ScrubPlan([device], [code], [(bounds[0].cuda(), bounds[1].cuda())])
    log = SweepLog(plan)
    assert plan.scrub(log).read() == expected
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
        assert plan.sweep_into(log, "saturate").read() == [100_000]
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


@pytest.mark.parametrize("method", ["weight-range", "ecc"])
def test_the_host_does_not_wait_for_the_sweep_of_a_trial(method: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(100, 100)).cuda().eval()
    guarded = protect(model, method, None)
    x = torch.ones(1, 100, device="cuda")
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    # The first trials allocate host memory, for which CUDA waits, until they can reuse it.
    for trial in range(5):
        torch.cuda.synchronize()
        if trial == 4:
            torch.cuda._sleep(2_000_000_000)  # about a second
        busy = torch.cuda.current_stream().record_event()
        with inject(guarded, BitFlip(1e-3), "native", seed=1, trial=trial), torch.no_grad():
            guarded(x)
    assert not busy.query()
    (guard,) = guards_on(guarded)
    found = guard.repairs if method == "weight-range" else guard.corrected
    assert busy.query()
    assert found > 0
    assert all(map(torch.equal, guarded.state_dict().values(), clean))


def test_a_guarded_forward_is_refused_in_a_cuda_graph() -> None:
    guarded = protect(
        torch.nn.Sequential(torch.nn.Linear(9, 9)).cuda().eval(), "weight-range", None
    )
    x = torch.ones(1, 9, device="cuda")
    with torch.no_grad():
        guarded(x)
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.add(x, 1)  # torch warns of a graph without work
            with pytest.raises(ProactError, match="cannot be captured into a CUDA graph"):
                guarded(x)
        torch.cuda.synchronize()
        assert torch.isfinite(guarded(x)).all()


def test_guards_work_where_tensors_are_made_on_the_gpu_by_default() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(9, 9)).cuda().eval()
    guarded = protect(protect(model, "weight-range", None), "ecc", None)
    with torch.device("cuda"), torch.no_grad(), inject(guarded, BitFlip(1e-2), "native", seed=1):
        for _ in range(3):
            assert torch.isfinite(guarded(torch.ones(1, 9))).all()
    assert guarded.error_correction.corrected > 0


def test_a_guard_repairs_for_forwards_on_several_streams() -> None:
    """A forward that waits for its GPU keeps repaired weights, whatever other streams begin."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(2000, 2000) for _ in range(4))).cuda()
    guarded = protect(model, "weight-range", data=None)
    x = torch.randn(4000, 2000, device="cuda")
    with inject(guarded, BitFlip(1e-4), seed=1), torch.no_grad():
        expected = guarded(x)
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(3)]
        outputs = []
        for _ in range(4):
            for stream in streams:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    outputs.append(guarded(x))
        torch.cuda.synchronize()
    assert torch.isfinite(expected).all()
    for output in outputs:
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
