"""Does hostile input of seeds that were never tried do any harm?

``make fuzz SECONDS=3600 SEED=7`` tries as many seeds as the time allows, from the given one on.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hostile import OPTIONS, is_safe, on_terminal, samples
from test_mutated_files import KINDS, cases
from torch import nn

from fuzz.names import hostile_names
from fuzz.operators import check_operators
from fuzz.stores import original, tried
from proact import campaign
from proact.data import Data
from proact.faults import BitFlip
from proact.report import write_report

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]

SECONDS = float(os.environ.get("PROACT_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("PROACT_FUZZ_SEED", "1000000"))
PARTS = len(KINDS) + 3


def seeds(step: int = 1) -> Iterator[int]:
    """The next seeds until this part of the time is over; at least one."""
    end, seed = time.monotonic() + SECONDS / PARTS, SEED
    while seed == SEED or time.monotonic() < end:
        yield seed
        seed += step


def say(capsys: pytest.CaptureFixture[str], kind: str, counts: Counter[str]) -> None:
    with capsys.disabled():
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(counts.items()))
        print(f"\n{kind}: {sum(counts.values()):,} tried, {told}")


@pytest.mark.parametrize("kind", KINDS)
def test_files(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_cnn: nn.Module,
    digits: Data,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts: Counter[str] = Counter()
    found = cases(kind, tmp_path, monkeypatch, trained_cnn, digits)
    for seed in seeds(step=5):
        for case in found:
            counts += case.tried(range(seed, seed + 5))
    say(capsys, kind, counts)


def test_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared, counts = original(tmp_path), Counter[str]()
    for seed in seeds():
        counts[tried(*prepared, seed, tmp_path)] += 1
    say(capsys, "stores", counts)


def test_operators(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds():
        try:
            check_operators(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        counts["equal to the reference"] += 1
    say(capsys, "operators", counts)


def test_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds():
        folder = tmp_path / str(seed)
        folder.mkdir()
        store, names = folder / "rows.sqlite", list(dict.fromkeys(hostile_names(seed, 3)))
        torch.manual_seed(0)
        models = {name: nn.Linear(4, 4) for name in names}
        result = campaign.run(models, samples(), [BitFlip(1e-2)], store=store, **OPTIONS)
        assert list(result.clean) == names
        assert is_safe(on_terminal(result.table())), f"seed {seed}"
        assert is_safe(write_report(store, folder / "report")["html"].read_text("utf-8"))
        counts["shown"] += len(names)
    say(capsys, "names", counts)
