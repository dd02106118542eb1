"""Does a campaign let go of what it opened, and keep apart what belongs to different models?"""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from proact import campaign, results
from proact.campaign import executors
from proact.data import Data
from proact.faults import BitFlip, ExactFlips

FAULTS = [BitFlip(1e-4)]
OPTIONS = {"trials": 4, "images_per_trial": 16, "executor": 1}


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_store_in_memory_is_closed_with_its_result(digits: Data) -> None:
    result = campaign.run({"m": linear(0)}, digits, FAULTS, **OPTIONS)
    assert result.cells[0].trials == 4
    connection = result._store.connection
    del result
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_pool_that_cannot_be_closed_loses_no_end(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.sqlite"

    def refuse(self: executors.InProcess) -> None:
        raise OSError("no permission")

    monkeypatch.setattr(executors.InProcess, "close", refuse)

    def stop(progress: campaign.CampaignProgress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(OSError, match="no permission"):
        campaign.run({"m": linear(0)}, digits, FAULTS, store=path, progress=stop, **OPTIONS)
    with pytest.raises(OSError, match="no permission"):
        campaign.run({"m": linear(0)}, digits, FAULTS, store=path, **OPTIONS)
    (result,) = results.read(path)
    assert [session.outcome for session in result.sessions] == ["interrupted", "finished"]
    assert all(session.ended for session in result.sessions)


def test_each_model_is_tuned_for_itself(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"

    def tuned(**variants: nn.Module) -> int:
        campaign.run(variants, digits, FAULTS, store=path, **OPTIONS)
        with closing(sqlite3.connect(path)) as reader:
            query = "SELECT count(*) FROM choice WHERE subject LIKE 'warm-up%'"
            return int(reader.execute(query).fetchone()[0])

    assert tuned(m=linear(0)) == 1
    assert tuned(m=linear(0)) == 1
    assert tuned(m=linear(0), other=linear(1)) == 1, "the first variant's costs hold for all"
    assert tuned(m=linear(1)) == 2, "an unrelated model has costs of its own"


def test_margins_are_in_the_unit_of_the_metric(digits: Data) -> None:
    """Cross-entropy lies in [0, 20]: a margin of 2 nats is one, a margin of 30 is none."""
    options = {"metric": "loss", "images_per_trial": 16, "executor": 1}
    (cell,) = campaign.run({"m": linear(0)}, digits, FAULTS, margin=2.0, **options).cells
    assert cell.value.half_width <= 2.0
    with pytest.raises(ValueError, match=r"margin: a margin is below 10, .* got 30 \(loss\)"):
        campaign.run({"m": linear(0)}, digits, FAULTS, margin=30, **options)


def test_a_sweep_is_shown_in_the_unit_of_its_metric(digits: Data) -> None:
    sweep = campaign.per_layer(
        linear(0), digits, ExactFlips(1), metric="loss", trials=64, images_per_trial=16, executor=1
    )
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(sweep.table())
    text = console.export_text()
    console.file.close()
    (stratum,) = sweep.strata
    assert f"{stratum.loss.estimate:.4g}" in text
    assert "loss in nats" in text
    assert f"{sweep.clean['model']:.4g} " in text
