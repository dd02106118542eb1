"""Whole plans: threads, exact numbers of flips, undo by log and by replay, any word and mask."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proact.errors import ProactError
from proact.ops import _flip_reference as reference
from proact.ops import flip_bits_, flip_exactly_
from proact.ops.number_formats import FixedPointWord
from proact.ops.plan import FlipLog, FlipPlan

DTYPES = [torch.uint8, torch.int16, torch.float16, torch.float32, torch.int64, torch.float64]
RATES = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-9, 0.5, 0.5000000000000001, 1.0 - 1e-9, 1.0]),
    st.floats(0.0, 1.0),
    st.floats(-5.0, 0.0).map(lambda exponent: 10.0**exponent),
)


def as_bytes(tensors: list[Tensor]) -> bytes:
    return b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors)


@st.composite
def tensors_and_masks(draw: st.DrawFn) -> list[tuple[Tensor, int, FixedPointWord | None]]:
    made = []
    for _ in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(DTYPES))
        tensor = torch.arange(draw(st.integers(0, 300))).to(dtype)
        bits = 8 * dtype.itemsize
        fixed = None
        if dtype in (torch.float32, torch.float64) and draw(st.booleans()):
            bits = draw(st.integers(2, 32))
            fixed = FixedPointWord(bits, draw(st.integers(0, bits - 1)))
        made.append((tensor, draw(st.integers(1, (1 << bits) - 1)), fixed))
    return made


def plans_over(
    tensors: list[tuple[Tensor, int, FixedPointWord | None]],
) -> tuple[FlipPlan, reference.ReferenceFaultPlan, list[Tensor]]:
    plan, oracle, copies = FlipPlan(), reference.ReferenceFaultPlan(), []
    for stream, (tensor, mask, fixed) in enumerate(tensors):
        copy = tensor.clone()
        plan.add(tensor, stream, mask, fixed)
        address = copy.data_ptr()
        form = fixed.native if fixed is not None else ()
        oracle.add(address, copy.numel(), copy.element_size(), stream, mask, form)
        copies.append(copy)
    return plan, oracle, copies


def equal_columns(log: FlipLog, oracle: reference.ReferenceFlipLog) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(log.columns(), oracle.columns(), strict=True))


@settings(max_examples=120, deadline=None)
@given(tensors_and_masks(), RATES, st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))
def test_any_plan_equals_the_reference(
    tensors: list[tuple[Tensor, int, FixedPointWord | None]], ber: float, seed: int, trial: int
) -> None:
    plan, oracle, copies = plans_over(tensors)
    memory = [tensor for tensor, _, _ in tensors]
    clean = as_bytes(memory)
    log, expected = plan.flip(ber, seed, trial, threads=3), reference.ReferenceFlipLog()
    oracle.flip_into(expected, ber, seed, trial)
    assert equal_columns(log, expected)
    assert as_bytes(memory) == as_bytes(copies)
    log.restore()
    assert as_bytes(memory) == clean


@settings(max_examples=60, deadline=None)
@given(tensors_and_masks(), st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
def test_exact_numbers_equal_the_reference(
    tensors: list[tuple[Tensor, int, FixedPointWord | None]], share: float, trial: int
) -> None:
    plan, oracle, copies = plans_over(tensors)
    memory = [tensor for tensor, _, _ in tensors]
    clean = as_bytes(memory)
    flips = round(share * plan.exposed_bits)
    log, expected = plan.flip_exactly(flips, 7, trial), reference.ReferenceFlipLog()
    oracle.flip_exactly_into(expected, flips, 7, trial)
    assert len(log) == flips
    assert equal_columns(log, expected)
    assert as_bytes(memory) == as_bytes(copies)
    log.restore()
    assert as_bytes(memory) == clean


def test_threads_change_no_flip() -> None:
    patterns = []
    for threads in (1, 2, 5):
        tensor = torch.zeros(300_000, dtype=torch.int32)
        plan = FlipPlan()
        plan.add(tensor, 1, 0xFFFFFFFF, None)
        log = plan.flip(0.01, 3, 4, threads=threads)
        patterns.append((as_bytes([tensor]), [column.tobytes() for column in log.columns()]))
        log.restore(threads=threads)
        assert not tensor.any()
    assert patterns[1:] == patterns[:-1]


def test_replay_takes_the_flips_back() -> None:
    tensor = torch.randn(5000)
    clean = tensor.clone()
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFF, FixedPointWord(24, 12))
    with torch.no_grad():
        tensor.copy_((tensor * 4096).round() / 4096)
        clean.copy_(tensor)
    flips = plan.flip_unlogged(0.01, 5, 6)
    assert not torch.equal(tensor, clean)
    assert plan.undo_by_replay(0.01, 5, 6) == flips > 0
    assert torch.equal(tensor, clean)


def test_replay_is_refused_where_it_would_not_restore() -> None:
    wide = FlipPlan()
    wide.add(torch.randn(10), 1, 0xFFFFFFFF, FixedPointWord(32, 16))
    overlapping, tensor = FlipPlan(), torch.randn(10)
    overlapping.add(tensor, 1, 0xFFFFFFFF, None)
    overlapping.add(tensor[5:], 2, 0xFFFFFFFF, None)
    before = tensor.clone()
    for plan in (wide, overlapping):
        with pytest.raises(ProactError, match="keep a log"):
            plan.undo_by_replay(0.1, 1, 1)
    assert torch.equal(tensor, before)


def test_a_log_outlives_its_plan() -> None:
    tensor = torch.randn(1000)
    clean = tensor.clone()
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)
    logs = [plan.flip(0.01, 1, trial) for trial in range(3)]
    del plan
    gc.collect()
    for log in reversed(logs):
        log.restore()
    assert torch.equal(tensor, clean)


def test_flip_exactly_flips_that_many_and_back() -> None:
    tensor = torch.zeros(100, dtype=torch.int16)
    for flips in (0, 1, 17, 799, 801, 1600):
        assert flip_exactly_(tensor, flips, seed=1) is None
        assert sum(int(w).bit_count() for w in tensor.numpy().view(np.uint16)) == flips
        flip_exactly_(tensor, flips, seed=1)
        assert not tensor.any()
    array = np.zeros(100, np.int16)
    flip_exactly_(array, 17, seed=1)
    flip_exactly_(tensor, 17, seed=1)
    assert np.array_equal(array, tensor.numpy())


@pytest.mark.parametrize(
    ("flips", "error"), [(-1, ValueError), (1601, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_an_impossible_number_of_flips_is_refused(flips: object, error: type[Exception]) -> None:
    tensor = torch.zeros(100, dtype=torch.int16)
    with pytest.raises(error, match="flips"):
        flip_exactly_(tensor, flips)  # type: ignore[arg-type]
    assert not tensor.any()


def test_views_of_one_storage_are_flipped_apart() -> None:
    storage = torch.zeros(64, dtype=torch.int32)
    flip_bits_(storage[16:48], 0.5, seed=1)
    assert storage[16:48].any()
    assert not storage[:16].any()
    assert not storage[48:].any()


def test_a_plan_is_on_one_device() -> None:
    plan = FlipPlan()
    plan.add(torch.zeros(4), 1, 1, None)
    with pytest.raises(ValueError, match="one device, got cpu and meta"):
        plan.add(torch.zeros(4, device="meta"), 2, 1, None)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_senseless_number_of_threads_is_refused(threads: object) -> None:
    plan, tensor = FlipPlan(), torch.zeros(100)
    plan.add(tensor, 1, 1, None)
    with pytest.raises((ValueError, TypeError), match="threads"):
        plan.flip(0.5, 1, 1, threads=threads)  # type: ignore[arg-type]
    assert not tensor.any()


def test_an_interrupted_flip_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(1000)
    clean = tensor.clone()
    plan = FlipPlan()
    plan.add(tensor, 1, 0xFFFFFFFF, None)

    def interrupted(self: FlipPlan, log: FlipLog, *rest: object) -> None:
        plan._plan.flip_into(log._log, 0.1, 1, 1, 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(FlipPlan, "flip_into", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.flip(0.1, 1, 1)
    assert torch.equal(tensor, clean)


def test_misaligned_memory_is_refused() -> None:
    buffer = bytearray(65)
    for memory in (
        torch.frombuffer(buffer, dtype=torch.float32, offset=1, count=16),
        np.frombuffer(buffer, np.uint8)[1:].view(np.float32),
    ):
        with pytest.raises(ValueError, match="multiple of its word size of 4 bytes"):
            flip_bits_(memory, 0.5)
    assert buffer == bytes(65)


def test_overlap_is_noticed_by_the_reference_too() -> None:
    plan, array = reference.ReferenceFaultPlan(), np.zeros(8, np.int32)
    plan.add(array.ctypes.data, 8, 4, 1, 1)
    assert plan.replay_undoes()
    plan.add(array.ctypes.data + 16, 4, 4, 2, 1)
    assert not plan.replay_undoes()
