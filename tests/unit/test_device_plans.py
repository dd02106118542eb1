"""Do the plans for GPU memory give what those for host memory give?

The source of the CUDA kernels runs on the host here (`conftest.kernels_on_host`), so this says
nothing about warps and streams. `test_cuda.py` has the tests on a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import OnHost
from proact import _native, campaign
from proact.data import Data
from proact.errors import ProactError
from proact.faults import ActivationFlip, BitFlip, Burst, ExactFlips, Fault, Replay, StuckAt, inject
from proact.faults.record import Record
from proact.ops import _device_memory, flip_bits_, flip_exactly_
from proact.ops._device_plan import DeviceFaultPlan, DeviceFlipLog
from proact.ops.number_formats import FixedPointWord
from proact.ops.plan import FlipLog, FlipPlaces, FlipPlan

pytestmark = pytest.mark.usefixtures("kernels_on_host")

ENCODINGS = [
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3",
    "int8",
    "int4",
    "q15.16",
    "q3.4",
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
    "float32+bch2",
    "float32+secded64",
    "int8+secded",
    "float16+parity",
]
FAULTS: list[Fault] = [
    BitFlip(3e-3),
    BitFlip(0.8),
    ExactFlips(40),
    StuckAt(1, 3e-3),
    Burst(3, 3e-3),
    Replay((("weight", 7, 3), ("weight", 7, 2), ("bias", 0, 1))),  # type: ignore[arg-type]
]


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(70, 33).to(dtype)


def words_of(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone().view(torch.uint8) for each in model.state_dict().values()]


def injected(model: nn.Module, fault: Fault, encoding: str) -> tuple[list[Tensor], Record]:
    with inject(model, fault, encoding, seed=3, trial=5) as record:
        faulty = words_of(model)
        record.faults()
    return faulty, record


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_injections_equal_those_on_the_host(fault: Fault, encoding: str, on_host: OnHost) -> None:
    model, twin = small_model(), small_model()
    clean = words_of(model)
    faulty, record = injected(model, fault, encoding)
    with on_host():
        expected, expected_record = injected(twin, fault, encoding)
    assert record.flips == expected_record.flips > 0
    assert all(map(torch.equal, faulty, expected))
    assert all(map(torch.equal, words_of(model), clean))
    key = ["tensor", "element", "bit"]
    mine, theirs = (np.sort(each.faults(), order=key) for each in (record, expected_record))
    for field in key:
        assert np.array_equal(mine[field], theirs[field])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ber", [1e-4, 0.1, 0.9])
def test_injections_in_other_dtypes_equal_those_on_the_host(
    dtype: torch.dtype, ber: float, on_host: OnHost
) -> None:
    encoding = "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch.")
    model, twin = small_model(dtype), small_model(dtype)
    clean = words_of(model)
    faulty, record = injected(model, BitFlip(ber), encoding)
    with on_host():
        expected, expected_record = injected(twin, BitFlip(ber), encoding)
    assert record.flips == expected_record.flips
    assert all(map(torch.equal, faulty, expected))
    assert all(map(torch.equal, words_of(model), clean))


@pytest.mark.parametrize("encoding", ["int8", "mxfp4"])
def test_flips_are_read_from_a_gpu_only_if_scales_were_hit(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[DeviceFlipLog] = []
    original = DeviceFlipLog.columns
    monkeypatch.setattr(DeviceFlipLog, "columns", lambda log: (read.append(log), original(log))[1])
    model = small_model()
    outcomes = set()
    for trial in range(40):
        read.clear()
        with inject(model, BitFlip(3e-4), encoding, seed=1, trial=trial) as record:
            was_read = bool(read)
            is_scale_hit = "scale" in record.counts("kind")
        assert was_read == is_scale_hit
        outcomes.add(was_read)
    assert outcomes == {True, False}


def test_plans_are_those_for_gpu_memory() -> None:
    plan = FlipPlan()
    plan.add(torch.zeros(4), 1, 1, None)
    assert isinstance(plan._plan, DeviceFaultPlan)


def test_a_log_lists_and_undoes_the_flips(on_host: OnHost) -> None:
    tensors = [torch.randn(20_000), torch.linspace(-3, 3, 700)]
    twins = [tensor.clone() for tensor in tensors]
    clean = [tensor.clone() for tensor in tensors]

    def flipped(tensors: list[Tensor]) -> FlipLog:
        plan = FlipPlan()
        plan.add(tensors[0], 1, 0xFFFFFFFF, None)
        plan.add(tensors[1], 2, 0xFFFFFFFF, FixedPointWord(32, 16))
        return plan.flip(1e-3, 5, 6)

    log = flipped(tensors)
    with on_host():
        expected = flipped(twins)
    assert len(log) == len(expected) > 0
    for mine, theirs in zip(log.columns(), expected.columns(), strict=True):
        assert np.array_equal(mine, theirs)
    for tensor, twin in zip(tensors, twins, strict=True):
        assert torch.equal(tensor.view(torch.int32), twin.view(torch.int32))
    log.restore()
    assert all(map(torch.equal, tensors, clean))


def test_a_plan_serves_many_rates_and_grows() -> None:
    tensor = torch.zeros(3000, dtype=torch.int32)
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)
    rates = [0.0, *np.geomspace(1e-4, 0.99, 12).tolist()]
    for _ in range(2):
        for ber in rates:
            log = plan.flip(ber, 1, 2)
            bits = sum(int(word & 0xFFFFFFFF).bit_count() for word in tensor.tolist())
            assert len(log) == bits
            log.restore()
            assert not tensor.any()
    before = plan.flip(0.5, 1, 2)
    other = torch.zeros(5, dtype=torch.uint8)
    plan.add(other, 2, 0xFF, None)
    assert len(before) == sum(int(word & 0xFFFFFFFF).bit_count() for word in tensor.tolist())
    before.restore()
    assert not tensor.any()
    with_both = plan.flip(0.5, 1, 2)
    assert other.any()
    with_both.restore()
    assert not other.any()
    assert not tensor.any()


def test_unlogged_flips_are_undone_by_drawing_them_again() -> None:
    tensor = torch.randn(5000)
    clean = tensor.clone()
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)
    assert plan.flip_unlogged(1e-3, 3, 4) == plan.undo_by_replay(1e-3, 3, 4) > 0
    assert torch.equal(tensor, clean)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_the_operators_flip_as_on_the_host(dtype: torch.dtype, on_host: OnHost) -> None:
    tensor = torch.arange(3001).to(dtype)
    twin = tensor.clone()
    flips = flip_bits_(tensor, 1e-2, seed=1, trial=2)
    flip_exactly_(tensor, 100, seed=5)
    with on_host():
        assert flip_bits_(twin, 1e-2, seed=1, trial=2) == flips
        flip_exactly_(twin, 100, seed=5)
    assert torch.equal(tensor.view(torch.uint8), twin.view(torch.uint8))


def test_no_places_change_nothing() -> None:
    tensor = torch.ones(3)
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)
    nothing = FlipPlaces(np.empty(0, np.uint32), np.empty(0, np.uint64), np.empty(0, np.uint8))
    log = plan.flip_exactly(0, 1, 1)
    plan.flip_into(log, 0.0, 1, 1)
    plan.flip_places_into(log, nothing)
    assert len(log) == 0
    assert all(len(column) == 0 for column in log.columns())
    log.restore()
    assert torch.equal(tensor, torch.ones(3))


def test_a_log_names_the_tensors_that_were_hit() -> None:
    tensors = [torch.zeros(100, dtype=torch.int32) for _ in range(40)]
    plan = FlipPlan()
    for stream, tensor in enumerate(tensors):
        plan.add(tensor, stream, 0xFFFFFFFF, None)
    log = plan.flip(1e-4, 1, 2)
    changed = [number for number, tensor in enumerate(tensors) if tensor.any()]
    assert 0 < len(changed) < 40
    assert log.tensors() == changed
    log.restore()
    assert not any(map(torch.any, tensors))
    none = next(log for trial in range(1000) if not len(log := plan.flip(1e-6, 1, trial)))
    assert not none.tensors()
    assert len(none.columns().bit) == 0
    none.restore()


@pytest.mark.parametrize("kind", ["drawn", "inverted", "places"])
def test_a_log_follows_memory_and_names_what_was_freed(kind: str) -> None:
    tensors = [torch.randn(500) for _ in range(3)]
    clean = [tensor.clone() for tensor in tensors]
    plan = FlipPlan(["kept", "moved", "freed"])
    for stream, tensor in enumerate(tensors):
        plan.add(tensor, stream, 0xFFFFFFFF, None)
    log = FlipLog(plan)
    if kind == "places":
        everywhere = np.repeat(np.arange(3, dtype=np.uint32), 50)
        elements = np.tile(np.arange(50, dtype=np.uint64), 3)
        plan.flip_places_into(log, FlipPlaces(everywhere, elements, np.full(150, 7, np.uint8)))
    else:
        plan.flip_into(log, 0.01 if kind == "drawn" else 0.9, seed=1, trial=2)
    assert all(not torch.equal(*pair) for pair in zip(tensors, clean, strict=True))
    tensors[1].untyped_storage().resize_(4 * 500_000)
    tensors[2].untyped_storage().resize_(0)
    with pytest.raises(ProactError, match="memory of freed was freed"):
        log.restore()
    for tensor, before in zip(tensors[:2], clean[:2], strict=True):
        assert torch.equal(tensor.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("place", [(2, 0, 0), (0, 10, 0), (1, 4, 0), (0, 0, 16), (1, 0, 4)])
def test_places_outside_the_plan_are_refused(place: tuple[int, int, int]) -> None:
    tensors = [torch.ones(10, dtype=torch.int16), torch.ones(4)]
    plan = FlipPlan()
    plan.add(tensors[0], 0, 0xFFFF, None)
    plan.add(tensors[1], 1, 0xF, FixedPointWord(4, 2))
    columns = (np.array([0, n]) for n in place)
    order = FlipPlaces(*(c.astype(t) for c, t in zip(columns, ("u4", "u8", "u1"), strict=True)))
    tensor, element, bit = place
    with pytest.raises(ValueError, match=f"tensor {tensor}, element {element}, bit {bit}"):
        plan.flip_places_into(FlipLog(plan), order)
    assert tensors[0].tolist() == [1] * 10
    assert tensors[1].tolist() == [1.0] * 4


def test_tensors_that_share_memory_are_refused() -> None:
    memory = torch.zeros(10)
    plan = FlipPlan()
    plan.add(memory[:6], 1, 1, None)
    with pytest.raises(ValueError, match="must not share memory"):
        plan.add(memory[5:], 2, 1, None)
    plan.add(memory[6:], 2, 1, None)


@pytest.mark.parametrize("module", [None, SimpleNamespace(cuda=False)], ids=["none", "no kernels"])
def test_a_build_without_kernels_is_refused(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "module", module)
    with pytest.raises(ProactError, match="need a build of proact with CUDA"):
        DeviceFaultPlan(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("encoding", "strata"), [("float32", "auto"), ("int8", False), ("float32+secded", False)]
)
def test_a_campaign_gives_the_rows_of_the_host(
    trained_cnn: nn.Module, digits: Data, encoding: str, strata: Any, on_host: OnHost
) -> None:
    faults = [BitFlip(1e-6), BitFlip(1e-4), ExactFlips(3), StuckAt(1, 1e-4)]

    def rows() -> list[Any]:
        result = campaign.run(
            {"model": trained_cnn},
            digits.test.first(64),
            faults,
            encoding=encoding,
            trials=24,
            strata=strata,
            images_per_trial="all",
            executor=1,
            progress=False,
        )
        return [
            row._replace(seconds=0.0)
            for cell in result.cells
            for stratum in cell.sampled_strata
            for row in result.rows(cell.variant, cell.fault, stratum)
        ]

    with_kernels = rows()
    with on_host():
        assert with_kernels == rows()
    assert any(row.flips for row in with_kernels)


def test_activations_flip_as_on_the_host(on_host: OnHost) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Tanh())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.linspace(-2, 2, 4000).view(4, -1).to(dtype)
        takes_all = dtype == torch.float32
        for encoding in ("native", "int8", "q3.4", "mxfp4", "float16")[: None if takes_all else 1]:
            fault = ActivationFlip(1e-2, encoding=encoding)
            with inject(model, fault, seed=1) as mine:
                faulty = model(x)
            with on_host(), inject(model, fault, seed=1) as theirs:
                expected = model(x)
            assert mine.flips == theirs.flips > 0
            assert torch.equal(faulty.view(torch.int16), expected.view(torch.int16))


def test_flips_are_undone_after_an_upload_found_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    tensor = torch.zeros(3000, dtype=torch.int32)
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)
    log = plan.flip(1e-2, 1, 2)
    assert tensor.any()
    monkeypatch.setattr(_device_memory, "uploaded", refused)
    with pytest.raises(torch.OutOfMemoryError):
        plan.flip_into(log, 2e-2, 1, 3)  # the tables of another rate
    log.restore()
    assert not tensor.any()
