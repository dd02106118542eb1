"""Is memory that is moved, replaced or freed inside an injection restored where it is, or refused,
and is freed memory never written? The moves run in a process of their own, which a write would end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
import torch.multiprocessing  # its pickling moves storages to shared memory
from torch import nn

from conftest import SignedMagnitude, bits_of, same_bits, slow
from proact import ProactError, _native, ops
from proact.encodings import Encoding
from proact.faults import BitFlip, ExactFlips, Injector, encode, inject
from proact.nn import without_weight_range
from proact.ops.plan import FlipPlan
from proact.protect import protect

TESTS = Path(__file__).parents[1]
EXPECTED = {
    **dict.fromkeys(("share", "pickled for a process", "set"), ("restored",)),
    **dict.fromkeys(("half", "to", "assign", "data"), ("0.weight was moved, converted",)),
    # Torch refuses to free memory that numpy has seen; then nothing has moved.
    **dict.fromkeys(("freed", "shrunk"), ("the memory of 0.weight was freed", "restored")),
    "freed for good": ("the memory of 0.weight was freed", "0.weight was moved", "restored"),
}


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["float32", *slow("q15.16", "int8", "numpy")])
def test_memory_that_moves_inside_an_injection(encoding: str) -> None:
    path = os.pathsep.join((str(TESTS.parent), str(TESTS), str(TESTS / "unit")))
    done = subprocess.run(
        [sys.executable, str(TESTS / "unit" / "moving_memory.py"), encoding],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    outcomes = [line.split("|") for line in done.stdout.splitlines()]
    assert {move for move, _, _ in outcomes} == set(EXPECTED)
    assert len(outcomes) == 5 * len(EXPECTED)
    for move, kind, outcome in outcomes:
        assert outcome.startswith(EXPECTED[move]), (move, kind, outcome)
    if encoding != "numpy":
        assert any("was freed" in outcome for *_, outcome in outcomes)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


@pytest.mark.parametrize("encoding", ["float32", "q15.16", SignedMagnitude()], ids=str)
def test_a_model_that_moved_gets_the_same_faults_where_it_is(encoding: str | Encoding) -> None:
    model, twin = encode(net(), encoding), encode(net(), encoding)
    with inject(model, BitFlip(0.1), encoding):
        model.share_memory()
    for trial in range(3):
        with (
            inject(model, BitFlip(0.1), encoding, trial=trial) as record,
            inject(twin, BitFlip(0.1), encoding, trial=trial),
        ):
            assert record.flips > 0
            assert same_bits(bits_of(twin), model)
        assert same_bits(bits_of(encode(net(), encoding)), model)


def test_nested_injections_follow_memory_that_moves() -> None:
    model = net()
    before = bits_of(model)
    with inject(model, BitFlip(0.2), seed=1):
        middle = bits_of(model)
        with inject(model, BitFlip(0.2), seed=2):
            model.share_memory()
        assert same_bits(middle, model)
    assert same_bits(before, model)


def test_an_injector_of_its_own_refuses_memory_that_moved() -> None:
    model = net()
    injector = Injector(model, is_private=True)
    with injector.trial(BitFlip(0.1)):
        pass
    model.share_memory()
    before = bits_of(model)
    with (
        pytest.raises(ProactError, match="0.weight was moved or freed"),
        injector.trial(BitFlip(0.1)),
    ):
        pass
    assert same_bits(before, model)


MAKE: dict[str, Callable[[FlipPlan], object]] = {
    "rate": lambda plan: plan.flip(0.1, 0, 0),
    "unlogged": lambda plan: plan.flip_unlogged(0.1, 0, 0),
    "exactly": lambda plan: plan.flip_exactly(9, 0, 0),
    "replay": lambda plan: plan.undo_by_replay(0.1, 0, 0),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("size", [0, 16, 4096])
def test_a_plan_refuses_memory_that_was_freed(make: str, size: int) -> None:
    tensor, plan = torch.zeros(1000), FlipPlan(["mine"])
    plan.add(tensor, 0, 0xFF, None)
    storage = tensor.untyped_storage()
    storage.resize_(size)
    with pytest.raises(ProactError, match="the memory of mine was moved or freed"):
        MAKE[make](plan)
    assert storage.nbytes() == size


@pytest.fixture(params=["native", "python"])
def sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of plans: native code, and plain Python where it could not be built."""
    if request.param == "python":
        monkeypatch.setattr(_native, "module", None)


@pytest.mark.usefixtures("sampler")
def test_a_log_restores_what_is_left_and_names_what_is_gone() -> None:
    first, second, plan = torch.ones(500), torch.ones(500), FlipPlan(["first", "second"])
    plan.add(first, 1, 0xFF, None)
    plan.add(second, 2, 0xFF, None)
    log = plan.flip(0.1, 0, 0)
    assert (second != 1).any()
    first.untyped_storage().resize_(0)
    with pytest.raises(ProactError, match="the memory of first was freed"):
        log.restore()
    assert (second == 1).all()


@pytest.mark.usefixtures("sampler")
def test_a_log_follows_memory_that_moved() -> None:
    tensors, plan = [torch.ones(100), torch.ones(70)], FlipPlan()
    for number, tensor in enumerate(tensors):
        plan.add(tensor, number, 0xFFFF, None)
    log = plan.flip(0.3, 0, 0)
    old = tensors[0].data_ptr()
    tensors[0].share_memory_()
    assert tensors[0].data_ptr() != old
    assert all((tensor != 1).any() for tensor in tensors)
    log.restore()
    assert all((tensor == 1).all() for tensor in tensors)


@pytest.mark.parametrize("fault", [BitFlip(1.0, bits=30), ExactFlips(28, where="*.weight")])
@pytest.mark.parametrize("move", ["share", "pickle"])
def test_weight_range_follows_memory_that_moves_during_a_forward(
    move: str, fault: BitFlip | ExactFlips
) -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net()
            self.to_move: nn.Module | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.to_move is not None and move == "share":
                self.to_move.share_memory()
            elif self.to_move is not None:
                ForkingPickler.dumps(dict(self.to_move.state_dict()))
            out: torch.Tensor = self.layers(x)
            return out

    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    plain = Moving().eval()
    model = protect(plain, "weight-range", (x, torch.zeros(4, dtype=torch.int64)))
    moving = next(module for module in model.modules() if isinstance(module, Moving))
    before = bits_of(model)
    with torch.no_grad(), inject(model, fault) as record:
        assert record.flips > 0
        inside = bits_of(model)
        moving.to_move = moving.layers
        model(x)
        moving.to_move = None
        assert same_bits(inside, model), "the sweep is undone where the memory is now"
    assert same_bits(before, model)
    assert without_weight_range(model) is not model


def test_ranges_are_not_restored_into_freed_memory() -> None:
    from proact.ops.range_plan import RangePlan
    from proact.ops.sweep_log import SweepLog

    swept, kept = torch.full((40,), 9.0), torch.full((40,), 9.0)
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    plan = RangePlan([swept, kept], [low] * 2, [high] * 2, ["swept", "kept"])
    log = SweepLog(plan)
    assert plan.sweep_into(log, "zero").read() == [40, 40]
    swept.untyped_storage().resize_(0)
    with pytest.raises(ProactError, match="the memory of swept was freed"):
        log.restore()
    assert (kept == 9).all()
    with pytest.raises(ProactError, match="the memory of swept was moved or freed"):
        plan.sweep_into(SweepLog(plan), "zero")


def test_operators_refuse_memory_that_was_freed() -> None:
    freed = torch.ones(10)
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="whose storage was freed"):
        ops.flip_bits_(freed, 0.5)
    with pytest.raises(TypeError, match="whose storage was freed"):
        ops.restrict_range_([freed], [torch.tensor(0.0)], [torch.tensor(1.0)])
