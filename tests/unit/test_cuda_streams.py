"""Are flips and sweeps on a GPU undone after all work that met them, on whatever stream that is?

No GPU takes part: the streams here are stubs that keep, for each piece of work, what the GPU is
bound to finish before it. `test_cuda.py` has the test on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proact.encodings import encoding_named
from proact.errors import ProactError
from proact.faults import overwritten_words
from proact.faults.space import FaultSpace
from proact.faults.target_memory import PlacedFlips
from proact.nn import weight_range
from proact.nn.scrub_state import Scrubs
from proact.nn.weight_range import WeightRange
from proact.ops import _device_memory, _device_plan, _device_sweep, cuda_stream
from proact.ops._device_plan import DeviceFaultPlan, DeviceFlipLog
from proact.ops._device_sweep import DeviceSweepLog, DeviceSweepPlan, SweepNumbers
from proact.ops.cuda_stream import FlipStream, StreamMarks
from proact.ops.plan import FlipPlaces
from proact.ops.scrub_plan import Scrubbed
from proact.ops.sweep_counts import SweepCounts

#: The header of a log whose sweep found nine groups to change, with one element each.
NINE = torch.tensor([9, 9])


class Stream:
    """Work that is queued here runs after `before`."""

    device_index = 0

    def __init__(self, handle: int) -> None:
        self.cuda_stream, self.device = handle, torch.device("cuda", 0)
        self.before: set[str] = set()

    def wait_stream(self, other: Stream) -> None:
        self.before |= other.before

    def record_event(self) -> set[str]:
        return set(self.before)

    def wait_event(self, event: set[str]) -> None:
        self.before |= event


class Gpu:
    """Stub streams, which of them is current, and what ran before each piece of work."""

    def __init__(self) -> None:
        self.streams = [Stream(0), Stream(1), Stream(2)]
        self.current = self.streams[0]
        self.ran_before: dict[str, set[str]] = {}
        self.ran_on: dict[str, int] = {}

    def queue(self, work: str, stream: Stream | None = None) -> None:
        stream = stream or self.current
        self.ran_before[work] = set(stream.before)
        self.ran_on[work] = stream.cuda_stream
        stream.before.add(work)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        outside, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = outside


class Rate:
    """In place of the native tables of a rate."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def bytes(self, is_logged: bool) -> int:
        return 16

    def bytes_to_clear(self) -> int:
        return 8

    def tables(self) -> bytes:
        return b"tables"

    def places(self) -> list[Any]:
        return []

    def flip(self, seed: int, trial: int, *rest: Any) -> None:
        self.gpu.queue(f"flip {trial}", self.gpu.streams[rest[-1]])

    def restore(self, *rest: Any) -> None:
        self.gpu.queue(f"restore {len(self.gpu.ran_on)}", self.gpu.streams[rest[-1]])


class Plan:
    """In place of the native plan."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def described(self) -> bytes:
        return b"tensors"

    def rate(self, ber: float) -> Rate:
        return Rate(self.gpu)

    def hit(self, rate: Rate, seed: int, trial: int) -> list[int]:
        return [0]

    def check_places(self, *columns: Any) -> None:
        pass


class Sweeps:
    """In place of the native plan of a sweep."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def groups(self) -> int:
        return 4

    def log_bytes(self, capacity: int) -> int:
        return 16 + 24 * capacity

    def header_bytes(self) -> int:
        return 16

    def counts(self) -> int:
        return 1

    def described(self) -> bytes:
        return b"tensors"

    def sweep(self, description: int, log: int, capacity: int, *rest: Any) -> None:
        self.gpu.queue(f"sweep with {capacity} slots", self.gpu.streams[rest[-1]])

    def restore(self, slots: int, memories: int, log: int, capacity: int, *rest: Any) -> None:
        self.gpu.queue(f"restore {slots} of {capacity} slots", self.gpu.streams[rest[-1]])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.on)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    native = SimpleNamespace(
        cuda=True,
        DevicePlan=lambda: Plan(gpu),
        device_flip_places=lambda words, flips, *rest: gpu.queue(
            f"flip {words} words", gpu.streams[rest[-1]]
        ),
        device_restore_places=lambda words, flips, *rest: gpu.queue(
            f"restore {len(gpu.ran_on)}", gpu.streams[rest[-1]]
        ),
        FaultPlan=SimpleNamespace,
        FlipLog=SimpleNamespace,
        TensorWatch=lambda api: None,
        is_writable=lambda address, size: True,
    )
    monkeypatch.setattr(_device_plan._native, "module", native)
    memory = torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(_device_memory, "allocated", lambda size, device: memory)
    monkeypatch.setattr(_device_memory, "uploaded", lambda contents, device: memory)
    return gpu


@pytest.fixture
def plan(gpu: Gpu) -> DeviceFaultPlan:
    return DeviceFaultPlan(torch.device("cuda", 0))


def restores(gpu: Gpu) -> list[str]:
    return [work for work in gpu.ran_on if work.startswith("restore")]


@pytest.mark.parametrize("at_undo", [0, 1])
@pytest.mark.parametrize("at_flip", [0, 1])
def test_a_log_is_restored_in_the_order_of_the_stream_that_flipped(
    gpu: Gpu, plan: DeviceFaultPlan, at_flip: int, at_undo: int
) -> None:
    log = DeviceFlipLog()
    with gpu.on(gpu.streams[at_flip]):
        plan.flip_into(log, 0.5, seed=0, trial=0)
        gpu.queue("forward after the flips")
    gpu.queue("forward at undo", gpu.streams[at_undo])
    with gpu.on(gpu.streams[at_undo]):
        log.restore()
    (restore,) = restores(gpu)
    assert gpu.ran_on[restore] == at_flip
    assert gpu.ran_before[restore] == {
        "flip 0",
        "forward after the flips",
        "forward at undo",
    }
    for stream in {at_flip, at_undo}:
        gpu.queue("next", gpu.streams[stream])
        assert restore in gpu.ran_before["next"]


def test_each_call_of_a_log_has_its_stream_and_the_last_is_undone_first(
    gpu: Gpu, plan: DeviceFaultPlan
) -> None:
    log = DeviceFlipLog()
    for trial in (1, 2):
        with gpu.on(gpu.streams[trial]):
            plan.flip_into(log, 0.5, seed=0, trial=trial)
    log.restore()
    first, second = restores(gpu)
    assert [gpu.ran_on[work] for work in (first, second)] == [2, 1]
    assert first in gpu.ran_before[second]


def test_flips_at_given_places_are_undone_in_the_order_of_their_stream(
    gpu: Gpu, plan: DeviceFaultPlan
) -> None:
    log = DeviceFlipLog()
    places = np.zeros(1, np.uint32), np.array([4], np.uint64), np.array([9], np.uint8)
    with gpu.on(gpu.streams[1]):
        plan.flip_places_into(log, *places)
        gpu.queue("forward")
    log.restore()
    (restore,) = restores(gpu)
    assert gpu.ran_on[restore] == 1
    assert gpu.ran_before[restore] == {"flip 1 words", "forward"}


def test_each_stream_uploads_what_its_kernels_read(
    gpu: Gpu, plan: DeviceFaultPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that read the copy of another one could read it before it is there."""

    def copied(contents: bytes, device: torch.device) -> torch.Tensor:
        gpu.queue(f"upload {contents.decode()} {gpu.current.cuda_stream}")
        return torch.zeros(16, dtype=torch.uint8)

    monkeypatch.setattr(_device_memory, "uploaded", copied)
    for trial in range(4):
        with gpu.on(gpu.streams[trial % 2]):
            plan.flip_into(DeviceFlipLog(), 0.5, seed=0, trial=trial)
    uploads = [work for work in gpu.ran_on if work.startswith("upload")]
    assert sorted(uploads) == [
        "upload tables 0",
        "upload tables 1",
        "upload tensors 0",
        "upload tensors 1",
    ]
    for trial in range(4):
        mine = {work for work in uploads if work.endswith(str(trial % 2))}
        assert mine <= gpu.ran_before[f"flip {trial}"]


def test_a_stream_is_not_left_current_by_an_error(gpu: Gpu) -> None:
    with gpu.on(gpu.streams[1]):
        stream = FlipStream(torch.device("cuda", 0))
    with suppress(KeyError), stream.ordered():
        gpu.queue("half")
        raise KeyError
    assert gpu.current is gpu.streams[0]
    gpu.queue("next")
    assert "half" in gpu.ran_before["next"]


def test_a_log_is_read_in_the_order_of_the_stream_that_flipped(
    gpu: Gpu, plan: DeviceFaultPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def columns(flips: object) -> list[Any]:
        gpu.queue("read the columns")
        return []

    monkeypatch.setattr(_device_plan._DrawnFlips, "columns", columns)
    log = DeviceFlipLog()
    with gpu.on(gpu.streams[1]):
        plan.flip_into(log, 0.5, seed=0, trial=0)
    assert len(log.columns()[0]) == 0
    assert "flip 0" in gpu.ran_before["read the columns"]


def test_flips_of_given_places_are_undone_in_the_same_order(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = overwritten_words._write

    def written(*arguments: Any) -> None:
        gpu.queue(f"write {len(gpu.ran_on)}")
        write(*arguments)

    monkeypatch.setattr(overwritten_words, "_write", written)
    monkeypatch.setattr(
        overwritten_words, "FlipStream", lambda device: FlipStream(torch.device("cuda", 0))
    )
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    places = FlipPlaces(np.zeros(1, np.uint32), np.array([4], np.uint64), np.array([9], np.uint8))
    flips = PlacedFlips(list(FaultSpace(model, encoding_named("float32"))), places)
    with gpu.on(gpu.streams[1]):
        flips.flip()
        gpu.queue("forward")
    assert not torch.equal(model.weight, before)
    flips.restore()
    assert torch.equal(model.weight, before)
    assert gpu.ran_before["write 2"] == {"write 0", "forward"}
    gpu.queue("next")
    assert "write 2" in gpu.ran_before["next"]


@pytest.mark.parametrize("at_undo", [0, 1])
@pytest.mark.parametrize("at_sweep", [0, 1])
def test_a_sweep_is_undone_in_the_order_of_its_stream(
    gpu: Gpu, at_sweep: int, at_undo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first log has four slots, so that the sweep is made again.
    monkeypatch.setattr(_device_sweep, "SweepNumbers", lambda header: SweepNumbers(NINE))
    plan, log = DeviceSweepPlan(Sweeps(gpu), torch.device("cuda", 0)), DeviceSweepLog()
    with gpu.on(gpu.streams[at_sweep]):
        assert plan.sweep(log).read() == [9]
        gpu.queue("forward after the sweep")
    gpu.queue("forward at undo", gpu.streams[at_undo])
    with gpu.on(gpu.streams[at_undo]):
        assert log.restore() == []
    work = ["sweep with 4 slots", "restore 4 of 4 slots", "sweep with 9 slots"]
    first, undone, second = work
    assert first in gpu.ran_before[undone]
    assert undone in gpu.ran_before[second]
    restore = "restore 9 of 9 slots"
    assert gpu.ran_on[restore] == at_sweep
    assert gpu.ran_before[restore] == {*work, "forward after the sweep", "forward at undo"}
    for stream in {at_sweep, at_undo}:
        gpu.queue("next", gpu.streams[stream])
        assert restore in gpu.ran_before["next"]


@pytest.fixture
def guard(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> WeightRange:
    """A guard whose sweeps and undoing are stubs, of a model that seems to lie on a GPU."""

    class Log:
        def __init__(self, plan: object) -> None:
            pass

        def restore(self) -> None:
            gpu.queue(f"restore {len(gpu.ran_on)}")

        def keep_used_slots(self) -> None:
            pass

    def swept(log: Log, action: str, later: bool) -> SweepCounts[int]:
        gpu.queue(f"sweep {len(gpu.ran_on)}")
        return SweepCounts(int, [[1]])

    monkeypatch.setattr(weight_range, "SweepLog", Log)
    monkeypatch.setattr(
        weight_range._ActiveForwards, "plan_of", lambda *_: SimpleNamespace(sweep_into=swept)
    )
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
    guard = WeightRange(model, ["0.weight"])
    guard._running.devices.add(torch.device("cuda", 0))
    monkeypatch.setattr(guard, "begin", partial(guard.begin, model))
    return guard


def test_words_are_restored_after_all_forwards_that_read_the_replaced_ones(
    gpu: Gpu, guard: Any
) -> None:
    first, second, third = gpu.streams
    with gpu.on(first):
        guard.begin()
    with gpu.on(second):
        guard.begin()
        gpu.queue("forward on the second")
        guard.end()
    assert not restores(gpu)
    with gpu.on(first):
        gpu.queue("forward on the first")
        guard.end()
    undone = restores(gpu)
    assert len(undone) == 2
    for restore in undone:
        assert {"forward on the first", "forward on the second"} <= gpu.ran_before[restore]
    second_sweep = [work for work in gpu.ran_on if work.startswith("sweep")][1]
    assert "sweep 0" in gpu.ran_before[second_sweep]
    with gpu.on(third):
        guard.begin()
    sweep = [work for work in gpu.ran_on if work.startswith("sweep")][-1]
    assert set(undone) <= gpu.ran_before[sweep]


def test_a_scrub_begins_after_flips_were_undone_on_another_stream(gpu: Gpu) -> None:
    scrubs = Scrubs()
    tensor = SimpleNamespace(
        device=torch.device("cuda", 0), data_ptr=int, dtype=None, shape=(), stride=tuple
    )

    def scrub(name: str) -> None:
        scrubs.run({"t": tensor}, name, list)  # type: ignore[dict-item]
        gpu.queue(name)

    scrub("first scrub")
    with gpu.on(gpu.streams[1]):
        gpu.queue("flips undone")
        scrubs.mark_undone()
    scrub("second scrub")
    assert "flips undone" in gpu.ran_before["second scrub"]


def test_a_forward_that_does_not_scrub_begins_after_the_last_scrub(gpu: Gpu) -> None:
    scrubs = Scrubs()
    tensor = SimpleNamespace(
        device=torch.device("cuda", 0), data_ptr=int, dtype=None, shape=(), stride=tuple
    )

    def scrub(log: object, later: bool) -> SweepCounts[Scrubbed]:
        gpu.queue("scrub")
        return SweepCounts(Scrubbed, [[0, 0]])

    plan = SimpleNamespace(scrub=scrub, codes=[None], _native=None)
    scrubs.run({"t": tensor}, 0, lambda: [(["t"], plan)])  # type: ignore[dict-item, list-item]
    with gpu.on(gpu.streams[1]):
        scrubs.order()
        gpu.queue("forward")
    assert "scrub" in gpu.ran_before["forward"]


def test_flips_are_refused_while_a_graph_is_captured(
    gpu: Gpu, plan: DeviceFaultPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be made at each replay, and not now."""
    monkeypatch.setattr(cuda_stream, "is_capturing", lambda: True)
    with pytest.raises(ProactError, match="cuda:0 cannot be faulted while a CUDA graph"):
        plan.flip_into(DeviceFlipLog(), 0.5, seed=0, trial=0)
    with pytest.raises(ProactError, match="replay it while faults are injected"):
        plan.flip_unlogged(0.5, seed=0, trial=0)
    assert not gpu.ran_on


def test_there_are_no_streams_on_a_cpu() -> None:
    marks = StreamMarks()
    marks.add([torch.device("cpu")])
    marks.wait()
    with cuda_stream.FlipStream(torch.device("cpu")).ordered():
        pass
