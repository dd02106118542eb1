"""Do sweeps over GPU memory give what those over host memory give, and are they undone?

The source of the CUDA kernels runs on the host here (`conftest.kernels_on_host`), so this says
nothing about warps and streams. `test_cuda_sweeps.py` has the tests on a GPU.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import OnHost
from proact import _native
from proact.encodings.codes import words_code
from proact.errors import ProactError
from proact.faults import BitFlip, inject
from proact.nn import WeightRange, guard_hooks, scrub
from proact.ops import _device_memory, _device_sweep, restrict_range_
from proact.ops._device_sweep import DeviceSweep
from proact.ops.cuda_stream import HostCopy
from proact.ops.in_place_code import TensorCode, encode_words_
from proact.ops.range_plan import RangePlan
from proact.ops.scrub_plan import ScrubPlan
from proact.ops.sweep_log import SweepLog
from proact.protect import protect

pytestmark = pytest.mark.usefixtures("kernels_on_host")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ACTIONS = ["zero", "saturate"]
SPECIAL = [0.0, -0.0, 0.1, -0.1, 1.0, -1.0, 3e4, -1e30, float("inf"), -float("inf"), float("nan")]
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def words(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).clone()


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(words(x), words(y)) for x, y in zip(a, b, strict=True))


def faulty(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers in (-1, 1), of which some are special."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    flat = numbers.view(-1)
    flat[::7] = torch.tensor(SPECIAL, dtype=torch.float64).repeat(len(flat))[: len(flat[::7])]
    return numbers.to(dtype)


def bounded_tensors(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    tensors = [
        faulty((5, 3, 4, 4), dtype),
        faulty((4, 301), torch.float32, 1),
        faulty((), dtype),
        faulty((0, 3), dtype),
        faulty((33,), dtype, 2)[1:],  # begins at no multiple of 16 bytes
        faulty((6, 8), dtype, 3).t(),  # torch sweeps it
    ]
    low = [
        torch.linspace(-0.5, 0.5, 5).view(5, 1, 1, 1),
        torch.full((), -0.25, dtype=torch.bfloat16),
        torch.tensor(-1.0),
        torch.tensor(0.0),
        torch.tensor(0.1),
        torch.linspace(-1, 0, 8).view(8, 1),
    ]
    high = [bound + 0.5 for bound in low]
    return tensors, low, high


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("action", ACTIONS)
def test_range_plans_equal_those_on_the_host(
    dtype: torch.dtype, action: str, on_host: OnHost
) -> None:
    tensors, low, high = bounded_tensors(dtype)
    twins, *_ = bounded_tensors(dtype)
    clean = [tensor.clone() for tensor in tensors]
    plan = RangePlan(tensors, low, high)
    assert [plan._swept_natively, plan._swept_by_torch] == [[], [3, 5]]
    with on_host():
        host = RangePlan(twins, low, high)
        expected = host.sweep_into(SweepLog(host), action).read()
    log = SweepLog(plan)
    assert plan.sweep_into(log, action).read() == expected
    assert sum(expected) > 0
    assert same(tensors, twins)
    log.restore()
    assert same(tensors, clean)
    assert restrict_range_(tensors, low, high, action).tolist() == expected
    assert same(tensors, twins)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_bounds(dtype: torch.dtype, action: str, on_host: OnHost) -> None:
    numbers = torch.tensor(SPECIAL, dtype=torch.float64)
    pairs = torch.cartesian_prod(numbers, numbers)
    tensors = [numbers.to(dtype, copy=True) for _ in pairs]
    twins = [numbers.to(dtype, copy=True) for _ in pairs]
    low, high = list(pairs[:, 0]), list(pairs[:, 1])
    counts = restrict_range_(tensors, low, high, action)
    with on_host():
        assert torch.equal(restrict_range_(twins, low, high, action), counts)
    assert same(tensors, twins)


def coded_tensors() -> list[tuple[Tensor, TensorCode, tuple[Tensor, Tensor] | None]]:
    """Random words in every width, with a code each, and bounds where they are floats."""
    generator = torch.Generator().manual_seed(0)
    made: list[tuple[Tensor, TensorCode, tuple[Tensor, Tensor] | None]] = []
    for number, (name, dtype) in enumerate(
        [
            ("secded", torch.int8),
            ("parity", torch.uint8),
            ("secded", torch.bfloat16),
            ("bch2", torch.float16),
            ("bch3", torch.float32),
            ("cep", torch.float32),
            ("mset", torch.float64),
            ("bch2", torch.float64),
        ]
    ):
        size = dtype.itemsize
        raw = torch.randint(0, 256, (7 * 123 * size,), generator=generator, dtype=torch.uint8)
        tensor = raw.view(dtype).view(7, 123)
        bounds = None
        if dtype.is_floating_point and number % 2 == 0:
            low = torch.linspace(-1, 1, 7, dtype=dtype).view(7, 1)
            bounds = low, low + 0.5
        made.append((tensor, words_code(name, size), bounds))
    return made


def flip_some(tensor: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    octets = tensor.view(-1).view(torch.uint8)
    hit = torch.rand(len(octets), generator=generator) < 0.05
    octets ^= torch.where(hit, 1 << torch.randint(0, 8, hit.shape, generator=generator), 0).to(
        torch.uint8
    )


def test_scrub_plans_equal_those_on_the_host(on_host: OnHost) -> None:
    tensors, codes, bounds = map(list, zip(*coded_tensors(), strict=True))
    twins = [tensor.clone() for tensor in tensors]
    for tensor, twin, code in zip(tensors, twins, codes, strict=True):
        encode_words_(tensor, code)
        with on_host():
            encode_words_(twin, code)
    assert same(tensors, twins)
    plan = ScrubPlan(tensors, codes, bounds)
    assert [plan._positions, plan._swept_plainly] == [[], []]
    assert not any(map(sum, plan.scrub().read()))
    for seed, tensor in enumerate(tensors):
        flip_some(tensor, seed)
    before = [tensor.clone() for tensor in tensors]
    for twin, tensor in zip(twins, tensors, strict=True):
        twin.copy_(tensor)
    with on_host():
        expected = ScrubPlan(twins, codes, bounds).scrub().read()
    log = SweepLog(plan)
    assert plan.scrub(log).read() == expected
    assert all(sum(found) for found in expected)
    assert same(tensors, twins)
    log.restore()
    assert same(tensors, before)
    assert plan.scrub().read() == expected  # permanent
    assert same(tensors, twins)


def test_channels_last_tensors_are_scrubbed_in_their_memory(on_host: OnHost) -> None:
    code = words_code("bch2", 4)
    memory = torch.rand(4, 5, 5, 3)
    encode_words_(memory, code)
    flip_some(memory, 1)
    tensor = memory.permute(0, 3, 1, 2)
    twin = tensor.clone()
    plan = ScrubPlan([tensor], [code], [None])
    assert not plan._swept_plainly
    with on_host():
        assert ScrubPlan([twin], [code], [None]).scrub().read() == plan.scrub().read()
    assert same([tensor], [twin])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[HostCopy]:
    """The copies for which the host waits: a GPU that finishes nothing before it is asked to."""
    waited: list[HostCopy] = []

    class LateCopy(HostCopy):
        @property
        def is_complete(self) -> bool:
            return self in waited

        def read(self) -> Tensor:
            if self not in waited:
                waited.append(self)
            return super().read()

    monkeypatch.setattr(_device_sweep, "HostCopy", LateCopy)
    return waited


@pytest.mark.parametrize("high", [1.0, float("nan")])
def test_a_log_that_is_too_small_is_made_again(high: float, on_host: OnHost) -> None:
    """A NaN admits no number: sweeping on without undoing would count what was replaced again."""
    tensor = torch.randn(300_000) * 0.2
    tensor[::20] = 5.0
    clean, twin = tensor.clone(), tensor.clone()
    bounds = [torch.tensor(-1.0)], [torch.tensor(high)]
    plan = RangePlan([tensor], *bounds)
    with on_host():
        expected = restrict_range_([twin], *bounds).tolist()
    for _ in range(2):
        log = SweepLog(plan)
        assert plan.sweep_into(log, "zero").read() == expected
        (sweep,) = log._on_gpus._sweeps
        assert sweep.capacity > 1200
        assert same([tensor], [twin])
        log.restore()
        assert same([tensor], [clean])
    # A log does not keep the memory of a rare event.
    (swept,) = plan._on_gpus
    assert swept._expected_slots <= 75_000 // 8


def test_a_sweep_waits_for_the_gpu_once(waits: list[HostCopy]) -> None:
    tensor = torch.zeros(100_000)
    tensor[::5000] = 5.0
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    log = SweepLog(plan)
    assert plan.sweep_into(log, "zero").read() == [20]
    log.restore()
    assert len(waits) == 1
    tensor.fill_(5.0)
    for _ in range(2):  # more slots than a log has by default, the second time as expected
        waits.clear()
        log = SweepLog(plan)
        assert plan.sweep_into(log, "zero").read() == [100_000]
        log.restore()
        assert len(waits) == 2


def test_sweeps_that_change_nothing_leave_no_log() -> None:
    tensor = torch.zeros(50)
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    log = SweepLog(plan)
    assert plan.sweep_into(log, "zero").read() == [0]
    assert not log._on_gpus._sweeps
    log.restore()


@pytest.mark.parametrize("hit", [0, 1, 3, 40_000])
def test_a_sweep_is_undone_without_waiting(hit: int, waits: list[HostCopy]) -> None:
    """Whether or not the memory that its log does not need was given back."""
    tensor = torch.zeros(40_000)
    tensor[torch.randperm(40_000, generator=torch.Generator().manual_seed(hit))[:hit]] = 5.0
    clean = tensor.clone()
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    for is_trimmed in (False, True):
        waits.clear()
        log = SweepLog(plan)
        counts = plan.sweep_into(log, "zero", later=True)
        assert tensor.count_nonzero() == 0
        assert not counts.are_known
        if is_trimmed:
            log.keep_used_slots()
            assert sum(sweep.capacity for sweep in log._on_gpus._sweeps) <= hit
        log.restore()
        assert same([tensor], [clean])
        assert len(waits) == is_trimmed
        assert counts.read() == [hit]


def test_a_sweep_of_much_memory_waits_even_if_its_counts_are_read_later(
    waits: list[HostCopy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_device_sweep, "_MOST_GROUPS_WITHOUT_WAIT", 24)
    tensor = torch.full((100,), 5.0)
    for size, waited in ((96, 0), (100, 1)):
        waits.clear()
        plan = RangePlan([tensor[:size]], [torch.tensor(-1.0)], [torch.tensor(1.0)])
        log = SweepLog(plan)
        plan.sweep_into(log, "zero", later=True)
        assert len(waits) == waited
        log.restore()
        assert tensor.tolist() == [5.0] * 100


@pytest.mark.parametrize("at", ["copy_", "is_cuda"])
def test_a_sweep_whose_counts_did_not_come_is_undone(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has run when the copy of its counts is interrupted: they are not to be trusted."""

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    tensor = torch.full((30,), 5.0)
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    log = SweepLog(plan)
    begin = HostCopy.begin
    stub = SimpleNamespace(copy_=lambda *_, **__: None)

    def begin_and_fail(copied: HostCopy) -> None:
        with monkeypatch.context() as patch:
            if at == "copy_":
                patch.setattr(copied, "_copy", SimpleNamespace(copy_=interrupted))
            else:  # between the copy and the event
                patch.setattr(copied, "_copy", stub)
                patch.setattr(copied, "_memory", None)
            begin(copied)

    monkeypatch.setattr(HostCopy, "begin", begin_and_fail)
    with pytest.raises((KeyboardInterrupt, AttributeError)):
        plan.sweep_into(log, "zero", later=True)
    assert tensor.tolist() == [0.0] * 30
    log.keep_used_slots()
    log.restore()
    assert tensor.tolist() == [5.0] * 30


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_interrupted_sweeps_are_undone(
    is_before: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after the kernel, in the first sweep or in the one with a larger log."""
    tensor = torch.full((40_000,), 5.0)
    clean = tensor.clone()
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    original, calls = DeviceSweep.run, []

    def interrupted(sweep: DeviceSweep, *rest: Any) -> Any:
        calls.append(sweep)
        if is_before and len(calls) == number:
            raise KeyboardInterrupt
        found = original(sweep, *rest)
        if len(calls) == number:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(DeviceSweep, "run", interrupted)
    log = SweepLog(plan)
    with pytest.raises(KeyboardInterrupt):
        plan.sweep_into(log, "zero")
    tensor[7] = 3.0  # restored if it was swept; else what was not swept is not undone
    clean[7] = tensor[7] if is_before and number == 1 else clean[7]
    monkeypatch.undo()
    log.restore()
    if is_before and number == 2:
        clean[7] = tensor[7]
    assert same([tensor], [clean])


def test_guards_are_refused_while_a_cuda_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guarded = protect(small_model(torch.float32), "weight-range", None)
    x = torch.ones(2, 20)
    expected = guarded(x)
    with monkeypatch.context() as capture:
        capture.setattr(guard_hooks, "is_capturing", lambda: True)
        with pytest.raises(
            ProactError, match=r"captured .* capture proact.nn.without_weight_range"
        ):
            guarded(x)
    assert torch.equal(guarded(x), expected)


def test_words_that_were_not_replaced_are_not_restored() -> None:
    tensor = torch.tensor([0.5, 7.0, 0.25, 0.125])
    plan = RangePlan([tensor], [torch.tensor(-1.0)], [torch.tensor(1.0)])
    log = SweepLog(plan)
    assert plan.sweep_into(log, "saturate").read() == [1]
    tensor.fill_(-3.0)
    log.restore()
    assert tensor.tolist() == [-3.0, 7.0, -3.0, -3.0]


def test_a_log_follows_memory_and_names_what_was_freed() -> None:
    moved, freed = torch.full((30,), 5.0), torch.full((30,), 6.0)
    bound = torch.tensor(1.0)
    plan = RangePlan([moved, freed], [-bound, -bound], [bound, bound.clone()], ["moved", "freed"])
    log = SweepLog(plan)
    assert plan.sweep_into(log, "zero").read() == [30, 30]
    moved.untyped_storage().resize_(4 * 30_000)
    freed.untyped_storage().resize_(0)
    with pytest.raises(ProactError, match="memory of freed was freed"):
        log.restore()
    assert moved.tolist() == [5.0] * 30
    with pytest.raises(ProactError, match="moved or freed"):
        plan.sweep_into(SweepLog(plan), "zero")


@pytest.mark.parametrize("module", [None, "no kernels"])
def test_without_kernels_torch_sweeps(
    module: str | None, kernels_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = SimpleNamespace(
        cuda=False,
        RangePlan=kernels_on_host.RangePlan,
        SweepLog=kernels_on_host.SweepLog,
        TensorWatch=kernels_on_host.TensorWatch,
        is_writable=kernels_on_host.is_writable,
    )
    monkeypatch.setattr(_native, "module", None if module is None else without)
    assert not _device_sweep.sweeps_on_gpu([torch.zeros(3)])
    tensor = torch.full((3,), 5.0)
    assert restrict_range_([tensor], [torch.tensor(0.0)], [torch.tensor(1.0)]).item() == 3


def small_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 5)).to(dtype).eval()


def observed(model: nn.Module, ber: float) -> tuple[list[Any], list[Tensor]]:
    """What a guarded model computes under faults, and its memory afterwards."""
    x = torch.ones(2, 20, dtype=next(model.parameters()).dtype)
    found: list[Any] = []
    for trial in range(3):
        with inject(model, BitFlip(ber), "native", seed=1, trial=trial) as record:
            found += [words(model(x)).tolist(), record.flips]
            for guard in model.children():
                if isinstance(guard, WeightRange):
                    found.append(guard.last_repairs)
    return found, [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"granularity": "channel", "action": "saturate"}], ids=str)
def test_weight_range_in_injections(
    dtype: torch.dtype, options: dict[str, Any], on_host: OnHost
) -> None:
    guarded = protect(small_model(dtype), "weight-range", None, **options)
    with on_host():
        twin = protect(small_model(dtype), "weight-range", None, **options)
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    found, after = observed(guarded, 3e-3)
    with on_host():
        expected, _ = observed(twin, 3e-3)
    assert found == expected
    assert same(after, clean)


@pytest.mark.parametrize("code", ["secded", "bch2", "parity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ecc_in_injections(dtype: torch.dtype, code: str, on_host: OnHost) -> None:
    guarded = protect(small_model(dtype), "ecc", None, code=code)
    with on_host():
        twin = protect(small_model(dtype), "ecc", None, code=code)
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    assert same(clean, list(twin.state_dict().values()))
    found, after = observed(guarded, 1e-3)
    with on_host():
        expected, _ = observed(twin, 1e-3)
    assert found == expected
    assert same(after, clean)
    # Outside of injections a scrub is permanent.
    weight = next(guarded.parameters()).detach()
    weight.view(-1).view(INTEGERS[dtype.itemsize])[3] ^= 1 << 9
    assert sum(map(sum, scrub(guarded).values())) == 1
    if code != "parity":
        assert same(list(guarded.state_dict().values()), clean)


def test_both_guards_in_injections(on_host: OnHost) -> None:
    def made() -> nn.Module:
        return protect(protect(small_model(torch.float32), "weight-range", None), "ecc", None)

    guarded = made()
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    with on_host():
        expected, _ = observed(made(), 1e-3)
    found, after = observed(guarded, 1e-3)
    assert found == expected
    assert same(after, clean)


def test_trials_of_guarded_models_wait_for_nothing_of_their_own(waits: list[HostCopy]) -> None:
    """weight-range waits for no sweep, and ecc for scrubs before the last forward pass only."""
    guarded = protect(small_model(torch.float32), "weight-range", None)
    x = torch.ones(2, 20)
    with inject(guarded, BitFlip(3e-3), "native", seed=1) as record, torch.no_grad():
        for _ in range(3):
            guarded(x)
    assert record.flips > 0
    assert not waits
    assert guarded.weight_range.repairs > 0
    assert len(waits) == 3

    waits.clear()
    guarded = protect(guarded, "ecc", None)
    with torch.no_grad():
        guarded(x)  # outside of injections, the guard must know that it found errors, not writes
    scrubs = len(waits)
    assert scrubs > 0
    waits.clear()
    with inject(guarded, BitFlip(1e-3), "native", seed=1), torch.no_grad():
        for forward in range(3):
            guarded(x)
            assert len(waits) == forward * scrubs
        waits.clear()
    assert not waits, "undoing waits for nothing"
    assert guarded.error_correction.corrected > 0


def test_forwards_inside_a_forward_give_back_the_memory_of_logs(waits: list[HostCopy]) -> None:
    """Each of many running forwards would otherwise keep room for all words of the model."""
    guarded = protect(small_model(torch.float32), "weight-range", None)
    guard = guarded.weight_range
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    with inject(guarded, BitFlip(3e-3), "native", seed=1), torch.no_grad():
        for depth in range(5):
            guard.begin(guarded)
            assert len(waits) == depth
        slots = [sum(s.capacity for s in log._on_gpus._sweeps) for log in guard._running.logs]
        groups = max(slots)
        assert slots[1:4] == [0, 0, 0]  # the first forward has replaced what there was
        assert 0 < slots[0] < groups == slots[4]
        for _ in range(5):
            guard.end()
    assert same(list(guarded.state_dict().values()), clean)


def test_autograd_knows_of_scrubs_that_were_not_waited_for(waits: list[HostCopy]) -> None:
    """A scrub without autograd, then a forward with it that does not scrub, then the undoing."""
    guarded = protect(small_model(torch.float32), "ecc", None, every=2)
    guard = guarded.error_correction
    x = torch.ones(2, 20, requires_grad=True)
    with inject(guarded, BitFlip(1e-3), "native", seed=1):
        with inject(guarded, BitFlip(0.0), "native", seed=1):
            with torch.no_grad():
                guarded(x)
            assert not waits
            output = guarded(x)
            assert waits
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()
    assert guard.corrected > 0


def test_guards_with_autograd_know_what_they_replaced(waits: list[HostCopy]) -> None:
    """What autograd has saved is gone after the forward pass, and a backward pass must raise."""
    guarded = protect(small_model(torch.float32), "weight-range", None)
    x = torch.ones(2, 20, requires_grad=True)
    with inject(guarded, BitFlip(3e-3), "native", seed=1):
        output = guarded(x)
        assert len(waits) == 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))])
def test_copies_of_guards_know_the_counts(
    copied: Callable[[nn.Module], Any], waits: list[HostCopy]
) -> None:
    guarded = protect(small_model(torch.float32), "weight-range", None)
    with inject(guarded, BitFlip(3e-3), "native", seed=1), torch.no_grad():
        guarded(torch.ones(2, 20))
    twin = copied(guarded.weight_range)
    assert len(waits) == 1
    assert twin.repairs == sum(twin.last_repairs.values()) > 0
    assert twin.last_repairs == guarded.weight_range.last_repairs


@pytest.mark.parametrize("methods", [["weight-range"], ["ecc"], ["weight-range", "ecc"]], ids=str)
def test_memory_is_restored_wherever_that_of_a_gpu_is_used_up(
    methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = small_model(torch.float32)
    for method in methods:
        guarded = protect(guarded, method, None)
    x = torch.ones(2, 20)

    def trial() -> Tensor:
        with inject(guarded, BitFlip(1e-3), "native", seed=1), torch.no_grad():
            return torch.stack([guarded(x) for _ in range(3)])

    expected = trial()
    clean = [tensor.clone() for tensor in guarded.state_dict().values()]
    original, left = _device_memory.allocated, 0

    def allocated(*arguments: Any) -> Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise torch.OutOfMemoryError
        return original(*arguments)

    monkeypatch.setattr(_device_memory, "allocated", allocated)
    allocations = 0
    while True:
        left = allocations
        try:
            trial()
        except torch.OutOfMemoryError:
            allocations += 1
        else:
            break
        assert same(list(guarded.state_dict().values()), clean)
        left = 1000
        assert torch.equal(trial(), expected)
    assert allocations > 3 * len(methods)
